//! A process that is stopped, or asked to end, while the line is full both ways.

use std::thread;
use std::time::Duration;

use crate::common::service::Service;
use crate::common::{DEADLINE, End, pattern};
use crate::line::{Line, Shape};
use crate::{SHAPE, Tunnel, on_a_line};

/// 4 Mbit/s: the bytes of one test need 3 s or so each way.
const FASTER: Shape = Shape { rate: 500_000, ..SHAPE };
const CLIENTS: usize = 3;
const SIZE: usize = 400_000;

/// Clients of each direction transfer all their bytes while something is done to the tunnel.
fn transfer_while(line: &Line, interrupt: impl FnOnce(&Tunnel<'_>)) {
    let bytes = pattern(SIZE, 1);
    let tunnel = Tunnel::open(line, vec![Service::source(bytes.clone()), Service::count()]);
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            let (mut download, mut upload) = (tunnel.connect(0), tunnel.connect(1));
            let (bytes, sent) = (&bytes, &bytes);
            scope.spawn(move || {
                let (read, end) = download.read_to_end();
                assert!(read == *bytes && end == End::Finished, "{} of {SIZE} bytes, and {end:?}", read.len());
            });
            scope.spawn(move || {
                upload.try_send_within(sent, DEADLINE).unwrap();
                upload.finish();
                assert_eq!(upload.read_to_end(), (format!("{SIZE} bytes\n").into_bytes(), End::Finished));
            });
        }
        // They are in their midst: the line needs longer for them.
        thread::sleep(Duration::from_secs(1));
        interrupt(&tunnel);
    });
}

#[test]
fn transfers_go_on_when_the_relay_was_stopped_in_their_midst() {
    on_a_line(FASTER, |line| {
        transfer_while(line, |tunnel| {
            tunnel.relay.signal("STOP");
            thread::sleep(Duration::from_secs(5));
            tunnel.relay.signal("CONT");
        });
    });
}

#[test]
fn a_relay_that_drains_lets_transfers_over_a_slow_line_finish() {
    on_a_line(FASTER, |line| transfer_while(line, |tunnel| tunnel.relay.signal("TERM")));
}
