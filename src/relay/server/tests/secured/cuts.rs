//! Connections that are cut at each byte, and a first message that is split at each.

use rustls::ClientConnection;
use rustls::pki_types::ServerName;

use super::*;
use crate::protocol::v2::{self, Flags, Settings};
use crate::tls::Opener;

/// A device of rustls' own, which the test drives.
struct Client {
    tls: ClientConnection,
    tcp: TcpStream,
}

impl Client {
    fn new(secure: &Secure, key: &Arc<Key>) -> Self {
        let opener = Opener::new(key, secure.pins()).expect("a configuration");
        let name = ServerName::try_from("relay.example.com").expect("a name");
        let tls = ClientConnection::new(opener.config(), name).expect("a connection");
        let tcp = TcpStream::connect(secure.port()).expect("connect");
        tcp.set_nodelay(true).expect("option");
        tcp.set_nonblocking(true).expect("mode");
        Self { tls, tcp }
    }

    /// Everything that it has to send.
    fn unsent(&mut self) -> Vec<u8> {
        let mut unsent = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut unsent).expect("a vector takes all");
        }
        unsent
    }

    /// As much as a socket takes that has nothing to send yet.
    fn send(&mut self, bytes: &[u8]) {
        self.tcp.write_all(bytes).expect("sent");
    }

    /// Takes what is there; false at the end.
    fn read(&mut self) -> bool {
        match self.tls.read_tls(&mut self.tcp) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
        }
        self.tls.process_new_packets().is_ok()
    }

    /// The relay's part of the handshake is here.
    fn await_answer(&mut self, secure: &mut Secure) {
        secure.bench.run_until("the relay answers", |_| {
            assert!(self.read(), "it is ended");
            !self.tls.is_handshaking()
        });
    }

    fn say(&mut self, plaintext: &[u8]) {
        self.tls.writer().write_all(plaintext).expect("a vector takes all");
    }
}

impl Secure {
    /// So many turns, in which a connection is accepted and what it has sent is read.
    fn turn(&mut self) {
        let mut turns = 0..4;
        self.bench.run_until("some turns", |_| turns.next().is_none());
    }

    /// Nothing is there but one device.
    fn await_rest(&mut self, what: &str) {
        self.bench.run_until(what, |server| server.sessions.len() == 1 && server.served == 1);
        let handshakes = self.bench.server.secured.as_ref().map(|secured| secured.handshakes.len());
        assert_eq!(handshakes, Some(0), "{what}");
    }
}

#[test]
fn a_connection_that_ends_at_any_byte_leaves_nothing_and_touches_no_other() {
    let mut secure = Secure::new();
    let (neighbour, mut client) = secure.with_client();
    let (known, join) = (key(), secure.token("pump-3", |_| {}));
    secure.device(&known, Some(join)).close().expect("in this process");
    let length = Client::new(&secure, &known).unsent().len();
    for cut in 0..length {
        let mut device = Client::new(&secure, &known);
        let hello = device.unsent();
        device.send(&hello[..cut]);
        device.tcp.shutdown(std::net::Shutdown::Write).expect("FIN");
        secure.bench.run_until("it is ended", |_| !device.read());
        secure.await_rest(&format!("nothing is left of a ClientHello of {cut} bytes"));
    }
    let mut cut = 0;
    loop {
        let mut device = Client::new(&secure, &known);
        let hello = device.unsent();
        device.send(&hello);
        device.await_answer(&mut secure);
        device.say(&Settings::default().frame());
        let mut rest = device.unsent();
        device.say(&v2::ping([7; 8], Flags::NONE));
        device.tls.send_close_notify();
        rest.extend(device.unsent());
        device.send(&rest[..cut.min(rest.len())]);
        device.tcp.shutdown(std::net::Shutdown::Write).expect("FIN");
        secure.bench.run_until("it is ended", |_| !device.read());
        secure.await_rest(&format!("nothing is left of {cut} of {} bytes", rest.len()));
        if cut >= rest.len() {
            break;
        }
        cut += 1;
    }
    assert_eq!(secure.echo(&mut client, b"after"), b"after");
    assert_eq!(neighbour.status().expect("a status").reconnects, 0);
}

#[test]
fn a_first_message_that_is_split_at_any_byte_is_one_all_the_same() {
    let mut secure = Secure::new();
    let (known, join) = (key(), secure.token("pump-3", |_| {}));
    secure.device(&known, Some(join)).close().expect("in this process");
    let length = Client::new(&secure, &known).unsent().len();
    for cut in 1..length {
        let mut device = Client::new(&secure, &known);
        let hello = device.unsent();
        device.send(&hello[..cut]);
        secure.turn();
        assert!(device.read() && device.tls.is_handshaking(), "nothing comes before all of it is there");
        device.send(&hello[cut..]);
        device.await_answer(&mut secure);
        device.say(&Settings::default().frame());
        let settings = device.unsent();
        device.send(&settings);
        secure.bench.run_until(&format!("it is admitted, split at {cut}"), |server| {
            server.served == 1 && server.secured.as_ref().is_some_and(|secured| secured.handshakes.len() == 0)
        });
        drop(device);
        secure.bench.run_until("it is gone", |server| server.sessions.is_empty());
    }
}
