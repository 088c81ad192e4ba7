//! What commands print: text that is safe for a terminal, tables, and JSON.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tcpremote::journal;

use super::process::{EXIT_SYSTEM, EXIT_UNREAD, EXIT_USAGE};

/// Why a command is not done.
#[derive(Debug)]
pub(crate) enum Failure {
    /// What was asked makes no sense, or is wrong in the configuration.
    Usage(String),
    /// The relay does not run, or a system failed.
    System(String),
    /// Nobody reads any more what it prints, as behind `| head`.
    Unread,
}

pub(crate) type Done = Result<(), Failure>;

/// The exit status, with the reason on standard error.
pub(crate) fn finish(done: Done) -> ExitCode {
    let (text, status) = match done {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Usage(text)) => (text, EXIT_USAGE),
        Err(Failure::System(text)) => (text, EXIT_SYSTEM),
        // Who has read enough wants no complaint.
        Err(Failure::Unread) => return ExitCode::from(EXIT_UNREAD),
    };
    complain("error", journal::ERROR, &text);
    ExitCode::from(status)
}

/// Writes lines to standard output.
pub(crate) fn say(text: &str) -> Done {
    let mut lines = harmless(text);
    lines.push('\n');
    let written = io::stdout().lock().write_all(lines.as_bytes());
    written.map_err(|reason| {
        if reason.kind() == io::ErrorKind::BrokenPipe {
            Failure::Unread
        } else {
            Failure::System(format!("cannot write to standard output: {reason}"))
        }
    })
}

/// Warns on standard error.
pub(crate) fn warn(text: &str) {
    complain("warning", journal::WARNING, text);
}

/// Says something beside what is printed, on standard error.
pub(crate) fn note(text: &str) {
    // There is nowhere else to say so.
    let _ = writeln!(io::stderr(), "{}", harmless(text));
}

/// In the journal of systemd each line has its priority, as in [`crate::log`]: a service that cannot start is an error.
fn complain(what: &str, priority: &str, text: &str) {
    let priority = if journal::is_standard_error() { priority } else { "" };
    let text = format!("{what}: {text}");
    let lines: Vec<String> = text.lines().map(|line| format!("{priority}{line}")).collect();
    note(&lines.join("\n"));
}

/// The text without what would move a terminal's cursor, or turn its letters around; a line's end stays.
pub(crate) fn harmless(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        // Letters of every language are not escaped.
        if c == '\n' || c == '\'' || c == '"' || c == '\\' {
            shown.push(c);
        } else {
            shown.extend(c.escape_debug());
        }
    }
    shown
}

/// JSON in ASCII: a terminal may show it, too.
pub(crate) fn say_json(value: &impl serde::Serialize) -> Done {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::System(error.to_string()))?;
    let mut ascii = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii() && c != '\u{7f}' {
            ascii.push(c);
        } else {
            // Such a character stands only within the quotation marks of a text.
            for unit in c.encode_utf16(&mut [0; 2]) {
                ascii.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    say(&ascii)
}

/// Columns as wide as their longest cell, and the last one as it is.
pub(crate) fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([heading[column].len()]).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..heading.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells.zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    let heading = line(&mut heading.iter().copied());
    let rows = rows.iter().map(|row| line(&mut row.iter().map(String::as_str)));
    [heading].into_iter().chain(rows).collect::<Vec<_>>().join("\n")
}

/// A time, in seconds since 1970, as UTC.
pub(crate) fn time(seconds: u64) -> String {
    // A year that no calendar has would end the program.
    const LAST: u64 = 253_402_300_799;
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds.min(LAST))).to_string()
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_shown_can_move_a_cursor_or_turn_letters_around() {
        let hostile = "a\u{1b}[2Jb\u{9b}1mc\rd\u{202e}e\u{7f}f\u{0}\nein Ger\u{e4}t 'x\\y'";
        let shown = harmless(hostile);
        assert_eq!(shown, "a\\u{1b}[2Jb\\u{9b}1mc\\rd\\u{202e}e\\u{7f}f\\0\nein Gerät 'x\\y'");
    }

    #[test]
    fn columns_are_as_wide_as_their_longest_cell() {
        let rows = [["pump-3", "up", "site=berlin"], ["a", "down", ""]].map(|row| row.map(String::from).to_vec());
        let shown = table(&["NAME", "STATE", "LABELS"], &rows);
        assert_eq!(shown, "NAME    STATE  LABELS\npump-3  up     site=berlin\na       down");
    }

    #[test]
    fn times_are_utc_however_far_away() {
        assert_eq!(time(1_800_000_000), "2027-01-15T08:00:00Z");
        assert_eq!(time(u64::MAX), "9999-12-31T23:59:59Z");
    }
}
