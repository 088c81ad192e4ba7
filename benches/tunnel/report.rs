//! The table, for the terminal and as Markdown.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::case::{Case, Effort, Figure};
use crate::contestant::Contestant;

const SUBJECT: &str = "ours";
/// Contestants that the subject is compared with, in a column each.
const REFERENCES: [&str; 2] = ["haproxy x2", "socat"];

/// A contestant's place in the report.
pub(crate) type Column = usize;

/// Everything measured so far.
pub(crate) struct Report {
    /// What this machine is, and how busy it was at the start.
    machine: String,
    effort: Effort,
    columns: Vec<Measured>,
    failed: bool,
}

struct Measured {
    name: &'static str,
    description: String,
    /// Why it was not measured, or not in every case.
    notes: Vec<String>,
    samples: BTreeMap<Case, Result<Samples, Failed>>,
}

/// The values of each round, one for each figure of the case.
type Samples = Vec<Vec<Option<f64>>>;

struct Failed;

/// One row: its names and a cell for each contestant.
struct Row {
    case: Case,
    figure: Figure,
    cells: Vec<Cell>,
}

enum Cell {
    /// Not measured, or the contestant has no such thing.
    Empty,
    Failed,
    Values {
        median: f64,
        least: f64,
        greatest: f64,
    },
}

impl Report {
    pub(crate) fn new(effort: Effort) -> Self {
        Self { machine: machine(), effort, columns: Vec::new(), failed: false }
    }

    pub(crate) fn add(&mut self, contestant: &dyn Contestant) -> Column {
        let measured = Measured {
            name: contestant.name(),
            description: contestant.describe(),
            notes: Vec::new(),
            samples: BTreeMap::new(),
        };
        self.columns.push(measured);
        self.columns.len() - 1
    }

    /// Notes that a contestant is not measured, which is no failure.
    pub(crate) fn skip(&mut self, column: Column, hint: String) {
        self.columns[column].notes.push(format!("skipped, {hint}"));
    }

    pub(crate) fn fail(&mut self, column: Column, reason: String) {
        self.columns[column].notes.push(format!("failed, {reason}"));
        self.failed = true;
    }

    pub(crate) fn fail_case(&mut self, column: Column, case: Case, error: &io::Error) {
        self.columns[column].samples.insert(case, Err(Failed));
        self.fail(column, format!("{case}: {error}"));
    }

    pub(crate) fn has_failed(&self, column: Column, case: Case) -> bool {
        matches!(self.columns[column].samples.get(&case), Some(Err(Failed)))
    }

    pub(crate) fn any_failed(&self) -> bool {
        self.failed
    }

    pub(crate) fn record(&mut self, column: Column, case: Case, values: Vec<Option<f64>>) {
        if let Ok(samples) = self.columns[column].samples.entry(case).or_insert_with(|| Ok(Vec::new())) {
            samples.push(values);
        }
    }

    /// Who is measured, how, and on what.
    pub(crate) fn header(&self) -> String {
        let mut text = String::new();
        for column in &self.columns {
            let _ = writeln!(text, "{:<11} {}", column.name, column.description);
            for note in &column.notes {
                let _ = writeln!(text, "{:<11} {note}", "");
            }
        }
        let _ = writeln!(text, "{:<11} {}", "on", self.machine);
        let (rounds, window) = (self.effort.rounds, self.effort.window);
        let _ = write!(text, "{:<11} medians of {rounds} interleaved rounds, {window:?} for each sample", "figures");
        text
    }

    /// The table with its columns aligned; with `ranges`, the least and the greatest value beside each median.
    pub(crate) fn table(&self, cases: &[Case], ranges: bool) -> String {
        let lines = self.lines(cases, ranges);
        let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default();
        let widths: Vec<usize> = (0..lines[0].len()).map(width).collect();
        let mut text = String::new();
        for line in &lines {
            let padded = line.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| match column {
                0 | 1 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            });
            let _ = writeln!(text, "{}", padded.collect::<Vec<_>>().join("  ").trim_end());
        }
        for column in &self.columns {
            for note in &column.notes {
                let _ = writeln!(text, "{}: {note}", column.name);
            }
        }
        text
    }

    /// Writes the table as Markdown and returns where.
    pub(crate) fn write(&self, cases: &[Case]) -> io::Result<PathBuf> {
        let lines = self.lines(cases, false);
        let mut text =
            String::from("# The tunnel beside plain loopback, haproxy and socat\n\nWritten by `make bench`.\n\n");
        for line in self.header().lines() {
            let (what, value) = line.split_at_checked(11).unwrap_or((line, ""));
            let _ = writeln!(text, "- {}: {}", what.trim(), value.trim());
        }
        text.push('\n');
        for (number, line) in lines.iter().enumerate() {
            let _ = writeln!(text, "| {} |", line.join(" | "));
            if number == 0 {
                let _ = writeln!(text, "| --- | --- |{}", " ---: |".repeat(line.len() - 2));
            }
        }
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/bench");
        fs::create_dir_all(&directory)?;
        let path = directory.join("tunnel.md");
        fs::write(&path, text)?;
        Ok(path)
    }

    fn lines(&self, cases: &[Case], ranges: bool) -> Vec<Vec<String>> {
        let mut heading = vec!["case".to_owned(), "figure".to_owned()];
        heading.extend(self.columns.iter().map(|column| column.name.to_owned()));
        heading.extend(REFERENCES.iter().map(|reference| format!("{SUBJECT}/{reference}")));
        let mut lines = vec![heading];
        for row in self.rows(cases) {
            let mut line = vec![row.case.to_string(), format!("{}, {}", row.figure.name, row.figure.unit)];
            line.extend(row.cells.iter().map(|cell| cell.text(ranges)));
            line.extend(REFERENCES.iter().map(|reference| self.ratio(&row, reference)));
            lines.push(line);
        }
        lines
    }

    fn rows(&self, cases: &[Case]) -> Vec<Row> {
        let mut rows = Vec::new();
        for &case in cases {
            for (number, &figure) in case.figures().iter().enumerate() {
                let cells = self.columns.iter().map(|column| column.cell(case, number)).collect();
                rows.push(Row { case, figure, cells });
            }
        }
        rows
    }

    /// The subject's value by a reference's, and whether the subject is ahead.
    fn ratio(&self, row: &Row, reference: &str) -> String {
        let median = |name: &str| {
            let place = self.columns.iter().position(|column| column.name == name)?;
            match row.cells[place] {
                Cell::Values { median, .. } => Some(median),
                Cell::Empty | Cell::Failed => None,
            }
        };
        let Some((ours, theirs)) = median(SUBJECT).zip(median(reference)) else { return String::new() };
        let ratio = ours / theirs;
        let ahead = if row.figure.more_is_better { ratio >= 1.0 } else { ratio <= 1.0 };
        format!("{ratio:.2} {}", if ahead { "ahead " } else { "behind" })
    }
}

impl Measured {
    fn cell(&self, case: Case, figure: usize) -> Cell {
        let samples = match self.samples.get(&case) {
            Some(Ok(samples)) => samples,
            Some(Err(Failed)) => return Cell::Failed,
            None => return Cell::Empty,
        };
        let mut values: Vec<f64> = samples.iter().filter_map(|sample| sample[figure]).collect();
        values.sort_unstable_by(f64::total_cmp);
        match (values.first(), values.last()) {
            (Some(&least), Some(&greatest)) => Cell::Values { median: values[values.len() / 2], least, greatest },
            _ => Cell::Empty,
        }
    }
}

impl Cell {
    fn text(&self, ranges: bool) -> String {
        match self {
            Self::Empty => "–".to_owned(),
            Self::Failed => "failed".to_owned(),
            Self::Values { median, least, greatest } if ranges => {
                format!("{} ({}-{})", digits(*median), digits(*least), digits(*greatest))
            }
            Self::Values { median, .. } => digits(*median),
        }
    }
}

/// Three digits that count, or all before the point.
fn digits(value: f64) -> String {
    match value.abs() {
        ..1.0 => format!("{value:.3}"),
        ..10.0 => format!("{value:.2}"),
        ..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// Processor, kernel, and what else kept the machine busy when the run began.
fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let field =
        |name: &str| cpuinfo.lines().find(|line| line.starts_with(name)).and_then(|line| line.split(": ").nth(1));
    let processor = field("model name").unwrap_or("unknown processor");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    let loadavg = read("/proc/loadavg");
    let load = loadavg.split(' ').next().unwrap_or_default();
    format!("{cores} cores, {processor}, Linux {}, load {load} at the start (best below 0.5)", kernel.trim())
}
