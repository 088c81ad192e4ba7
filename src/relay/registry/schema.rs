//! The tables, and how those of an older version become those of this one.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use super::RegistryError;

/// What makes each schema of the one before; the first of an empty file. None is ever changed or taken away, so that
/// every registry that was ever written can be opened.
const MIGRATIONS: [&str; 2] = [include_str!("schema/1.sql"), include_str!("schema/2.sql")];

/// "tcpr": tells a registry from other databases.
const APPLICATION_ID: i64 = 0x7463_7072;

/// Whether a database without anything in it becomes a registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Empty {
    BecomesOne,
    /// A backup that is empty is none.
    IsNone,
}

/// Brings the database up to this version's schema, in one transaction.
pub(super) fn migrate(connection: &mut Connection, path: &Path, empty: Empty) -> Result<(), RegistryError> {
    let failed = |error: &rusqlite::Error| RegistryError::of_database(path, error);
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    let mut migrate = || -> rusqlite::Result<Option<RegistryError>> {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let pragma = |name| transaction.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        let (found, application) = (pragma("user_version")?, pragma("application_id")?);
        let tables: i64 = transaction.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        let is_new = found == 0 && tables == 0 && empty == Empty::BecomesOne;
        if !is_new && application != APPLICATION_ID {
            let path = path.to_owned();
            return Ok(Some(match empty {
                Empty::BecomesOne => RegistryError::System {
                    what: path.display().to_string(),
                    reason: "this is no relay's registry; give another file".into(),
                },
                Empty::IsNone if tables == 0 => {
                    RegistryError::NoBackup { path, found: "it is an empty database".into() }
                }
                Empty::IsNone => RegistryError::NoBackup { path, found: "it is a database of another program".into() },
            }));
        }
        if found > known {
            return Ok(Some(RegistryError::Newer { path: path.to_owned(), found, known }));
        }
        for (migration, version) in MIGRATIONS.iter().zip(1..).filter(|&(_, version)| version > found) {
            transaction.execute_batch(migration)?;
            transaction.pragma_update(None, "user_version", version)?;
        }
        if is_new {
            transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        }
        transaction.commit().map(|()| None)
    };
    migrate().map_err(|error| failed(&error))?.map_or(Ok(()), Err)
}
