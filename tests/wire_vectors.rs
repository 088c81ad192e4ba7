//! The bytes of the programs of 2012, captured on the link: our device against their relay, our relay against
//! their device. Where docs/protocol.md wants another behaviour than theirs, that is tested.
#![cfg(feature = "relay")]
#![allow(clippy::unwrap_used, reason = "a test ends where its own means fail")]

mod common;

/// Our device, and the relay of 2012 in the test's hand.
mod device {
    use std::time::{Duration, Instant};

    use tcpremote::connection::Protocol;
    use tcpremote::device::{EventKind, State};

    use crate::common::device::Device;
    use crate::common::wire::{self, Link, hex};
    use crate::common::{DEADLINE, End, Listener, Peer, Refusing, eventually, pattern};

    /// A device, and the end of its link.
    fn start() -> (Device, Link) {
        let relay = Listener::bind();
        let device = Device::start(relay.address());
        (device, Link::accept(&relay))
    }

    /// CONNECT as captured: to 127.0.0.1, with the port of this run.
    fn connect(client: u8, port: u16) -> Vec<u8> {
        let mut bytes = hex("00 0d 01 01 00 09 31 32 37 2e 30 2e 30 2e 31");
        bytes[3] = client;
        bytes.extend(port.to_be_bytes());
        bytes
    }

    /// A client that was connected to the service.
    fn open(link: &mut Link, client: u8, service: &Listener) -> Peer {
        link.send(&connect(client, service.port()));
        service.accept()
    }

    /// Whatever was sent before has been taken, and was answered with nothing: the next answer is this one's.
    fn expect_nothing_before_the_next_answer(link: &mut Link) {
        let refusing = Refusing::bind();
        link.send(&connect(200, refusing.port()));
        link.expect(&wire::close(200));
        link.send(&wire::close(200));
    }

    #[test]
    fn section_1_a_device_held_to_version_1_sends_listen_and_is_listening_when_its_hello_is_answered() {
        let relay = Listener::bind();
        let mut device = Device::start_with(relay.address(), |config| config.protocol = Protocol::V1);
        let mut peer = relay.accept();
        assert_eq!(peer.try_read(DEADLINE).unwrap(), hex("00 00 04 00 00 00 05 f1"));
        device.wait_for(EventKind::Greeting);
        assert_eq!((device.status().state, device.status().protocol), (State::Greeting, None));
        peer.send(&hex("00 00 02 f1"));
        peer.expect(&hex("00 00 03 ff"));
        let mut link = Link { peer };
        expect_nothing_before_the_next_answer(&mut link);
        device.wait_for(EventKind::Listening);
        assert_eq!(device.status().protocol, Some(1));
    }

    #[test]
    fn section_1_a_device_that_knows_version_2_says_so_in_the_segment_of_listen() {
        let relay = Listener::bind();
        let device = Device::start(relay.address());
        let mut peer = relay.accept();
        assert_eq!(peer.try_read(DEADLINE).unwrap(), hex("00 00 04 00 00 00 05 f2"));
        assert_eq!(device.status().protocol, None);
        // The answer of 2012 to what it does not know.
        peer.send(&hex("00 00 02 f2"));
        peer.expect(&hex("00 00 03 ff"));
        let mut link = Link { peer };
        expect_nothing_before_the_next_answer(&mut link);
        eventually("version 1 is spoken", DEADLINE, || device.status().protocol == Some(1));
    }

    #[test]
    fn section_1_a_relay_that_passes_over_hello_is_one_of_version_1() {
        let relay = Listener::bind();
        let device = Device::start(relay.address());
        let mut peer = relay.accept();
        peer.expect(&hex("00 00 04 00 00 00 05 f2"));
        let service = Listener::bind();
        let mut link = Link { peer };
        let mut served = open(&mut link, 1, &service);
        link.expect(&wire::PROBE);
        served.send(b"in the frames of version 1");
        link.expect_data(1, b"in the frames of version 1");
        eventually("version 1 is spoken", DEADLINE, || device.status().protocol == Some(1));
    }

    #[test]
    fn section_2_data_passes_both_ways_and_the_client_closes_first() {
        let (device, mut link) = start();
        let service = Listener::bind();
        let mut served = open(&mut link, 1, &service);
        link.send(&hex("00 06 03 01 68 65 6c 6c 6f 0a"));
        served.expect(b"hello\n");
        served.send(b"world\n");
        link.expect(&hex("00 06 03 01 77 6f 72 6c 64 0a"));
        link.send(&hex("00 00 02 01"));
        link.expect(&hex("00 00 02 01"));
        served.expect_end(End::Finished);
        expect_nothing_before_the_next_answer(&mut link);
        device.wait_until_idle(DEADLINE);
    }

    /// A client that has ended its sending: the relay's CLOSE is the only sign of it.
    fn half_closed(link: &mut Link, client: u8, service: &Listener) -> Peer {
        let mut served = open(link, client, service);
        link.send(&[wire::data(client, b"hello\n"), wire::close(client)].concat());
        assert_eq!(served.read_to_end(), (b"hello\n".to_vec(), End::Finished));
        served
    }

    #[test]
    fn section_2_the_answer_to_the_end_of_the_request_goes_before_the_close() {
        let (device, mut link) = start();
        let service = Listener::bind();
        // It has a second, in which this process may stand still; but not each time.
        let answered = (1..=5).find(|&client| {
            half_closed(&mut link, client, &service).send(b"world\n");
            let first = link.read_frame();
            assert!([(wire::CLOSE, client, vec![]), (wire::DATA, client, b"world\n".to_vec())].contains(&first));
            first.0 == wire::DATA
        });
        let client = answered.unwrap();
        link.expect(&wire::close(client));
        // The relay sends nothing more for this client.
        expect_nothing_before_the_next_answer(&mut link);
        let mut served = open(&mut link, client, &service);
        link.send(&wire::data(client, b"again"));
        served.expect(b"again");
        drop(served);
        link.expect(&wire::close(client));
        device.wait_until_idle(DEADLINE);
    }

    #[test]
    fn section_2_a_relay_that_would_drop_the_answer_gets_close_at_once() {
        let relay = Listener::bind();
        let device = Device::start(relay.address());
        let mut link = Link::accept_as_newer(&relay);
        let service = Listener::bind();
        let mut served = half_closed(&mut link, 1, &service);
        served.send(b"world\n");
        link.expect(&hex("00 00 02 01"));
        expect_nothing_before_the_next_answer(&mut link);
        device.wait_until_idle(DEADLINE);
    }

    #[test]
    fn section_3_the_service_closes_first_and_everything_it_sent_goes_before() {
        let (_device, mut link) = start();
        let service = Listener::bind();
        let mut served = open(&mut link, 1, &service);
        link.send(&hex("00 01 03 01 78"));
        served.expect(b"x");
        served.send(b"bye\n");
        drop(served);
        link.expect(&hex("00 04 03 01 62 79 65 0a"));
        link.expect(&hex("00 00 02 01"));
        link.send(&hex("00 00 02 01"));
        expect_nothing_before_the_next_answer(&mut link);
        // The number serves the next client.
        let mut served = open(&mut link, 1, &service);
        link.send(&wire::data(1, b"again"));
        served.expect(b"again");
    }

    #[test]
    fn section_4_a_refused_service_is_answered_with_close() {
        let (mut device, mut link) = start();
        let refusing = Refusing::bind();
        link.send(&connect(1, refusing.port()));
        link.expect(&hex("00 00 02 01"));
        link.send(&hex("00 00 02 01"));
        expect_nothing_before_the_next_answer(&mut link);
        let failed = device.wait_for(EventKind::Failed);
        assert_eq!(failed.code, Some("refused"));
        assert_eq!(failed.client, Some(1));
        assert_eq!(failed.service.as_deref(), Some(&*format!("127.0.0.1:{}", refusing.port())));
    }

    #[test]
    fn section_5_a_client_that_sends_at_once_loses_nothing() {
        let (_device, mut link) = start();
        let service = Listener::bind();
        link.send(&[connect(1, service.port()), hex("00 06 03 01 68 65 6c 6c 6f 0a")].concat());
        let mut served = service.accept();
        served.expect(b"hello\n");
        served.send(b"world\n");
        link.expect(&hex("00 06 03 01 77 6f 72 6c 64 0a"));
        link.send(&hex("00 00 02 01"));
        link.expect(&hex("00 00 02 01"));
    }

    #[test]
    fn section_5_data_that_comes_before_its_connect_is_delivered_after_it() {
        let (_device, mut link) = start();
        let service = Listener::bind();
        link.send(&hex("00 06 03 01 68 65 6c 6c 6f 0a"));
        link.send(&wire::data(1, b"and more"));
        link.send(&connect(1, service.port()));
        link.send(&wire::data(1, b" to come"));
        let mut served = service.accept();
        served.expect(b"hello\nand more to come");
        served.send(b"world\n");
        link.expect(&hex("00 06 03 01 77 6f 72 6c 64 0a"));
    }

    #[test]
    fn section_5_a_close_that_follows_early_data_counts_after_its_delivery() {
        let (_device, mut link) = start();
        let service = Listener::bind();
        let bytes = pattern(60_000, 1);
        link.send(&[wire::data(1, &bytes), wire::close(1), connect(1, service.port())].concat());
        link.expect(&wire::close(1));
        assert_eq!(service.accept().read_to_end(), (bytes, End::Finished));
        expect_nothing_before_the_next_answer(&mut link);
    }

    #[test]
    fn section_6_the_device_resolves_the_services_name() {
        let (_device, mut link) = start();
        let service = Listener::bind();
        // Where the name has ::1 as well, the service does not listen there, and the other address is tried.
        let mut bytes = hex("00 0d 01 01 00 09 6c 6f 63 61 6c 68 6f 73 74");
        bytes.extend(service.port().to_be_bytes());
        link.send(&bytes);
        link.send(&hex("00 01 03 01 78"));
        let mut served = service.accept();
        served.expect(b"x");
        served.send(b"ok\n");
        drop(served);
        link.expect(&hex("00 03 03 01 6f 6b 0a"));
        link.expect(&hex("00 00 02 01"));
    }

    #[test]
    fn section_7_frames_of_every_size_are_taken_and_full_ones_are_sent() {
        let (_device, mut link) = start();
        let service = Listener::bind();
        let mut served = open(&mut link, 1, &service);
        let up = pattern(8188 + 8188 + 3624 + 65_535 + 1, 2);
        let mut rest = &up[..];
        for size in [8188, 8188, 3624, 65_535, 1] {
            let (payload, more) = rest.split_at(size);
            link.send(&wire::data(1, payload));
            rest = more;
        }
        assert!(served.read(up.len()) == up);
        let down = pattern(140_000, 3);
        served.send(&down);
        link.expect_data(1, &down);
    }

    #[test]
    fn section_8_when_the_relay_is_gone_every_service_is_ended_and_the_tunnel_says_so() {
        let (mut device, mut link) = start();
        let service = Listener::bind();
        let mut first = open(&mut link, 1, &service);
        let mut second = open(&mut link, 2, &service);
        drop(link);
        first.read_to_end();
        second.read_to_end();
        device.wait_for(EventKind::Closed);
        let status = device.status();
        assert_eq!(status.state, State::Closed);
        assert_eq!(status.clients, 0);
        let (message, code) = status.last_error.unwrap();
        assert_eq!(code, "lost", "{message}");
    }

    #[test]
    fn section_8_a_service_that_did_not_get_everything_ends_with_a_reset() {
        let (mut device, mut link) = start();
        let service = Listener::bind();
        let mut served = open(&mut link, 1, &service);
        let bytes = pattern(1 << 20, 4);
        for payload in bytes.chunks(65_535) {
            link.send(&wire::data(1, payload));
        }
        link.peer.reset();
        device.wait_for(EventKind::Closed);
        let (read, end) = served.read_to_end();
        assert_eq!(end, End::Reset);
        assert!(read.len() < bytes.len());
    }

    // Section 11: odd input. Where the device of 2012 took payloads for frames, ours skips them.

    #[test]
    fn section_11_frames_that_mean_nothing_are_passed_over_and_counted() {
        let (device, mut link) = start();
        for odd in [
            "00 00 02 09",
            "00 00 03 09",
            "00 00 07 09",
            "00 05 07 09 00 01 03 05 41",
            "00 05 02 09 00 01 03 05 41",
            "00 00 04 00",
            "00 00 ff 09",
            "00 04 05 00 00 00 02 01",
        ] {
            link.send(&hex(odd));
            expect_nothing_before_the_next_answer(&mut link);
        }
        eventually("eight frames are counted", DEADLINE, || device.status().ignored_frames == 8);
        assert!(device.is_listening());
    }

    #[test]
    fn section_11_the_same_frames_do_not_disturb_an_open_client() {
        let (_device, mut link) = start();
        let service = Listener::bind();
        let mut served = open(&mut link, 9, &service);
        link.send(&wire::data(9, b"a"));
        for odd in ["00 00 03 09", "00 00 07 09", "00 05 07 09 00 01 03 09 41", "00 00 04 00"] {
            link.send(&hex(odd));
        }
        link.send(&wire::data(9, b"b"));
        served.expect(b"ab");
        link.send(&hex("00 05 02 09 00 01 03 09 41"));
        link.expect(&wire::close(9));
        served.expect_end(End::Finished);
        expect_nothing_before_the_next_answer(&mut link);
    }

    #[test]
    fn section_11_data_that_no_connect_follows_is_answered_with_close_after_5_s() {
        let (_device, mut link) = start();
        let sent = Instant::now();
        link.send(&hex("00 03 03 09 61 62 63"));
        expect_nothing_before_the_next_answer(&mut link);
        link.expect(&wire::close(9));
        let waited = sent.elapsed();
        assert!(waited >= Duration::from_secs(5), "{waited:?}");
        // The number is the old client's until its CONNECT is here, however late.
        let service = Listener::bind();
        link.send(&[wire::data(9, b"late"), wire::close(9), connect(9, service.port())].concat());
        link.expect(&wire::close(9));
        link.send(&[connect(9, service.port()), wire::data(9, b"new")].concat());
        service.accept().expect(b"new");
    }

    #[test]
    fn section_11_a_connect_that_cannot_be_read_is_answered_with_close() {
        let (mut device, mut link) = start();
        for odd in [
            "00 00 01 03",
            "00 06 01 03 00 09 31 32 37 34",
            "00 0d 01 03 00 09 31 32 37 2e 30 2e 30 2e 31 00 00",
            "00 04 01 03 00 00 00 50",
            "00 06 01 03 00 02 ff fe 00 50",
            "00 05 01 03 ff ff 61 00 50",
        ] {
            link.send(&hex(odd));
            link.expect(&hex("00 00 02 03"));
            device.wait_for(EventKind::Protocol);
            link.send(&wire::close(3));
        }
        expect_nothing_before_the_next_answer(&mut link);
    }

    #[test]
    fn section_11_connects_that_cannot_be_made_are_answered_with_close() {
        let (mut device, mut link) = start();
        let refusing = Refusing::bind();
        link.send(&connect(0, refusing.port()));
        link.expect(&hex("00 00 02 00"));
        assert_eq!(device.wait_for(EventKind::Failed).client, Some(0));
        link.send(&hex("00 10 01 03 00 0c 6e 6f 20 73 75 63 68 20 68 6f 73 74 00 50"));
        link.expect(&hex("00 00 02 03"));
        link.send(&wire::close(3));
        link.send(&wire::connect(3, "192.0.2.1", 80));
        link.expect(&hex("00 00 02 03"));
        let denied = device.wait_for(EventKind::Denied);
        assert!(denied.message.contains("\"192.0.2.1:80\""), "{}", denied.message);
    }

    #[test]
    fn section_11_ipv6_services_are_reached() {
        let Ok(probe) = std::net::TcpListener::bind("[::1]:0") else { return };
        drop(probe);
        let (_device, mut link) = start();
        let service = Listener::bind_to("[::1]:0");
        link.send(&wire::connect(3, "::1", service.port()));
        let mut served = service.accept();
        served.send(b"six");
        link.expect(&wire::data(3, b"six"));
    }

    // What the relay of 2012 does beyond the document, and the device must tolerate.

    #[test]
    fn a_connect_for_a_number_in_use_ends_the_older_client_silently() {
        let (_device, mut link) = start();
        let (old, new) = (Listener::bind(), Listener::bind());
        let mut first = open(&mut link, 1, &old);
        link.send(&wire::data(1, b"old"));
        first.expect(b"old");
        let mut second = open(&mut link, 1, &new);
        link.send(&wire::data(1, b"new"));
        second.expect(b"new");
        first.read_to_end();
        second.send(b"answer");
        link.expect(&wire::data(1, b"answer"));
    }

    #[test]
    fn bytes_on_their_way_for_an_old_client_are_never_taken_for_the_next_ones() {
        let (_device, mut link) = start();
        let service = Listener::bind();
        drop(open(&mut link, 1, &service));
        link.expect(&wire::close(1));
        // The relay wrote this before it saw the CLOSE; then its own CLOSE, then a new client.
        let next = connect(1, service.port());
        link.send(&[wire::data(1, b"stale"), wire::close(1), wire::data(1, b"early "), next].concat());
        link.send(&wire::data(1, b"fresh"));
        service.accept().expect(b"early fresh");
    }

    #[test]
    fn a_connect_frees_a_number_that_waits_for_its_close() {
        let (_device, mut link) = start();
        let service = Listener::bind();
        drop(open(&mut link, 1, &service));
        link.expect(&wire::close(1));
        link.send(&[wire::data(1, b"stale"), connect(1, service.port()), wire::data(1, b"fresh")].concat());
        service.accept().expect(b"fresh");
    }

    #[test]
    fn frames_in_pieces_of_one_byte_are_understood() {
        let (_device, mut link) = start();
        let service = Listener::bind();
        for byte in [connect(1, service.port()), wire::data(1, b"hello"), wire::data(7, b"x")].concat() {
            link.send(&[byte]);
        }
        service.accept().expect(b"hello");
    }
}

/// Our relay, and the device of 2012 in the test's hand.
mod relay {
    use std::time::{Duration, Instant};

    use crate::common::relay::Relay;
    use crate::common::wire::{self, Link, hex};
    use crate::common::{DEADLINE, End, Peer, pattern};

    /// The service as the command line names it; no connection is made to it here, since the device is scripted.
    const SERVICE: &str = "127.0.0.1:57847";
    /// CONNECT for it, as captured.
    const CONNECT: &str = "00 0d 01 01 00 09 31 32 37 2e 30 2e 30 2e 31 e1 f7";

    fn connect(client: u8) -> Vec<u8> {
        let mut bytes = hex(CONNECT);
        bytes[3] = client;
        bytes
    }

    /// A relay, its device's link, and where clients connect.
    fn start(options: &[&str]) -> (Relay, Link, std::net::SocketAddr) {
        let relay = Relay::start_with(options, &[SERVICE]);
        let (link, clients) = relay.listen();
        (relay, link, clients[0])
    }

    /// Whatever was sent before has been taken, and was answered with nothing: the next frame is a new client's.
    fn expect_nothing_before_the_next_client(link: &mut Link, clients: std::net::SocketAddr, number: u8) -> Peer {
        let client = Peer::connect(clients);
        link.expect(&connect(number));
        client
    }

    #[test]
    fn section_1_listen_has_no_answer() {
        let (_relay, mut link, clients) = start(&[]);
        expect_nothing_before_the_next_client(&mut link, clients, 1);
    }

    #[test]
    fn section_1_listen_may_come_in_pieces() {
        let relay = Relay::start(&[SERVICE]);
        let mut device = Peer::connect(relay.device_addr());
        for byte in wire::LISTEN {
            device.send(&[byte]);
        }
        let clients = relay.client_addrs();
        let _client = Peer::connect(clients[0]);
        device.expect(&connect(1));
    }

    #[test]
    fn section_2_data_passes_both_ways_and_the_client_closes_first() {
        let (_relay, mut link, clients) = start(&["--half-close", "0"]);
        let mut client = Peer::connect(clients);
        link.expect(&hex(CONNECT));
        client.send(b"hello\n");
        link.expect(&hex("00 06 03 01 68 65 6c 6c 6f 0a"));
        // The device of 2012 writes header and payload apart.
        link.send(&hex("00 06 03 01"));
        link.send(&hex("77 6f 72 6c 64 0a"));
        client.expect(b"world\n");
        drop(client);
        link.expect(&hex("00 00 02 01"));
        link.send(&hex("00 00 02 01"));
        expect_nothing_before_the_next_client(&mut link, clients, 2);
    }

    #[test]
    fn section_2_a_client_that_only_ended_its_sending_gets_its_answer() {
        // The answer must be on its way before this time is over.
        let (_relay, mut link, clients) = start(&["--half-close", "6"]);
        let mut client = Peer::connect(clients);
        link.expect(&hex(CONNECT));
        client.send(b"hello\n");
        client.finish();
        let ended = Instant::now();
        link.expect(&hex("00 06 03 01 68 65 6c 6c 6f 0a"));
        link.send(&wire::data(1, b"world\n"));
        client.expect(b"world\n");
        link.expect(&hex("00 00 02 01"));
        assert!(ended.elapsed() >= Duration::from_secs(6), "{:?}", ended.elapsed());
        link.send(&hex("00 00 02 01"));
        client.expect_end(End::Finished);
    }

    #[test]
    fn section_3_the_service_closes_first_and_the_client_gets_everything() {
        let (_relay, mut link, clients) = start(&[]);
        let mut client = Peer::connect(clients);
        link.expect(&hex(CONNECT));
        client.send(b"x");
        link.expect(&hex("00 01 03 01 78"));
        link.send(&hex("00 04 03 01 62 79 65 0a"));
        link.send(&hex("00 00 02 01"));
        client.expect(b"bye\n");
        client.expect_end(End::Finished);
        link.expect(&hex("00 00 02 01"));
        drop(client);
        expect_nothing_before_the_next_client(&mut link, clients, 2);
    }

    #[test]
    fn section_4_the_client_of_a_refused_service_is_ended() {
        let (_relay, mut link, clients) = start(&[]);
        let mut client = Peer::connect(clients);
        link.expect(&hex(CONNECT));
        link.send(&hex("00 00 02 01"));
        client.expect_end(End::Finished);
        link.expect(&hex("00 00 02 01"));
    }

    #[test]
    fn section_5_connect_always_comes_before_data() {
        let (_relay, mut link, clients) = start(&[]);
        for number in 1..=100 {
            let mut client = Peer::connect(clients);
            client.send(b"hello\n");
            link.expect(&connect(number));
            link.expect(&wire::data(number, b"hello\n"));
            link.send(&wire::data(number, b"world\n"));
            client.expect(b"world\n");
            link.send(&wire::close(number));
            link.expect(&wire::close(number));
            client.expect_end(End::Finished);
        }
    }

    #[test]
    fn section_6_the_services_name_is_forwarded_as_typed() {
        let relay = Relay::start(&["localhost:39945", "LocalHost:39945", "[::1]:80"]);
        let (mut link, clients) = relay.listen();
        let _first = Peer::connect(clients[0]);
        link.expect(&hex("00 0d 01 01 00 09 6c 6f 63 61 6c 68 6f 73 74 9c 09"));
        let _second = Peer::connect(clients[1]);
        link.expect(&wire::connect(2, "LocalHost", 39_945));
        let _third = Peer::connect(clients[2]);
        link.expect(&wire::connect(3, "::1", 80));
    }

    #[test]
    fn section_7_frames_of_every_size_are_taken_and_sent() {
        let (_relay, mut link, clients) = start(&[]);
        let mut client = Peer::connect(clients);
        link.expect(&hex(CONNECT));
        let up = pattern(20_000, 5);
        client.send(&up);
        link.expect_data(1, &up);
        let down = pattern(140_000, 6);
        for payload in down.chunks(65_535) {
            link.send(&wire::data(1, payload));
        }
        assert!(client.read(down.len()) == down);
        link.send(&wire::data(1, b"."));
        client.expect(b".");
    }

    #[test]
    fn section_8_a_relay_that_is_killed_ends_the_link() {
        let (mut relay, mut link, clients) = start(&[]);
        let _client = Peer::connect(clients);
        link.expect(&hex(CONNECT));
        relay.signal("KILL");
        relay.wait();
        link.peer.read_to_end();
    }

    #[test]
    fn section_8_a_relay_that_a_signal_ends_closes_its_clients_and_exits_with_3() {
        // Version 1 has no frame that announces an end, so the document's relay ends at once.
        let (mut relay, mut link, clients) = start(&["--drain", "0"]);
        let mut client = Peer::connect(clients);
        link.expect(&hex(CONNECT));
        relay.signal("TERM");
        client.read_to_end();
        link.peer.read_to_end();
        assert_eq!(relay.wait(), Some(3));
    }

    #[test]
    fn section_9_when_the_device_is_gone_its_clients_end_and_the_next_device_is_served() {
        let (relay, mut link, clients) = start(&[]);
        let mut client = Peer::connect(clients);
        link.expect(&hex(CONNECT));
        drop(link);
        client.read_to_end();
        let (mut link, clients) = relay.listen();
        let mut client = Peer::connect(clients[0]);
        link.expect(&hex(CONNECT));
        client.send(b"hello\n");
        link.expect(&wire::data(1, b"hello\n"));
    }

    #[test]
    fn section_9_no_client_hangs_without_a_device() {
        let (relay, link, clients) = start(&[]);
        drop(link);
        relay.wait_for_log("the link to the device is lost");
        // The port is closed: refused at once.
        let refused = std::net::TcpStream::connect_timeout(&clients, DEADLINE).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn a_newer_device_takes_the_place_of_an_older_one_at_once() {
        let (relay, mut old, clients) = start(&[]);
        let mut client = Peer::connect(clients);
        old.expect(&hex(CONNECT));
        // The client ports stay open for it.
        let mut new = Link::listen(relay.device_addr());
        client.read_to_end();
        old.peer.read_to_end();
        let _client = Peer::connect(clients);
        new.expect(&hex(CONNECT));
    }

    // Section 10: odd input. Where the relay of 2012 took payloads for frames, ours skips them.

    #[test]
    fn section_10_frames_that_mean_nothing_are_passed_over() {
        let (_relay, mut link, clients) = start(&[]);
        for (odd, number) in [
            "00 00 02 09",
            "00 08 03 09 00 00 04 0b 00 00 04 0c",
            "00 00 07 09",
            "00 00 03 09",
            "00 00 03 ff",
            "00 00 05 02",
            "00 04 02 09 00 00 04 0b",
        ]
        .into_iter()
        .zip(1..)
        {
            link.send(&hex(odd));
            drop(expect_nothing_before_the_next_client(&mut link, clients, number));
            // Takes part in the closing, so that the half-closed wait is over before the next.
            link.send(&wire::close(number));
            link.expect(&wire::close(number));
        }
    }

    #[test]
    fn section_10_hello_is_answered_as_in_2012_by_a_relay_of_version_1_and_where_it_comes_too_late() {
        let (relay, mut link, clients) = start(&["--protocol", "1"]);
        link.send(&wire::HELLO);
        link.expect(&hex("00 00 02 f2"));
        expect_nothing_before_the_next_client(&mut link, clients, 1);
        relay.wait_for_log("version=1");
        // CONNECT is not sent before the relay has given up to wait for HELLO.
        let (_relay, mut link, clients) = start(&[]);
        let _client = expect_nothing_before_the_next_client(&mut link, clients, 1);
        link.send(&wire::HELLO);
        link.expect(&hex("00 00 02 f2"));
        expect_nothing_before_the_next_client(&mut link, clients, 2);
    }

    #[test]
    fn section_10_the_same_frames_do_not_disturb_an_open_client() {
        let (_relay, mut link, clients) = start(&[]);
        let mut client = Peer::connect(clients);
        link.expect(&hex(CONNECT));
        link.send(&wire::data(1, b"a"));
        for odd in ["00 00 03 01", "00 03 07 01 61 62 63", "00 00 07 01", "00 04 07 09 00 00 02 01"] {
            link.send(&hex(odd));
        }
        link.send(&wire::data(1, b"b"));
        client.expect(b"ab");
        client.send(b"c");
        link.expect(&wire::data(1, b"c"));
    }

    #[test]
    fn section_10_a_close_is_answered_once_whatever_follows_it() {
        let (_relay, mut link, clients) = start(&[]);
        let closes: [fn(u8) -> Vec<u8>; 3] = [
            |client| wire::frame(wire::CLOSE, client, &hex("00 00 04 0b")),
            |client| [wire::close(client), wire::close(client)].concat(),
            |client| [wire::close(client), wire::data(client, b"late")].concat(),
        ];
        for (close, number) in closes.into_iter().zip(1..) {
            let mut client = Peer::connect(clients);
            link.expect(&connect(number));
            link.send(&close(number));
            link.expect(&wire::close(number));
            client.expect_end(End::Finished);
        }
        expect_nothing_before_the_next_client(&mut link, clients, 4);
    }

    #[test]
    fn section_10_a_frame_that_cannot_be_ends_the_link_and_is_logged_with_its_bytes() {
        for (odd, bytes) in [(hex("00 00 04 00"), "00 00 04 00"), (wire::connect(1, "127.0.0.1", 22), "00 0d 01 01")] {
            let (relay, mut link, _clients) = start(&[]);
            link.send(&odd);
            link.peer.read_to_end();
            relay.wait_for_log(bytes);
            // The relay goes on: the next device is served.
            let (mut link, clients) = relay.listen();
            let _client = Peer::connect(clients[0]);
            link.expect(&hex(CONNECT));
        }
    }

    #[test]
    fn other_programs_at_the_device_port_are_dropped_and_the_link_goes_on() {
        let (relay, mut link, clients) = start(&[]);
        let mut others = Vec::new();
        for odd in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\0\0\x04\x01", b"\0\x01\x04\0x", b"\0\0\x03\x01", b"\0\0\x05\xf2"]
        {
            let mut other = Peer::connect(relay.device_addr());
            other.send(odd);
            others.push(other);
        }
        drop(Peer::connect(relay.device_addr()));
        for other in &mut others {
            assert!(other.read_to_end().0.is_empty());
        }
        expect_nothing_before_the_next_client(&mut link, clients, 1);
    }

    #[test]
    fn a_flood_of_silent_connections_locks_no_device_out() {
        let relay = Relay::start(&["127.0.0.1:9"]);
        let mut silent: Vec<_> = (0..64).map(|_| Peer::connect(relay.device_addr())).collect();
        let (mut link, clients) = relay.listen();
        let _client = Peer::connect(clients[0]);
        assert_eq!(link.read_frame().0, wire::CONNECT);
        silent[0].expect_end(End::Reset);
        // It had to go for the device, and not since its 5 s were over.
        relay.wait_for_log("too many others have not sent LISTEN yet");
    }

    #[test]
    fn half_a_listen_or_silence_is_dropped_after_5_s() {
        let (relay, mut link, clients) = start(&[]);
        let began = Instant::now();
        let mut silent = Peer::connect(relay.device_addr());
        let mut half = Peer::connect(relay.device_addr());
        half.send(&wire::LISTEN[..3]);
        assert!(silent.read_to_end().0.is_empty());
        assert!(half.read_to_end().0.is_empty());
        let waited = began.elapsed();
        assert!(waited >= Duration::from_secs(5), "{waited:?}");
        expect_nothing_before_the_next_client(&mut link, clients, 1);
    }
}
