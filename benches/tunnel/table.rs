//! The report as text: aligned for a terminal, and in Markdown.

use std::fmt::Write as _;

use crate::case::Case;
use crate::contestant::Role;
use crate::report::{Cell, Report, Row, Value, digits};
use crate::target::{Verdict, judge, judge_beside};

/// Columns of a grid that hold words; the rest are numbers.
const WORDS: usize = 2;

/// The figures of all contestants; with `ranges`, the least and the greatest value beside each median.
pub(crate) fn figures(report: &Report, cases: &[Case], ranges: bool) -> Grid {
    let rows = report.rows(cases);
    let mut grid = Grid(vec![vec!["case".to_owned(), "figure".to_owned()]]);
    if let Some(row) = rows.first() {
        grid.0[0].extend(row.cells.iter().map(|cell| cell.name.to_owned()));
    }
    for row in &rows {
        let mut line = name(row);
        line.extend(row.cells.iter().map(|cell| text(cell, ranges)));
        grid.0.push(line);
    }
    grid
}

/// What is aimed at, and whether it is reached.
pub(crate) fn targets(report: &Report, cases: &[Case]) -> Grid {
    let rows = report.rows(cases);
    // Ours of another role has columns only where it was measured.
    let others = [(Role::Former, "ours by ours v1"), (Role::Before, "ours by ours before")];
    let others = others.into_iter().filter(|&(role, _)| rows.iter().any(|row| row.rounds_of(role).is_some()));
    let others: Vec<(Role, &str)> = others.collect();
    let mut heading = ["case", "figure", "target", "ours", ""].map(str::to_owned).to_vec();
    heading.extend(others.iter().flat_map(|&(_, heading)| [heading.to_owned(), String::new()]));
    let mut grid = Grid(vec![heading]);
    for row in &rows {
        let verdict = judge(row);
        let others: Vec<_> = others.iter().map(|&(role, _)| judge_beside(row, role)).collect();
        if verdict.is_none() && others.iter().all(Option::is_none) {
            continue;
        }
        let mut line = name(row);
        line.extend(verdict.map_or_else(Default::default, |Verdict { target, reached, met }| {
            [target, digits(reached), met_or_not(met)]
        }));
        line.extend(others.into_iter().flat_map(|other| {
            other.map_or_else(Default::default, |(ratio, met)| [format!("{ratio:.2}"), met_or_not(met)])
        }));
        grid.0.push(line);
    }
    grid
}

/// Lines of cells, the heading first.
pub(crate) struct Grid(Vec<Vec<String>>);

impl Grid {
    pub(crate) fn aligned(&self) -> String {
        let width = |column: usize| self.0.iter().map(|line| line[column].chars().count()).max().unwrap_or_default();
        let widths: Vec<usize> = (0..self.0[0].len()).map(width).collect();
        let mut text = String::new();
        for line in &self.0 {
            let padded = line.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| match column {
                ..WORDS => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            });
            let _ = writeln!(text, "{}", padded.collect::<Vec<_>>().join("  ").trim_end());
        }
        text
    }

    pub(crate) fn markdown(&self) -> String {
        let mut text = String::new();
        for (number, line) in self.0.iter().enumerate() {
            let _ = writeln!(text, "| {} |", line.join(" | "));
            if number == 0 {
                let _ = writeln!(text, "|{}{}", " --- |".repeat(WORDS), " ---: |".repeat(line.len() - WORDS));
            }
        }
        text
    }
}

fn name(row: &Row) -> Vec<String> {
    vec![row.case.to_string(), format!("{}, {}", row.figure.name, row.figure.unit)]
}

fn text(cell: &Cell, ranges: bool) -> String {
    match (&cell.value, cell.median()) {
        (Value::Rounds(rounds), Some(median)) if ranges => {
            let least = rounds.iter().copied().min_by(f64::total_cmp).unwrap_or(median);
            let greatest = rounds.iter().copied().max_by(f64::total_cmp).unwrap_or(median);
            format!("{} ({}-{})", digits(median), digits(least), digits(greatest))
        }
        (Value::Rounds(_), Some(median)) => digits(median),
        (Value::Failed, _) => "failed".to_owned(),
        (Value::Empty | Value::Rounds(_), _) => "–".to_owned(),
    }
}

fn met_or_not(met: bool) -> String {
    if met { "met" } else { "not met" }.to_owned()
}
