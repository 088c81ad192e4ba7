use super::*;

const LISTEN_AND_HELLO: [u8; 8] = [0, 0, 4, 0, 0, 0, 5, 0xf2];
/// What a relay of 2012 answers to HELLO.
const CLOSE: [u8; 4] = [0, 0, 2, 0xf2];
const HELLO: [u8; 4] = [0, 0, 5, 0xf2];

const HELLO_V1: [u8; 4] = [0, 0, 5, 0xf1];

fn device() -> (Device, Instant) {
    (Device::new(Protocol::V2, Limits::DEVICE), Instant::now())
}

/// A device held to version 1.
fn old_device() -> (Device, Instant) {
    (Device::new(Protocol::V1, Limits::DEVICE), Instant::now())
}

fn receive(device: &mut Device, now: Instant, mut bytes: &[u8]) -> Vec<Output> {
    assert_eq!(device.receive(now, &mut bytes).expect("no violation"), None);
    std::iter::from_fn(|| device.poll_output()).collect()
}

#[test]
fn listen_and_hello_leave_together_and_hello_tells_the_version_that_a_device_is_held_to() {
    assert_eq!(device().0.unsent(), LISTEN_AND_HELLO);
    let mut old = Device::new(Protocol::V1, Limits::DEVICE);
    assert_eq!(old.unsent(), [&LISTEN_AND_HELLO[..4], &HELLO_V1].concat());
    assert_eq!(old.poll_output(), None, "nothing is agreed before the relay answers");
}

#[test]
fn a_device_held_to_version_1_takes_the_answer_to_its_hello_and_no_other_version() {
    let (mut device, now) = old_device();
    device.advance_link(now, 8);
    assert_eq!(receive(&mut device, now, &[0, 0, 2, 0xf1]), [Output::Version(1)]);
    assert_eq!(device.counters().ignored, 0);
    let (mut device, now) = old_device();
    device.advance_link(now, 8);
    assert_eq!(receive(&mut device, now, &HELLO), [Output::Version(1)]);
    assert_eq!(device.counters().ignored, 1, "what was not offered is a frame that means nothing");
}

#[test]
fn a_device_that_insists_on_version_2_speaks_it_or_none() {
    let device = || Device::new(Protocol::V2, Limits::DEVICE).at_least(Protocol::V2);
    let now = Instant::now();
    assert_eq!(receive(&mut device(), now, &HELLO), [Output::Version(2)]);
    for first in [CLOSE, HELLO_V1, [0, 0, 2, 1], [0, 7, 1, 1], [0, 1, 3, 1]] {
        let mut device = device();
        assert_eq!(device.receive(now, &mut &first[..]), Err(ProtocolError::OldRelay), "{first:?}");
        assert_eq!(device.poll_output(), None);
    }
    assert!(matches!(device().receive(now, &mut &b"SSH-"[..]), Err(ProtocolError::NotRelay(_))));
}

#[test]
fn a_relay_that_does_not_answer_within_20_s_of_listen_is_none() {
    for (mut device, now) in [device(), old_device()] {
        assert_eq!(device.handle_timeout(now + Duration::from_secs(100)), Ok(()), "LISTEN waits to be sent");
        device.advance_link(now, 8);
        let due = now + Duration::from_secs(20);
        assert_eq!(device.poll_timeout(), Some(due));
        assert_eq!(receive(&mut device, now, &CLOSE[..3]), [], "less than a frame is no answer");
        assert_eq!(device.handle_timeout(due - Duration::from_millis(1)), Ok(()));
        assert_eq!(device.handle_timeout(due), Err(ProtocolError::NoAnswer));
    }
    let text = ProtocolError::NoAnswer.to_string();
    assert!(text.starts_with("the greeting was not answered within 20 s; check that "), "{text}");
}

#[test]
fn one_that_answers_in_time_has_no_deadline_any_more() {
    let (mut device, now) = device();
    device.advance_link(now, 8);
    receive(&mut device, now, &CLOSE);
    assert_eq!(device.handle_timeout(now + Duration::from_secs(100)), Ok(()));
}

#[test]
fn a_first_frame_that_no_relay_sends_ends_the_link_at_once() {
    for first in [*b"SSH-", *b"HTTP", *b"220 ", [0, 0, 4, 0], [0, 0, 5, 2]] {
        let (mut device, now) = device();
        device.advance_link(now, 8);
        let error = device.receive(now, &mut &first[..]).expect_err("no relay");
        assert_eq!(error, ProtocolError::NotRelay(Header::decode(first)));
    }
    let error = ProtocolError::NotRelay(Header::decode(*b"SSH-")).to_string();
    assert!(error.contains("does not answer as a relay (its first bytes are 'SSH-')"), "{error}");
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
fn a_device_asks_which_relay_it_is_once_version_1_is_fixed() {
    for answer in [CLOSE, HELLO] {
        let (mut device, now) = device();
        device.advance_link(now, 8);
        receive(&mut device, now, &answer);
        assert_eq!(device.unsent() == [0, 0, 3, 255], answer == CLOSE, "sent {:02x?}", device.unsent());
    }
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
