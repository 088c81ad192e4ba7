//! A link has a number of places, and its clients go on where none is left.

use std::time::{Duration, Instant};

use crate::common::pairing::Pairing;
use crate::common::service::{Service, expect_echo};
use crate::common::{DEADLINE, End, Peer, eventually};

#[test]
fn the_257th_client_waits_a_second_for_a_place_and_the_next_is_served_when_one_has_gone() {
    let echo = Service::echo();
    let (relay, device, clients) = Pairing::NEW.start(&[echo.address()]);
    let mut open: Vec<_> = (0..256).map(|_| Peer::connect(clients[0])).collect();
    for (number, client) in open.iter_mut().enumerate() {
        client.send(format!("client {number:03}").as_bytes());
    }
    for (number, client) in open.iter_mut().enumerate() {
        client.expect(format!("client {number:03}").as_bytes());
    }
    device.wait_until_status(|status| status.clients, 256);
    let began = Instant::now();
    let mut refused = Peer::connect(clients[0]);
    assert_eq!(refused.read_to_end(), (Vec::new(), End::Reset));
    assert!(began.elapsed() >= Duration::from_secs(1), "it waits a second for a place");
    relay.wait_for_log("refused a client: the link has no place for more");
    // Its second would also run while this process, and so the device, may stand still: that one that waits is served
    // when a place is free is shown where time is simulated.
    open.pop();
    device.wait_until_status(|status| status.clients, 255);
    expect_echo(clients[0]);
    for (number, client) in open.iter_mut().enumerate() {
        client.send(format!("still {number:03}").as_bytes());
        client.expect(format!("still {number:03}").as_bytes());
    }
    drop(open);
    eventually("all clients are gone", DEADLINE, || device.status().clients == 0);
}

#[test]
fn numbers_are_never_used_twice_and_streams_in_a_row_outlast_256() {
    let echo = Service::echo();
    let (relay, device, clients) = Pairing::NEW.start(&[echo.address()]);
    for _ in 0..600 {
        expect_echo(clients[0]);
    }
    relay.wait_for_log("stream=600");
    device.wait_until_status(|status| status.clients_total, 600);
}
