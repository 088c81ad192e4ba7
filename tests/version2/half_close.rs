//! Each side may end its sending, and is still answered.

use std::thread;
use std::time::{Duration, Instant};

use crate::common::pairing::Pairing;
use crate::common::service::Service;
use crate::common::{DEADLINE, End, Listener, Peer, pattern};

#[test]
fn a_service_that_needs_the_end_of_the_request_sees_it_and_its_answer_arrives() {
    let count = Service::count();
    let (_relay, device, clients) = Pairing::NEW.start(&[count.address()]);
    let mut client = Peer::connect(clients[0]);
    client.send(b"one request");
    client.finish();
    assert_eq!(client.read_to_end(), (b"11 bytes\n".to_vec(), End::Finished));
    device.wait_until_idle(DEADLINE);
}

#[test]
fn an_answer_may_take_longer_than_the_wait_of_version_1() {
    let thinking = Duration::from_secs(3);
    let service = Service::start(move |mut peer| {
        let (request, _) = peer.read_to_end();
        thread::sleep(thinking);
        peer.send(&request);
    });
    let (_relay, _device, clients) = Pairing::NEW.start_with(&["--half-close", "0"], &[service.address()]);
    let began = Instant::now();
    let request = pattern(1 << 20, 1);
    let mut client = Peer::connect(clients[0]);
    client.send(&request);
    client.finish();
    let (answer, end) = client.read_to_end();
    assert!(answer == request, "{} bytes", answer.len());
    assert_eq!(end, End::Finished);
    assert!(began.elapsed() >= thinking);
}

#[test]
fn a_page_of_http_1_0_arrives_after_the_end_of_its_request() {
    let page = pattern(300_000, 2);
    let answer = [&b"HTTP/1.0 200 OK\r\nContent-Type: application/octet-stream\r\n\r\n"[..], &page].concat();
    let sent = answer.clone();
    let service = Service::start(move |mut peer| {
        let (request, end) = peer.read_to_end();
        assert_eq!((&request[..], end), (&b"GET /page HTTP/1.0\r\n\r\n"[..], End::Finished));
        peer.send(&sent);
    });
    let (_relay, _device, clients) = Pairing::NEW.start(&[service.address()]);
    let mut client = Peer::connect(clients[0]);
    client.send(b"GET /page HTTP/1.0\r\n\r\n");
    client.finish();
    let (read, end) = client.read_to_end();
    assert!(read == answer, "{} of {} bytes", read.len(), answer.len());
    assert_eq!(end, End::Finished);
}

#[test]
fn a_service_that_ends_its_sending_first_still_gets_everything() {
    let service = Listener::bind();
    let (_relay, device, clients) = Pairing::NEW.start(&[service.address()]);
    let mut client = Peer::connect(clients[0]);
    let mut served = service.accept();
    served.send(b"I have said all");
    served.finish();
    assert_eq!(client.read_to_end(), (b"I have said all".to_vec(), End::Finished));
    let bytes = pattern(4 << 20, 3);
    let (mut sender, sent) = (client.try_clone(), bytes.clone());
    let sending = thread::spawn(move || {
        sender.send(&sent);
        sender.finish();
    });
    let (read, end) = served.read_to_end();
    sending.join().unwrap();
    assert!(read == bytes, "{} of {} bytes", read.len(), bytes.len());
    assert_eq!(end, End::Finished);
    device.wait_until_idle(DEADLINE);
}

#[test]
fn both_may_send_much_and_end_whenever_they_like() {
    let service = Listener::bind();
    let (_relay, device, clients) = Pairing::NEW.start(&[service.address()]);
    let work: Vec<_> = (0..8)
        .map(|seed| {
            let client = Peer::connect(clients[0]);
            let served = service.accept();
            [client, served].map(|peer| (peer, seed))
        })
        .collect();
    let both = work.into_iter().flat_map(|[(client, seed), (served, _)]| {
        // Longer one way, and longer the other way for the next.
        let (up, down) = if seed & 1 == 0 { (3 << 20, 1000) } else { (1000, 3 << 20) };
        [(client, up, down, seed, seed + 100), (served, down, up, seed + 100, seed)]
    });
    let threads: Vec<_> = both
        .map(|(mut peer, sends, reads, own_seed, other_seed)| {
            thread::spawn(move || {
                let mut sender = peer.try_clone();
                let sending = thread::spawn(move || {
                    sender.send(&pattern(sends, own_seed));
                    sender.finish();
                });
                let (read, end) = peer.read_to_end();
                sending.join().unwrap();
                assert!(read == pattern(reads, other_seed), "{} of {reads} bytes", read.len());
                assert_eq!(end, End::Finished);
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    device.wait_until_idle(DEADLINE);
}

#[test]
fn an_end_without_a_byte_is_an_end_in_either_direction() {
    let service = Listener::bind();
    let (_relay, device, clients) = Pairing::NEW.start(&[service.address()]);
    for client_first in [true, false] {
        let mut client = Peer::connect(clients[0]);
        let mut served = service.accept();
        let (first, second) = if client_first { (&mut client, &mut served) } else { (&mut served, &mut client) };
        first.finish();
        second.expect_end(End::Finished);
        second.finish();
        first.expect_end(End::Finished);
        device.wait_until_idle(DEADLINE);
    }
}
