//! Tokens: made, found, used, deleted.

use std::net::IpAddr;

use rusqlite::{OptionalExtension, Row, params};

use super::super::RegistryError;
use super::super::admission::{PresentedToken, TokenFault, Use};
use super::super::principal::{Labels, PrincipalName, State};
use super::super::token::{NewToken, OpenToken, SecretDigest, TokenSubject};
use super::rows::{kind, kind_text, labels, parse, pin_bytes, pins, seconds, time};
use super::{Change, Fault, Store};
use crate::identity::{Kind, Pattern, Pin, Pins, TokenId};

/// What a good token gives.
pub(super) struct Grant {
    pub(super) subject: TokenSubject,
    pub(super) labels: Labels,
    pub(super) pending: bool,
    pub(super) replace: bool,
    /// Those of its join string, unless an older relay made it.
    pub(super) pins: Option<Pins>,
}

impl Store {
    pub(in super::super) fn create_token(&mut self, token: &NewToken) -> Result<(), RegistryError> {
        token.check()?;
        self.change(|change| {
            if let TokenSubject::Device(Pattern::Name(name)) = &token.subject {
                let name = PrincipalName::Device(name.clone());
                change.check_reserved(&name)?;
                if let Some(holder) = change.snapshot.by_name(&name).filter(|_| !token.replace) {
                    let state = holder.state;
                    return Err(Fault::usage(format!(
                        "device {name} is there already ({state}); replace its key by the token (--replace), or remove it first"
                    )));
                }
            }
            change.insert_token(token)
        })
    }

    /// Makes an open token useless.
    pub(in super::super) fn delete_token(&mut self, id: TokenId, now: u64) -> Result<(), RegistryError> {
        self.change(|change| {
            let update = "UPDATE tokens SET void = ?2 WHERE id = ?1 AND void IS NULL";
            match change.transaction.execute(update, params![id.0, seconds(now)])? {
                0 => Err(Fault::usage("there is no such token; list those there are")),
                _ => Ok(()),
            }
        })
    }

    /// Those that somebody could still use.
    pub(in super::super) fn open_tokens(&self, now: u64) -> Result<Vec<OpenToken>, RegistryError> {
        let open = || -> rusqlite::Result<Vec<OpenToken>> {
            let mut statement = self.connection.prepare(
                "SELECT id, kind, pattern, uses, expires, labels, pending, replace, creator, created,
                   (SELECT count(*) FROM uses WHERE token = id) AS used
                 FROM tokens WHERE void IS NULL AND expires > ?1 AND used < uses ORDER BY created, id",
            )?;
            statement.query_map([seconds(now)], open_token)?.collect()
        };
        open().map_err(|error| RegistryError::of_database(&self.path, &error))
    }
}

fn open_token(row: &Row<'_>) -> rusqlite::Result<OpenToken> {
    Ok(OpenToken {
        id: TokenId(row.get(0)?),
        subject: subject(row, 1, 2)?,
        uses: row.get(3)?,
        expires: time(row, 4)?,
        labels: labels(row, 5)?,
        pending: row.get(6)?,
        replace: row.get(7)?,
        creator: row.get(8)?,
        created: time(row, 9)?,
        used: row.get(10)?,
    })
}

/// The subject of which these columns are kind and pattern.
fn subject(row: &Row<'_>, kind_index: usize, index: usize) -> rusqlite::Result<TokenSubject> {
    match kind(row, kind_index)? {
        Kind::Device => parse(row, index, |text| text.parse().ok()).map(TokenSubject::Device),
        Kind::User => parse(row, index, |text| text.parse().ok()).map(TokenSubject::User),
    }
}

impl Change<'_> {
    fn insert_token(&mut self, token: &NewToken) -> Result<(), Fault> {
        let insert = "INSERT INTO tokens
              (id, secret, kind, pattern, uses, expires, labels, pending, replace, creator, created, pins)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
            ON CONFLICT (id) DO NOTHING";
        let values = params![
            token.id.0,
            token.secret.0,
            kind_text(token.subject.kind()),
            token.subject.to_string(),
            token.uses,
            seconds(token.expires),
            token.labels.to_string(),
            token.pending,
            token.replace,
            token.creator,
            seconds(token.created),
            pin_bytes(token.pins),
        ];
        match self.transaction.execute(insert, values)? {
            0 => Err(Fault::usage("there is a token with this id; make another")),
            _ => Ok(()),
        }
    }

    /// Looks at a token that an unknown key presents. What is wrong is looked for to the end, and all of it is asked of
    /// the database whether or not there is such a token, so that the time does not tell.
    pub(super) fn inspect_token(
        &self,
        presented: &PresentedToken,
        by: Pin,
        by_kind: Kind,
        now: u64,
    ) -> rusqlite::Result<Result<Grant, TokenFault>> {
        let id = presented.id.0;
        let select = "SELECT kind, pattern, uses, expires, labels, pending, replace, secret, void IS NOT NULL, pins
            FROM tokens WHERE id = ?1";
        let read = |row: &Row<'_>| {
            let grant = Grant {
                subject: subject(row, 0, 1)?,
                labels: labels(row, 4)?,
                pending: row.get(5)?,
                replace: row.get(6)?,
                pins: pins(row, 9)?,
            };
            let (uses, expires, is_void): (u32, u64, bool) = (row.get(2)?, time(row, 3)?, row.get(8)?);
            Ok((grant, uses, expires, SecretDigest(row.get(7)?), is_void))
        };
        let found = self.transaction.query_row(select, [id], read).optional()?;
        let count = "SELECT count(*), count(nullif(pin = ?2, 0)) FROM uses WHERE token = ?1";
        let used: (u32, u32) =
            self.transaction.query_row(count, params![id, by.0], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let last = "SELECT pin, address, used FROM uses WHERE token = ?1 ORDER BY used DESC LIMIT 1";
        let last = self.transaction.query_row(last, [id], last_use).optional()?;

        let stored = found.as_ref().map_or(SecretDigest::NONE, |found| found.3);
        let is_right = presented.secret.matches(&stored);
        Ok(match (found, last) {
            (None, _) => Err(TokenFault::Unknown),
            (Some(_), _) if !is_right => Err(TokenFault::WrongSecret),
            (Some((grant, ..)), _) if grant.subject.kind() != by_kind => Err(TokenFault::Unknown),
            // The key had a name by it, and was removed.
            (Some((_, uses, ..)), Some(last)) if used.0 >= uses || used.1 > 0 => Err(TokenFault::Used(last)),
            (Some((.., true)), _) => Err(TokenFault::Void),
            (Some((_, _, expires, ..)), _) if expires <= now => Err(TokenFault::Expired),
            (Some((grant, ..)), _) => Ok(grant),
        })
    }

    /// The token is used once more, for ever.
    pub(super) fn burn(&mut self, id: TokenId, by: Pin, address: IpAddr, now: u64) -> rusqlite::Result<()> {
        let insert = "INSERT INTO uses (token, pin, address, used) VALUES (?1, ?2, ?3, ?4)";
        self.transaction.execute(insert, params![id.0, by.0, address.to_string(), seconds(now)]).map(drop)
    }

    /// Voids what could bring a device back that is revoked or removed now.
    pub(super) fn void_replacing(&mut self, name: &PrincipalName, now: u64) -> rusqlite::Result<()> {
        let update = "UPDATE tokens SET void = ?3 WHERE kind = ?1 AND pattern = ?2 AND replace AND void IS NULL";
        self.transaction.execute(update, params![kind_text(name.kind()), name.as_str(), seconds(now)]).map(drop)
    }
}

fn last_use(row: &Row<'_>) -> rusqlite::Result<Use> {
    Ok(Use { pin: Pin(row.get(0)?), address: parse(row, 1, |text| text.parse().ok())?, used: time(row, 2)? })
}

impl Grant {
    /// The state of those whom it lets in.
    pub(super) fn state(&self) -> State {
        if self.pending { State::Pending } else { State::Active }
    }
}
