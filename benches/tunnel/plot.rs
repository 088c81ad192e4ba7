//! The report as a picture: a panel for each row, with a bar for each contestant.

use std::fmt::Write as _;

use crate::case::Case;
use crate::contestant::Role;
use crate::report::{Cell, Report, Row, digits};
use crate::target;

const PANELS_IN_A_LINE: usize = 4;
const PANEL_WIDTH: f64 = 310.0;
const MARGIN: f64 = 24.0;
const HEAD: f64 = 76.0;
/// Where a panel's bars begin, right of their names, and how long the longest is, left of its value.
const BARS: f64 = 72.0;
const LONGEST: f64 = 150.0;
/// From bar to bar, and a bar's thickness.
const STEP: f64 = 18.0;
const THICKNESS: f64 = 13.0;
/// Above a panel's first bar: its titles.
const TITLES: f64 = 40.0;
const BELOW: f64 = 26.0;

/// An SVG document.
pub(crate) fn svg(report: &Report, cases: &[Case]) -> String {
    let rows = by_figure(report.rows(cases));
    let lines: Vec<&[Row]> = rows.chunks(PANELS_IN_A_LINE).collect();
    let heights: Vec<f64> = lines.iter().map(|line| line.iter().map(height).fold(0.0, f64::max)).collect();
    let (width, height) =
        (MARGIN * 2.0 + PANEL_WIDTH * PANELS_IN_A_LINE as f64, HEAD + heights.iter().sum::<f64>() + MARGIN);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         width=\"{width}\" height=\"{height}\" font-family=\"DejaVu Sans, Verdana, sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    text(
        &mut svg,
        MARGIN,
        32.0,
        "font-size=\"18\" font-weight=\"bold\" fill=\"#1a1a1a\"",
        "The tunnel beside its peers",
    );
    let legend = "Bars are medians of one run, blue is ours. The dashed line is the target for ours: to be passed where \
                  more is better, else not to be passed.";
    text(&mut svg, MARGIN, 52.0, "fill=\"#555555\"", legend);
    let mut top = HEAD;
    for (line, height) in lines.iter().zip(heights) {
        for (number, row) in line.iter().enumerate() {
            panel(&mut svg, row, MARGIN + PANEL_WIDTH * number as f64, top);
        }
        top += height;
    }
    svg.push_str("</svg>\n");
    svg
}

/// Rows of the same figure side by side, without those that have no value.
fn by_figure(rows: Vec<Row>) -> Vec<Row> {
    let mut rows: Vec<Row> = rows.into_iter().filter(|row| bars(row).next().is_some()).collect();
    let names: Vec<&str> = rows.iter().map(|row| row.figure.name).collect();
    rows.sort_by_key(|row| names.iter().position(|&name| name == row.figure.name));
    rows
}

/// The cells that have a bar. Plain loopback would dwarf all others.
fn bars(row: &Row) -> impl Iterator<Item = (&Cell, f64)> {
    row.cells.iter().filter(|cell| !is_plain(cell)).filter_map(|cell| Some((cell, cell.median()?)))
}

fn is_plain(cell: &Cell) -> bool {
    cell.name == "plain"
}

fn height(row: &Row) -> f64 {
    TITLES + STEP * bars(row).count() as f64 + BELOW
}

fn panel(svg: &mut String, row: &Row, left: f64, top: f64) {
    let bound = target::bound(row).filter(|bound| bound.is_finite());
    let finite = bars(row).map(|(_, value)| value).chain(bound).filter(|value| value.is_finite());
    let greatest = finite.fold(0.0, f64::max);
    let scale = if greatest > 0.0 { LONGEST / greatest } else { 0.0 };

    text(svg, left, top + 12.0, "font-weight=\"bold\" fill=\"#1a1a1a\"", &row.case.to_string());
    text(svg, left, top + 27.0, "font-size=\"10\" fill=\"#555555\"", &subtitle(row));
    // A bar without end is as long as the longest, and pale.
    let length = |value: f64| if value.is_finite() { value * scale } else { LONGEST };
    let places = || bars(row).enumerate().map(|(number, bar)| (top + TITLES + STEP * number as f64, bar));
    for (y, (cell, value)) in places() {
        let colour = match cell.role {
            Role::Subject | Role::Encrypted => "#0b5cad",
            Role::Former | Role::Before => "#7fb2e5",
            Role::Peer => "#9aa0a6",
            Role::Yardstick => "#d0d3d6",
        };
        let (x, length, opacity) = (left + BARS, length(value), if value.is_finite() { 1.0 } else { 0.35 });
        let _ = writeln!(
            svg,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{length:.1}\" height=\"{THICKNESS}\" fill=\"{colour}\" \
             fill-opacity=\"{opacity}\"/>"
        );
    }
    if let Some(bound) = bound {
        let (x, y) = (left + BARS + bound * scale, top + TITLES - 4.0);
        let _ = writeln!(
            svg,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{y:.1}\" y2=\"{:.1}\" stroke=\"#c0392b\" stroke-width=\"1.2\" \
             stroke-dasharray=\"4 3\"/>",
            y + STEP * bars(row).count() as f64 + 4.0
        );
    }
    for (y, (cell, value)) in places() {
        let weight = if cell.role == Role::Subject { "bold" } else { "normal" };
        let name = format!("text-anchor=\"end\" font-weight=\"{weight}\" fill=\"#1a1a1a\"");
        // Its outline keeps a value legible where the dashed line crosses it.
        let outlined = format!(
            "font-weight=\"{weight}\" fill=\"#1a1a1a\" stroke=\"#ffffff\" stroke-width=\"3\" paint-order=\"stroke\""
        );
        let baseline = y + THICKNESS - 2.5;
        text(svg, left + BARS - 6.0, baseline, &name, cell.name);
        text(svg, left + BARS + length(value) + 5.0, baseline, &outlined, &digits(value));
    }
}

fn subtitle(row: &Row) -> String {
    let wanted = if row.figure.more_is_better { "more" } else { "less" };
    let plain = row.cells.iter().find(|cell| is_plain(cell)).and_then(Cell::median);
    let plain = plain.map(|value| format!("; plain {}", digits(value))).unwrap_or_default();
    format!("{}, {}; {wanted} is better{plain}", row.figure.name, row.figure.unit)
}

fn text(svg: &mut String, x: f64, y: f64, attributes: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" {attributes}>{words}</text>");
}
