//! As many clients as a link has, which read slowly in every way, beside one that types.

use std::thread;
use std::time::{Duration, Instant};

use crate::common::service::Service;
use crate::common::usage::Usage;
use crate::common::{DEADLINE, End, Peer, pattern};
use crate::line::Shape;
use crate::{SHAPE, Tunnel, keys, on_a_line, say};

/// 2 Mbit/s, so that the bytes of all are there in 40 s.
const FASTER: Shape = Shape { rate: 250_000, ..SHAPE };
/// With those of one that types, as many as are left for other ports.
const CLIENTS: usize = 224;
/// More than a window, and less than a window and what a kernel takes for who does not read.
const SIZE: usize = 40_000;
const WINDOW: Duration = Duration::from_secs(15);
/// Behind one frame of each of the others, an echo may be; the queue alone would be 2 s.
const P50_AT_MOST: Duration = Duration::from_millis(600);
const GROWTH_AT_MOST: usize = 24 * 1024;

/// How a client reads until it is to finish.
#[derive(Clone, Copy)]
enum Reading {
    /// A byte a second.
    Drops,
    Nothing,
    /// Some, then nothing for a while.
    Bursts,
}

/// Reads so until `end`, then everything, and checks it.
fn read(mut client: Peer, reading: Reading, end: Instant, bytes: &[u8]) {
    let mut read = 0;
    while Instant::now() < end {
        let (count, pause) = match reading {
            Reading::Drops => (1, 1000),
            Reading::Nothing => (0, 1000),
            Reading::Bursts => (4000, 3000),
        };
        // A stream that has its share of the line only may be slower than its reader.
        let count = count.min(bytes.len() - read);
        client.expect_within(&bytes[read..read + count], DEADLINE * 4);
        read += count;
        thread::sleep(Duration::from_millis(pause).min(end.saturating_duration_since(Instant::now())));
    }
    client.expect_within(&bytes[read..], DEADLINE * 4);
    client.expect_end(End::Finished);
}

#[test]
fn a_key_comes_back_beside_all_the_clients_of_a_link_that_read_slowly_and_each_gets_all_of_its_bytes() {
    on_a_line(FASTER, |line| {
        let bytes = pattern(SIZE, 1);
        let tunnel = Tunnel::open(line, vec![Service::echo(), Service::source(bytes.clone())]);
        let keys = tunnel.keys();
        let before = Usage::of(tunnel.relay.process()).kib;
        thread::scope(|scope| {
            let end = Instant::now() + WINDOW * 2;
            for client in 0..CLIENTS {
                let (mut peer, bytes) = (tunnel.connect(1), &bytes);
                // The service closes, so that nothing is left of the stream but what the reader has not read.
                peer.finish();
                let reading = [Reading::Drops, Reading::Nothing, Reading::Bursts][client % 3];
                scope.spawn(move || read(peer, reading, end, bytes));
            }
            // Each new stream has a frame before those that have had theirs.
            thread::sleep(WINDOW / 2);
            let echoes = keys::type_for(WINDOW, &keys);
            let grown = Usage::of(tunnel.relay.process()).kib.saturating_sub(before);
            let figures = format!(
                "beside {CLIENTS} slow readers on 2 Mbit/s an echo takes {:.1?} (p50), {:.1?} (p99); the relay grew by \
                 {grown} KiB",
                echoes.at(50),
                echoes.at(99),
            );
            say(&figures);
            assert!(echoes.at(50) <= P50_AT_MOST && grown <= GROWTH_AT_MOST, "{figures}");
        });
    });
}
