//! Others that use the same line: another tunnel, or a download that is none of ours.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use portable_atomic::AtomicU64;
use socket2::SockRef;

use crate::line::{DEVICE, Line};
use crate::{SHAPE, Tunnel, keys, on_a_line, rates_while, say, share_of};

/// Until the first has given up what is not its share.
const WARM_UP: Duration = Duration::from_secs(10);
const WINDOW: Duration = Duration::from_secs(20);
/// Keys are typed for so long, again and again, until half of their echoes are back within `SHORT`: far from the two
/// seconds of a full queue.
const SPAN: Duration = Duration::from_secs(3);
const SHORT: Duration = Duration::from_millis(400);
/// What a tunnel has of the line beside it, in %. It is 21 to 59, be the link carried by CUBIC or BBR.
const LEAST: f64 = 12.0;
/// It takes 10 s at most; the machine may need more.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
#[ignore = "it takes minutes: make soak"]
fn two_tunnels_on_one_line_share_it() {
    on_a_line(SHAPE, |line| {
        let first = Tunnel::with_endless(line);
        let (its_keys, its_bytes) = (first.keys(), first.download(2));
        thread::sleep(WARM_UP);
        let second = Tunnel::with_endless(line);
        let (keys, bytes) = (second.keys(), second.download(2));
        thread::sleep(WARM_UP);
        let ([one, other], rates) = rates_while([&*its_bytes, &*bytes], || {
            thread::scope(|scope| {
                let one = scope.spawn(|| keys::type_for(WINDOW, &its_keys));
                let other = keys::type_for(WINDOW, &keys);
                [one.join().unwrap(), other]
            })
        });
        let shares = rates.map(|rate| share_of(SHAPE, rate));
        let figures = format!(
            "two tunnels have {:.1} and {:.1} % of 1 Mbit/s; their echoes take {:.1?} and {:.1?} (p50)",
            shares[0],
            shares[1],
            one.at(50),
            other.at(50)
        );
        say(&figures);
        // The echoes take 0.11 to 0.17 s on a quiet machine.
        let are_short = [&one, &other].iter().all(|echoes| echoes.at(50) <= SHORT);
        let is_shared = shares.iter().all(|&share| share >= 20.0) && shares.iter().sum::<f64>() >= 70.0;
        assert!(are_short && is_shared, "{figures}");
    });
}

/// A plain download over the line by CUBIC, whatever this machine's own congestion control is, which fills the queue.
fn download_plainly(line: &Line) -> (TcpStream, Arc<AtomicU64>) {
    let source = TcpListener::bind((DEVICE, 0)).unwrap();
    SockRef::from(&source).set_tcp_congestion(b"cubic").unwrap();
    let address = source.local_addr().unwrap();
    thread::spawn(move || {
        let mut sink = source.accept().unwrap().0;
        while sink.write_all(&[b'x'; 16 * 1024]).is_ok() {}
    });
    let stream = line.on_relay_side(|| TcpStream::connect(address).unwrap());
    let (mut reading, bytes) = (stream.try_clone().unwrap(), Arc::new(AtomicU64::new(0)));
    let counted = Arc::clone(&bytes);
    thread::spawn(move || {
        let mut buffer = [0; 16 * 1024];
        while let Ok(read @ 1..) = reading.read(&mut buffer) {
            counted.fetch_add(read as u64, Relaxed);
        }
    });
    (stream, bytes)
}

#[test]
#[ignore = "it takes minutes: make soak"]
fn a_plain_download_that_fills_the_queue_starves_no_tunnel_and_the_queue_is_short_once_it_is_over() {
    on_a_line(SHAPE, |line| {
        let tunnel = Tunnel::with_endless(line);
        let (keys, bytes) = (tunnel.keys(), tunnel.download(2));
        thread::sleep(WARM_UP);
        let (plain, plain_bytes) = download_plainly(line);
        thread::sleep(WARM_UP);
        let ((), [rate, plain_rate]) = rates_while([&*bytes, &*plain_bytes], || thread::sleep(WINDOW));
        plain.shutdown(Shutdown::Both).unwrap();
        let over = Instant::now();
        let mut after = keys::type_for(SPAN, &keys);
        while after.at(50) > SHORT && over.elapsed() < PATIENCE {
            after = keys::type_for(SPAN, &keys);
        }
        let figures = format!(
            "beside a plain download a tunnel has {:.1} % of 1 Mbit/s, and that {:.1} %; {:.1?} after its end an echo \
             takes {:.1?} (p50)",
            share_of(SHAPE, rate),
            share_of(SHAPE, plain_rate),
            over.elapsed(),
            after.at(50)
        );
        say(&figures);
        assert!(share_of(SHAPE, rate) >= LEAST && after.at(50) <= SHORT, "{figures}");
    });
}
