//! Makes all that a relay needs to run.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use tcpremote::address::Address;
use tcpremote::relay::keys::{KeysLock, write_private, write_public};
use tcpremote::tls::Key;

use super::output::{Done, Failure, say};

pub(crate) const KEY: &str = "relay.key";
pub(crate) const NEXT_KEY: &str = "relay-next.key";
pub(crate) const NEXT_PUBLIC: &str = "relay-next.pub";
const CONFIG: &str = "relay.toml";
const STATE: &str = "state";
/// What a new relay's directory has. The configuration is written last, so that what has one is whole.
const ALL: [&str; 5] = [KEY, NEXT_KEY, NEXT_PUBLIC, STATE, CONFIG];
const PORT: u16 = 443;

/// The configuration of a new relay.
const TEMPLATE: &str = r#"# The relay's configuration. 'tcp-remote-relay check' finds mistakes in it, and 'tcp-remote-relay reload', or SIGHUP, has
# the running relay read it again. Relative paths begin in this directory. docs/relay.md has every key.

# Where devices find this relay: 1 to 4 addresses of it, told to each device that joins.
addresses = ["@ADDRESS@"]

# The registry (devices, keys, tokens) and the socket for commands; for the relay's user alone.
state = "state"

# The relay's private key, and the public part of the one that will follow it.
key = "relay.key"
next_key = "relay-next.pub"

[listen]
# Where devices with a key connect, in TLS. 0.0.0.0 is every interface with IPv4, [::] those with IPv6, too.
tls = "0.0.0.0:@PORT@"

# Where one device of 2012 connects, which has no key: in the clear, and without a password.
# plain = { listen = "127.0.0.1:2065", device = "old-gateway" }

# Load balancers in front of this relay: from them a PROXY protocol header is required.
# proxy_protocol_from = ["10.0.0.5"]

# A port here that is one service of a device, for clients that know nothing of that. One [[port]] for each.
# [[port]]
# listen = "127.0.0.1:2222"
# to = "pump-3:ssh"

# What is commented out below are the defaults.
[limits]
# clients = 256          # of each device at once, 1 to 256
# idle = "1h"            # ends a client for which nothing moves; without it never
# keepalive = "90s"      # after how long a silence an idle device is asked whether it is there
# half_close = "1s"      # only devices of version 1: how long a service may be silent after its client's end
# drain = "8s"           # how long open clients may go on when the relay ends

[log]
# level = "info"         # error, warn, info, debug
# format = "text"        # text, json
"#;

pub(crate) fn init(directory: &Path, address: Option<Address>) -> Done {
    let address = address.map_or_else(host_address, Ok)?;
    let failed = |path: &Path, reason: &io::Error| Failure::System(format!("{}: {reason}", path.display()));
    fs::create_dir_all(directory).map_err(|reason| failed(directory, &reason))?;
    let _lock = KeysLock::take(&directory.join(KEY)).map_err(|error| Failure::System(error.to_string()))?;
    if let Some(there) = ALL.iter().find(|name| directory.join(name).symlink_metadata().is_ok()) {
        let text = format!(
            "{} is there already, and nothing was changed; give another directory, or move that away",
            directory.join(there).display()
        );
        return Err(Failure::Usage(text));
    }
    make(directory, &address).inspect_err(|_| {
        // Nothing of this was there before, and a half of it is of no use.
        for name in ALL {
            let path = directory.join(name);
            let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir(&path));
        }
    })?;
    say(&next_steps(directory, &address))
}

fn make(directory: &Path, address: &Address) -> Done {
    let failed = |path: &Path, reason: &io::Error| Failure::System(format!("{}: {reason}", path.display()));
    let of_keys = |error: tcpremote::relay::keys::KeysError| Failure::System(error.to_string());
    let of_key = |error: tcpremote::tls::KeyError| Failure::System(error.to_string());
    let (key, next) = (Key::generate().map_err(of_key)?, Key::generate().map_err(of_key)?);
    write_private(&directory.join(KEY), &key, directory).map_err(of_keys)?;
    write_private(&directory.join(NEXT_KEY), &next, directory).map_err(of_keys)?;
    write_public(&directory.join(NEXT_PUBLIC), next.public(), directory).map_err(of_keys)?;
    let state = directory.join(STATE);
    DirBuilder::new().mode(0o700).create(&state).map_err(|reason| failed(&state, &reason))?;
    let path = directory.join(CONFIG);
    let config = TEMPLATE.replace("@ADDRESS@", &address.to_string()).replace("@PORT@", &address.port().to_string());
    let open = OpenOptions::new().write(true).create_new(true).open(&path);
    open.and_then(|mut file| file.write_all(config.as_bytes()).and_then(|()| file.sync_all()))
        .map_err(|reason| failed(&path, &reason))
}

/// This host's name is a guess, which the operator is asked to look at.
fn host_address() -> Result<Address, Failure> {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    Address::new(&name, PORT).map_err(|_| {
        Failure::Usage(
            "this host has no name; say where devices find the relay: --address relay.example.com:443".into(),
        )
    })
}

fn next_steps(directory: &Path, address: &Address) -> String {
    let directory = directory.display();
    format!(
        "Made in {directory}:
  {KEY}       the relay's private key; it stays on this host
  {NEXT_KEY}  the private key that will follow it
  {NEXT_PUBLIC}  its public part, of which devices are told
  {STATE}/          the registry
  {CONFIG}      the configuration

Next:
  1. Move {directory}/{NEXT_KEY} to another place, such as a stick in a safe. If this
     host is lost or broken into, devices trust that key, and nobody else has it.
  2. Devices will look for this relay at {address}. If that is wrong, change
     addresses in {directory}/{CONFIG}.
  3. Start it:
       tcp-remote-relay run --config {directory}/{CONFIG}
  4. Have a device join, with the string that this prints:
       tcp-remote-relay token device NAME --config {directory}/{CONFIG}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use tcpremote::relay::file::File;

    #[test]
    fn the_configuration_of_a_new_relay_is_right_and_what_it_has_as_a_comment_is_the_default() {
        let parse = |text: &str| File::parse(text, Path::new("/etc/relay")).expect("a configuration");
        let made = TEMPLATE.replace("@ADDRESS@", "relay.example.com:443").replace("@PORT@", "443");
        let file = parse(&made);
        assert_eq!(file.tls.as_ref().map(ToString::to_string).as_deref(), Some("0.0.0.0:443"));
        let defaults = parse("addresses = [\"relay.example.com:443\"]\n[listen]\ntls = \"0.0.0.0:443\"\n");
        assert_eq!(file, defaults);
        let all = ["clients", "keepalive", "half_close", "drain", "level", "format"];
        let uncommented = all.iter().fold(made, |text, key| text.replace(&format!("# {key} ="), &format!("{key} =")));
        assert_eq!(parse(&uncommented), defaults);
    }
}
