//! Everything that was measured, and the rows that it makes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;

use crate::case::{Case, Effort, Figure};
use crate::contestant::{Contestant, Role};
use crate::line;

/// A contestant's place in the report.
pub(crate) type Column = usize;

/// Everything measured so far.
pub(crate) struct Report {
    /// What this machine is, and how busy it was at the start.
    machine: String,
    effort: Effort,
    columns: Vec<Measured>,
    /// Cases that were left out, and why.
    left_out: Vec<(Case, String)>,
    failures: Vec<String>,
}

struct Measured {
    name: &'static str,
    role: Role,
    description: String,
    /// Those of the run that it takes.
    cases: Vec<Case>,
    /// If it is not measured: why.
    skipped: Option<String>,
    samples: BTreeMap<Case, Result<Samples, Failed>>,
}

/// The values of each round, one for each figure of the case.
type Samples = Vec<Vec<Option<f64>>>;

struct Failed;

/// One figure of one case, for every contestant.
pub(crate) struct Row {
    pub(crate) case: Case,
    pub(crate) figure: Figure,
    pub(crate) cells: Vec<Cell>,
}

/// What one contestant has in a row.
pub(crate) struct Cell {
    pub(crate) name: &'static str,
    pub(crate) role: Role,
    pub(crate) value: Value,
}

pub(crate) enum Value {
    /// Not measured, or the contestant has no such thing.
    Empty,
    Failed,
    /// Of each round, in their order.
    Rounds(Vec<f64>),
}

impl Report {
    pub(crate) fn new(effort: Effort) -> Self {
        Self { machine: machine(), effort, columns: Vec::new(), left_out: Vec::new(), failures: Vec::new() }
    }

    pub(crate) fn add(&mut self, contestant: &dyn Contestant, cases: &[Case]) -> Column {
        let measured = Measured {
            name: contestant.name(),
            role: contestant.role(),
            description: contestant.describe(),
            cases: cases.iter().copied().filter(|&case| contestant.takes(case)).collect(),
            skipped: None,
            samples: BTreeMap::new(),
        };
        self.columns.push(measured);
        self.columns.len() - 1
    }

    /// Notes that a contestant is not measured, which is no failure.
    pub(crate) fn skip(&mut self, column: Column, hint: String) {
        self.columns[column].skipped = Some(hint);
    }

    /// Notes that a case is not measured, which is no failure.
    pub(crate) fn leave_out(&mut self, case: Case, hint: String) {
        self.left_out.push((case, hint));
    }

    pub(crate) fn fail(&mut self, column: Column, reason: String) {
        self.failures.push(format!("{}: {reason}", self.columns[column].name));
    }

    pub(crate) fn fail_case(&mut self, column: Column, case: Case, error: &io::Error) {
        self.columns[column].samples.insert(case, Err(Failed));
        self.fail(column, format!("{case}: {error}"));
    }

    pub(crate) fn has_failed(&self, column: Column, case: Case) -> bool {
        matches!(self.columns[column].samples.get(&case), Some(Err(Failed)))
    }

    pub(crate) fn failures(&self) -> &[String] {
        &self.failures
    }

    pub(crate) fn record(&mut self, column: Column, case: Case, values: Vec<Option<f64>>) {
        if let Ok(samples) = self.columns[column].samples.entry(case).or_insert_with(|| Ok(Vec::new())) {
            samples.push(values);
        }
    }

    /// What is measured in these cases, how, and on which machine: a word and its explanation each.
    pub(crate) fn header(&self, cases: &[Case]) -> Vec<(&'static str, String)> {
        let mut lines = Vec::new();
        for column in self.columns_of(cases) {
            let explanation =
                column.skipped.as_ref().map_or_else(|| column.description.clone(), |hint| format!("skipped, {hint}"));
            lines.push((column.name, explanation));
        }
        lines.push(("on", self.machine.clone()));
        let Effort { rounds, window, transfer, slow } = self.effort;
        if cases.iter().any(|case| !case.is_slow_line()) {
            let mut figures = format!("medians of {rounds} interleaved rounds, {window:?} for each sample");
            if cases.iter().any(|case| case.is_encrypted()) {
                figures += "; for many devices one sample";
            } else {
                let _ = write!(figures, "; on the line and for system calls one sample, {transfer:?} on the line");
            }
            lines.push(("figures", figures));
        }
        if cases.iter().any(|case| case.is_slow_line()) {
            let line = line::describe_slow();
            lines.push((
                "slow line",
                format!("{line}; an echo each 100 ms for at most {slow:?} once the queue is full"),
            ));
        }
        for (case, hint) in &self.left_out {
            lines.push(("left out", format!("{case}: {hint}")));
        }
        lines.extend(self.failures.iter().map(|failure| ("failed", failure.clone())));
        lines
    }

    /// The contestants that take any of these cases.
    fn columns_of(&self, cases: &[Case]) -> impl Iterator<Item = &Measured> {
        self.columns.iter().filter(|column| column.cases.iter().any(|case| cases.contains(case)))
    }

    /// A row for each figure of these cases.
    pub(crate) fn rows(&self, cases: &[Case]) -> Vec<Row> {
        let mut rows = Vec::new();
        for &case in cases {
            for (number, &figure) in case.figures().iter().enumerate() {
                let cells = self.columns_of(cases).map(|column| column.cell(case, number)).collect();
                rows.push(Row { case, figure, cells });
            }
        }
        rows
    }
}

impl Measured {
    fn cell(&self, case: Case, figure: usize) -> Cell {
        let value = match self.samples.get(&case) {
            Some(Ok(samples)) => match samples.iter().map(|sample| sample[figure]).collect::<Option<Vec<f64>>>() {
                Some(rounds) if !rounds.is_empty() => Value::Rounds(rounds),
                _ => Value::Empty,
            },
            Some(Err(Failed)) => Value::Failed,
            None => Value::Empty,
        };
        Cell { name: self.name, role: self.role, value }
    }
}

impl Row {
    /// What is judged: ours, as the case asks for it.
    pub(crate) fn subject(&self) -> Option<&[f64]> {
        self.rounds_of(if self.case.is_encrypted() { Role::Encrypted } else { Role::Subject })
    }

    /// What stands for the contestant of this name.
    pub(crate) fn rounds_named(&self, name: &str) -> Option<&[f64]> {
        self.cells.iter().find(|cell| cell.name == name)?.rounds()
    }

    /// What stands for the contestant of this role, of which there is one.
    pub(crate) fn rounds_of(&self, role: Role) -> Option<&[f64]> {
        self.cells.iter().find(|cell| cell.role == role).and_then(Cell::rounds)
    }
}

impl Cell {
    pub(crate) fn rounds(&self) -> Option<&[f64]> {
        match &self.value {
            Value::Rounds(rounds) => Some(rounds),
            Value::Empty | Value::Failed => None,
        }
    }

    pub(crate) fn median(&self) -> Option<f64> {
        self.rounds().map(median)
    }
}

/// The value in the middle, or between the two there.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut ascending = values.to_vec();
    ascending.sort_unstable_by(f64::total_cmp);
    let (below, above) = (ascending[(ascending.len() - 1) / 2], ascending[ascending.len() / 2]);
    if below == above { below } else { (below + above) / 2.0 }
}

/// Three digits that count, or all before the point.
pub(crate) fn digits(value: f64) -> String {
    match value.abs() {
        f64::INFINITY => "stands still".to_owned(),
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
