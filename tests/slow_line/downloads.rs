//! Downloads that fill the line.

use std::thread;
use std::time::Duration;

use crate::{SHAPE, Tunnel, keys, on_a_line, rates_while, say, share_of};

const DOWNLOADS: usize = 8;
/// Until the downloads have the line and its queue is as long as it gets.
const WARM_UP: Duration = Duration::from_secs(6);
const WINDOW: Duration = Duration::from_secs(12);

/// Half of the echoes are back after so long. On a quiet machine it is 75 ms; it was 1.8 s when the queue was the line's.
const P50_AT_MOST: Duration = Duration::from_millis(400);
/// What the downloads have of the line together, in %. On a quiet machine it is 91; TCP's headers take 4 of the rest.
const SHARE_AT_LEAST: f64 = 70.0;
/// Echoes that make a median.
const ENOUGH: usize = 30;

#[test]
fn a_key_comes_back_beside_eight_downloads_that_fill_a_line_of_1_mbit() {
    on_a_line(SHAPE, |line| {
        let tunnel = Tunnel::with_endless(line);
        let keys = tunnel.keys();
        let bytes = tunnel.download(DOWNLOADS);
        thread::sleep(WARM_UP);
        let (echoes, [rate]) = rates_while([&*bytes], || keys::type_for(WINDOW, &keys));
        let share = share_of(SHAPE, rate);
        let figures = format!(
            "beside {DOWNLOADS} downloads on 1 Mbit/s an echo takes {:.1?} (p50), {:.1?} (p99); they have {share:.1} % \
             of the line",
            echoes.at(50),
            echoes.at(99),
        );
        say(&figures);
        assert!(echoes.count() >= ENOUGH, "only {} echoes came back: {figures}", echoes.count());
        assert!(echoes.at(50) <= P50_AT_MOST && share >= SHARE_AT_LEAST, "{figures}");
    });
}
