//! Many devices at once, from a table.

use super::RegistryError;
use super::principal::{Labels, PrincipalName};
use crate::identity::Kind;
use crate::tls::PublicKey;

/// A principal that an operator adds with its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Newcomer {
    /// How it is to be called.
    pub name: PrincipalName,
    /// Its key.
    pub key: PublicKey,
    /// What the operator says of it.
    pub labels: Labels,
}

/// The largest table, in bytes: of 100,000 devices.
const MAX_TABLE: usize = 16 << 20;
/// How many mistakes an error tells.
const MAX_MISTAKES: usize = 20;
/// A first line that tables may have.
const HEADING: [&str; 3] = ["name", "key", "labels"];

/// The devices of a table, each with its line. A line is `name,key,labels` or `name,key`: the key in Base64, the labels
/// with spaces between.
pub(super) fn parse(table: &str) -> Result<Vec<(usize, Newcomer)>, RegistryError> {
    if table.len() > MAX_TABLE {
        return Err(RegistryError::Usage(format!("the table has more than {MAX_TABLE} bytes; split it")));
    }
    let (mut newcomers, mut wrong) = (Vec::new(), Vec::new());
    let table = table.trim_start_matches('\u{feff}');
    let mut reader =
        csv::ReaderBuilder::new().has_headers(false).flexible(true).trim(csv::Trim::All).from_reader(table.as_bytes());
    for record in reader.records() {
        let record = record.map_err(|error| RegistryError::Usage(format!("the table cannot be read: {error}")))?;
        let number = record.position().map_or(0, |position| position.line() as usize);
        // Programs end a table with lines of nothing.
        let is_empty = record.iter().all(str::is_empty);
        if is_empty || number == 1 && record.iter().eq(HEADING) {
            continue;
        }
        match parse_record(&record) {
            Ok(newcomer) => newcomers.push((number, newcomer)),
            Err(error) => wrong.push((number, error)),
        }
    }
    if wrong.is_empty() { Ok(newcomers) } else { Err(mistakes(wrong)) }
}

fn parse_record(record: &csv::StringRecord) -> Result<Newcomer, RegistryError> {
    let (name, key, labels) = match (record.len(), record.get(0), record.get(1), record.get(2)) {
        (2, Some(name), Some(key), None) => (name, key, ""),
        (3, Some(name), Some(key), Some(labels)) => (name, key, labels),
        _ => return Err(RegistryError::Usage("this is not name,key or name,key,labels".into())),
    };
    Ok(Newcomer { name: PrincipalName::new(Kind::Device, name)?, key: key.parse()?, labels: Labels::parse(labels)? })
}

/// The error of a table with these wrong lines.
pub(super) fn mistakes(wrong: Vec<(usize, RegistryError)>) -> RegistryError {
    let more = wrong.len().saturating_sub(MAX_MISTAKES);
    let mut lines: Vec<String> =
        wrong.into_iter().take(MAX_MISTAKES).map(|(line, error)| format!("line {line}: {error}")).collect();
    if more > 0 {
        lines.push(format!("and {more} lines more"));
    }
    RegistryError::Import(lines)
}
