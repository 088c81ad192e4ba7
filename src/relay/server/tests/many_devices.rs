//! Several devices of one relay: what is done to one is nothing to the others.

mod floods;

use super::*;
use crate::relay::limits;

impl Bench {
    /// This device has sent these bytes, and its client ports are open.
    pub(super) fn device_of(&mut self, device: usize, greeting: &[u8]) -> TcpStream {
        let mut link = TcpStream::connect(self.server.device_addr_of(device)).expect("connect");
        link.write_all(greeting).expect("sent");
        self.run_until("the client ports are open", |server| server.are_client_ports_open_of(device));
        link
    }

    /// One more client of this device has come, and is on its link.
    pub(super) fn client_of(&mut self, device: usize) -> TcpStream {
        let port = self.server.client_addr_of(device, 0);
        let all = self.server.clients() + 1;
        let client = TcpStream::connect(port).expect("connect");
        self.run_until("the client is on the link", |server| server.clients() == all);
        client
    }

    pub(super) fn active_of(&self, device: usize) -> Option<usize> {
        self.server.devices.get(device)?.active
    }
}

fn with_devices(devices: usize) -> Bench {
    Bench::with_devices(devices, 1, |_| {})
}

#[test]
fn each_device_has_links_and_clients_of_its_own() {
    let mut bench = with_devices(3);
    let _links = [bench.device_of(0, GREETING), bench.device_of(1, LISTEN)];
    assert!(!bench.server.are_client_ports_open_of(2), "the third is not there");
    let _clients = [bench.client_of(0), bench.client_of(1)];
    let others = bench.active_of(1);
    let old = bench.active_of(0);
    let mut newer = TcpStream::connect(bench.server.device_addr_of(0)).expect("connect");
    newer.write_all(GREETING).expect("sent");
    bench.run_until("it has taken over", |server| server.clients() == 1);
    assert!(bench.active_of(0).is_some() && bench.active_of(0) != old);
    assert_eq!(bench.active_of(1), others);
    drop(newer);
    bench.run_until("it is gone", |server| !server.are_client_ports_open_of(0));
    assert!(bench.server.are_client_ports_open_of(1));
    assert_eq!((bench.server.clients(), bench.server.served), (1, 1));
}

#[test]
fn a_device_for_which_there_is_no_place_is_told_so_and_one_that_comes_again_has_one() {
    let mut bench = Bench::with_devices(2, 1, |config| config.min_protocol = Protocol::V2);
    bench.server.descriptors.devices = 1;
    let _first = bench.device_of(0, GREETING);
    let mut second = TcpStream::connect(bench.server.device_addr_of(1)).expect("connect");
    second.write_all(GREETING).expect("sent");
    bench.run_until("it is refused", |server| server.io.closing.len() == 1 && server.sessions.len() == 1);
    let mut read = Vec::new();
    second.set_read_timeout(Some(DEADLINE)).expect("timeout");
    second.read_to_end(&mut read).expect("FIN, not RST");
    let reason = b"the relay has no place for more devices";
    assert!(read.ends_with(reason), "{read:x?}");
    drop(second);
    let served = bench.active_of(0);
    let mut again = TcpStream::connect(bench.server.device_addr_of(0)).expect("connect");
    again.write_all(GREETING).expect("sent");
    bench.run_until("the first has a newer link", |server| server.devices.get(0).expect("a device").active != served);
}

#[test]
fn where_too_much_waits_for_all_clients_those_of_the_device_that_has_the_most_are_reset() {
    // A window that is more than the kernel takes, so that bytes wait without any CREDIT.
    let limits = Limits { window: 1 << 20, streams: 16, budget: 16 << 20, ..Limits::RELAY };
    let mut bench = Bench::with_devices(2, 1, |config| config.limits = limits);
    let most = 3 << 20;
    bench.server.most_undelivered = most;
    let mut links = [bench.device_of(0, GREETING), bench.device_of(1, GREETING)];
    let mut clients: Vec<TcpStream> =
        [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0].map(|device| bench.client_of(device)).into();
    let frames = |streams: u8| -> Vec<u8> {
        let connected = (1..=streams).flat_map(|stream| [b"\0\0\x07\0\0\0\0", &[stream][..]].concat());
        let data = |stream| [&b"\xf0\0\x03\0\0\0\0"[..], &[stream], &[b'x'; 0xf000]].concat().repeat(17);
        connected.chain((1..=streams).flat_map(data)).collect()
    };
    for (device, streams) in [(1, 1), (0, 13)] {
        let (bytes, mut written) = (frames(streams), 0);
        links[device].set_nonblocking(true).expect("mode");
        let number = bench.active_of(device).expect("a device");
        bench.run_until("all is here", |server| {
            written += links[device].write(&bytes[written..]).unwrap_or(0);
            assert!(server.totals.undelivered <= most, "{}", server.totals.undelivered);
            let Some(peer) = server.sessions.get(number) else { panic!("the link is cut") };
            let received = peer.session.connection().counters().received;
            written == bytes.len() && (device == 0 || received == 17 * 0xf000)
        });
    }
    let open = bench.server.clients();
    assert!((2..14).contains(&open), "{open} are left");
    clients[0].set_nonblocking(true).expect("mode");
    let mut some = [0; 1000];
    assert!(matches!(clients[0].read(&mut some), Ok(1..)), "that of the other device goes on");
}

#[test]
fn a_device_is_told_that_there_is_no_place_for_it_though_its_hello_comes_late() {
    let mut bench = with_devices(2);
    bench.server.descriptors.devices = 1;
    let _first = bench.device_of(0, GREETING);
    for (late, answer) in [(&GREETING[4..], &b"the relay has no place for more devices"[..]), (&[], &[])] {
        let mut second = TcpStream::connect(bench.server.device_addr_of(1)).expect("connect");
        second.write_all(LISTEN).expect("sent");
        let is_here = |peer: &Peer| peer.port_device == Some(1) && peer.session.connection().is_listening();
        bench.run_until("LISTEN is here", |server| server.sessions.iter().any(|(_, peer)| is_here(peer)));
        second.write_all(late).expect("sent");
        // However late that is, it counts.
        bench.server.wait(Some(Instant::now())).expect("wait");
        bench.run_until("it is refused", |server| server.io.closing.len() == 1 && server.sessions.len() == 1);
        assert_eq!(bench.server.io.closing.len_of(1), 1, "it takes no other device's place");
        let mut read = Vec::new();
        second.set_read_timeout(Some(DEADLINE)).expect("timeout");
        second.read_to_end(&mut read).expect("FIN, not RST");
        assert!(read.ends_with(answer) && read.is_empty() == answer.is_empty(), "{read:x?}");
        drop(second);
        bench.run_until("it is gone", |server| server.io.closing.len() == 0);
    }
}

/// Up to where a client's service may send once the client has read the first 32 KiB, of which the device says that credit
/// holds it back.
fn credit_behind_the_first_window(bench: &mut Bench) -> u64 {
    // SETTINGS: 512 streams; it acknowledges.
    let mut link = bench.device_of(0, b"\0\0\x04\0\0\0\x05\xf2\0\x0c\x06\0\0\0\0\0\0\x05\0\x04\0\0\x02\0\0\x0a\0\0");
    let mut client = bench.client_of(0);
    link.write_all(b"\0\0\x07\0\0\0\0\x01").expect("CONNECTED");
    link.write_all(&[&b"\x80\0\x03\x04\0\0\0\x01"[..], &[b'x'; 32 * 1024]].concat()).expect("DATA, LIMITED");
    client.set_nonblocking(true).expect("mode");
    link.set_nonblocking(true).expect("mode");
    let mut frames = Vec::new();
    let mut credit = None;
    bench.run_until("CREDIT", |_| {
        let _ = client.read_to_end(&mut Vec::new());
        let _ = link.read_to_end(&mut frames);
        let mut credits = frames.windows(16).filter(|frame| frame.starts_with(b"\0\x08\x08\0\0\0\0\x01"));
        credit = credits.next_back().map(|frame| u64::from_be_bytes(frame[8..].try_into().expect("8 bytes")));
        credit.is_some()
    });
    credit.expect("CREDIT")
}

#[test]
fn a_link_for_whose_windows_nothing_is_left_goes_on_with_those_of_the_start() {
    let window = 32 * 1024;
    assert_eq!(credit_behind_the_first_window(&mut with_devices(1)), window + 4 * window);
    let mut bench = with_devices(1);
    bench.server.windows = WindowPool::new(0);
    assert_eq!(credit_behind_the_first_window(&mut bench), window + window);
}

#[test]
fn a_link_that_is_over_gives_back_what_its_windows_have_taken() {
    let mut bench = with_devices(1);
    let all = bench.server.windows.left();
    credit_behind_the_first_window(&mut bench);
    bench.run_until("the link is gone", |server| server.sessions.is_empty());
    assert_eq!(bench.server.windows.left(), all);
}

#[test]
fn a_port_that_is_flooded_by_connections_without_listen_loses_its_own() {
    let mut bench = Bench::with_devices(2, 1, |config| config.min_protocol = Protocol::V2);
    let mut device = TcpStream::connect(bench.server.device_addr_of(1)).expect("connect");
    device.write_all(LISTEN).expect("sent");
    bench.run_until("LISTEN is here", |server| server.sessions.len() == 1);
    let (flooded, most) = (bench.server.device_addr_of(0), bench.server.descriptors.pending);
    let mut silent = Vec::new();
    for count in 1..=2 * most {
        silent.push(TcpStream::connect(flooded).expect("connect"));
        bench.run_until("one more", |server| server.sessions.len() == most.min(1 + count));
    }
    device.write_all(&GREETING[4..]).expect("sent");
    bench.run_until("the other device is served", |server| server.are_client_ports_open_of(1));
}

#[test]
fn links_of_one_device_that_drain_or_are_lost_cost_another_device_none() {
    let mut bench = with_devices(2);
    let mut links = Vec::new();
    for device in [1, 0] {
        for _ in 0..if device == 1 { 1 } else { MAX_DRAINING + 3 } {
            let mut link = bench.device_of(device, GREETING);
            links.push((link.try_clone().expect("a copy"), bench.client_of(device)));
            link.write_all(LEAVING_ALL).expect("sent");
            bench.run_until("it drains", |server| !server.are_client_ports_open_of(device));
        }
    }
    let drains = |bench: &Bench, device| bench.server.devices.get(device).expect("a device").totals.draining.len();
    assert_eq!((drains(&bench, 0), drains(&bench, 1)), (MAX_DRAINING, 1));
    // Nor do its clients cost them theirs, where descriptors are short.
    let _link = bench.device_of(0, GREETING);
    bench.server.descriptors.clients = 10;
    let (port, clients) = (bench.server.client_addr_of(0, 0), bench.server.connections);
    let _client = TcpStream::connect(port).expect("connect");
    bench.run_until("it is here", |server| server.connections == clients + 1);
    assert_eq!(drains(&bench, 1), 1);
    assert!(drains(&bench, 0) < MAX_DRAINING);
}

#[test]
fn of_the_links_of_all_devices_that_drain_those_of_the_device_that_has_the_most_are_cut() {
    let devices = limits::MAX_DRAINING / MAX_DRAINING + 2;
    let mut bench = with_devices(devices);
    let mut links = Vec::new();
    for device in 0..devices {
        for _ in 0..if device == 0 { 1 } else { MAX_DRAINING } {
            let mut link = bench.device_of(device, GREETING);
            link.write_all(LEAVING_ALL).expect("sent");
            bench.run_until("it drains", |server| !server.are_client_ports_open_of(device));
            links.push(link);
        }
    }
    let counts: Vec<usize> = bench.server.devices.iter().map(|(_, device)| device.totals.draining.len()).collect();
    assert_eq!(counts.iter().sum::<usize>(), limits::MAX_DRAINING, "{counts:?}");
    assert!(counts[0] == 1 && counts[1..].iter().all(|&count| count >= MAX_DRAINING - 2), "{counts:?}");
}

#[test]
fn of_too_many_links_of_all_devices_that_drain_those_without_clients_are_cut_first() {
    let devices = limits::MAX_DRAINING + 2;
    let mut bench = with_devices(devices);
    let (mut links, mut clients) = (Vec::new(), Vec::new());
    for device in 0..devices {
        let mut link = bench.device_of(device, GREETING);
        if device == 0 {
            clients.push(bench.client_of(device));
        }
        link.write_all(LEAVING_ALL).expect("sent");
        bench.run_until("it drains", |server| !server.are_client_ports_open_of(device));
        links.push(link);
    }
    let counts: Vec<usize> = bench.server.devices.iter().map(|(_, device)| device.totals.draining.len()).collect();
    assert_eq!((counts.iter().sum::<usize>(), &counts[..4]), (limits::MAX_DRAINING, &[1, 0, 0, 1][..]), "{counts:?}");
    assert_eq!((bench.server.clients(), cut(&mut clients).len()), (1, 0));
}

#[test]
fn what_lost_links_of_all_devices_hold_has_a_bound_and_the_device_that_has_the_most_is_cut() {
    // Up to 16 KiB are left for each client, and no device has too much by itself.
    let budget = 20 * 1024;
    let mut bench = Bench::with_devices(8, 1, |config| {
        (config.protocol, config.limits.budget) = (Protocol::V1, budget);
    });
    let (mut clients, mut all) = (Vec::new(), 0);
    for device in 0..8 {
        let mut link = bench.device_of(device, LISTEN);
        clients.push(bench.slow_client_of(device, &mut link));
        all += bench.connection(bench.active_of(device).expect("a device")).held();
        drop(link);
        bench.run_until("its link is gone", |server| !server.are_client_ports_open_of(device));
        bench.server.step(&mut bench.buffer);
        assert!(bench.server.totals.retired_bytes <= 4 * budget);
    }
    assert!(all > 4 * budget, "{all} bytes would fit");
    assert!((4..8).contains(&bench.server.totals.lost.len()), "no more than needed are cut");
}

#[test]
fn clients_that_wait_for_one_device_leave_room_for_those_of_another() {
    let mut bench = with_devices(2);
    bench.server.config.clients = 1;
    let _links = [bench.device_of(0, GREETING), bench.device_of(1, GREETING)];
    let _clients = [bench.client_of(0), bench.client_of(1)];
    let (flooded, port) = (bench.server.client_addr_of(0, 0), bench.server.client_addr_of(1, 0));
    let _hammer: Vec<TcpStream> =
        (0..MAX_WAITING + 20).map(|_| TcpStream::connect(flooded).expect("connect")).collect();
    bench.run_until("they wait", |server| server.connections == 2 + MAX_WAITING as u64 + 20);
    let _next = TcpStream::connect(port).expect("connect");
    bench.run_until("it waits, too", |server| server.devices.get(1).expect("a device").waiting.len() == 1);
}

#[test]
fn a_device_whose_clients_want_every_descriptor_leaves_some_for_those_of_another() {
    let mut bench = with_devices(2);
    bench.server.descriptors.clients = 20;
    let _links = [bench.device_of(0, GREETING), bench.device_of(1, GREETING)];
    let flooded = bench.server.client_addr_of(0, 0);
    let _hammer: Vec<TcpStream> = (0..40).map(|_| TcpStream::connect(flooded).expect("connect")).collect();
    bench.run_until("it has what it may", |server| server.clients() == 16);
    let _clients: Vec<TcpStream> = (0..3).map(|_| bench.client_of(1)).collect();
    assert_eq!(bench.server.clients(), 19);
}

#[test]
fn a_turn_takes_clients_of_each_device_in_turn_however_many_ports_of_another_are_flooded() {
    let mut bench = Bench::with_devices(2, 20, |_| {});
    let _links = [bench.device_of(0, GREETING), bench.device_of(1, GREETING)];
    let mut hammer = Vec::new();
    for port in 0..20 {
        let port = bench.server.client_addr_of(0, port);
        hammer.extend((0..20).map(|_| TcpStream::connect(port).expect("connect")));
    }
    let _client = TcpStream::connect(bench.server.client_addr_of(1, 3)).expect("connect");
    let client_is_there = |server: &Server| server.devices.get(1).expect("a device").totals.clients == 1;
    bench.server.wait(Some(Instant::now() + DEADLINE)).expect("wait");
    let mut turns = 0;
    while !client_is_there(&bench.server) {
        let before = bench.server.connections;
        bench.server.step(&mut bench.buffer);
        let taken = bench.server.connections - before;
        assert!(taken < limits::ACCEPTS_A_TURN + limits::ACCEPTS as u64, "{taken} in one turn");
        bench.server.wait(Some(Instant::now() + MS)).expect("wait");
        turns += 1;
    }
    assert!(turns <= 3, "{turns} turns");
}

#[test]
fn a_wake_visits_no_device_that_is_idle() {
    let mut bench = with_devices(40);
    let mut links: Vec<TcpStream> = (0..40).map(|device| bench.device_of(device, GREETING)).collect();
    let visits = |server: &Server| (server.sessions.visits, server.devices.visits);
    let rest = |bench: &mut Bench| {
        let mut last = None;
        bench.run_until("it has nothing to do", |server| last.replace(visits(server)) == Some(visits(server)));
        last.expect("visits")
    };
    let (sessions, devices) = rest(&mut bench);
    links[7].write_all(b"\0\x08\x09\0\0\0\0\0\0\0\0\0\0\0\0\x01").expect("PING");
    bench.run_until("it is here", |server| server.sessions.visits > sessions);
    let (after_ping, of_devices) = rest(&mut bench);
    assert!((1..=3).contains(&(after_ping - sessions)) && of_devices == devices, "{} visits", after_ping - sessions);
    let _client = bench.client_of(9);
    let (after_client, of_devices) = rest(&mut bench);
    assert!((1..=6).contains(&(of_devices - devices)), "{} visits of devices", of_devices - devices);
    assert!((1..=6).contains(&(after_client - after_ping)), "{} visits", after_client - after_ping);
}

#[test]
fn a_relay_that_ends_drains_every_device() {
    let mut bench = Bench::with_devices(20, 1, |config| config.drain = Duration::ZERO);
    let mut links: Vec<TcpStream> = (0..20).map(|device| bench.device_of(device, GREETING)).collect();
    bench.client_of(3);
    let outcome = bench.server.finish(&mut bench.buffer).expect("its end");
    assert!(outcome.clients_cut <= 1);
    for link in &mut links {
        link.set_read_timeout(Some(DEADLINE)).expect("timeout");
        let mut read = Vec::new();
        link.read_to_end(&mut read).expect("FIN, not RST");
        assert!(String::from_utf8_lossy(&read).contains("the relay is about to end"), "{read:x?}");
    }
}
