//! What is done for each command: in the registry, by the reloader, or by looking.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::info;

use super::message::{
    Added, Answer, DeviceName, DeviceRow, Devices, FailureKind, LinkRow, Made, ProvenKeys, Request, Text, TokenRequest,
    TokenRow, TokenText, UnknownRow,
};
use crate::identity::{JoinString, Kind, Pin, Pins, Secret, TokenId};
use crate::relay::file::File;
use crate::relay::registry::{
    Key, Labels, Listed, NewToken, Newcomer, OpenToken, Principal, PrincipalName, Registry, RegistryError,
    SecretDigest, State, TokenSubject, wait,
};
use crate::relay::reloader::Reloader;
use crate::relay::{DeviceStatus, LinkStatus};

/// The longest time for which a token is good: five years.
const MAX_EXPIRES: u64 = 5 * 366 * 24 * 3600;

/// Carries out commands on a running relay.
pub struct Operations {
    registry: Arc<dyn Registry>,
    reloader: Arc<Reloader>,
}

impl std::fmt::Debug for Operations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Operations").field("reloader", &self.reloader).finish_non_exhaustive()
    }
}

impl Operations {
    /// Of the relay with this registry and configuration.
    pub fn new(registry: Arc<dyn Registry>, reloader: Arc<Reloader>) -> Self {
        Self { registry, reloader }
    }

    /// Does what a command of this user asks. It may wait for a disk.
    pub(super) fn carry_out(&self, request: Request, uid: Option<u32>) -> Answer {
        let result = self.try_out(request, uid);
        result.unwrap_or_else(|error| {
            let is_usage = error.is_usage();
            let kind = if is_usage { FailureKind::Usage } else { FailureKind::System };
            Answer::failed(kind, error.to_string())
        })
    }

    fn try_out(&self, request: Request, uid: Option<u32>) -> Result<Answer, RegistryError> {
        let (registry, now) = (&self.registry, now());
        // Each change is one line, with who made it.
        let by = display_uid(uid);
        Ok(match request {
            Request::TokenDevice(token) => self.make_token(token, &by, now)?,
            Request::TokenList => {
                let open = wait(|answer| registry.open_tokens(now, answer))?;
                Answer::Tokens(open.into_iter().map(token_row).collect())
            }
            Request::TokenDelete { id: Text(TokenText(id)) } => {
                wait(|answer| registry.delete_token(id, now, answer))?;
                info!(token = %id, %by, "a token was deleted");
                Answer::Done(format!("the token {id} is deleted"))
            }
            Request::Devices => Answer::Devices(self.devices()),
            Request::Approve { fingerprint: Text(pin), name } => {
                let name = name.map(principal_name);
                let principal = wait(|answer| registry.approve(pin, name, now, answer))?;
                info!(device = %principal.name, key = %pin, %by, "a key was approved");
                Answer::Done(format!(
                    "{} is let in. A program of it that waits comes within 15 min; to have it at once, run on it: systemctl \
                     restart tcpremote (or start 'tcpremote run', where that is no service). It needs the string no more",
                    principal.name
                ))
            }
            Request::Add { name, key: Text(key), labels } => {
                let join = self.tokenless_join()?;
                let newcomer = Newcomer { name: principal_name(name), key, labels: labels_of(labels)? };
                let principal = wait(|answer| registry.add(newcomer, now, answer))?;
                info!(device = %principal.name, key = %key.pin(), %by, "a device was added");
                Answer::Added(Added { text: format!("{} is added", principal.name), join })
            }
            Request::Import { table } => {
                let join = self.tokenless_join()?;
                let count = wait(|answer| registry.import(table, now, answer))?;
                info!(devices = count, %by, "devices were imported");
                Answer::Added(Added { text: format!("{count} devices are added"), join })
            }
            Request::Label { name, with, without } => {
                let with = with.into_iter().map(|Text(label)| label).collect();
                let principal = wait(|answer| registry.label(principal_name(name), with, without, answer))?;
                info!(device = %principal.name, labels = %principal.labels, %by, "labels were changed");
                let has = if principal.labels.is_empty() {
                    "has no labels".into()
                } else {
                    format!("has the labels: {}", principal.labels)
                };
                Answer::Done(format!("{} {has}", principal.name))
            }
            Request::Revoke { name } => {
                let principal = wait(|answer| registry.revoke(principal_name(name), now, answer))?;
                self.changed(&principal, &by, "is revoked; its key is refused, and its name stays taken")
            }
            Request::Unrevoke { name } => {
                let principal = wait(|answer| registry.unrevoke(principal_name(name), now, answer))?;
                self.changed(&principal, &by, "is let in again")
            }
            Request::Remove { name } => {
                let principal = wait(|answer| registry.remove(principal_name(name), now, answer))?;
                self.changed(&principal, &by, "is removed; its name is free")
            }
            Request::Backup { file } => {
                let path = file.clone().into();
                wait(|answer| registry.backup(path, answer))?;
                info!(file = ?file, %by, "the registry was written to a backup");
                Answer::Done(format!("the registry is written to {}", file.escape_debug()))
            }
            Request::Reload => {
                info!(%by, "reading the configuration again, as a command asks");
                match self.reloader.reload(registry) {
                    Ok(reloaded) => Answer::Reloaded(reloaded),
                    Err(text) => Answer::failed(FailureKind::Usage, text),
                }
            }
            Request::Check { text } => match File::parse(&text, Path::new("")) {
                Ok(file) => Answer::Warnings(self.reloader.warnings(&file, &**registry)),
                // Who asks has read it without a mistake.
                Err(_) => {
                    Answer::failed(FailureKind::Usage, "the relay that runs reads this configuration in another way")
                }
            },
            Request::Lacking { key: Text(key) } => {
                let lacking = self.registry.list().into_iter().filter(|listed| listed.lacks(key));
                Answer::Lacking(lacking.map(|listed| listed.principal.name.to_string()).collect())
            }
            Request::ProvenKey => Answer::ProvenKey(self.reloader.keys().map(|keys| {
                let Pins { current, next } = keys.pins();
                ProvenKeys { current: Text(current), next: Text(next) }
            })),
        })
    }

    fn changed(&self, principal: &Principal, by: &str, what: &str) -> Answer {
        info!(device = %principal.name, %by, "a device {what}");
        Answer::Done(format!("{} {what}", principal.name))
    }

    fn make_token(&self, request: TokenRequest, by: &str, now: u64) -> Result<Answer, RegistryError> {
        let TokenRequest { subject: Text(subject), labels, uses, expires, pending, replace } = request;
        let expires = now.saturating_add(expires.min(MAX_EXPIRES));
        let join = self.join_string()?;
        let (id, text) = (join.token(), subject.to_string());
        let token = NewToken {
            id,
            secret: SecretDigest(join.secret().digest()),
            subject: TokenSubject::Device(subject),
            uses,
            expires,
            labels: labels_of(labels)?,
            pending,
            replace,
            pins: join.pins(),
            creator: by.into(),
            created: now,
        };
        wait(|answer| self.registry.create_token(token, answer))?;
        info!(token = %id, subject = %text, uses, %by, "a token was made");
        Ok(Answer::Token(Made { join: join.encode().to_string(), id: id.to_string(), expires }))
    }

    /// A join string for keys that are known. Its token is none that there is: a key that is known is not asked for one.
    fn tokenless_join(&self) -> Result<String, RegistryError> {
        self.join_string().map(|join| join.encode().to_string())
    }

    /// A join string with a token that is yet to be made.
    fn join_string(&self) -> Result<JoinString, RegistryError> {
        let Some(keys) = self.reloader.keys() else {
            let text = "devices with keys need TLS; write tls = \"0.0.0.0:443\" below [listen], and restart the relay";
            return Err(RegistryError::Usage(text.into()));
        };
        let addresses = self.reloader.file().addresses.clone();
        if addresses.is_empty() {
            let text = "no address is known by which devices find the relay; write addresses = [\"relay.example.com:443\"] \
                        at the top of the configuration, and run 'tcp-remote-relay reload'";
            return Err(RegistryError::Usage(text.into()));
        }
        let usage = |error: &dyn std::fmt::Display| RegistryError::Usage(error.to_string());
        let (id, secret) = random_token().map_err(|error| usage(&error))?;
        JoinString::new(Kind::Device, addresses, keys.pins(), id, secret).map_err(|error| usage(&error))
    }

    fn devices(&self) -> Devices {
        let is_device = |listed: &Listed| listed.principal.name.kind() == Kind::Device;
        let status = self.reloader.controller().devices();
        let link_of = |name: &str| {
            let named = |device: &&DeviceStatus| device.name.as_ref().is_some_and(|other| other.as_str() == name);
            status.iter().find(named).and_then(|device| device.link)
        };
        let listed = self.registry.list().into_iter().filter(is_device);
        let next = self.reloader.keys().map(|keys| keys.next);
        let mut devices: Vec<DeviceRow> =
            listed.map(|listed| device_row(&listed, next, link_of(listed.principal.name.as_str()))).collect();
        if let Some(plain) = &self.reloader.file().plain {
            let link = status
                .iter()
                .find(|device| device.listen.as_ref() == Some(&plain.listen))
                .and_then(|device| device.link);
            devices.push(DeviceRow {
                name: plain.device.to_string(),
                state: if link.is_some() { "up" } else { "down" }.into(),
                fingerprint: None,
                labels: BTreeMap::new(),
                seen: None,
                lacks_next_key: Some(false),
                link: link.map(link_row),
            });
        }
        devices.sort_by(|one, other| one.name.cmp(&other.name));
        let unknown = self.registry.knocks().into_iter().filter(|knock| knock.kind == Kind::Device);
        let unknown = unknown.map(|knock| UnknownRow {
            fingerprint: knock.pin.to_string(),
            claimed: knock.claimed.map(|claimed| claimed.to_string()),
            address: knock.address.to_string(),
            first: knock.first,
            last: knock.last,
            count: knock.count,
        });
        Devices { devices, unknown: unknown.collect() }
    }
}

fn device_row(listed: &Listed, next: Option<Pin>, link: Option<LinkStatus>) -> DeviceRow {
    let Listed { principal, seen, pins: _ } = listed;
    let current = principal.keys.iter().rev().find(|key| !key.is_revoked).or_else(|| principal.keys.last());
    DeviceRow {
        name: principal.name.to_string(),
        state: match (principal.state, link) {
            (State::Active, Some(_)) => "up".into(),
            (State::Active, None) => "down".into(),
            (state @ (State::Pending | State::Revoked | State::Removed), _) => state.to_string(),
        },
        fingerprint: current.map(|Key { pin, .. }| pin.to_string()),
        labels: labels_by_key(&principal.labels),
        seen: *seen,
        lacks_next_key: next.map(|next| listed.lacks(next)),
        link: link.map(link_row),
    }
}

fn link_row(LinkStatus { address, round_trip, clients }: LinkStatus) -> LinkRow {
    let round_trip_ms = round_trip.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    LinkRow { address: address.to_string(), round_trip_ms, streams: clients }
}

fn token_row(token: OpenToken) -> TokenRow {
    TokenRow {
        id: token.id.to_string(),
        subject: token.subject.to_string(),
        uses: token.uses,
        used: token.used,
        expires: token.expires,
        labels: labels_by_key(&token.labels),
        pending: token.pending,
        replace: token.replace,
        creator: token.creator,
        created: token.created,
    }
}

/// A token's id is as random as a part of a secret: nobody meets one by chance.
fn random_token() -> Result<(TokenId, Secret), crate::identity::NoRandomness> {
    let mut id = [0; TokenId::LEN];
    id.copy_from_slice(&Secret::random()?.as_bytes()[..TokenId::LEN]);
    Ok((TokenId(id), Secret::random()?))
}

fn principal_name(Text(DeviceName(name)): Text<DeviceName>) -> PrincipalName {
    PrincipalName::Device(name)
}

fn labels_of(labels: Vec<Text<crate::identity::Label>>) -> Result<Labels, RegistryError> {
    Labels::new(labels.into_iter().map(|Text(label)| label))
}

fn labels_by_key(labels: &Labels) -> BTreeMap<String, String> {
    labels.iter().map(|label| (label.key().into(), label.value().into())).collect()
}

/// Who asks, for the log and for lists.
fn display_uid(uid: Option<u32>) -> String {
    uid.map_or_else(|| "unknown".into(), |uid| format!("uid {uid}"))
}

/// Seconds since 1970.
pub(in crate::relay) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
