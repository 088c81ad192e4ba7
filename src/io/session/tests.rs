mod sealed;
mod wire;

use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::time::Duration;

use mio::net::TcpStream;
use socket2::{Domain, SockRef, Type};

use self::wire::{Carrier, Wire};
use super::state::Reading;
use super::*;
use crate::connection::{Limits, Mux, Role};
use crate::io::event_loop::Source;
use crate::io::net;
use crate::protocol::v2::{self, Close, Connect, Decoder, Flags, GoAway, Header, Item, Settings, Target};

const DEADLINE: Duration = Duration::from_secs(30);

#[test]
fn what_the_other_end_said_last_is_heard_though_the_link_takes_no_more() {
    let now = Instant::now();
    let mut io = Io::new(EventLoop::new().expect("poll"));
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let mut link = net::connect(listener.local_addr().expect("address")).expect("connect");
    let (mut relay, _) = listener.accept().expect("accept");
    let token = io.event_loop.register(&mut link, Source::Link(0)).expect("register");
    let device = Mux::new(now, Role::Device, Limits::DEVICE, &[]);
    let mut session = Session::new(device, 0, link, token);
    let mut buffer = [0; 1024];
    session.turn(now, &mut io, &mut buffer).expect("SETTINGS leave");
    let reason = String::from("a newer link took the place of this one");
    let away = GoAway { code: Code::Replaced, retry_after: 0, last_stream: 0, reason };
    relay.write_all(&Settings::default().frame()).expect("sent");
    relay.write_all(&away.frame()).expect("sent");
    net::reset(&relay);
    drop(relay);
    // The event that would tell has not come, and there is something to write.
    loop {
        session.connection.go_away(now, Code::Normal, 0, "");
        if session.turn(now, &mut io, &mut buffer).is_err() {
            break;
        }
    }
    let outputs: Vec<_> = std::iter::from_fn(|| session.connection.poll_output()).collect();
    assert!(matches!(&outputs[..], [Output::Introduced(_), Output::GoAway(heard)] if *heard == away), "{outputs:?}");
}

#[test]
#[cfg(target_os = "linux")]
fn the_kernel_asks_for_the_peer_when_the_link_would_be_given_up_if_both_ends_have_said_how_often_they_ask() {
    for (keepalive, expected) in [(None, 15), (Some(Duration::from_secs(90)), 120), (Some(Duration::from_secs(20)), 50)]
    {
        let mut bench = Bench::linked(Carrier::Clear, Limits::DEVICE);
        net::tune_link(&bench.session.link.as_ref().expect("a link").tcp).expect("options");
        bench.tell(&Settings { keepalive, ..Settings::default() }.frame());
        let began = Instant::now();
        loop {
            bench.turn();
            if let Some(Output::Introduced(_)) = bench.session.poll_output(Instant::now(), &mut bench.io) {
                break;
            }
            assert!(began.elapsed() < DEADLINE, "no SETTINGS");
        }
        let link = &bench.session.link.as_ref().expect("a link").tcp;
        let idle = SockRef::from(link).tcp_keepalive_time().expect("option");
        assert_eq!(idle, Duration::from_secs(expected), "{keepalive:?}");
    }
}

/// A session with one stream, whose socket has a copy as a forked child would hold it, and the socket's other end.
#[cfg(target_os = "linux")]
fn with_copied_socket(io: &mut Io) -> (Session<Mux>, StreamKey, [std::net::TcpStream; 3]) {
    let now = Instant::now();
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    let mut link = net::connect(address).expect("connect");
    let (relay, _) = listener.accept().expect("accept");
    let token = io.event_loop.register(&mut link, Source::Link(0)).expect("register");
    let device = Mux::new(now, Role::Device, Limits::DEVICE, &[]);
    let mut session = Session::new(device, 0, link, token);
    let tcp = std::net::TcpStream::connect(address).expect("connect");
    let copy = tcp.try_clone().expect("a copy");
    tcp.set_nonblocking(true).expect("mode");
    let mut tcp = TcpStream::from_std(tcp);
    net::tune_stream(&tcp).expect("options");
    let (peer, _) = listener.accept().expect("accept");
    peer.set_read_timeout(Some(std::time::Duration::from_secs(15))).expect("deadline");
    let key = StreamKey { index: 0, generation: 0 };
    let token = io.event_loop.register(&mut tcp, Source::Stream(0, key)).expect("register");
    session.attach(io, key, tcp, token);
    (session, key, [relay, copy, peer])
}

#[test]
#[cfg(target_os = "linux")]
fn a_stream_ends_on_its_connection_though_a_child_has_a_copy_of_its_socket() {
    let mut io = Io::new(EventLoop::new().expect("poll"));
    let (mut session, key, [_relay, _copy, mut peer]) = with_copied_socket(&mut io);
    session.reset(&mut io, key);
    assert_eq!(peer.read(&mut [0]).expect_err("a reset").kind(), io::ErrorKind::ConnectionReset);

    for reading in [Reading::Ended, Reading::Empty] {
        let (mut session, key, [_relay, _copy, mut peer]) = with_copied_socket(&mut io);
        session.socket(key).expect("it is there").reading = reading;
        session.finish(Instant::now(), &mut io, key);
        assert_eq!(peer.read(&mut [0]).expect("an end"), 0);
    }

    let (mut session, _, [_relay, _copy, mut peer]) = with_copied_socket(&mut io);
    session.abort(Instant::now(), &mut io);
    assert_eq!(peer.read(&mut [0]).expect_err("a reset").kind(), io::ErrorKind::ConnectionReset);

    // As in a panic of the loop.
    let (session, _, [mut relay, _copy, mut peer]) = with_copied_socket(&mut io);
    let _copy_of_link =
        socket2::SockRef::from(&session.link.as_ref().expect("a link").tcp).try_clone().expect("a copy");
    relay.set_read_timeout(Some(std::time::Duration::from_secs(15))).expect("deadline");
    drop(session);
    for end in [&mut peer, &mut relay] {
        assert_eq!(end.read(&mut [0]).expect_err("a reset").kind(), io::ErrorKind::ConnectionReset);
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_peer_that_has_vanished_and_one_that_resets_have_different_codes() {
    use io::ErrorKind::{ConnectionReset, HostUnreachable, NetworkUnreachable, TimedOut};
    let mut io = Io::new(EventLoop::new().expect("poll"));
    for (kind, code) in [
        (TimedOut, Code::Idle),
        (HostUnreachable, Code::Idle),
        (NetworkUnreachable, Code::Idle),
        (ConnectionReset, Code::Normal),
    ] {
        let (mut session, key, _others) = with_copied_socket(&mut io);
        session.fail(Instant::now(), &mut io, key, &kind.into());
        let failure = session.traffic(key).and_then(|traffic| traffic.failure.clone());
        assert_eq!(failure.map(|failure| failure.0), Some(code));
    }
}

/// A device's session with two streams and all that drives it.
struct Bench {
    session: Session<Mux>,
    io: Io,
    buffer: Vec<u8>,
    relay: Wire,
    keys: Vec<StreamKey>,
    began: Instant,
}

impl Bench {
    /// Two streams have these sockets, and credit for a MiB each way.
    fn new(carrier: Carrier, sockets: [impl Into<OwnedFd>; 2]) -> Self {
        Self::with_window(carrier, sockets, 1024 * 1024)
    }

    /// The same, with that much credit each way.
    fn with_window(carrier: Carrier, sockets: [impl Into<OwnedFd>; 2], window: u32) -> Self {
        Self::with_settings(carrier, sockets, Settings { window, streams: 16, ..Settings::default() })
    }

    /// The same, with a relay that sends these SETTINGS.
    fn with_settings(carrier: Carrier, sockets: [impl Into<OwnedFd>; 2], settings: Settings) -> Self {
        let limits = Limits { window: settings.window, streams: 16, budget: 32 * 1024 * 1024, ..Limits::DEVICE };
        let mut bench = Self::linked(carrier, limits);
        bench.tell(&settings.frame());
        for (number, socket) in (1..).zip(sockets) {
            let connect = Connect::to(Target::Address("127.0.0.1:22".parse().expect("an address")));
            bench.tell(&connect.frame(number));
            let key = loop {
                bench.step();
                if let Some(Output::Connect { stream, .. }) = bench.session.connection.poll_output() {
                    break stream;
                }
            };
            let tcp = std::net::TcpStream::from(socket.into());
            tcp.set_nonblocking(true).expect("mode");
            let mut tcp = TcpStream::from_std(tcp);
            let token = bench.io.event_loop.register(&mut tcp, Source::Stream(0, key)).expect("register");
            bench.session.attach(&mut bench.io, key, tcp, token);
            bench.session.connection.handle_connected(Instant::now(), key);
            bench.keys.push(key);
        }
        bench
    }

    /// With a link, and no streams; the relay has said nothing.
    fn linked(carrier: Carrier, limits: Limits) -> Self {
        let mut io = Io::new(EventLoop::new().expect("poll"));
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let mut link = net::connect(listener.local_addr().expect("address")).expect("connect");
        let (relay, _) = listener.accept().expect("accept");
        let token = io.event_loop.register(&mut link, Source::Link(0)).expect("register");
        let (session, relay) = carrier.ends(link, token, relay, limits, &mut io);
        let buffer = vec![0; LINK_BUFFER];
        let mut bench = Self { session, io, buffer, relay, keys: Vec::new(), began: Instant::now() };
        while !bench.relay.is_ready() {
            bench.step();
            bench.relay.shake_hands();
        }
        bench
    }

    /// The relay says this, in one piece if it is little.
    fn tell(&mut self, bytes: &[u8]) {
        self.relay.write_all(bytes).expect("sent");
    }

    fn turn(&mut self) {
        let turned = self.session.turn(Instant::now(), &mut self.io, &mut self.buffer);
        turned.expect("the link is there");
    }

    fn step(&mut self) {
        self.turn();
        self.wait();
    }

    fn wait(&mut self) {
        assert!(self.began.elapsed() < DEADLINE, "not in time");
        let now = Instant::now();
        self.io.event_loop.wait(Some(now + Duration::from_millis(1))).expect("wait");
        while let Some(event) = self.io.event_loop.next_ready() {
            match event.source {
                Source::Link(_) => self.session.handle_link_event(event),
                Source::Stream(_, key) => self.session.handle_stream_event(now, &mut self.io, key, event),
                Source::Waker | Source::Listener(_) | Source::Closing(_) | Source::Header(_) => {}
            }
        }
    }
}

fn data(stream: u32, bytes: &[u8], fin: bool) -> Vec<u8> {
    [&Header::data(stream, bytes.len() as u16, fin).encode()[..], bytes].concat()
}

/// Two pairs of sockets of that type.
fn pairs(kind: Type) -> [(socket2::Socket, socket2::Socket); 2] {
    [(); 2].map(|()| {
        let pair = socket2::Socket::pair(Domain::UNIX, kind, None).expect("a pair");
        pair.1.set_read_timeout(Some(DEADLINE)).expect("deadline");
        pair
    })
}

#[test]
#[cfg(target_os = "linux")]
fn neighbouring_pieces_of_one_stream_leave_in_one_write() {
    for carrier in Carrier::ALL {
        // Each write is a record of its own.
        let [(one, mut one_end), (other, mut other_end)] = pairs(Type::SEQPACKET);
        let mut bench = Bench::new(carrier, [one, other]);
        let pieces: [(u32, &[u8], bool); 6] =
            [(1, b"a", false), (1, b"b", false), (2, b"x", false), (1, b"c", false), (1, b"d", false), (1, b"e", true)];
        bench.tell(&pieces.map(|(stream, bytes, fin)| data(stream, bytes, fin)).concat());
        while bench.session.connection.counters().received < 6 {
            bench.step();
        }
        let record = |end: &mut socket2::Socket| {
            let mut buffer = [0; 16];
            let count = end.read(&mut buffer).expect("a record");
            String::from_utf8(buffer[..count].to_vec()).expect("text")
        };
        assert_eq!([(); 3].map(|()| record(&mut one_end)), ["ab", "cd", "e"]);
        assert_eq!(record(&mut other_end), "x");
    }
}

#[test]
fn an_end_behind_pieces_that_left_together_waits_for_the_last_byte_of_them() {
    for carrier in Carrier::ALL {
        let large = [7; 60 * 1024];
        let close = Close { code: Code::Normal, reason: String::new() };
        for end in [data(1, &large, true), [data(1, &large, false), close.frame(1)].concat()] {
            let [(io, mut peer), (other, _other_peer)] = pairs(Type::STREAM);
            // The first of the pieces fits, and the others do not.
            SockRef::from(&io).set_send_buffer_size(4096).expect("option");
            let mut bench = Bench::new(carrier, [io, other]);
            let key = bench.keys[0];
            bench.tell(&[data(1, b"1", false), data(1, &large, false), end].concat());
            while bench.session.connection.counters().received < 1 + 2 * large.len() as u64 {
                bench.step();
            }
            bench.step();
            assert!(
                bench.session.connection.poll_output().is_none() && !bench.session.connection.pending(key).is_empty()
            );
            peer.set_nonblocking(true).expect("mode");
            let mut came = Vec::new();
            let output = loop {
                // What is there; that there is no more now is no failure.
                let _ = peer.read_to_end(&mut came);
                bench.step();
                if let Some(output) = bench.session.connection.poll_output() {
                    break output;
                }
            };
            let _ = peer.read_to_end(&mut came);
            assert!(matches!(output, Output::ShutdownWrite { .. } | Output::Reset { .. }), "{output:?}");
            assert!(came == [&b"1"[..], &large, &large].concat(), "{} bytes", came.len());
        }
    }
}

#[test]
fn a_stream_alone_fills_the_link_with_one_read_and_beside_another_has_a_frame_at_a_time() {
    const BYTES: usize = 150_000;
    for carrier in Carrier::ALL {
        let [(one, mut one_peer), (other, mut other_peer)] = pairs(Type::STREAM);
        let mut bench = Bench::new(carrier, [one, other]);
        one_peer.write_all(&[1; BYTES]).expect("sent");
        bench.session.start(Instant::now(), &mut bench.io, bench.keys[0]);
        bench.turn();
        assert_eq!(bench.session.connection.counters().sent, BYTES as u64, "three frames");

        for peer in [&mut one_peer, &mut other_peer] {
            peer.write_all(&[2; BYTES]).expect("sent");
        }
        bench.relay.set_nonblocking(true).expect("mode");
        bench.wait();
        let (mut decoder, mut frames, mut total) = (Decoder::default(), Vec::new(), 0);
        while total < 3 * BYTES {
            bench.step();
            let mut bytes = Vec::new();
            // What is there; that there is no more now is no failure.
            let _ = bench.relay.read_to_end(&mut bytes);
            let mut input = &bytes[..];
            while !input.is_empty() {
                let is_new = decoder.left() == 0;
                if let Some(Item::Data { stream, bytes, .. }) = decoder.next(&mut input).expect("frames") {
                    total += bytes.len();
                    frames.extend(is_new.then_some(stream));
                }
            }
        }
        assert_eq!(frames[..3], [1; 3], "{frames:?}");
        assert!(frames[3..9].windows(2).all(|pair| pair[0] != pair[1]), "{frames:?}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_socket_that_could_not_be_written_does_not_wait_for_credit() {
    const WINDOW: usize = 16 * 1024;
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let [(one, mut one_peer), (other, _other_peer)] = [(); 2].map(|()| {
        let io = std::net::TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        (io, listener.accept().expect("accept").0)
    });
    let mut bench = Bench::with_window(Carrier::Clear, [one, other], WINDOW as u32);
    one_peer.write_all(&[1; 2 * WINDOW]).expect("sent");
    net::reset(&one_peer);
    // The session knows of the reset by its write, before an event tells.
    bench.tell(&data(1, b"lost", false));
    while bench.session.connection.counters().received < 4 {
        assert!(bench.began.elapsed() < DEADLINE, "not in time");
        let source = Source::Link(0);
        let event = Readiness { source, readable: true, writable: false, more_behind: false, hung_up: false };
        bench.session.handle_link_event(event);
        bench.turn();
    }
    while bench.session.connection.counters().sent < WINDOW as u64 {
        bench.turn();
    }
    while !matches!(bench.session.connection.poll_output(), Some(Output::Gone { .. })) {
        bench.step();
    }
}

#[test]
#[cfg(target_os = "linux")]
fn what_came_before_a_reset_is_sent_though_its_stream_waits_for_its_share_of_the_link() {
    for carrier in Carrier::ALL {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let [(one, mut one_peer), (other, mut other_peer)] = [(); 2].map(|()| {
            let io = std::net::TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
            (io, listener.accept().expect("accept").0)
        });
        let settings = Settings { window: 1024 * 1024, streams: 16, acknowledges: true, ..Settings::default() };
        let mut bench = Bench::with_settings(carrier, [one, other], settings);
        // More than may be in flight before anything is acknowledged.
        for peer in [&mut one_peer, &mut other_peer] {
            peer.write_all(&[1; 100_000]).expect("sent");
        }
        while bench.session.connection.counters().sent < 16 * 1024 {
            bench.step();
        }
        net::reset(&one_peer);
        let mut relay = Acknowledging { bytes: Vec::new(), offset: None };
        bench.relay.set_nonblocking(true).expect("non-blocking");
        let mut came = 0;
        while came < 100_000 {
            bench.step();
            came += relay.read_data_of(&mut bench.relay, 1);
        }
        assert_eq!(came, 100_000);
    }
}

/// A relay that acknowledges whatever asks for it.
struct Acknowledging {
    bytes: Vec<u8>,
    /// What was read behind SETTINGS.
    offset: Option<u64>,
}

impl Acknowledging {
    /// How much DATA of the stream has come.
    fn read_data_of(&mut self, wire: &mut Wire, stream: u32) -> usize {
        let (mut buffer, mut sum) = ([0; 4096], 0);
        while let Ok(count @ 1..) = wire.read(&mut buffer) {
            self.bytes.extend(&buffer[..count]);
        }
        while let Some(&bytes) = self.bytes.first_chunk() {
            let header = Header::decode(bytes);
            let size = usize::from(header.size);
            let frame = Header::LEN + size;
            if self.bytes.len() < frame {
                break;
            }
            self.bytes.drain(..frame);
            let Some(offset) = &mut self.offset else {
                self.offset = Some(0);
                continue;
            };
            *offset += frame as u64;
            if header.kind == v2::Type::Data {
                sum += if header.stream == stream { size } else { 0 };
                if header.flags.has(Flags::ASK) {
                    wire.write_all(&v2::ack(*offset, 0)).expect("sent");
                }
            }
        }
        sum
    }
}

#[test]
fn a_stream_has_a_place_of_104_bytes_at_most_since_hundreds_may_be_idle() {
    let place = size_of::<super::socket::Place<TcpStream>>();
    assert!(place <= 104, "{place} bytes");
}
