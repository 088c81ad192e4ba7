//! What is so in TLS alone.

use super::*;
use crate::connection::Reset;
use crate::identity::{Pin, Pins};
use crate::io::session::link::LinkLost;
use crate::tls::{Acceptor, Key, Opener, Scratch, TlsError};

impl Bench {
    /// Until the link is lost: how, and what that came to.
    fn until_lost(&mut self) -> (LinkLost, Vec<Output>) {
        let mut outputs = Vec::new();
        loop {
            let turned = self.session.turn(Instant::now(), &mut self.io, &mut self.buffer);
            if turned.is_err() {
                self.session.abort_link(Instant::now(), &mut self.io);
            }
            while let Some(output) = self.session.poll_output(Instant::now(), &mut self.io) {
                outputs.push(output);
            }
            if let Err(lost) = turned {
                return (lost, outputs);
            }
            self.wait();
        }
    }
}

#[test]
fn a_session_that_is_cut_at_any_byte_is_lost_and_its_streams_are_reset() {
    let mut cut = 0;
    loop {
        let [(one, mut one_peer), (other, _other_peer)] = pairs(Type::STREAM);
        let mut bench = Bench::new(Carrier::Tls, [one, other]);
        let ping = bench.relay.seal(&v2::ping([1; 8], Flags::NONE));
        let bytes = bench.relay.seal(&data(1, b"payload", false));
        let end = bench.relay.close_notify();
        let all = [&ping[..], &bytes, &end].concat();
        let complete = ping.len() + bytes.len();
        bench.relay.tcp.write_all(&all[..cut]).expect("sent");
        bench.relay.tcp.shutdown(std::net::Shutdown::Write).expect("FIN");
        let (lost, outputs) = bench.until_lost();
        let mut came = Vec::new();
        // The end of this kind of socket is no matter here.
        let _ = one_peer.read_to_end(&mut came);
        assert_eq!(came, if cut >= complete { &b"payload"[..] } else { b"" }, "cut at {cut}");
        let resets = outputs.iter().filter(|output| matches!(output, Output::Reset { reason: Reset::LinkLost, .. }));
        assert_eq!(resets.count(), 2, "cut at {cut}: {outputs:?}");
        if cut == all.len() {
            assert!(matches!(lost, LinkLost::Ended), "{lost}");
            break;
        }
        assert!(matches!(lost, LinkLost::Tls(TlsError::Cut)), "cut at {cut}: {lost}");
        cut += 1;
    }
}

#[test]
fn what_the_socket_does_not_take_is_held_and_counted_and_nothing_more_is_sealed_until_it_has_left() {
    const BYTES: usize = 8 * 1024 * 1024;
    let [(one, mut one_peer), (other, _other_peer)] = pairs(Type::STREAM);
    let mut bench = Bench::with_window(Carrier::Tls, [one, other], BYTES as u32);
    let link = &bench.session.link.as_ref().expect("a link").tcp;
    SockRef::from(link).set_send_buffer_size(4096).expect("option");
    let writer = std::thread::spawn(move || one_peer.write_all(&[7; BYTES]).map(|()| one_peer).expect("taken"));
    let is_holding = |bench: &Bench| bench.session.link.as_ref().expect("a link").is_holding();
    while !is_holding(&bench) {
        bench.step();
    }
    let sent = bench.session.connection.counters().sent;
    let held = bench.session.held() - bench.session.connection.held();
    assert!(bench.session.has_unsent() && (1..=80 * 1024).contains(&held), "{held}");
    assert!(bench.io.buffers.scratch().is_empty(), "it is for other links now");
    for _ in 0..10 {
        // More is read of the stream than is sealed.
        bench.turn();
    }
    assert!(is_holding(&bench) && bench.session.connection.counters().sent <= sent + 512 * 1024);
    bench.relay.set_nonblocking(true).expect("mode");
    let (mut decoder, mut total) = (Decoder::default(), 0);
    let mut bytes = vec![0; 64 * 1024];
    while total < BYTES {
        bench.step();
        while let Ok(count @ 1..) = bench.relay.read(&mut bytes) {
            let mut input = &bytes[..count];
            while let Some(item) = decoder.next(&mut input).expect("frames") {
                if let Item::Data { bytes, .. } = item {
                    assert!(bytes.iter().all(|&byte| byte == 7));
                    total += bytes.len();
                }
            }
        }
    }
    writer.join().expect("all is taken");
    while bench.session.has_unsent() {
        bench.step();
        while let Ok(1..) = bench.relay.read(&mut bytes) {}
    }
    assert_eq!(bench.session.held(), 0, "an idle link has no buffer");
}

#[test]
fn a_device_that_does_not_trust_its_relay_says_so_and_resets_nothing() {
    let mut io = Io::new(EventLoop::new().expect("poll"));
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let mut link = net::connect(listener.local_addr().expect("address")).expect("connect");
    let (mut relay, _) = listener.accept().expect("accept");
    relay.set_read_timeout(Some(DEADLINE)).expect("timeout");
    let token = io.event_loop.register(&mut link, Source::Link(0)).expect("register");
    let (device, key) = (Key::generate().expect("random bytes"), Key::generate().expect("random bytes"));
    let opener = Opener::new(&device, Pins { current: Pin([1; 32]), next: Pin([2; 32]) }).expect("a configuration");
    let tls = opener.start("relay.example.com", io.buffers.scratch()).expect("a handshake");
    let device = Mux::opener(Instant::now(), Limits::DEVICE, Settings::default());
    let session = Session::in_tls(device, 0, link, token, tls, &mut io);
    let mut acceptor = Acceptor::new(&key).and_then(|acceptor| acceptor.start()).expect("a handshake");
    let (mut scratch, mut opened) = (Scratch::new(0), Vec::new());
    let server = std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        loop {
            let count = relay.read(&mut buffer).expect("no reset");
            if count == 0 {
                return acceptor.handle_end();
            }
            if let Err(error) = acceptor.open(&mut buffer[..count], &mut opened, &mut scratch) {
                assert_eq!(relay.read(&mut buffer).expect("FIN, and no reset"), 0);
                return Err(error);
            }
            let answer = acceptor.unsent(&scratch).to_vec();
            acceptor.advance(&mut scratch, answer.len());
            relay.write_all(&answer).expect("sent");
        }
    });
    let wire = Wire::clear(TcpListener::bind("127.0.0.1:0").expect("bind"));
    let buffer = vec![0; LINK_BUFFER];
    let mut bench = Bench { session, io, buffer, relay: wire, keys: Vec::new(), began: Instant::now() };
    let (lost, outputs) = bench.until_lost();
    assert!(matches!(lost, LinkLost::Tls(TlsError::WrongPin { .. })) && outputs.is_empty(), "{lost}, {outputs:?}");
    let seen = server.join().expect("the relay's end").expect_err("it is refused");
    assert!(matches!(seen, TlsError::Alert(_)), "{seen}");
}
