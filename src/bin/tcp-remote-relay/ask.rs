//! Commands that ask the running relay.

use std::collections::BTreeMap;
use std::fs::File as Open;
use std::io::Read;
use std::path::{Path, PathBuf};

use tcpremote::identity::{Label, Pin, Pins};
use tcpremote::relay::control::{
    Added, Answer, AskError, DeviceName, DeviceRow, Devices, Failure as Failed, FailureKind, Made, ProvenKeys, Request,
    Text, TokenRequest, TokenRow, TokenText, UnknownRow, ask,
};
use tcpremote::relay::file::File;
use tcpremote::relay::reloader::Reloaded;
use tcpremote::tls::PublicKey;

use super::commands::{Listing, NewToken, Place};
use super::output::{Done, Failure, note, now, say, say_json, table, time, warn};

/// The largest table to import, as the registry has it.
const MAX_TABLE: u64 = 16 << 20;
/// How many devices are named in a line.
const MOST_NAMES: usize = 10;

pub(crate) fn reload(place: &Place) -> Done {
    let answer = answer(place, &Request::Reload)?;
    // An older relay, which has yet to be restarted after an upgrade.
    if let Answer::Done(text) = &answer {
        return say(text);
    }
    let Answer::Reloaded(Reloaded { text, warnings }) = answer else { return Err(unexpected()) };
    warnings.iter().for_each(|warning| warn(warning));
    say(&text)
}

/// What the relay that runs would warn of, if it went on with this configuration; nothing from one that does not run, or that
/// this user may not ask.
pub(crate) fn warnings(state: &Path, text: String) -> Vec<String> {
    let reason = match ask(state, &Request::Check { text }) {
        Ok(Answer::Warnings(warnings)) => return warnings,
        Err(AskError::NotRunning(_) | AskError::NotPermitted(_)) => return Vec::new(),
        // The configuration is right all the same.
        Ok(Answer::Failed(Failed { text, .. })) => text,
        Ok(_) => "it is of another version than this program".into(),
        Err(error) => error.to_string(),
    };
    vec![format!("the relay that runs does not say what it would warn of: {reason}")]
}

pub(crate) fn make_token(token: NewToken) -> Done {
    let NewToken { subject, labels, uses, expires, pending, replace, place, listing } = token;
    let expires = expires.as_secs();
    let token = TokenRequest { subject: Text(subject), labels: texts(labels), uses, expires, pending, replace };
    let Answer::Token(made) = answer(&place, &Request::TokenDevice(token))? else { return Err(unexpected()) };
    if listing.json {
        return say_json(&made);
    }
    // The string alone on standard output, for a pipe.
    let Made { join, id, expires } = made;
    note(&format!("token {id}, good until {}; this string is shown only now:", time(expires)));
    say(&join)
}

pub(crate) fn list_tokens(place: &Place, listing: &Listing) -> Done {
    let Answer::Tokens(tokens) = answer(place, &Request::TokenList)? else { return Err(unexpected()) };
    if listing.json {
        return say_json(&tokens);
    }
    let rows: Vec<Vec<String>> = tokens.iter().map(token_cells).collect();
    say(&table(&["ID", "FOR", "USED", "EXPIRES", "MADE BY", "NOTES"], &rows))
}

fn token_cells(token: &TokenRow) -> Vec<String> {
    let TokenRow { id, subject, uses, used, expires, labels, pending, replace, creator, created: _ } = token;
    let mut notes: Vec<String> = Vec::from_iter((!labels.is_empty()).then(|| label_cell(labels)));
    notes.extend(pending.then(|| "(pending)".into()));
    notes.extend(replace.then(|| "(replaces the key)".into()));
    let used = format!("{used} of {uses}");
    vec![id.clone(), subject.clone(), used, time(*expires), creator.clone(), notes.join(" ")]
}

pub(crate) fn delete_token(place: &Place, id: TokenText) -> Done {
    tell(place, &Request::TokenDelete { id: Text(id) })
}

pub(crate) fn list_devices(place: &Place, listing: &Listing) -> Done {
    let devices = devices(answer(place, &Request::Devices)?)?;
    if listing.json {
        return say_json(&devices);
    }
    let Devices { devices, unknown } = devices;
    let rows: Vec<Vec<String>> = devices.iter().map(|device| device_cells(device, now())).collect();
    say(&table(&["NAME", "STATE", "ROUND TRIP", "STREAMS", "LAST SEEN", "LABELS"], &rows))?;
    let lacking = lacking(&devices);
    if !lacking.is_empty() {
        say(&format!(
            "\nThese do not know the relay's next key yet; let them connect once before 'rotate-key':\n{}",
            some_of(&lacking)
        ))?;
    }
    if devices.iter().any(|device| device.lacks_next_key.is_none()) {
        say(
            "\nThe relay that runs does not say who knows its next key: it is older than this program, or has no port for TLS.",
        )?;
    }
    let pending = devices.iter().filter(|device| device.state == "pending");
    let pending: Vec<Vec<String>> =
        pending.filter_map(|device| Some(vec![device.fingerprint.clone()?, device.name.clone()])).collect();
    if !pending.is_empty() {
        say("\nKeys that wait; 'approve' lets one in:")?;
        say(&table(&["FINGERPRINT", "NAME"], &pending))?;
    }
    if unknown.is_empty() {
        return Ok(());
    }
    say("\nUnknown keys that came; 'approve' lets one in:")?;
    let rows: Vec<Vec<String>> = unknown.iter().map(|key| unknown_cells(key, now())).collect();
    say(&table(&["FINGERPRINT", "FROM", "TIMES", "LAST CAME", "CLAIMS TO BE"], &rows))
}

fn devices(answer: Answer) -> Result<Devices, Failure> {
    if let Answer::Devices(devices) = answer { Ok(devices) } else { Err(unexpected()) }
}

/// The names of those that do not know the relay's next key.
fn lacking(devices: &[DeviceRow]) -> Vec<String> {
    devices.iter().filter(|device| device.lacks_next_key == Some(true)).map(|device| device.name.clone()).collect()
}

/// Names in a line, the first of many.
pub(crate) fn some_of(names: &[String]) -> String {
    let (first, rest) = names.split_at(names.len().min(MOST_NAMES));
    let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
    format!("{}{more}", first.join(", "))
}

fn device_cells(device: &DeviceRow, now: u64) -> Vec<String> {
    let DeviceRow { name, state, fingerprint: _, labels, seen, lacks_next_key: _, link } = device;
    let round_trip = link.as_ref().and_then(|link| link.round_trip_ms).map(|ms| format!("{ms} ms"));
    let streams = link.as_ref().map(|link| link.streams.to_string());
    let seen = if link.is_some() { Some("now".into()) } else { seen.map(|seen| ago(seen, now)) };
    let or_none = |cell: Option<String>| cell.unwrap_or_else(|| "-".into());
    vec![name.clone(), state.clone(), or_none(round_trip), or_none(streams), or_none(seen), label_cell(labels)]
}

fn label_cell(labels: &BTreeMap<String, String>) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
}

fn unknown_cells(key: &UnknownRow, now: u64) -> Vec<String> {
    let UnknownRow { fingerprint, claimed, address, first: _, last, count } = key;
    let claimed = claimed.clone().unwrap_or_else(|| "-".into());
    vec![fingerprint.clone(), address.clone(), count.to_string(), ago(*last, now), claimed]
}

/// How long ago, as a person says it.
fn ago(then: u64, now: u64) -> String {
    let seconds = now.saturating_sub(then);
    let (count, unit) = match seconds {
        0..60 => (seconds, "s"),
        60..3600 => (seconds / 60, "min"),
        3600..86_400 => (seconds / 3600, "h"),
        _ => (seconds / 86_400, "days"),
    };
    format!("{count} {unit} ago")
}

pub(crate) fn approve(place: &Place, fingerprint: Pin, name: Option<DeviceName>) -> Done {
    tell(place, &Request::Approve { fingerprint: Text(fingerprint), name: name.map(Text) })
}

pub(crate) fn add(place: &Place, name: DeviceName, key: PublicKey, labels: Vec<Label>) -> Done {
    add_with(place, &Request::Add { name: Text(name), key: Text(key), labels: texts(labels) })
}

/// Has devices added, and prints the string with which they find the relay.
fn add_with(place: &Place, request: &Request) -> Done {
    let Answer::Added(Added { text, join }) = answer(place, request)? else { return Err(unexpected()) };
    // The string alone on standard output, as of a token.
    note(&format!(
        "{text}; a device that has joined no relay yet joins by 'tcpremote join' and this string, which lets in no other key:"
    ));
    say(&join)
}

pub(crate) fn import(place: &Place, file: &Path) -> Done {
    let unreadable = |reason| Failure::Usage(format!("cannot read {}: {reason}", file.display()));
    let mut table = String::new();
    let open = Open::open(file).map_err(unreadable)?;
    open.take(MAX_TABLE + 1).read_to_string(&mut table).map_err(unreadable)?;
    if table.len() as u64 > MAX_TABLE {
        return Err(Failure::Usage(format!("{} has more than {MAX_TABLE} bytes; split it", file.display())));
    }
    add_with(place, &Request::Import { table })
}

pub(crate) fn label(place: &Place, name: DeviceName, labels: Vec<Label>, without: Vec<String>) -> Done {
    if let Some(wrong) = without.iter().find(|key| key.contains('=')) {
        let key = wrong.split('=').next().unwrap_or_default();
        return Err(Failure::Usage(format!("--remove wants the key of a label and no value; write --remove {key}")));
    }
    tell(place, &Request::Label { name: Text(name), with: texts(labels), without })
}

pub(crate) fn revoke(place: &Place, name: DeviceName) -> Done {
    tell(place, &Request::Revoke { name: Text(name) })
}

pub(crate) fn unrevoke(place: &Place, name: DeviceName) -> Done {
    tell(place, &Request::Unrevoke { name: Text(name) })
}

pub(crate) fn remove(place: &Place, name: DeviceName) -> Done {
    tell(place, &Request::Remove { name: Text(name) })
}

fn texts<T>(all: Vec<T>) -> Vec<Text<T>> {
    all.into_iter().map(Text).collect()
}

/// Has the relay do something, and prints what it has done.
fn tell(place: &Place, request: &Request) -> Done {
    let Answer::Done(text) = answer(place, request)? else { return Err(unexpected()) };
    say(&text)
}

fn answer(place: &Place, request: &Request) -> Result<Answer, Failure> {
    let answer = ask(&state(place)?, request).map_err(|error| Failure::System(error.to_string()))?;
    failed(answer)
}

/// The answer, unless it says why not.
fn failed(answer: Answer) -> Result<Answer, Failure> {
    let Answer::Failed(Failed { kind, text }) = answer else { return Ok(answer) };
    Err(if kind == FailureKind::Usage { Failure::Usage(text) } else { Failure::System(text) })
}

/// By which keys devices know the relay of a state directory; `None` if it does not run, or has none.
pub(crate) fn proven_keys(state: &Path) -> Result<Option<Pins>, Failure> {
    let answer = match ask(state, &Request::ProvenKey) {
        Err(AskError::NotRunning(_)) => return Ok(None),
        other => failed(other.map_err(|error| Failure::System(error.to_string()))?)?,
    };
    let Answer::ProvenKey(keys) = answer else { return Err(unexpected()) };
    Ok(keys.map(|ProvenKeys { current: Text(current), next: Text(next) }| Pins { current, next }))
}

/// Which devices of the relay that runs would not know it by this key; `None` if it does not run. It may have no port for TLS,
/// and so no keys of its own.
pub(crate) fn lacking_key(state: &Path, key: Pin) -> Result<Option<Vec<String>>, Failure> {
    let answer = match ask(state, &Request::Lacking { key: Text(key) }) {
        Err(AskError::NotRunning(_)) => return Ok(None),
        other => other.map_err(|error| Failure::System(error.to_string()))?,
    };
    if let Answer::Failed(Failed { text, .. }) = answer {
        return Err(Failure::System(format!(
            "the relay that runs does not say which devices know the next key: {text}; restart it, if it is older than this \
             program; nothing was changed"
        )));
    }
    let Answer::Lacking(names) = answer else { return Err(unexpected()) };
    Ok(Some(names))
}

/// Has the relay do something if it runs; false if it does not.
pub(crate) fn is_done_if_running(state: &Path, request: &Request) -> Result<bool, Failure> {
    let answer = match ask(state, request) {
        Err(AskError::NotRunning(_)) => return Ok(false),
        other => failed(other.map_err(|error| Failure::System(error.to_string()))?)?,
    };
    let Answer::Done(_) = answer else { return Err(unexpected()) };
    Ok(true)
}

/// The state directory of the relay that is meant.
pub(crate) fn state(place: &Place) -> Result<PathBuf, Failure> {
    match &place.state {
        Some(state) => Ok(state.clone()),
        None => File::read(&place.config).map(|file| file.state).map_err(|error| {
            // Where there is a file, what is wrong with it is all.
            let other = "\nname the configuration by --config, or the state directory by --state";
            Failure::Usage(format!("{error}{}", if place.config.exists() { "" } else { other }))
        }),
    }
}

fn unexpected() -> Failure {
    Failure::System("the relay gave another answer than was asked for; is it of this program's version?".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_names_the_first_are_told_and_how_many_more_there_are() {
        let names: Vec<String> = (1..=12).map(|number| format!("pump-{number}")).collect();
        assert_eq!(some_of(&names[..2]), "pump-1, pump-2");
        assert!(some_of(&names[..10]).ends_with("pump-9, pump-10"));
        assert!(some_of(&names).ends_with("pump-9, pump-10 and 2 more"));
    }

    #[test]
    fn a_time_that_has_passed_is_told_in_the_largest_unit() {
        let told = [0, 59, 60, 3599, 7200, 86_399, 3 * 86_400].map(|seconds| ago(1_000_000, 1_000_000 + seconds));
        assert_eq!(told.join(", "), "0 s ago, 59 s ago, 1 min ago, 59 min ago, 2 h ago, 23 h ago, 3 days ago");
        assert_eq!(ago(2, 1), "0 s ago", "the clock was set back");
    }
}
