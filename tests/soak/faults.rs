//! What goes wrong, in the order of the seed, and how it is made to.

use std::io;
use std::thread;
use std::time::Duration;

use crate::forwarder::{Cut, End};
use crate::report::Report;
use crate::service::Service;
use crate::tunnel::Tunnel;

/// One thing that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    KillDevice { pause: Duration },
    KillRelay { pause: Duration },
    ReplaceRelay { log_is_read: bool },
    TakeOver { pause: Duration },
    FreezeDevice { time: Duration },
    FreezeRelay { time: Duration },
    Cut(Cut),
    StandStill { from: End, time: Duration },
    SlowDown { time: Duration },
    ChangePath { time: Duration },
    LeaveLogUnread { time: Duration },
    ForkChild { time: Duration },
    ResetServices { seed: u64 },
}

/// Which faults may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Violence {
    /// All of them.
    Everything,
    /// None that ends a process.
    NoKills,
}

/// The faults of a seed.
#[derive(Debug)]
pub(crate) struct Schedule {
    random: fastrand::Rng,
    violence: Violence,
}

impl Schedule {
    pub(crate) fn new(seed: u64, violence: Violence) -> Self {
        // Either has an order of its own.
        Self { random: fastrand::Rng::with_seed(seed << 1 | u64::from(violence == Violence::NoKills)), violence }
    }

    /// The next fault, and how long it lets wait for itself.
    pub(crate) fn next(&mut self) -> (Duration, Fault) {
        let random = &mut self.random;
        let mut millis = |range: std::ops::Range<u64>| Duration::from_millis(random.u64(range));
        let wait = millis(300..4000);
        let (short, long) = (millis(0..1500), millis(500..8000));
        let end = if random.bool() { End::Device } else { End::Relay };
        let seed = random.u64(..);
        let first = if self.violence == Violence::Everything { 0 } else { 11 };
        let fault = match random.u32(first..31) {
            0..3 => Fault::KillDevice { pause: short },
            3..6 => Fault::KillRelay { pause: short },
            6 => Fault::ReplaceRelay { log_is_read: true },
            7 => Fault::ReplaceRelay { log_is_read: false },
            8..11 => Fault::TakeOver { pause: short },
            11 => Fault::FreezeDevice { time: long / 2 },
            12 => Fault::FreezeRelay { time: long / 2 },
            13..15 => Fault::Cut(Cut::Reset),
            15..17 => Fault::Cut(Cut::Close),
            17 => Fault::Cut(Cut::HalfOpen(end, long)),
            18..20 => Fault::StandStill { from: end, time: long },
            20..22 => Fault::SlowDown { time: long },
            22..24 => Fault::ChangePath { time: 2 * long },
            24..26 => Fault::LeaveLogUnread { time: long / 2 },
            26..28 => Fault::ForkChild { time: long },
            _ => Fault::ResetServices { seed },
        };
        (wait, fault)
    }
}

impl Fault {
    pub(crate) fn carry_out(self, tunnel: &mut Tunnel, service: &Service, report: &Report) -> io::Result<()> {
        report.count_fault(self.name());
        match self {
            Self::KillDevice { pause } => tunnel.kill_device(pause)?,
            Self::KillRelay { pause } => tunnel.kill_relay(pause)?,
            Self::ReplaceRelay { log_is_read } => tunnel.replace_relay(log_is_read)?,
            Self::TakeOver { pause } => tunnel.take_over(pause)?,
            Self::FreezeDevice { time } => tunnel.freeze_device(time),
            Self::FreezeRelay { time } => tunnel.freeze_relay(time),
            Self::Cut(cut) => tunnel.forwarder.cut(cut),
            Self::StandStill { from, time } => tunnel.forwarder.stand_still(from, time),
            Self::SlowDown { time } => tunnel.forwarder.slow_down(time),
            Self::ChangePath { time } => tunnel.forwarder.change_path(time),
            Self::LeaveLogUnread { time } => {
                tunnel.leave_log_unread(true);
                thread::sleep(time);
                tunnel.leave_log_unread(false);
            }
            Self::ForkChild { time } => tunnel.fork_child(time),
            Self::ResetServices { seed } => {
                let mut random = fastrand::Rng::with_seed(seed);
                service.reset(|| random.bool());
            }
        }
        Ok(())
    }

    fn name(self) -> &'static str {
        match self {
            Self::KillDevice { .. } => "device killed",
            Self::KillRelay { .. } => "relay killed",
            Self::ReplaceRelay { log_is_read: true } => "relay replaced by the next one",
            Self::ReplaceRelay { log_is_read: false } => "relay replaced, its log unread",
            Self::TakeOver { .. } => "another device took over",
            Self::FreezeDevice { .. } => "device frozen",
            Self::FreezeRelay { .. } => "relay frozen",
            Self::Cut(Cut::Reset) => "link reset",
            Self::Cut(Cut::Close) => "link closed in the middle",
            Self::Cut(Cut::HalfOpen(End::Device, _)) => "link lost by the device only",
            Self::Cut(Cut::HalfOpen(End::Relay, _)) => "link lost by the relay only",
            Self::StandStill { from: End::Device, .. } => "link stood still towards the relay",
            Self::StandStill { from: End::Relay, .. } => "link stood still towards the device",
            Self::SlowDown { .. } => "link slow",
            Self::ChangePath { .. } => "the path's delay and rate changed",
            Self::LeaveLogUnread { .. } => "the relay's log unread",
            Self::ForkChild { .. } => "device forked a child",
            Self::ResetServices { .. } => "half of the services reset",
        }
    }
}
