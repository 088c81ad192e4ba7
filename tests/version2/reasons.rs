//! The end of a client or a service reaches the other as the same kind of end; the relay's log and the device's events
//! say why.

use tcpremote::device::EventKind;

use crate::common::pairing::Pairing;
use crate::common::relay::Relay;
use crate::common::{DEADLINE, End, Listener, Peer, Refusing, eventually};

/// The line of the relay's log about a client that was ended for a reason.
fn reason_in_log(relay: &Relay, code: &str) -> String {
    let message = "a client has left";
    let mut line = String::new();
    eventually(message, DEADLINE, || {
        let lines = relay.log();
        let found = lines.iter().find(|line| line.contains(message) && line.contains(&format!("code={code}")));
        line = found.cloned().unwrap_or_default();
        !line.is_empty()
    });
    line
}

#[test]
fn a_service_that_refuses_resets_its_client_and_both_sides_report_the_reason() {
    let refusing = Refusing::bind();
    let (relay, mut device, clients) = Pairing::NEW.start(&[refusing.address()]);
    let mut client = Peer::connect(clients[0]);
    assert_eq!(client.read_to_end(), (Vec::new(), End::Reset));
    let failed = device.wait_for(EventKind::Failed);
    assert_eq!((failed.code, failed.client), (Some("refused"), Some(1)));
    assert_eq!(failed.service.as_deref(), Some(&refusing.address().to_string()[..]));
    let line = reason_in_log(&relay, "refused");
    assert!(line.contains("Connection refused") && line.contains("client=127.0.0.1:"), "{line}");
}

#[test]
fn a_service_that_is_not_permitted_resets_its_client_and_both_sides_report_the_reason() {
    let (relay, mut device, clients) = Pairing::NEW.start(&["192.0.2.1:80".parse().unwrap()]);
    assert_eq!(Peer::connect(clients[0]).read_to_end(), (Vec::new(), End::Reset));
    assert_eq!(device.wait_for(EventKind::Denied).code, Some("denied"));
    let line = reason_in_log(&relay, "denied");
    assert!(line.contains("192.0.2.1:80 is not permitted"), "{line}");
}

#[test]
fn a_service_whose_name_has_no_address_resets_its_client() {
    // Its label is too long for a name server to be asked.
    let name = format!("{}.invalid:80", "x".repeat(64));
    let relay = Relay::start(&[&name]);
    let mut device = Pairing::NEW.listening(relay.device_addr());
    assert_eq!(Peer::connect(relay.client_addrs()[0]).read_to_end(), (Vec::new(), End::Reset));
    let failed = device.wait_for(EventKind::Failed);
    assert_eq!(failed.code, Some("unresolved"));
    assert_eq!(failed.message.matches(&name).count(), 1, "{}", failed.message);
    assert!(failed.message.ends_with("; check the name and the device's DNS"), "{}", failed.message);
    reason_in_log(&relay, "unresolved");
}

#[test]
fn a_service_without_a_route_resets_its_client() {
    // The broadcast address of the loopback network: TCP has no route there, on any machine.
    let (relay, mut device, clients) = Pairing::NEW.start(&["127.255.255.255:80".parse().unwrap()]);
    assert_eq!(Peer::connect(clients[0]).read_to_end(), (Vec::new(), End::Reset));
    assert_eq!(device.wait_for(EventKind::Failed).code, Some("unreachable"));
    assert!(reason_in_log(&relay, "unreachable").contains("unreachable"));
}

#[test]
fn a_service_that_resets_resets_its_client_behind_what_it_had_sent() {
    let service = Listener::bind();
    let (relay, mut device, clients) = Pairing::NEW.start(&[service.address()]);
    let mut client = Peer::connect(clients[0]);
    let mut served = service.accept();
    served.send(b"half a sent");
    client.expect(b"half a sent");
    served.reset();
    assert_eq!(client.read_to_end(), (Vec::new(), End::Reset));
    let done = device.wait_for(EventKind::Disconnect);
    assert_eq!(done.message, "client 1 is done: its service reset it: Connection reset by peer (os error 104)");
    device.wait_until_idle(DEADLINE);
    assert!(reason_in_log(&relay, "normal").contains("reason=Connection reset by peer"));
}

#[test]
fn a_client_that_resets_resets_its_service() {
    let service = Listener::bind();
    let (_relay, mut device, clients) = Pairing::NEW.start(&[service.address()]);
    let mut client = Peer::connect(clients[0]);
    let mut served = service.accept();
    client.send(b"half a sent");
    served.expect(b"half a sent");
    client.reset();
    assert_eq!(served.read_to_end(), (Vec::new(), End::Reset));
    let gone = device.wait_for(EventKind::Disconnect);
    assert!(gone.message.contains("Connection reset by peer"), "{}", gone.message);
    device.wait_until_idle(DEADLINE);
}

#[test]
fn a_service_that_closes_finishes_its_client_and_no_reason_is_logged() {
    let service = Listener::bind();
    let (relay, mut device, clients) = Pairing::NEW.start(&[service.address()]);
    let mut client = Peer::connect(clients[0]);
    let mut served = service.accept();
    served.send(b"goodbye");
    drop(served);
    assert_eq!(client.read_to_end(), (b"goodbye".to_vec(), End::Finished));
    drop(client);
    device.wait_for(EventKind::Disconnect);
    let kinds: Vec<_> = device.events.iter().map(|event| event.kind).collect();
    let expected = [EventKind::Greeting, EventKind::Listening, EventKind::Connect, EventKind::Disconnect];
    assert_eq!(kinds, expected);
    assert!(!reason_in_log(&relay, "normal").contains("reason="));
}

#[test]
fn the_event_of_a_new_client_has_its_address() {
    let service = Listener::bind();
    let (_relay, mut device, clients) = Pairing::NEW.start(&[service.address()]);
    let client = Peer::connect(clients[0]);
    let asks = device.wait_for(EventKind::Connect);
    let expected = format!("client 1 at {} asks for {}", client.local_addr(), service.address());
    assert_eq!(asks.message, expected);
}

#[test]
fn the_service_of_a_client_that_is_gone_before_it_was_connected_is_ended_too() {
    let (service, other) = (Listener::bind(), Listener::bind());
    let (_relay, device, clients) = Pairing::NEW.start(&[service.address(), other.address()]);
    for _ in 0..20 {
        Peer::connect(clients[0]).reset();
    }
    let _client = Peer::connect(clients[1]);
    other.accept();
    eventually("only the last one is left", DEADLINE, || device.status().clients <= 1);
    while let Some(mut served) = service.try_accept() {
        assert_eq!(served.read_to_end(), (Vec::new(), End::Reset));
    }
}

#[test]
fn a_tunnel_that_its_owner_closes_resets_its_clients_and_the_relay_logs_why() {
    let service = Listener::bind();
    let (relay, device, clients) = Pairing::NEW.start(&[service.address()]);
    let mut client = Peer::connect(clients[0]);
    let mut served = service.accept();
    served.send(b"last words");
    client.expect(b"last words");
    device.handle.close().unwrap();
    assert_eq!(client.read_to_end(), (Vec::new(), End::Reset));
    assert_eq!(served.read_to_end(), (Vec::new(), End::Reset));
    let line = relay.wait_for_log("the device takes no new clients on this link");
    assert!(line.contains("the device closed the tunnel"), "{line}");
    assert!(reason_in_log(&relay, "shutdown").contains("the device closed the tunnel"));
}

#[test]
fn a_relay_that_is_killed_leaves_no_stream_that_looks_complete() {
    let service = Listener::bind();
    let (relay, _device, clients) = Pairing::NEW.start(&[service.address()]);
    let mut client = Peer::connect(clients[0]);
    let mut served = service.accept();
    served.send(b"half a sent");
    client.expect(b"half a sent");
    relay.signal("KILL");
    assert_eq!(client.read_to_end(), (Vec::new(), End::Reset));
    assert_eq!(served.read_to_end(), (Vec::new(), End::Reset));
}
