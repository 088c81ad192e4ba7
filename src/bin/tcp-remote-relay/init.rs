//! Makes all that a relay needs to run.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use nix::unistd::{User, geteuid};
use tcpremote::address::Address;
use tcpremote::relay::keys::{KeysLock, write_private, write_public};
use tcpremote::relay::permissions::SERVICE_USER;
use tcpremote::tls::Key;

use super::output::{Done, Failure, say};

pub(crate) const KEY: &str = "relay.key";
pub(crate) const NEXT_KEY: &str = "relay-next.key";
pub(crate) const NEXT_PUBLIC: &str = "relay-next.pub";
const CONFIG: &str = "relay.toml";
const STATE: &str = "state";
const REGISTRY: &str = "registry.db";
/// What a new relay's directory has. The configuration is written last, so that what has one is whole.
const ALL: [&str; 5] = [KEY, NEXT_KEY, NEXT_PUBLIC, STATE, CONFIG];
const PORT: u16 = 443;

/// The directory and the state of the service, as packaging/systemd has them.
const OF_SERVICE: &str = "/etc/tcp-remote-relay";
const SERVICE_STATE: &str = "/var/lib/tcp-remote-relay";
/// Of the relay's key there, which the service reads as its group.
const KEY_MODE: u32 = 0o640;

/// A relay that runs as a user of its own, to which root gives what it has to read. What it writes is elsewhere.
struct Service {
    user: u32,
    group: u32,
    state: PathBuf,
}

impl Service {
    /// The one of this directory, where the system has its user.
    fn of(directory: &Path) -> Option<Self> {
        let is_it =
            geteuid().is_root() && std::path::absolute(directory).is_ok_and(|path| path == Path::new(OF_SERVICE));
        let user = is_it.then(|| User::from_name(SERVICE_USER).ok().flatten()).flatten()?;
        Some(Self { user: user.uid.as_raw(), group: user.gid.as_raw(), state: SERVICE_STATE.into() })
    }

    /// It may read this, or pass it, and not write.
    fn may_read(&self, path: &Path, mode: u32) -> io::Result<()> {
        chown(path, None, Some(self.group))?;
        fs::set_permissions(path, Permissions::from_mode(mode))
    }
}

/// Lets the service read a key that root has written for itself, as where the one before was lost: that is as it lies after
/// [`init`].
pub(crate) fn let_service_read(key: &Path) -> io::Result<()> {
    let service = key.parent().and_then(Service::of);
    service.map_or(Ok(()), |service| let_read(key, &service))
}

fn let_read(key: &Path, service: &Service) -> io::Result<()> {
    let file = fs::metadata(key)?;
    if (file.uid(), file.gid()) == (0, 0) { service.may_read(key, KEY_MODE) } else { Ok(()) }
}

/// The configuration of a new relay.
const TEMPLATE: &str = r#"# The relay's configuration. 'tcp-remote-relay check' finds mistakes in it, and 'tcp-remote-relay reload', or SIGHUP, has
# the running relay read it again. Relative paths begin in this directory. docs/relay.md has every key.

# Where devices find this relay: 1 to 4 addresses of it, told to each device that joins.
addresses = ["@ADDRESS@"]

# The registry (devices, keys, tokens) and the socket for commands; for the relay's user alone.
state = "@STATE@"

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
    init_as(directory, address, Service::of(directory).as_ref())
}

fn init_as(directory: &Path, address: Option<Address>, service: Option<&Service>) -> Done {
    let address = address.map_or_else(host_address, Ok)?;
    let failed = |path: &Path, reason: &io::Error| Failure::System(format!("{}: {reason}", path.display()));
    fs::create_dir_all(directory).map_err(|reason| failed(directory, &reason))?;
    let _lock = KeysLock::take(&directory.join(KEY)).map_err(|error| Failure::System(error.to_string()))?;
    // The directory of the service's state may be there, but none of whom another key let in.
    let registry = service.map(|service| service.state.join(REGISTRY));
    let mut all = ALL.iter().map(|name| directory.join(name)).chain(registry);
    if let Some(there) = all.find(|path| path.symlink_metadata().is_ok()) {
        let text = format!(
            "{} is there already, and nothing was changed; give another directory, or move that away",
            there.display()
        );
        return Err(Failure::Usage(text));
    }
    let state = service.map(|service| &service.state).filter(|state| state.symlink_metadata().is_err());
    make(directory, &address, service).inspect_err(|_| {
        // Nothing of this was there before, and a half of it is of no use.
        for path in ALL.iter().map(|name| directory.join(name)).chain(state.cloned()) {
            let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir(&path));
        }
    })?;
    say(&next_steps(directory, &address, service))
}

fn make(directory: &Path, address: &Address, service: Option<&Service>) -> Done {
    let failed = |path: &Path, reason: &io::Error| Failure::System(format!("{}: {reason}", path.display()));
    let of_keys = |error: tcpremote::relay::keys::KeysError| Failure::System(error.to_string());
    let of_key = |error: tcpremote::tls::KeyError| Failure::System(error.to_string());
    let (key, next) = (Key::generate().map_err(of_key)?, Key::generate().map_err(of_key)?);
    write_private(&directory.join(KEY), &key, directory).map_err(of_keys)?;
    write_private(&directory.join(NEXT_KEY), &next, directory).map_err(of_keys)?;
    write_public(&directory.join(NEXT_PUBLIC), next.public(), directory).map_err(of_keys)?;
    let state = service.map_or_else(|| directory.join(STATE), |service| service.state.clone());
    make_state(&state, service).map_err(|reason| failed(&state, &reason))?;
    let path = directory.join(CONFIG);
    let config = config(address, service.map_or_else(|| Path::new(STATE), |service| &service.state));
    let open = OpenOptions::new().write(true).create_new(true).open(&path);
    open.and_then(|mut file| file.write_all(config.as_bytes()).and_then(|()| file.sync_all()))
        .map_err(|reason| failed(&path, &reason))?;
    let Some(service) = service else { return Ok(()) };
    // Whatever the umask is. The private key after the relay's is for root alone.
    let readable = [(directory.join(KEY), KEY_MODE), (directory.join(NEXT_PUBLIC), 0o644), (path, 0o640)];
    for (path, mode) in readable.into_iter().chain([(directory.to_owned(), 0o750)]) {
        service.may_read(&path, mode).map_err(|reason| failed(&path, &reason))?;
    }
    Ok(())
}

fn make_state(state: &Path, service: Option<&Service>) -> io::Result<()> {
    let made = DirBuilder::new().mode(0o700).create(state);
    let Some(service) = service else { return made };
    match made {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists || !state.is_dir() => return Err(error),
        Ok(()) | Err(_) => {}
    }
    chown(state, Some(service.user), Some(service.group))
}

fn config(address: &Address, state: &Path) -> String {
    let config = TEMPLATE.replace("@ADDRESS@", &address.to_string()).replace("@PORT@", &address.port().to_string());
    config.replace("@STATE@", &state.display().to_string())
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

fn next_steps(directory: &Path, address: &Address, service: Option<&Service>) -> String {
    let state = service.map_or_else(|| format!("{STATE}/"), |service| service.state.display().to_string());
    let directory = directory.display();
    let (start, option) = match service {
        Some(_) => (format!("systemctl enable --now {SERVICE_USER}"), String::new()),
        None => {
            let option = format!(" --config {directory}/{CONFIG}");
            (format!("tcp-remote-relay run{option}"), option)
        }
    };
    format!(
        "Made in {directory}:
  {KEY}       the relay's private key; it stays on this host
  {NEXT_KEY}  the private key that will follow it
  {NEXT_PUBLIC}  its public part, of which devices are told
  {CONFIG}      the configuration
The registry will be in {state}.

Next:
  1. Move {directory}/{NEXT_KEY} to another place, such as a stick in a safe. If this
     host is lost or broken into, devices trust that key, and nobody else has it.
  2. Devices will look for this relay at {address}. If that is wrong, change
     addresses in {directory}/{CONFIG}.
  3. Start it:
       {start}
  4. Have a device join, with the string that this prints:
       tcp-remote-relay token device NAME{option}"
    )
}

#[cfg(test)]
mod tests {

    use super::*;
    #[cfg(target_os = "linux")]
    use nix::unistd::{Uid, setfsuid};
    use tcpremote::relay::file::File;
    use tcpremote::relay::permissions;

    fn address() -> Address {
        "relay.example.com:443".parse().expect("an address")
    }

    #[test]
    fn the_configuration_of_a_new_relay_is_right_and_what_it_has_as_a_comment_is_the_default() {
        let parse = |text: &str| File::parse(text, Path::new("/etc/relay")).expect("a configuration");
        let made = config(&address(), Path::new(STATE));
        let file = parse(&made);
        assert_eq!(file.tls.as_ref().map(ToString::to_string).as_deref(), Some("0.0.0.0:443"));
        let defaults = parse("addresses = [\"relay.example.com:443\"]\n[listen]\ntls = \"0.0.0.0:443\"\n");
        assert_eq!(file, defaults);
        let all = ["clients", "keepalive", "half_close", "drain", "level", "format"];
        let uncommented = all.iter().fold(made, |text, key| text.replace(&format!("# {key} ="), &format!("{key} =")));
        assert_eq!(parse(&uncommented), defaults);
    }

    #[test]
    fn a_service_reads_what_root_made_for_it_writes_its_state_and_has_nothing_of_the_next_key() {
        if !geteuid().is_root() {
            // Nobody else can give files away.
            return;
        }
        let place = tempfile::tempdir().expect("a directory");
        fs::set_permissions(place.path(), Permissions::from_mode(0o755)).expect("permissions");
        let directory = place.path().join("etc");
        let service = Service { user: 12_345, group: 12_346, state: place.path().join("state") };
        init_as(&directory, Some(address()), Some(&service)).expect("made");
        let of = |path: &Path| {
            let file = fs::metadata(path).expect("a file");
            (file.uid(), file.gid(), file.mode() & 0o7777)
        };
        assert_eq!(of(&directory), (0, 12_346, 0o750));
        assert_eq!(of(&directory.join(CONFIG)), (0, 12_346, 0o640));
        assert_eq!(of(&directory.join(KEY)), (0, 12_346, 0o640));
        assert_eq!(of(&directory.join(NEXT_KEY)), (0, 0, 0o600));
        assert_eq!(of(&service.state), (12_345, 12_346, 0o700));
        let file = File::read(&directory.join(CONFIG)).expect("a configuration");
        assert_eq!(file.state, service.state);
        assert_eq!(permissions::mistakes(&directory.join(CONFIG), &file), [""; 0]);
        // One that root wrote in the place of a key that was lost, and one that is another's already.
        for (owner, expected) in [((0, 0), (0, 12_346, 0o640)), ((12_345, 0), (12_345, 0, 0o600))] {
            chown(directory.join(KEY), Some(owner.0), Some(owner.1)).expect("given away");
            fs::set_permissions(directory.join(KEY), Permissions::from_mode(0o600)).expect("permissions");
            let_read(&directory.join(KEY), &service).expect("given");
            assert_eq!(of(&directory.join(KEY)), expected);
        }
        // A registry that is there is of another key, wherever that went.
        fs::write(service.state.join(REGISTRY), "").expect("written");
        let again = place.path().join("again");
        let refused = init_as(&again, Some(address()), Some(&service)).expect_err("there is a registry");
        assert!(
            matches!(&refused, Failure::Usage(text) if text.contains("registry.db is there already")),
            "{refused:?}"
        );
        assert!(!again.join(KEY).exists());
    }

    #[test]
    fn a_file_in_the_place_of_a_services_state_is_told_and_stays() {
        let place = tempfile::tempdir().expect("a directory");
        let directory = place.path().join("etc");
        let service = Service { user: 12_345, group: 12_346, state: place.path().join("state") };
        fs::write(&service.state, "of somebody else").expect("written");
        let refused = init_as(&directory, Some(address()), Some(&service)).expect_err("it is no directory");
        assert!(matches!(&refused, Failure::System(text) if text.contains("/state: File exists")), "{refused:?}");
        assert!(service.state.is_file() && fs::read_dir(&directory).expect("a directory").next().is_none());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_service_that_was_made_by_half_leaves_nothing_but_what_was_there() {
        let place = tempfile::tempdir().expect("a directory");
        let directory = place.path().join("etc");
        let service = Service { user: 12_345, group: 12_346, state: place.path().join("state") };
        if geteuid().is_root() {
            chown(place.path(), Some(12_344), None).expect("given away");
        }
        let half = |is_there: bool| {
            let failed = init_as(&directory, Some(address()), Some(&service)).expect_err("it cannot be given away");
            assert!(matches!(&failed, Failure::System(text) if text.contains("not permitted")), "{failed:?}");
            assert!(fs::read_dir(&directory).expect("a directory").next().is_none());
            assert_eq!(service.state.exists(), is_there);
        };
        let both = || {
            if geteuid().is_root() {
                // So this thread alone may not give files away.
                setfsuid(Uid::from_raw(12_344));
            }
            half(false);
            fs::create_dir(&service.state).expect("made");
            half(true);
        };
        std::thread::scope(|scope| scope.spawn(both).join().expect("no panic"));
    }
}
