//! A device makes its link anew while its clients go on.

use std::net::Shutdown;

use super::*;

/// An address where the first connection is passed on to the relay, and those after it are left without an answer.
fn gate(relay: SocketAddr) -> (SocketAddr, mpsc::Receiver<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut incoming = listener.incoming().map_while(Result::ok);
        let Some(device) = incoming.next() else { return };
        let relay = TcpStream::connect(relay).expect("connect");
        let (from, to) = (device.try_clone().expect("a copy"), relay.try_clone().expect("a copy"));
        // An end that is gone ends it.
        thread::spawn(move || io::copy(&mut &from, &mut &to));
        thread::spawn(move || io::copy(&mut &relay, &mut &device));
        incoming.map(|later| sender.send(later)).take_while(Result::is_ok).for_each(drop);
    });
    (address, receiver)
}

#[test]
fn clients_outlive_a_link_that_the_device_replaces() {
    let mut secure = Secure::new();
    let port = secure.port_of("pump-3");
    let (key, join) = (key(), secure.token("pump-3", |_| {}));
    let handle = secure.device(&key, Some(join));
    let mut clients = Vec::new();
    for round in 1..=3 {
        let mut client = TcpStream::connect(port).expect("connect");
        assert_eq!(secure.echo(&mut client, b"before"), b"before");
        clients.push(client);
        handle.reconnect().expect("it goes on");
        secure.bench.run_until("the next link", |_| handle.status().expect("a status").reconnects == round);
        for client in &mut clients {
            assert_eq!(secure.echo(client, b"after"), b"after");
        }
    }
    assert_eq!(secure.bench.server.clients(), 3);
    // The links drain, and go with their clients.
    drop(clients);
    secure.bench.run_until("one link is left", |server| server.sessions.iter().count() == 1);
}

#[test]
fn nothing_is_given_up_for_a_link_that_is_made_and_never_admitted() {
    let mut secure = Secure::new();
    let port = secure.port_of("pump-3");
    let (key, join) = (key(), secure.token("pump-3", |_| {}));
    let (gate, later) = gate(secure.port());
    let mut config = secure.config(secure.identity(&key, Some(join)));
    config.server = gate.to_string().parse().expect("an address");
    let handle = Handle::start(config).expect("a tunnel");
    secure.await_state(&handle, State::Listening);
    let mut first = TcpStream::connect(port).expect("connect");
    assert_eq!(secure.echo(&mut first, b"before"), b"before");
    handle.reconnect().expect("it goes on");
    let mut unanswered = None;
    secure.bench.run_until("the connection is made", |_| {
        unanswered = unanswered.take().or_else(|| later.try_recv().ok());
        unanswered.is_some()
    });
    // It has begun with TLS, so the device has seen that it is made.
    let mut next = unanswered.expect("a connection");
    next.read_exact(&mut [0]).expect("a ClientHello");
    let mut second = TcpStream::connect(port).expect("connect");
    for client in [&mut first, &mut second] {
        assert_eq!(secure.echo(client, b"after"), b"after");
    }
    assert_eq!(handle.status().expect("a status").state, State::Listening);
}

/// An address from which every connection is passed on to the relay; its first one from a device is handed out. When that
/// is ended, the relay hears nothing of it.
fn half_open_gate(relay: SocketAddr) -> (SocketAddr, mpsc::Receiver<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut kept = Vec::new();
        for device in listener.incoming().map_while(Result::ok) {
            let relay = TcpStream::connect(relay).expect("connect");
            let copies = || (device.try_clone().expect("a copy"), relay.try_clone().expect("a copy"));
            let (up, down) = (copies(), copies());
            // An end that is gone ends the copying, and nothing else: the relay's connection stays.
            thread::spawn(move || io::copy(&mut &up.0, &mut &up.1));
            thread::spawn(move || io::copy(&mut &down.1, &mut &down.0));
            kept.push(relay);
            // Later ones nobody asks for.
            let _ = sender.send(device);
        }
    });
    (address, receiver)
}

/// One of these devices has lost its network without the relay's knowledge, and another has made its link anew.
#[test]
fn an_older_link_drains_only_if_its_device_still_answers_on_it() {
    let mut secure = Secure::new();
    let (lost, lively) = (secure.port_of("pump-3"), secure.port_of("pump-4"));
    let (gate, links) = half_open_gate(secure.port());
    let (key_of_lost, join) = (key(), secure.token("pump-3", |_| {}));
    let mut config = secure.config(secure.identity(&key_of_lost, Some(join)));
    config.server = gate.to_string().parse().expect("an address");
    let back = Handle::start(config).expect("a tunnel");
    secure.await_state(&back, State::Listening);
    let (key, join) = (key(), secure.token("pump-4", |_| {}));
    let handle = secure.device(&key, Some(join));
    let mut dead = TcpStream::connect(lost).expect("connect");
    let mut open = TcpStream::connect(lively).expect("connect");
    for client in [&mut dead, &mut open] {
        assert_eq!(secure.echo(client, b"before"), b"before");
    }
    handle.reconnect().expect("it goes on");
    secure.bench.run_until("the next link", |_| handle.status().expect("a status").reconnects == 1);
    links.recv_timeout(DEADLINE).expect("its link").shutdown(Shutdown::Both).expect("an end");
    secure.bench.run_until("the device is back", |_| back.status().expect("a status").reconnects == 1);
    // A link with clients that is merely silent is given up after 45 s.
    let mut end = None;
    secure.bench.run_until("its old client is reset", |_| {
        end = dead.read(&mut [0]).err().map(|error| error.kind()).filter(|&kind| kind != io::ErrorKind::WouldBlock);
        end.is_some()
    });
    assert_eq!(end, Some(io::ErrorKind::ConnectionReset));
    assert_eq!(secure.echo(&mut open, b"after"), b"after", "its link drains on");
    let mut next = TcpStream::connect(lost).expect("connect");
    assert_eq!(secure.echo(&mut next, b"after"), b"after");
}
