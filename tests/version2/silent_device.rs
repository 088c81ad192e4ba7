//! A device from which nothing comes, though its link may still be there.

use std::thread;
use std::time::{Duration, Instant};

use crate::common::relay::Relay;
use crate::common::wire_v2;
use crate::common::{End, Peer};

#[test]
fn a_client_that_comes_to_a_silent_link_is_refused_after_3_s_and_the_next_one_is_served_when_something_came() {
    let relay = Relay::start(&["127.0.0.1:9"]);
    let (mut device, clients) = relay.listen_v2();
    // Only after a silence of a second is a sign of life asked for.
    thread::sleep(Duration::from_millis(1200));
    let began = Instant::now();
    let mut client = Peer::connect(clients[0]);
    assert_eq!(client.read_to_end(), (Vec::new(), End::Reset));
    let waited = began.elapsed();
    assert!((Duration::from_millis(2900)..Duration::from_secs(20)).contains(&waited), "{waited:?}");
    let line = relay.wait_for_log("a client has left");
    assert!(line.contains("offline") && line.contains("the device does not answer"), "{line}");

    device.expect(wire_v2::CONNECT);
    // The PING in between is answered.
    device.expect(wire_v2::CLOSE);
    let mut client = Peer::connect(clients[0]);
    assert_eq!(device.expect(wire_v2::CONNECT).stream, 2);
    device.send(&wire_v2::connected(2));
    device.send(&wire_v2::data(2, b"served"));
    client.expect(b"served");
}
