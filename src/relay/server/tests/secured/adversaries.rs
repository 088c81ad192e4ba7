//! Peers that break the rules of TLS, or do nothing. Nobody gets in, and nobody else notices.

use std::net::IpAddr;

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, Stream};

use super::super::super::handshakes::MOST_OF_SOURCE;
use super::*;
use crate::protocol::v2::{Code, GoAway, Settings};
use crate::relay::registry::PrincipalName;
use crate::tls::tests::adversaries::{ecdsa, identity};
use crate::tls::tests::peers::{Habit, Peer as TlsPeer, Shown, Sign};
use crate::tls::{Opener, RECORD_OVERHEAD};

/// A connection to the port, from this address of this machine.
fn connect_from(host: u8, port: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
    socket.bind(&SocketAddr::from(([127, 0, 0, host], 0)).into()).expect("bind");
    socket.connect(&port.into()).expect("connect");
    socket.set_read_timeout(Some(DEADLINE)).expect("timeout");
    socket.into()
}

/// A device of rustls' own, in a thread of its own, which does this on its link.
fn device_that(
    secure: &Secure,
    host: u8,
    key: &Arc<Key>,
    act: impl FnOnce(&mut ClientConnection, &mut TcpStream) + Send + 'static,
) -> thread::JoinHandle<()> {
    let opener = Opener::new(key, secure.pins()).expect("a configuration");
    let port = secure.port();
    thread::spawn(move || {
        let mut tcp = connect_from(host, port);
        let name = ServerName::from(IpAddr::from([0; 4]));
        let mut tls = ClientConnection::new(opener.config(), name).expect("a connection");
        act(&mut tls, &mut tcp);
    })
}

/// Says who it is, and reads the relay's SETTINGS.
fn greet(tls: &mut ClientConnection, tcp: &mut TcpStream) {
    let mut stream = Stream::new(tls, tcp);
    stream.write_all(&Settings::default().frame()).expect("sent");
    let mut header = [0; 8];
    stream.read_exact(&mut header).expect("SETTINGS");
    assert_eq!(header[2], 6);
}

impl Secure {
    fn handshakes(&self) -> usize {
        self.bench.server.secured.as_ref().expect("a port").handshakes.len()
    }

    /// The attack goes on until the relay ends it; beside it a client of another device has its echo.
    fn assert_ends_beside_an_echo(&mut self, attack: &thread::JoinHandle<()>, client: &mut TcpStream) {
        let (mut echoes, began) = (0, Instant::now());
        while !attack.is_finished() || echoes < 3 {
            assert!(began.elapsed() < DEADLINE, "the attack goes on");
            assert_eq!(self.echo(client, b"beside it"), b"beside it");
            echoes += 1;
        }
    }

    /// A device with a client, from the address that all others have.
    pub(super) fn with_client(&mut self) -> (Handle, TcpStream) {
        let port = self.port_of("neighbour");
        let join = self.token("neighbour", |_| {});
        let handle = self.device(&key(), Some(join));
        let mut client = TcpStream::connect(port).expect("connect");
        assert_eq!(self.echo(&mut client, b"before"), b"before");
        (handle, client)
    }
}

/// Sends and takes whatever there is, until either end is done with it.
fn meet(TlsPeer(mut tls): TlsPeer, mut tcp: TcpStream) {
    let mut step = || {
        while tls.wants_write() {
            tls.write_tls(&mut tcp)?;
        }
        let count = tls.read_tls(&mut tcp)?;
        tls.process_new_packets().map_err(io::Error::other)?;
        io::Result::Ok(count > 0)
    };
    while matches!(step(), Ok(true)) {}
}

#[test]
fn peers_that_break_the_rules_of_a_handshake_get_nowhere_and_nobody_notices() {
    let mut secure = Secure::new();
    let (neighbour, mut client) = secure.with_client();
    let known = key();
    let join = secure.token("pump-3", |_| {});
    secure.device(&known, Some(join)).close().expect("in this process");
    let honest = || Shown::honest(&known);
    let several = Shown { keys: [honest().keys, Shown::honest(&key()).keys].concat(), ..honest() };
    let habit = |shown| Habit::of(shown);
    for (what, habit) in [
        ("a signature by another key", habit(Shown { sign: Sign::with(&key()), ..honest() })),
        ("no signature", habit(Shown { sign: Sign::Bytes(Vec::new()), ..honest() })),
        ("a key of small order", habit(identity())),
        ("another kind of key", habit(Shown { keys: vec![ecdsa()], ..honest() })),
        ("several keys", habit(several)),
        ("no key", Habit { shown: None, ..habit(honest()) }),
        ("a certificate", Habit { raw: false, ..habit(honest()) }),
        ("no protocol", Habit { alpn: Vec::new(), ..habit(honest()) }),
        ("another protocol", Habit { alpn: vec![b"h2".to_vec()], ..habit(honest()) }),
    ] {
        let tcp = connect_from(2, secure.port());
        let peer = thread::spawn(move || meet(habit.client(), tcp));
        secure
            .bench
            .run_until(&format!("{what} is refused"), |server| peer.is_finished() && server.sessions.len() == 1);
        assert_eq!((secure.handshakes(), secure.bench.server.served), (0, 1), "{what}");
        assert!(secure.registry.knocks().is_empty(), "{what}: nobody has proved a key");
    }
    assert_eq!(secure.echo(&mut client, b"after"), b"after");
    assert_eq!(neighbour.status().expect("a status").reconnects, 0);
}

#[test]
fn a_device_that_claims_the_name_of_another_is_known_by_its_key_alone() {
    let mut secure = Secure::new();
    let (neighbour, mut client) = secure.with_client();
    let (known, join) = (key(), secure.token("pump-3", |_| {}));
    secure.device(&known, Some(join)).close().expect("in this process");
    let claims = Identity { name: Some(name("neighbour")), ..secure.identity(&known, None) };
    let handle = secure.start_as(claims);
    secure.await_state(&handle, State::Listening);
    let announced = handle.announcement().expect("in this process").expect("admitted");
    assert_eq!(announced.name, Some(name("pump-3")));
    assert_eq!(secure.echo(&mut client, b"after"), b"after");
    assert_eq!(neighbour.status().expect("a status").reconnects, 0);
}

#[test]
fn neither_a_token_for_a_user_nor_a_revoked_key_with_a_good_token_lets_a_device_in() {
    let mut secure = Secure::new();
    let user = secure.token("pump-3", |token| token.subject = TokenSubject::User("alice".parse().expect("a name")));
    let handle = secure.start(&key(), Some(user));
    let (text, code) = secure.error_of(&handle);
    assert!(code == "token" && text.contains("the token is unknown, expired or used"), "{code}: {text}");

    let (revoked, join) = (key(), secure.token("pump-3", |_| {}));
    secure.device(&revoked, Some(join)).close().expect("in this process");
    ask(|answer| secure.registry.revoke(PrincipalName::Device(name("pump-3")), 0, answer));
    let good = secure.token("pump-4", |_| {});
    let handle = secure.start(&revoked, Some(good));
    let (text, code) = secure.error_of(&handle);
    assert!(code == "revoked" && text.contains("this key is revoked"), "{code}: {text}");
    let open = ask(|answer| secure.registry.open_tokens(0, answer));
    assert_eq!(open.len(), 2, "neither token was used");
}

#[test]
fn handshakes_that_stop_half_way_make_others_of_their_source_wait_and_refuse_nobody() {
    let mut secure = Secure::new();
    let join = secure.token("pump-3", |_| {});
    let mut stopped: Vec<_> = (0..MOST_OF_SOURCE + 20).map(|_| connect_from(2, secure.port())).collect();
    for tcp in &mut stopped {
        tcp.write_all(b"\x16\x03\x01\x01\x00\x01").expect("sent");
    }
    let all = stopped.len();
    secure.bench.run_until("they are here", |server| {
        server.secured.as_ref().is_some_and(|secured| secured.handshakes.len() == all)
    });
    assert_eq!(secure.bench.server.sessions.len(), MOST_OF_SOURCE);
    // Another source is not touched.
    let _device = secure.device(&key(), Some(join));
    // One of the same source waits for its turn, and has it.
    let known = key();
    let other = secure.token("pump-4", |_| {});
    secure.device(&known, Some(other)).close().expect("in this process");
    let waiting = device_that(&secure, 2, &known, greet);
    secure.bench.run_until("it waits", |server| {
        server.secured.as_ref().is_some_and(|secured| secured.handshakes.len() == all + 1)
    });
    drop(stopped);
    secure.bench.run_until("it is admitted", |_| waiting.is_finished());
    waiting.join().expect("it was greeted");
    secure.bench.run_until("all are over", |server| {
        server.secured.as_ref().is_some_and(|secured| secured.handshakes.len() == 0)
    });
}

#[test]
fn a_handshake_without_its_first_message_has_10_s_and_one_without_settings_20() {
    let mut secure = Secure::new();
    let mut slow = connect_from(2, secure.port());
    slow.write_all(b"\x16").expect("sent");
    let begun = device_that(&secure, 2, &key(), |tls, tcp| {
        tls.complete_io(tcp).expect("a handshake");
        // The relay ends it.
        let _ = tcp.read_to_end(&mut Vec::new());
    });
    secure.bench.run_until("both are here, and one is established", |server| {
        server.sessions.iter().filter(|(_, peer)| peer.session.peer_key().is_some()).count() == 1
            && server.sessions.len() == 2
    });
    let now = Instant::now();
    for (after, left) in [(9, 2), (11, 1)] {
        // A byte now and then gives it no more time.
        slow.write_all(b"\x03").expect("sent");
        secure.bench.server.wait(Some(Instant::now() + 10 * MS)).expect("wait");
        secure.bench.server.step(&mut secure.bench.buffer);
        let now = now + Duration::from_secs(after);
        for number in secure.bench.server.sessions.numbers() {
            secure.bench.server.handle_proof_timeout(now, number);
            secure.bench.server.forget_if_over(now, number);
        }
        assert_eq!((secure.bench.server.sessions.len(), secure.handshakes()), (left, left), "after {after} s");
    }
    let number = secure.bench.server.sessions.numbers()[0];
    let due = secure.bench.server.sessions.get(number).and_then(|peer| peer.session.poll_timeout());
    assert!(due.is_some_and(|due| due <= now + Duration::from_secs(20)));
    secure.bench.server.cut(now, number, Code::Timeout, "");
    secure.bench.run_until("it is over", |_| begun.is_finished());
    assert_eq!(secure.handshakes(), 0);
    drop(slow);
}

#[test]
fn where_more_are_in_their_handshakes_than_could_be_links_the_source_that_has_the_most_loses_one() {
    let mut secure = Secure::new();
    secure.bench.server.descriptors.devices = 4;
    secure.bench.server.descriptors.pending = 4;
    let _stopped: Vec<_> = (0..20).map(|_| connect_from(2, secure.port())).collect();
    let join = secure.token("pump-3", |_| {});
    let _device = secure.device(&key(), Some(join));
    assert!(secure.handshakes() <= 4);
}

#[test]
fn bytes_that_come_one_at_a_time_are_a_handshake_too() {
    /// Gives away one byte at a time.
    struct Slow<'a>(&'a mut TcpStream);
    impl Write for Slow<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.set_nodelay(true)?;
            self.0.write(&bytes[..bytes.len().min(1)])
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.read(&mut buffer[..1])
        }
    }
    let mut secure = Secure::new();
    let (known, join) = (key(), secure.token("pump-3", |_| {}));
    secure.device(&known, Some(join)).close().expect("in this process");
    let slow = device_that(&secure, 2, &known, |tls, tcp| {
        let mut tcp = Slow(tcp);
        let mut stream = Stream::new(tls, &mut tcp);
        stream.write_all(&Settings::default().frame()).expect("sent");
        stream.read_exact(&mut [0; 8]).expect("SETTINGS");
    });
    secure.bench.run_until("it is admitted", |_| slow.is_finished());
    slow.join().expect("it was greeted");
}

#[test]
fn a_flood_of_key_updates_ends_its_link_and_costs_another_device_nothing() {
    let mut secure = Secure::new();
    let (_neighbour, mut client) = secure.with_client();
    let (known, join) = (key(), secure.token("pump-3", |_| {}));
    secure.device(&known, Some(join)).close().expect("in this process");
    let flood = device_that(&secure, 2, &known, |tls, tcp| {
        greet(tls, tcp);
        // A row of them ends the connection by itself. So they stand between the bytes of a frame that is long.
        let mut bytes = [0xff, 0xff, 0x70, 0, 0, 0, 0, 0].into_iter().chain(std::iter::repeat(0));
        let mut update = || {
            tls.writer().write_all(&[bytes.next().expect("it has no end")])?;
            for _ in 0..25 {
                tls.refresh_traffic_keys().map_err(io::Error::other)?;
                tls.write_tls(tcp)?;
            }
            io::Result::Ok(())
        };
        while update().is_ok() {}
    });
    secure.assert_ends_beside_an_echo(&flood, &mut client);
    flood.join().expect("its link was ended");
}

#[test]
fn a_flood_of_records_that_cannot_be_opened_or_carry_nothing_ends_its_link() {
    let mut secure = Secure::new();
    let (_neighbour, mut client) = secure.with_client();
    let (known, join) = (key(), secure.token("pump-3", |_| {}));
    secure.device(&known, Some(join)).close().expect("in this process");
    let flood = device_that(&secure, 2, &known, |tls, tcp| {
        greet(tls, tcp);
        let record = [&[23, 3, 3, 0, RECORD_OVERHEAD as u8 - 5][..], &[0; RECORD_OVERHEAD - 5]].concat();
        while tcp.write_all(&record).is_ok() {}
    });
    secure.assert_ends_beside_an_echo(&flood, &mut client);
    flood.join().expect("its link was ended");
}

#[test]
fn a_link_that_ends_without_a_word_of_tls_is_lost_and_leaves_its_device() {
    let mut secure = Secure::new();
    let (known, join) = (key(), secure.token("pump-3", |_| {}));
    secure.device(&known, Some(join)).close().expect("in this process");
    let ended = device_that(&secure, 2, &known, |tls, tcp| {
        greet(tls, tcp);
        tcp.shutdown(std::net::Shutdown::Write).expect("FIN");
        let _ = tcp.read_to_end(&mut Vec::new());
    });
    secure.bench.run_until("it is over", |_| ended.is_finished());
    secure.bench.run_until("its device has no link", |server| server.served == 0 && server.sessions.is_empty());
    assert!(secure.bench.server.names.is_empty(), "nor is it kept, without a port");
}

#[test]
fn a_link_that_leaves_before_it_is_admitted_takes_the_place_of_none() {
    let mut secure = Secure::new();
    let (port, key) = (secure.port_of("pump-3"), key());
    let join = secure.token("pump-3", |_| {});
    let _device = secure.device(&key, Some(join));
    let mut client = TcpStream::connect(port).expect("connect");
    assert_eq!(secure.echo(&mut client, b"before"), b"before");
    let clone = device_that(&secure, 2, &key, |tls, tcp| {
        let away = GoAway { code: Code::Shutdown, retry_after: 0, last_stream: 0, reason: String::new() };
        let mut stream = Stream::new(tls, tcp);
        stream.write_all(&[Settings::default().frame(), away.frame()].concat()).expect("sent");
        // However the relay ends it.
        let _ = stream.read_to_end(&mut Vec::new());
    });
    secure.assert_ends_beside_an_echo(&clone, &mut client);
    clone.join().expect("no panic");
    assert_eq!(secure.echo(&mut client, b"after"), b"after");
    assert_eq!(secure.handshakes(), 0);
}
