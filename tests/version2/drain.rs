//! A relay that drains accepts no new clients, and lets those that are open finish.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use tcpremote::device::{EventKind, State};

use crate::common::device::Device;
use crate::common::pairing::Pairing;
use crate::common::relay::Relay;
use crate::common::wire_v2::{self, code};
use crate::common::{DEADLINE, End, Listener, Peer, eventually};

/// A client and its service, both with a byte from the other.
fn open(clients: SocketAddr, service: &Listener) -> (Peer, Peer) {
    let mut client = Peer::connect(clients);
    let mut served = service.accept();
    client.send(b"?");
    served.expect(b"?");
    served.send(b"!");
    client.expect(b"!");
    (client, served)
}

fn is_refused(address: SocketAddr) -> bool {
    TcpStream::connect_timeout(&address, DEADLINE).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

/// A relay that drains for `seconds`, with one client that is open.
fn start(seconds: &str, service: &Listener) -> (Relay, Device, SocketAddr, Peer, Peer) {
    let (relay, device, clients) = Pairing::NEW.start_with(&["--drain", seconds], &[service.address()]);
    let (client, served) = open(clients[0], service);
    (relay, device, clients[0], client, served)
}

#[test]
fn the_open_client_finishes_and_the_relay_ends_with_status_0() {
    let service = Listener::bind();
    let (mut relay, mut device, clients, mut client, mut served) = start("60", &service);
    relay.signal("TERM");
    relay.wait_for_log("waiting for clients to end");
    eventually("the client port is closed", DEADLINE, || is_refused(clients));
    assert!(is_refused(relay.device_addr()), "no device is taken any more");
    // It goes on as if nothing were.
    let bytes = vec![b'x'; 1 << 20];
    served.send(&bytes);
    assert!(client.read(bytes.len()) == bytes);
    client.send(b"thank you");
    client.finish();
    served.expect(b"thank you");
    served.expect_end(End::Finished);
    served.send(b"goodbye");
    drop(served);
    assert_eq!(client.read_to_end(), (b"goodbye".to_vec(), End::Finished));
    assert_eq!(relay.wait(), Some(0));
    let closed = device.wait_for(EventKind::Closed);
    assert_eq!(closed.code, Some("lost"));
    let why = "the relay ended it (shutdown, the relay is about to end)";
    assert!(closed.message.ends_with(why), "{}", closed.message);
}

#[test]
fn a_client_that_stays_is_cut_when_the_time_is_up_and_the_status_is_3() {
    let service = Listener::bind();
    let (mut relay, mut device, _clients, mut client, mut served) = start("1", &service);
    let began = Instant::now();
    relay.signal("TERM");
    assert_eq!(client.read_to_end(), (Vec::new(), End::Reset));
    let waited = began.elapsed();
    assert!(waited >= Duration::from_secs(1), "{waited:?}");
    assert_eq!(served.read_to_end(), (Vec::new(), End::Reset));
    assert_eq!(relay.wait(), Some(3));
    relay.wait_for_log("clients_cut=1");
    let gone = device.wait_for(EventKind::Disconnect);
    assert!(gone.message.contains("the relay has ended"), "{}", gone.message);
}

#[test]
fn a_second_signal_ends_the_wait_at_once() {
    let service = Listener::bind();
    let (mut relay, _device, _clients, mut client, _served) = start("3600", &service);
    relay.signal("TERM");
    relay.wait_for_log("waiting for clients to end");
    relay.signal("TERM");
    assert_eq!(client.read_to_end(), (Vec::new(), End::Reset));
    assert_eq!(relay.wait(), Some(3));
}

#[test]
fn with_a_drain_time_of_0_the_relay_ends_at_once() {
    let service = Listener::bind();
    let (mut relay, _device, _clients, mut client, _served) = start("0", &service);
    relay.signal("INT");
    assert_eq!(client.read_to_end(), (Vec::new(), End::Reset));
    assert_eq!(relay.wait(), Some(3));
}

#[test]
fn goaway_asks_the_device_to_come_back_after_the_time_of_a_restart() {
    let relay = Relay::start_with(&["--drain", "60"], &["127.0.0.1:9"]);
    let (mut link, clients) = relay.listen_v2();
    let _client = Peer::connect(clients[0]);
    assert_eq!(link.expect(wire_v2::CONNECT).stream, 1);
    relay.signal("TERM");
    let away = link.expect(wire_v2::GOAWAY);
    assert_eq!((away.code(), away.retry_after_and_last_stream()), (code::SHUTDOWN, (1, 1)));
    assert_eq!(away.reason(), "the relay is about to end");
}

#[test]
fn while_a_relay_is_restarted_the_device_looks_for_the_next_one_every_second_or_so() {
    let service = Listener::bind();
    let relay = Relay::start_with(&["--drain", "60"], &[&service.address().to_string()]);
    let mut device = Device::start_with(relay.device_addr(), |config| config.reconnect = true);
    device.wait_for(EventKind::Listening);
    let (_client, _served) = open(relay.client_addrs()[0], &service);
    relay.signal("TERM");
    assert_eq!(device.wait_for(EventKind::Waiting).code, Some("lost"));
    for _ in 0..6 {
        let waiting = device.wait_for(EventKind::Waiting);
        assert_eq!(waiting.code, Some("refused"), "{}", waiting.message);
        let wait = waiting.message.rsplit_once(" in ").unwrap().1.strip_suffix(" s").unwrap();
        assert!(wait.parse::<f64>().unwrap() <= 1.5, "{}", waiting.message);
    }
}

#[test]
fn a_device_that_reconnects_finishes_the_old_link_while_it_waits_for_the_next() {
    let service = Listener::bind();
    let relay = Relay::start_with(&["--drain", "60"], &[&service.address().to_string()]);
    let mut device = Device::start_with(relay.device_addr(), |config| config.reconnect = true);
    device.wait_for(EventKind::Listening);
    let (mut client, mut served) = open(relay.client_addrs()[0], &service);
    relay.signal("TERM");
    assert_eq!(device.wait_for(EventKind::Waiting).code, Some("lost"));
    let status = device.status();
    assert_ne!(status.state, State::Closed);
    assert_eq!(status.clients, 1);
    client.send(b"still there?");
    served.expect(b"still there?");
    served.send(b"still here");
    client.expect(b"still here");
}
