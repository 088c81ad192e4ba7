//! The peer's clock, as its acknowledgements report it.

/// Microseconds after which it begins anew.
const WRAP: f64 = 4_294_967_296.0;

/// A clock of 32 bits that wraps after 71 minutes, made one that does not.
#[derive(Debug, Default)]
pub(super) struct PeerClock {
    /// How far it is ahead of ours, in seconds.
    ahead: Option<f64>,
}

impl PeerClock {
    /// The peer's time in seconds, when ours is `now`. However long it said nothing: it is taken for the time that is
    /// nearest to what was expected.
    pub(super) fn unwrap(&mut self, now: f64, micros: u32) -> f64 {
        let reported = f64::from(micros);
        let Some(ahead) = self.ahead else {
            self.ahead = Some(reported / 1e6 - now);
            return reported / 1e6;
        };
        let expected = (now + ahead) * 1e6;
        let time = (reported + ((expected - reported) / WRAP).round() * WRAP) / 1e6;
        self.ahead = Some(time - now);
        time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_wraps_goes_on() {
        let mut clock = PeerClock::default();
        let start = u32::MAX - 999_999;
        assert_eq!(clock.unwrap(5.0, start), f64::from(start) / 1e6);
        for (seconds, now) in [(2, 7.1), (30, 35.0), (100_000, 100_003.0)] {
            let micros = start.wrapping_add((seconds as u64 * 1_000_000) as u32);
            let time = clock.unwrap(now, micros);
            assert!((time - f64::from(start) / 1e6 - f64::from(seconds)).abs() < 1e-4, "{time}");
        }
    }
}
