use super::*;

const LISTEN_AND_HELLO: [u8; 8] = [0, 0, 4, 0, 0, 0, 5, 0xf2];
/// What a relay of 2012 answers to HELLO.
const CLOSE: [u8; 4] = [0, 0, 2, 0xf2];
const HELLO: [u8; 4] = [0, 0, 5, 0xf2];

fn device() -> (Device, Instant) {
    (Device::new(Protocol::V2, Limits::DEVICE), Instant::now())
}

fn receive(device: &mut Device, now: Instant, mut bytes: &[u8]) -> Vec<Output> {
    assert_eq!(device.receive(now, &mut bytes).expect("no violation"), None);
    std::iter::from_fn(|| device.poll_output()).collect()
}

#[test]
fn listen_and_hello_leave_together_and_a_device_held_to_version_1_says_listen_alone() {
    assert_eq!(device().0.unsent(), LISTEN_AND_HELLO);
    let mut old = Device::new(Protocol::V1, Limits::DEVICE);
    assert_eq!(old.unsent(), &LISTEN_AND_HELLO[..4]);
    assert_eq!((old.poll_output(), old.poll_output()), (Some(Output::Version(1)), None), "and waits for no answer");
}

#[test]
fn hello_as_the_first_frame_means_version_2_however_it_is_cut() {
    for cut in 0..4 {
        let (mut device, now) = device();
        device.advance_link(now, 8);
        assert_eq!(receive(&mut device, now, &HELLO[..cut]), []);
        assert_eq!(receive(&mut device, now, &HELLO[cut..]), [Output::Version(2)]);
        assert_eq!(device.unsent()[2], 6, "SETTINGS follow");
    }
}

#[test]
fn any_other_first_frame_means_version_1_and_counts() {
    let (mut device, now) = device();
    device.advance_link(now, 8);
    assert_eq!(receive(&mut device, now, &CLOSE), [Output::Version(1)]);
    assert_eq!(device.counters().ignored, 0, "the answer to HELLO is none of the frames that mean nothing");
    let connect = b"\x00\x0d\x01\x01\x00\x09127.0.0.1\xe1\xf7";
    assert!(matches!(&receive(&mut device, now, connect)[..], [Output::Connect { client: 1, .. }]));
    let (mut device, now) = self::device();
    device.advance_link(now, 8);
    let outputs = receive(&mut device, now, connect);
    assert!(matches!(&outputs[..], [Output::Version(1), Output::Connect { client: 1, .. }]), "{outputs:?}");
}

#[test]
fn what_is_left_of_the_greeting_is_sent_first_in_either_version() {
    for answer in [HELLO, CLOSE] {
        let (mut device, now) = device();
        device.advance_link(now, 5);
        receive(&mut device, now, &answer);
        assert_eq!(device.unsent()[..3], LISTEN_AND_HELLO[5..]);
    }
}

#[test]
fn a_tunnel_that_is_closed_before_the_relay_answers_is_closed_when_it_does() {
    let (mut device, now) = device();
    device.advance_link(now, 8);
    device.close(now);
    receive(&mut device, now, &HELLO);
    let sent = device.unsent().to_vec();
    assert!(sent.windows(3).any(|frame| frame == [10, 0, 0]), "GOAWAY is among {sent:02x?}");
}
