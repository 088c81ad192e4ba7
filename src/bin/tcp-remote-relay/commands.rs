//! The commands of a relay with a configuration file.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue};
use clap::{Args, CommandFactory, Parser, Subcommand};
use tcpremote::address::Address;
use tcpremote::identity::{Label, Pattern, Pin};
use tcpremote::relay::control::{DeviceName, TokenText};
use tcpremote::tls::PublicKey;

use super::output::Failure;
use super::{ask, files, init, output, rotate, run};

/// Lets people reach services of devices that have no public address
#[derive(Parser)]
#[command(name = "tcp-remote-relay", version = env!("TCPREMOTE_VERSION"), after_help = GUIDE, max_term_width = 100)]
struct Commands {
    #[command(subcommand)]
    command: Command,
}

const GUIDE: &str = "\
Example:
  tcp-remote-relay init /etc/tcp-remote-relay --address relay.example.com:443
  tcp-remote-relay run
  tcp-remote-relay token device pump-3 --label site=berlin
  tcp-remote-relay devices

Exit status:
  0  done; of 'run': ended by a signal
  1  the relay does not run, cannot be reached, or its system failed
  2  the command line or the configuration is wrong, or what was asked cannot be done
  3  of 'run': ended by a signal, and clients that were open had to be cut

Without a command: one device without a key, see 'tcp-remote-relay --help'.";

/// Where the running relay is found.
#[derive(Args)]
pub(crate) struct Place {
    /// The relay's configuration
    #[arg(long, value_name = "FILE", default_value = "/etc/tcp-remote-relay/relay.toml")]
    pub(crate) config: PathBuf,

    /// The relay's state directory, in place of the one that the configuration names
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
}

/// Only the configuration.
#[derive(Args)]
pub(crate) struct ConfigFile {
    /// The relay's configuration
    #[arg(long, value_name = "FILE", default_value = "/etc/tcp-remote-relay/relay.toml")]
    pub(crate) config: PathBuf,
}

/// How a list is written.
#[derive(Args)]
pub(crate) struct Listing {
    /// Write JSON, for programs
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Make a relay's keys, configuration and state directory
    #[command(after_help = "Example:\n  tcp-remote-relay init /etc/tcp-remote-relay --address relay.example.com:443")]
    Init {
        /// Where; made if it is not there
        directory: PathBuf,
        /// Where devices will find the relay, and the port at which it listens; the host's name and 443 without it
        #[arg(long, value_name = "HOST:PORT")]
        address: Option<Address>,
    },
    /// Run the relay, until a signal ends it; SIGHUP reloads its configuration
    #[command(after_help = "Example:\n  tcp-remote-relay run --config /etc/tcp-remote-relay/relay.toml")]
    Run(ConfigFile),
    /// Check the configuration and the keys, whether the relay runs or not
    #[command(after_help = "Example:\n  tcp-remote-relay check && tcp-remote-relay reload")]
    Check(ConfigFile),
    /// Have the relay read its configuration again; if that is wrong, the one before stays in force
    #[command(after_help = "Example:\n  tcp-remote-relay reload")]
    Reload(Place),
    /// Tokens, with which devices join
    #[command(subcommand)]
    Token(TokenCommand),
    /// List devices, and unknown keys that came
    #[command(
        after_help = "Example:\n  tcp-remote-relay devices\n  tcp-remote-relay devices --json | jq '.devices[].name'"
    )]
    Devices {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        listing: Listing,
    },
    /// Let in a key that waits for approval, or that came and is unknown
    #[command(after_help = "Example, with the fingerprint that the device prints and 'devices' lists:\n  \
        tcp-remote-relay approve SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA --name pump-3")]
    Approve {
        /// The key
        fingerprint: Pin,
        /// How the device is to be called; as it claims without it
        #[arg(long)]
        name: Option<DeviceName>,
        #[command(flatten)]
        place: Place,
    },
    /// Add a device by its public key, and print the string with which it finds the relay
    #[command(after_help = "Example:\n  tcp-remote-relay add pump-3 \
        --key MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE= --label site=berlin")]
    Add {
        /// How it is to be called
        name: DeviceName,
        /// Its public key in Base64, the line of its PEM file
        #[arg(long)]
        key: PublicKey,
        /// A label; may be given several times
        #[arg(long = "label", value_name = "KEY=VALUE")]
        labels: Vec<Label>,
        #[command(flatten)]
        place: Place,
    },
    /// Add many devices from a table, all or none
    #[command(after_help = "Example, with lines of name,key,labels, the labels with spaces between:\n  \
        tcp-remote-relay import devices.csv")]
    Import {
        /// The table
        file: PathBuf,
        #[command(flatten)]
        place: Place,
    },
    /// Set labels of a device, and remove some
    #[command(after_help = "Example:\n  tcp-remote-relay label pump-3 site=berlin line=7 --remove old")]
    Label {
        /// The device
        name: DeviceName,
        /// Labels to set
        #[arg(value_name = "KEY=VALUE", required_unless_present = "remove")]
        labels: Vec<Label>,
        /// The key of a label to remove; may be given several times
        #[arg(long, value_name = "KEY")]
        remove: Vec<String>,
        #[command(flatten)]
        place: Place,
    },
    /// Refuse a device from now on; its name stays taken
    #[command(after_help = "Example:\n  tcp-remote-relay revoke pump-3")]
    Revoke {
        /// The device
        name: DeviceName,
        #[command(flatten)]
        place: Place,
    },
    /// Let a revoked device in again
    #[command(after_help = "Example:\n  tcp-remote-relay unrevoke pump-3")]
    Unrevoke {
        /// The device
        name: DeviceName,
        #[command(flatten)]
        place: Place,
    },
    /// Remove a device and free its name
    #[command(after_help = "Example:\n  tcp-remote-relay remove pump-3")]
    Remove {
        /// The device
        name: DeviceName,
        #[command(flatten)]
        place: Place,
    },
    /// Make the next key the relay's key, and make another next key
    #[command(after_help = "Example, with the next key from where it was kept:\n  \
        tcp-remote-relay rotate-key --next-key /media/safe/relay-next.key")]
    RotateKey {
        /// The private part of the next key, from where it was kept; without it only a change that was interrupted is
        /// finished
        #[arg(long, value_name = "FILE")]
        next_key: Option<PathBuf>,
        /// Also where devices do not know the next key yet: they have to join anew
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Write the registry to a file, whether the relay runs or not
    #[command(after_help = "Example:\n  tcp-remote-relay backup /var/backups/relay.db")]
    Backup {
        /// A new file
        file: PathBuf,
        #[command(flatten)]
        place: Place,
    },
    /// Put a backup in the registry's place; the relay must not run
    #[command(
        after_help = "Example:\n  systemctl stop tcp-remote-relay && tcp-remote-relay restore /var/backups/relay.db"
    )]
    Restore {
        /// The backup
        file: PathBuf,
        /// Also where it lets in devices again that were revoked or removed after it was made
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Subcommand)]
enum TokenCommand {
    /// Make a token, and print the string with which a device joins; it is shown this once
    #[command(after_help = "Examples:\n  tcp-remote-relay token device pump-3 --label site=berlin\n  \
        tcp-remote-relay token device 'line7-*' --uses 500 --expires 30d --pending")]
    Device(NewToken),
    /// List tokens that somebody could still use
    #[command(after_help = "Example:\n  tcp-remote-relay token list")]
    List {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        listing: Listing,
    },
    /// Make a token useless
    #[command(after_help = "Example, with an id of 'token list':\n  tcp-remote-relay token delete 5f0c7b1e22a94d03")]
    Delete {
        /// Its id
        id: TokenText,
        #[command(flatten)]
        place: Place,
    },
}

/// The token that is wanted.
#[derive(Args)]
pub(crate) struct NewToken {
    /// The device's name, or the beginning of names with * behind it
    #[arg(value_name = "NAME|PATTERN")]
    pub(crate) subject: Pattern,
    /// A label of its devices; may be given several times
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub(crate) labels: Vec<Label>,
    /// How many devices may use it; more than one only with a pattern
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) uses: u32,
    /// After what time it is good for nothing
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = expires)]
    pub(crate) expires: Duration,
    /// Its devices wait until they are approved
    #[arg(long)]
    pub(crate) pending: bool,
    /// The device of that name gets a new key; the old one is revoked when the new one joins
    #[arg(long)]
    pub(crate) replace: bool,
    #[command(flatten)]
    pub(crate) place: Place,
    #[command(flatten)]
    pub(crate) listing: Listing,
}

fn expires(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).ok().filter(|time| *time >= Duration::from_secs(1));
    time.ok_or_else(|| "write a time of at least a second with its unit, for example 24h or 30d".into())
}

/// The commands with their options, for help, manual and completions.
pub(crate) fn definition() -> clap::Command {
    Commands::command()
}

/// Whether a first argument is one of the commands, or asks for their help.
pub(crate) fn is_command(word: &OsStr) -> bool {
    let commands = definition();
    word == "help" || commands.get_subcommands().any(|command| word == command.get_name())
}

/// Whether the first arguments, two at most, are of a command line with a command, be it one that there is not. What could be
/// one of addresses is none.
pub(crate) fn is_meant(arguments: &[OsString]) -> bool {
    let is_word = |word: &OsString| !(word.is_empty() || word.to_string_lossy().contains(':'));
    let Some(first) = arguments.first() else { return false };
    is_command(first) || arguments.iter().all(is_word) && !first.to_string_lossy().starts_with('-')
}

/// What is said of a command that there is not.
fn unknown(error: &clap::Error) -> Option<Failure> {
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand) else { return None };
    let meant = match error.get(ContextKind::SuggestedSubcommand) {
        Some(ContextValue::Strings(alike)) => alike.last().cloned(),
        Some(ContextValue::String(alike)) => Some(alike.clone()),
        _ => None,
    };
    let meant = meant.map(|meant| format!("did you mean '{meant}'? ")).unwrap_or_default();
    Some(Failure::Usage(format!("there is no command '{word}'; {meant}'tcp-remote-relay help' lists all")))
}

/// Does what the command line says.
pub(crate) fn run() -> ExitCode {
    let read = Commands::try_parse().map_err(|error| unknown(&error).unwrap_or_else(|| error.exit()));
    let command = match read {
        Ok(Commands { command }) => command,
        Err(failure) => return output::finish(Err(failure)),
    };
    let done = match command {
        Command::Run(ConfigFile { config }) => return run::run(&config),
        Command::Init { directory, address } => init::init(&directory, address),
        Command::Check(ConfigFile { config }) => files::check(&config),
        Command::RotateKey { next_key, force, config } => rotate::rotate(&config.config, next_key, force),
        Command::Restore { file, force, place } => files::restore(&place, &file, force),
        Command::Backup { file, place } => files::backup(&place, &file),
        Command::Reload(place) => ask::reload(&place),
        Command::Token(TokenCommand::Device(token)) => ask::make_token(token),
        Command::Token(TokenCommand::List { place, listing }) => ask::list_tokens(&place, &listing),
        Command::Token(TokenCommand::Delete { id, place }) => ask::delete_token(&place, id),
        Command::Devices { place, listing } => ask::list_devices(&place, &listing),
        Command::Approve { fingerprint, name, place } => ask::approve(&place, fingerprint, name),
        Command::Add { name, key, labels, place } => ask::add(&place, name, key, labels),
        Command::Import { file, place } => ask::import(&place, &file),
        Command::Label { name, labels, remove, place } => ask::label(&place, name, labels, remove),
        Command::Revoke { name, place } => ask::revoke(&place, name),
        Command::Unrevoke { name, place } => ask::unrevoke(&place, name),
        Command::Remove { name, place } => ask::remove(&place, name),
    };
    output::finish(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definitions_of_the_commands_are_consistent() {
        definition().debug_assert();
    }

    #[test]
    fn a_command_is_told_from_an_address() {
        for word in ["init", "run", "token", "rotate-key", "help"] {
            assert!(is_command(word.as_ref()), "{word}");
        }
        for word in ["run:1", "--help", "localhost:1", "--half-close", ""] {
            assert!(!is_command(word.as_ref()), "{word}");
        }
    }

    #[test]
    fn a_mistyped_command_is_told_from_an_address_that_cannot_be_read() {
        let is_meant = |words: &[&str]| is_meant(&words.iter().map(OsString::from).collect::<Vec<_>>());
        for words in [&["tokn"][..], &["status"], &["revok", "pump-3"], &["rotatekey"], &["token", "a:1"]] {
            assert!(is_meant(words), "{words:?}");
        }
        for words in [&["relay", "127.0.0.1:1"][..], &["tokn:1"], &["--token"], &["-h", "x"], &[""], &[]] {
            assert!(!is_meant(words), "{words:?}");
        }
    }

    #[test]
    fn each_command_has_a_help_with_an_example() {
        fn check(command: &clap::Command) {
            if command.get_name() == "help" {
                return;
            }
            if command.has_subcommands() {
                command.get_subcommands().for_each(check);
            } else {
                let guide = command.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(guide.contains("Example"), "{}", command.get_name());
            }
        }
        check(&definition());
    }
}
