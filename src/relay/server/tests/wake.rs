//! What one wake costs beside devices that are idle: `make bench-wake`.

#![allow(clippy::print_stdout, reason = "its output is for a terminal")]

use mio::net::TcpStream as Link;

use super::*;
use crate::connection::Connection;
use crate::connection::relay::Settings;
use crate::io::net;
use crate::io::session::Session;

/// Devices beside the one that has an event.
const IDLE: [usize; 3] = [10, 1000, 10_000];
const WAKES: usize = 5000;
/// Connections that a listener's backlog holds, whatever the system's limit is.
const BACKLOG: usize = 100;
/// The header of a frame that no version knows, whose payload is skipped.
const UNKNOWN: &[u8] = b"\xff\xff\x7f\0\0\0\0\0";

/// Adds so many links of version 2 on which nothing happens, each of a device of its own; their other ends are in the
/// backlogs of what is given back.
fn add_idle(bench: &mut Bench, count: usize) -> Vec<Socket> {
    let server = &mut bench.server;
    let mut backlogs = Vec::new();
    for index in 0..count {
        if index % BACKLOG == 0 {
            let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
            listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("bind");
            listener.listen(BACKLOG as i32).expect("listen");
            backlogs.push(listener);
        }
        let address = backlogs.last().and_then(|listener| listener.local_addr().ok()?.as_socket()).expect("an address");
        let io = TcpStream::connect(address).expect("connect");
        io.set_nonblocking(true).expect("mode");
        let mut io = Link::from_std(io);
        let _ = net::tune_link(&io);
        let number = server.sessions.reserve();
        let token = server.io.event_loop.register(&mut io, Source::Link(number)).expect("register");
        let now = Instant::now();
        let Config { protocol, min_protocol, half_close, limits, .. } = server.config;
        let mut connection = Relay::new(now, Settings { protocol, min_protocol, half_close, limits });
        let mut greeting = GREETING;
        while connection.receive(now, &mut greeting).expect("a device").is_some() {}
        while connection.poll_output().is_some() {}
        let device = server.devices.reserve();
        server.devices.insert(device, Device::new(None, None, Table::default(), Vec::new()));
        server.add_session(now, number, Session::new(connection, number, io, token), address, device);
        server.activate(now, number);
    }
    backlogs
}

/// The time from when the event is there until the loop would wait again.
fn wake(bench: &mut Bench, device: &mut TcpStream) -> Duration {
    device.write_all(&[0]).expect("sent");
    let began = Instant::now();
    let visits = bench.server.sessions.visits;
    bench.server.wait(Some(began + DEADLINE)).expect("wait");
    while bench.server.is_busy() {
        bench.server.step(&mut bench.buffer);
        bench.server.wait(Some(Instant::now())).expect("wait");
    }
    let took = began.elapsed();
    assert!(bench.server.sessions.visits > visits, "the event was there");
    took
}

#[test]
#[ignore = "a measurement: make bench-wake"]
fn a_wake_costs_the_same_beside_however_many_idle_devices() {
    println!("{:>12}  {:>10}  {:>10}", "idle devices", "median", "9 of 10");
    for count in IDLE {
        let mut bench = Bench::new(Protocol::V2);
        bench.server.descriptors.devices = 1 + count;
        let mut device = bench.device(GREETING);
        let _backlogs = add_idle(&mut bench, count);
        device.write_all(UNKNOWN).expect("sent");
        let mut rounds = 0..20;
        bench.run_until("all is said", |_| rounds.next().is_none());
        let mut times: Vec<Duration> = (0..WAKES).map(|_| wake(&mut bench, &mut device)).collect();
        times.sort_unstable();
        assert_eq!(bench.server.served, 1 + count, "all are there");
        println!("{count:>12}  {:>10.1?}  {:>10.1?}", times[WAKES / 2], times[WAKES * 9 / 10]);
    }
}
