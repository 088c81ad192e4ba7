//! Rows as values.

use std::collections::HashMap;

use rusqlite::types::Type;
use rusqlite::{Connection, Row, params};

use super::super::principal::{Key, Labels, Principal, PrincipalId, PrincipalName, State};
use super::super::seen::Last;
use super::Fault;
use crate::identity::{Kind, Pin, Pins};

/// The principals, or only one.
pub(super) fn principals(connection: &Connection, only: Option<PrincipalId>) -> Result<Vec<Principal>, Fault> {
    let (first, last) = only.map_or((i64::MIN, i64::MAX), |id| (id.0, id.0));
    let mut keys: HashMap<i64, Vec<Key>> = HashMap::new();
    let select =
        "SELECT principal, pin, revoked IS NOT NULL FROM keys WHERE principal BETWEEN ?1 AND ?2 ORDER BY added";
    let mut statement = connection.prepare(select)?;
    let mut rows = statement.query(params![first, last])?;
    while let Some(row) = rows.next()? {
        let key = Key { pin: Pin(row.get(1)?), is_revoked: row.get(2)? };
        keys.entry(row.get(0)?).or_default().push(key);
    }
    let select = "SELECT id, kind, name, state, labels, created FROM principals WHERE id BETWEEN ?1 AND ?2";
    let mut statement = connection.prepare(select)?;
    let read = |row: &Row<'_>| {
        let id: i64 = row.get(0)?;
        let kind = kind(row, 1)?;
        Ok(Principal {
            id: PrincipalId(id),
            name: parse(row, 2, |text| PrincipalName::new(kind, text).ok())?,
            state: parse(row, 3, State::from_str)?,
            labels: labels(row, 4)?,
            keys: keys.remove(&id).unwrap_or_default().into(),
            created: time(row, 5)?,
        })
    };
    Ok(statement.query_map(params![first, last], read)?.collect::<Result<_, _>>()?)
}

pub(super) fn last_seen(connection: &Connection) -> rusqlite::Result<HashMap<PrincipalId, Last>> {
    let select = "SELECT id, seen, pins FROM principals WHERE seen IS NOT NULL OR pins IS NOT NULL";
    let read = |row: &Row<'_>| {
        let seen: Option<i64> = row.get(1)?;
        Ok((PrincipalId(row.get(0)?), Last { seen: seen.map(i64::unsigned_abs), pins: pins(row, 2)? }))
    };
    connection.prepare(select)?.query_map([], read)?.collect()
}

pub(super) fn pins(row: &Row<'_>, index: usize) -> rusqlite::Result<Option<Pins>> {
    let bytes: Option<[u8; 64]> = row.get(index)?;
    Ok(bytes.map(|bytes| {
        let (mut current, mut next) = ([0; 32], [0; 32]);
        current.copy_from_slice(&bytes[..32]);
        next.copy_from_slice(&bytes[32..]);
        Pins { current: Pin(current), next: Pin(next) }
    }))
}

/// What [`pins`] reads.
pub(super) fn pin_bytes(pins: Pins) -> Vec<u8> {
    [pins.current.0, pins.next.0].concat()
}

pub(super) fn labels(row: &Row<'_>, index: usize) -> rusqlite::Result<Labels> {
    parse(row, index, |text| Labels::parse(text).ok())
}

pub(super) fn kind(row: &Row<'_>, index: usize) -> rusqlite::Result<Kind> {
    parse(row, index, |text| [Kind::Device, Kind::User].into_iter().find(|kind| kind_text(*kind) == text))
}

/// A text that has a grammar. Only a registry that something else wrote breaks it.
pub(super) fn parse<T>(row: &Row<'_>, index: usize, read: impl FnOnce(&str) -> Option<T>) -> rusqlite::Result<T> {
    let text: String = row.get(index)?;
    read(&text).ok_or_else(|| {
        let reason = format!("'{}' is not what may stand there", text.escape_debug());
        rusqlite::Error::FromSqlConversionFailure(index, Type::Text, reason.into())
    })
}

pub(super) fn time(row: &Row<'_>, index: usize) -> rusqlite::Result<u64> {
    row.get(index).map(|seconds: i64| seconds.unsigned_abs())
}

/// SQLite has no unsigned integers. What does not fit is far away anyway.
pub(super) fn seconds(time: u64) -> i64 {
    i64::try_from(time).unwrap_or(i64::MAX)
}

pub(super) fn kind_text(kind: Kind) -> &'static str {
    match kind {
        Kind::Device => "device",
        Kind::User => "user",
    }
}
