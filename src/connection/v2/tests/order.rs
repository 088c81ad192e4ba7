//! What passes what on the link, however it is written.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Copy, Debug)]
enum Step {
    Arrive,
    /// One write of a link, by the device or the relay, which takes so many bytes.
    Write(Role, usize),
    /// The service of a stream is connected.
    Connect(usize),
    /// A stream's socket is read, or at its end, or failed.
    Read(Role, usize, usize),
    End(Role, usize),
    Fail(Role, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let role = || prop_oneof![Just(Role::Device), Just(Role::Relay)];
    prop_oneof![
        Just(Step::Arrive),
        (role(), 1usize..30_000).prop_map(|(role, most)| Step::Write(role, most)),
        (0usize..40).prop_map(Step::Connect),
        (role(), 0usize..40, 1usize..30_000).prop_map(|(role, which, size)| Step::Read(role, which, size)),
        (role(), 0usize..40).prop_map(|(role, which)| Step::End(role, which)),
        (role(), 0usize..40).prop_map(|(role, which)| Step::Fail(role, which)),
    ]
}

/// The streams of a pair whose sockets may be read, and those that wait for their service.
#[derive(Default)]
struct Known {
    at_device: Vec<StreamKey>,
    at_relay: Vec<StreamKey>,
    asked: Vec<StreamKey>,
}

impl Known {
    fn pick(&self, role: Role, which: usize) -> Option<StreamKey> {
        let keys = if role == Role::Device { &self.at_device } else { &self.at_relay };
        (!keys.is_empty()).then(|| keys[which % keys.len()])
    }

    fn take_outputs(&mut self, pair: &mut Pair) {
        for output in pair.device_outputs() {
            if let Output::Connect { stream, .. } = output {
                self.asked.push(stream);
            } else if let Some(gone) = gone(&output) {
                self.at_device.retain(|&key| key != gone);
                self.asked.retain(|&key| key != gone);
            }
        }
        for output in pair.relay_outputs() {
            if let Output::Opened { stream, .. } = output {
                self.at_relay.push(stream);
            } else if let Some(gone) = gone(&output) {
                self.at_relay.retain(|&key| key != gone);
            }
        }
    }
}

/// The stream whose key is void with this.
fn gone(output: &Output) -> Option<StreamKey> {
    if let Output::Finish { stream } | Output::Reset { stream, .. } | Output::Gone { stream } = output {
        Some(*stream)
    } else {
        None
    }
}

proptest! {
    #[test]
    fn no_frame_passes_another_that_its_reader_needs_first(steps in prop::collection::vec(step(), 1..400)) {
        let mut pair = Pair::with_limits(Limits { streams: 16, ..limits() });
        let (mut known, payload) = (Known::default(), vec![b'x'; 64 * KIB]);
        for step in steps {
            pair.now += Duration::from_micros(500);
            let now = pair.now;
            match step {
                Step::Arrive => drop(pair.arrive()),
                Step::Write(role, most) => {
                    let (from, to, sockets) = match role {
                        Role::Device => (&mut pair.device, &mut pair.relay, &mut pair.at_relay),
                        Role::Relay => (&mut pair.relay, &mut pair.device, &mut pair.at_device),
                    };
                    let bytes = from.unsent();
                    let bytes = bytes[..bytes.len().min(most)].to_vec();
                    from.advance_link(now, bytes.len());
                    receive(now, to, &bytes, sockets, &pair.stuck).expect("no violation");
                }
                Step::Connect(which) => {
                    if !known.asked.is_empty() {
                        let key = known.asked.remove(which % known.asked.len());
                        pair.device.handle_connected(now, key);
                        let count = pair.device.pending(key).len();
                        pair.device.advance(now, key, count);
                        known.at_device.push(key);
                    }
                }
                Step::Read(role, which, size) => {
                    if let Some(key) = known.pick(role, which) {
                        let end = if role == Role::Device { &mut pair.device } else { &mut pair.relay };
                        send(now, end, key, &payload[..size]);
                    }
                }
                Step::End(role, which) => {
                    if let Some(key) = known.pick(role, which) {
                        let end = if role == Role::Device { &mut pair.device } else { &mut pair.relay };
                        end.handle_end(now, key);
                    }
                }
                Step::Fail(role, which) => {
                    if let Some(key) = known.pick(role, which) {
                        let end = if role == Role::Device { &mut pair.device } else { &mut pair.relay };
                        end.handle_failure(now, key, Code::Normal, "");
                    }
                }
            }
            known.take_outputs(&mut pair);
        }
        pair.run();
    }
}
