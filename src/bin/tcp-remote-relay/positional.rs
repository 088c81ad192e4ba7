//! The command line with addresses, `SERVER CLIENT SERVICE`: one device without a key.

#![allow(rustdoc::broken_intra_doc_links, reason = "--help shows these comments as they stand")]

use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use tcpremote::Error;
use tcpremote::address::{Address, AddressError};
use tcpremote::relay::{Config, Inherited, Limits, Mapping, Outcome, PlainDevice, Protocol, Server};

use super::log::{Format, Level, Log};
use super::output;
use super::process;

/// Lets clients reach TCP services on a device that has no public address.
#[derive(Parser)]
#[command(
    name = "tcp-remote-relay",
    version = env!("TCPREMOTE_VERSION"),
    override_usage = "tcp-remote-relay [OPTIONS] SERVER CLIENT SERVICE [CLIENT SERVICE]...",
    long_about = ABOUT,
    after_long_help = GUIDE,
    after_help = "See --help for an example, the exit status, and what to know about security.",
    arg_required_else_help = true,
    args_override_self = true
)]
struct CommandLine {
    /// Where the device connects, host:port
    ///
    /// [::] means every interface, 0.0.0.0 those of IPv4 alone; for IPv6 alone name the address. Port 0 lets the system
    /// choose a port, which the log has. An IPv6 address stands in brackets: [::1]:2065.
    #[arg(value_parser = Address::listen)]
    server: Address,

    /// Where clients connect, and what they reach there, each host:port; as many pairs as needed
    ///
    /// CLIENT is written as SERVER is. SERVICE is seen from the device, which also decides whether it may be reached:
    /// by default only its own ports.
    #[arg(value_name = "CLIENT SERVICE", required = true, num_args = 1..)]
    mappings: Vec<String>,

    /// How long a service may be silent after its client ended sending, until the client is closed
    ///
    /// Only with devices that speak version 1 of the protocol, which cannot tell a client that has sent all its request
    /// from one that has gone. 0 closes at once, as the 2012 relay did.
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds, allow_negative_numbers = true)]
    half_close: Duration,

    /// How long open clients may go on after SIGTERM, SIGINT or SIGHUP; a second SIGTERM or SIGINT ends that time
    ///
    /// SIGHUP stays ignored where the relay was started so, as by nohup.
    #[arg(long, value_name = "SECONDS", default_value = "8", value_parser = seconds, allow_negative_numbers = true)]
    drain: Duration,

    /// How many clients there may be at once, from 1 to 256
    ///
    /// Some of the last places are kept for client ports, and for addresses of clients, that have few.
    #[arg(long, value_name = "NUMBER", default_value_t = Config::MAX_CLIENTS,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(Config::MAX_CLIENTS)))]
    clients: u32,

    /// After how long a client is ended for which nothing moves either way; without it never
    #[arg(long, value_name = "SECONDS", value_parser = idle, allow_negative_numbers = true)]
    idle: Option<Duration>,

    /// After how long a silence a device without clients is asked whether it is there, from 5 to 3600
    ///
    /// A device has a time of its own, and the shorter one holds; it is 15 s at most where clients are open. Only with
    /// devices that speak version 2 of the protocol; one of an older release is asked after 15 s. A lost network is found
    /// 30 s later. A NAT or a load balancer that ends silent connections earlier needs less than it grants them.
    #[arg(long, value_name = "SECONDS", default_value = "90", value_parser = keepalive, allow_negative_numbers = true)]
    keepalive: Duration,

    /// The newest version of the protocol to speak with devices: 1, as in 2012, or 2, where the device knows it
    #[arg(long, value_name = "VERSION", default_value = "2", value_parser = protocol)]
    protocol: Protocol,

    /// The oldest version to speak: with 2, devices that speak only version 1 are not served
    #[arg(long, value_name = "VERSION", default_value = "1", value_parser = protocol)]
    min_protocol: Protocol,

    /// Minimum level to log on standard error
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log: Level,

    /// How a log line is written
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    log_format: Format,
}

const ABOUT: &str = "\
Lets clients reach TCP services on a device that has no public address.

  client ----> CLIENT [relay] SERVER <---- device ----> SERVICE

The device connects out to SERVER and keeps that one connection. While it
is there, the relay listens at every CLIENT address; a client that connects
to one is carried through the device to the SERVICE that stands beside it.";

const GUIDE: &str = "\
Example:
  tcp-remote-relay 0.0.0.0:2065 127.0.0.1:2222 127.0.0.1:22

  The device connects to the relay, and again whenever the link is lost:
    lua5.4 examples/device.lua relay.example.com 2065
  Then, beside the relay, this reaches the device's own SSH server:
    ssh -p 2222 user@127.0.0.1

Exit status:
  0  ended by SIGTERM, SIGINT or SIGHUP
  1  a port cannot be opened, there are too few descriptors, or the system
     failed otherwise
  2  the command line cannot be understood
  3  ended by a signal, and clients that were open had to be cut

Security:
  The protocol has neither passwords nor encryption. Any host that reaches
  SERVER can pose as the device, any host that reaches CLIENT reaches the
  service, and any host between can read and change the traffic. Bind CLIENT to
  loopback (127.0.0.1) unless the service is meant to be public, and let a
  firewall guard SERVER.

Many devices, each with a key of its own, in TLS:
  tcp-remote-relay help";

/// The command line, for help, manual and completions.
pub(crate) fn definition() -> clap::Command {
    CommandLine::command()
}

/// Runs the relay that the command line describes.
pub(crate) fn run() -> ExitCode {
    let command_line = CommandLine::parse();
    // Exits with status 2 and the usage, as clap does for what it refuses itself.
    let config =
        config(&command_line).unwrap_or_else(|message| definition().error(ErrorKind::ValueValidation, message).exit());
    let log = match Log::start(command_line.log, command_line.log_format) {
        Ok(log) => log,
        Err(failure) => return output::finish(Err(failure)),
    };
    let status = process::status_of(serve(config));
    log.finish();
    status
}

fn serve(config: Config) -> Result<Outcome, Error> {
    // Before there are other descriptors, which one of these could be taken for.
    let inherited = Inherited::of_process()?;
    process::raise_descriptor_limit();
    // It has no file to read again, so a hangup ends it; but not where it was started to outlive its terminal.
    let signals = process::Signals::new(!process::is_hangup_ignored())?;
    let mut server = Server::hold(config, inherited)?;
    let watch = signals.watch(server.stopper(), None)?;
    server.open()?;
    let outcome = server.run();
    watch.end();
    outcome
}

fn config(command_line: &CommandLine) -> Result<Config, String> {
    let mut mappings = Vec::new();
    for pair in command_line.mappings.chunks(2) {
        let [client, service] = pair else {
            return Err(format!(
                "client address '{}' has no service; write CLIENT SERVICE in pairs, for example \
                 127.0.0.1:2222 127.0.0.1:22",
                pair.concat().escape_debug()
            ));
        };
        let client = Address::listen(client).map_err(|error| unreadable("client", client, &error))?;
        let service = service.parse().map_err(|error| unreadable("service", service, &error))?;
        mappings.push(Mapping { client, service });
    }
    let CommandLine { server, half_close, drain, clients, idle, keepalive, protocol, min_protocol, .. } = command_line;
    if min_protocol > protocol {
        return Err(
            "--min-protocol 2 is above --protocol 1, so that no device could be served; leave one of them off".into()
        );
    }
    let device = PlainDevice { name: None, listen: server.clone(), mappings };
    let config = Config::new(vec![device], *half_close).map_err(|error| error.to_string())?;
    Ok(Config {
        drain: *drain,
        clients: *clients,
        idle: *idle,
        protocol: *protocol,
        min_protocol: *min_protocol,
        limits: Limits { keepalive: *keepalive, ..config.limits },
        ..config
    })
}

fn unreadable(what: &str, text: &str, error: &AddressError) -> String {
    format!("invalid {what} address '{}': {error}", text.escape_debug())
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let seconds = seconds.filter(|seconds| *seconds <= Config::MAX_HALF_CLOSE);
    seconds.ok_or_else(|| "write a number of seconds from 0 to 3600, for example 0.5".into())
}

fn idle(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let seconds = seconds.filter(|seconds| (Config::MIN_IDLE..=Config::MAX_IDLE).contains(seconds));
    seconds.ok_or_else(|| "write a number of seconds from 0.1 to 604800 (a week), for example 3600".into())
}

fn keepalive(text: &str) -> Result<Duration, String> {
    let range = Limits::MIN_KEEPALIVE.as_secs()..=Limits::MAX_KEEPALIVE.as_secs();
    let seconds = text.parse().ok().filter(|seconds| range.contains(seconds));
    seconds
        .map(Duration::from_secs)
        .ok_or_else(|| "write a whole number of seconds from 5 to 3600, for example 90".into())
}

fn protocol(text: &str) -> Result<Protocol, String> {
    match text {
        "1" => Ok(Protocol::V1),
        "2" => Ok(Protocol::V2),
        _ => Err("write 1 or 2".into()),
    }
}
