//! What is bounded by the descriptors that the relay may have.

use super::*;

#[test]
fn of_too_many_connections_that_are_no_link_yet_the_oldest_is_dropped_and_not_the_one_whose_hello_is_on_its_way() {
    let mut bench = Bench::with(1, |config| config.min_protocol = Protocol::V2);
    let address = bench.server.device_addr();
    let mut silent = Vec::new();
    for _ in 1..bench.server.descriptors.pending {
        silent.push(TcpStream::connect(address).expect("connect"));
        let count = silent.len();
        bench.run_until("one more", |server| server.sessions.len() == count);
    }
    let mut device = TcpStream::connect(address).expect("connect");
    device.write_all(LISTEN).expect("sent");
    bench.run_until("LISTEN is here", |server| {
        server.sessions.iter().any(|(_, peer)| peer.session.connection().has_input())
    });
    silent.push(TcpStream::connect(address).expect("connect"));
    let (first, all) = (silent[0].local_addr().expect("address"), silent.len());
    bench.run_until("the oldest is dropped", |server| {
        let mut peers = server.sessions.iter().map(|(_, peer)| peer);
        peers.clone().count() == all && peers.all(|peer| peer.address != first)
    });
    device.write_all(&GREETING[4..]).expect("sent");
    bench.run_until("the device is served", |server| server.are_client_ports_open());
}

#[test]
fn clients_that_come_all_at_once_have_no_more_descriptors_than_there_are() {
    let mut bench = Bench::new(Protocol::V2);
    let mut old = bench.device(GREETING);
    let _cut = bench.clients(0, 3);
    old.write_all(LEAVING_ALL).expect("sent");
    bench.run_until("it drains", |server| server.active().is_none() && !server.are_client_ports_open());
    let _device = bench.device(GREETING);
    bench.server.descriptors.clients = 5;
    let port = bench.server.client_addr(0);
    let _clients: Vec<TcpStream> = (0..4).map(|_| TcpStream::connect(port).expect("connect")).collect();
    bench.run_until("they are served", |server| {
        let streams: usize = server.sessions.iter().map(|(_, peer)| peer.session.connection().streams()).sum();
        assert!(streams <= 5, "{streams} streams");
        server.connections == 3 + 4
    });
    assert_eq!(bench.server.clients(), 4, "the link that drains has made room");
}

#[test]
fn the_client_that_has_the_last_descriptor_costs_no_link_that_drains_its_clients() {
    let mut bench = Bench::new(Protocol::V2);
    let mut old = bench.device(GREETING);
    let mut draining = bench.clients(0, 1);
    old.write_all(LEAVING_ALL).expect("sent");
    bench.run_until("it drains", |server| server.active().is_none() && !server.are_client_ports_open());
    let _device = bench.device(GREETING);
    bench.server.descriptors.clients = 2;
    let _last = bench.clients(0, 1);
    assert!(bench.server.clients() == 2 && cut(&mut draining).is_empty());
    assert_eq!(bench.server.shortage.poll_timeout(), None, "no client waits for one");
}

#[test]
fn a_descriptor_that_has_just_become_free_is_for_the_next_client_and_no_link_is_cut_for_it() {
    let mut bench = Bench::new(Protocol::V2);
    let mut old = bench.device(GREETING);
    let mut draining = bench.clients(0, 1);
    old.write_all(LEAVING_ALL).expect("sent");
    bench.run_until("it drains", |server| server.active().is_none() && !server.are_client_ports_open());
    let mut device = bench.device(GREETING);
    let mut clients = bench.clients(0, 1);
    bench.server.descriptors.clients = 2;
    // Its socket's event is enough to end it, once its FIN was read.
    let leaves = clients.remove(0);
    leaves.shutdown(std::net::Shutdown::Write).expect("FIN");
    device.set_nonblocking(true).expect("mode");
    let mut frames = Vec::new();
    bench.run_until("its FIN is on the link", |_| {
        let _ = device.read_to_end(&mut frames);
        frames.ends_with(b"\0\0\x03\x01\0\0\0\x01")
    });
    SockRef::from(&leaves).set_linger(Some(Duration::ZERO)).expect("RST");
    drop(leaves);
    let _next = TcpStream::connect(bench.server.client_addr(0)).expect("connect");
    bench.run_until("the next client is here", |server| server.connections == 3);
    bench.run_until("the one that left is forgotten", |server| server.totals.streams <= 2);
    assert_eq!(cut(&mut draining), [0; 0], "the link that drains keeps its client");
}
