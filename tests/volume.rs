//! Much at once, and much in a row: nothing is lost, and nothing stays behind.

#![cfg(feature = "relay")]
#![allow(clippy::print_stdout, reason = "the figures are shown with --nocapture")]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use common::device::Device;
use common::pairing::Pairing;
use common::relay::Relay;
use common::service::Service;
use common::usage::Usage;
use common::{DEADLINE, Peer, eventually};

/// Held by each test here: they count what this process holds, so no other may run in it meanwhile.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The byte at `offset` of what client `client` sends: neither repeats within 64 KiB nor equals another client's.
fn byte(client: usize, offset: usize) -> u8 {
    let mixed = (offset as u64 ^ (client as u64) << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 56) as u8
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, DEADLINE).expect("a client port");
    stream.set_read_timeout(Some(DEADLINE * 4)).expect("a timeout");
    stream.set_write_timeout(Some(DEADLINE * 4)).expect("a timeout");
    stream.set_nodelay(true).expect("no delay");
    stream
}

/// Sends `total` bytes to an echo, reads them back meanwhile, and checks each.
fn move_and_check(address: SocketAddr, client: usize, total: usize) {
    let mut reader = connect(address);
    let mut writer = reader.try_clone().expect("a second handle");
    let sender = thread::spawn(move || {
        let mut chunk = vec![0; 64 * 1024];
        for start in (0..total).step_by(chunk.len()) {
            let length = chunk.len().min(total - start);
            chunk[..length].iter_mut().enumerate().for_each(|(i, b)| *b = byte(client, start + i));
            writer.write_all(&chunk[..length]).expect("the tunnel takes bytes");
        }
        writer.shutdown(Shutdown::Write).expect("half-close");
    });
    let mut chunk = vec![0; 64 * 1024];
    let mut offset = 0;
    loop {
        let count = match reader.read(&mut chunk) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            count => count.expect("no reset"),
        };
        if count == 0 {
            break;
        }
        let wrong = chunk[..count].iter().enumerate().find(|&(i, &b)| b != byte(client, offset + i));
        assert_eq!(wrong, None, "client {client} after {offset} bytes");
        offset += count;
    }
    sender.join().expect("the sender");
    assert_eq!(offset, total, "client {client}: every byte came back before the end");
}

#[test]
fn two_hundred_clients_at_once_move_a_gibibyte_with_every_byte_checked() {
    const CLIENTS: usize = 200;
    const EACH: usize = (1 << 30) / CLIENTS / 2 + 1;
    let _alone = alone();
    let service = Service::echo();
    let relay = Relay::start(&[&service.address().to_string()]);
    let mut device = Device::start(relay.device_addr());
    device.wait_for(tcpremote::device::EventKind::Listening);
    let address = relay.client_addrs()[0];
    let start = Instant::now();
    let clients: Vec<_> =
        (0..CLIENTS).map(|client| thread::spawn(move || move_and_check(address, client, EACH))).collect();
    for client in clients {
        client.join().expect("a client");
    }
    device.wait_until_idle(DEADLINE);
    let all = (CLIENTS * EACH) as u64;
    device.wait_until_status(|status| (status.bytes_received, status.bytes_sent), (all, all));
    let mib = (2 * CLIENTS * EACH) >> 20;
    println!("{CLIENTS} clients moved {mib} MiB in {:.1} s, every byte checked", start.elapsed().as_secs_f64());
}

#[test]
fn ten_thousand_short_connections_leave_no_descriptor_no_number_and_no_memory_behind() {
    let _alone = alone();
    let service = Service::echo();
    let relay = Relay::start_with(&["--log", "info"], &[&service.address().to_string()]);
    let mut device = Device::start(relay.device_addr());
    device.wait_for(tcpremote::device::EventKind::Listening);
    let address = relay.client_addrs()[0];
    let run = |count: usize| {
        for _ in 0..count {
            let mut client = connect(address);
            client.write_all(b"x").expect("the tunnel takes a byte");
            client.read_exact(&mut [0]).expect("the byte comes back");
        }
        while device.handle.next_event().expect("same process").is_some() {}
        device.wait_until_idle(DEADLINE);
    };
    // What is allocated once, is allocated by the first thousand.
    run(1000);
    let ours = std::process::id();
    let before = (Usage::of(relay.process()), Usage::of(ours));
    let start = Instant::now();
    run(10_000);
    let rate = 10_000.0 / start.elapsed().as_secs_f64();
    eventually("the sockets are closed", DEADLINE, || {
        Usage::of(relay.process()).descriptors <= before.0.descriptors
            && Usage::of(ours).descriptors <= before.1.descriptors
    });
    let after = (Usage::of(relay.process()), Usage::of(ours));
    println!("10000 connections in a row, {rate:.0} a second");
    println!("relay:                       before {:?}, after {:?}", before.0, after.0);
    println!("device, service and clients: before {:?}, after {:?}", before.1, after.1);
    assert!(after.0.kib <= before.0.kib + 512, "the relay grew by {} KiB", after.0.kib - before.0.kib);
    assert!(after.1.kib <= before.1.kib + 4096, "the device's process grew by {} KiB", after.1.kib - before.1.kib);
    // All 256 numbers can be had at once.
    let clients: Vec<_> = (0..256).map(|_| connect(address)).collect();
    for mut client in &clients {
        client.write_all(b"x").expect("the tunnel takes a byte");
        client.read_exact(&mut [0]).expect("the byte comes back");
    }
}

in_every_pairing![four_endless_services_get_fair_shares_and_memory_stays_bounded];

fn four_endless_services_get_fair_shares_and_memory_stays_bounded(pairing: Pairing) {
    /// What the client with the smallest share gets.
    const SHARE: usize = 16 << 20;
    let _alone = alone();
    let endless = Service::start(|mut peer| while peer.try_send(&[b'x'; 64 * 1024]).is_ok() {});
    let (relay, _device, clients) = pairing.start(&[endless.address()]);
    let memory = || Usage::of(relay.process()).kib + Usage::of(std::process::id()).kib;
    let before = memory();
    let shares = [(); 4].map(|()| AtomicUsize::new(0));
    thread::scope(|scope| {
        for share in &shares {
            let (mut client, shares) = (Peer::connect(clients[0]), &shares);
            // In version 1 a client that does not read holds up the others, so none waits for another.
            scope.spawn(move || {
                while shares.iter().any(|share| share.load(Relaxed) < SHARE) {
                    match client.try_read(DEADLINE) {
                        Ok(bytes) if !bytes.is_empty() => share.fetch_add(bytes.len(), Relaxed),
                        // It delays no other client, and is counted below.
                        _ => return share.store(usize::MAX, Relaxed),
                    };
                }
            });
        }
    });
    let grown = memory().saturating_sub(before);
    let most = shares.iter().map(|share| share.load(Relaxed)).max().expect("four");
    // How often each thread here runs is for the system to choose, so the shares differ; one that got nothing while the
    // others did would differ by far more.
    assert!(most < 10 * SHARE, "shares of {shares:?} bytes");
    assert!(grown < 16 << 10, "memory grew by {grown} KiB");
}
