//! The beginning of a link in TLS: the device says who it is, and waits.

use super::super::introduction::ABUSE;
use super::*;
use crate::identity::{Name, Secret, TokenId};

fn said() -> Settings {
    let join = v2::Join { token: TokenId([7; 8]), secret: Secret::from_bytes([8; 16]) };
    let name = Name::device("pump-3").expect("a name");
    Settings { name: Some(name), join: Some(join), instance: Some([9; 16]), ..Settings::default() }
}

fn pair() -> Pair {
    let now = Instant::now() + 1000 * SECOND;
    let (device, relay) = (Mux::opener(now, limits(), said()), Mux::acceptor(now, limits()));
    Pair { device, relay, now, at_device: BTreeMap::new(), at_relay: BTreeMap::new(), stuck: Vec::new() }
}

#[test]
#[cfg(feature = "relay")]
fn a_relay_says_nothing_before_it_has_admitted_the_device_whose_token_it_takes_in_tls_alone() {
    let mut pair = pair();
    assert!(!pair.relay.has_unsent());
    pair.run();
    assert_eq!(pair.relay_outputs(), [Output::Presented]);
    assert!(!pair.relay.has_unsent() && !pair.relay.has_begun() && pair.device_outputs().is_empty());
    assert_eq!(
        (pair.relay.peer().and_then(|said| said.name.clone()), pair.relay.take_join()),
        (said().name, said().join)
    );
    assert!(pair.relay.peer().is_some_and(|said| said.join.is_none()), "it is not kept");

    let time = Some(1_800_000_000);
    pair.relay.admit(pair.now, Settings { time, ..Settings::default() });
    assert!(pair.relay.has_begun());
    pair.run();
    for outputs in [pair.relay_outputs(), pair.device_outputs()] {
        assert!(matches!(&outputs[..], [Output::Version(2), Output::Introduced(_)]), "{outputs:?}");
    }
    assert_eq!(pair.device.peer().and_then(|said| said.time), time);
    pair.open();

    let mut plain = Pair::new();
    assert_eq!(plain.hand_relay(&said().frame()), Ok(()), "a second SETTINGS is passed over");
    let mut plain = Pair::unconnected(limits());
    assert_eq!(plain.hand_relay(&said().frame()), Err(ProtocolError::JoinInTheClear));
}

#[test]
fn a_refusal_is_settings_without_fields_and_why() {
    let mut pair = pair();
    pair.run();
    pair.relay.go_away(pair.now, Code::Revoked, 60, "this key is revoked");
    pair.relay.admit(pair.now, Settings::default());
    pair.run();
    let outputs = pair.device_outputs();
    let [Output::GoAway(go_away)] = &outputs[..] else { panic!("{outputs:?}") };
    assert_eq!((go_away.code, go_away.retry_after, &*go_away.reason), (Code::Revoked, 60, "this key is revoked"));
    assert!(pair.device.peer().is_some_and(|said| said.refuses) && !pair.relay.has_begun());
}

#[test]
fn a_device_that_goes_on_before_it_is_admitted_is_refused_but_may_leave() {
    for (frame, result) in [
        (v2::ping([0; 8], Flags::NONE).to_vec(), Err(ProtocolError::TooEarly)),
        (said().frame(), Err(ProtocolError::TooEarly)),
        (GoAway { code: Code::Shutdown, retry_after: 0, last_stream: 0, reason: String::new() }.frame(), Ok(())),
    ] {
        let mut pair = pair();
        assert_eq!(pair.hand_relay(&[said().frame(), frame].concat()), result);
        let is_refusal = result.is_err();
        assert_eq!(kinds(&mut pair.relay, pair.now), if is_refusal { vec![6, 10] } else { vec![] });
    }
}

#[test]
fn each_end_gives_up_after_20_s_and_asks_nothing_before() {
    let mut ends = pair();
    ends.pass(19 * SECOND);
    assert_eq!((kinds(&mut ends.device, ends.now), kinds(&mut ends.relay, ends.now)), (vec![6], vec![]));
    for end in [&mut ends.device, &mut ends.relay] {
        assert_eq!(end.handle_timeout(ends.now + SECOND), Err(ProtocolError::NotGreeted));
    }
    // Also while the relay's owner decides: peers are not to hold places for as long as a disk stands still.
    let mut ends = pair();
    ends.run();
    let later = ends.now + 100 * SECOND;
    assert_eq!(ends.relay.handle_timeout(later), Err(ProtocolError::NotGreeted));
    assert_eq!(ends.device.handle_timeout(later), Err(ProtocolError::NotGreeted));
}

#[test]
fn ciphertext_that_carries_nothing_costs_as_much_as_frames_that_do_nothing() {
    let mut pair = pair();
    pair.run();
    assert_eq!(pair.relay.handle_fruitless(pair.now, ABUSE.0 as usize), Ok(()));
    assert_eq!(pair.relay.handle_fruitless(pair.now, 1), Err(ProtocolError::Flood));
}
