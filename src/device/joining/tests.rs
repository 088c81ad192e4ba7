use super::*;
use crate::identity::{Kind, Secret, TokenId};

const OLD: Pin = Pin([1; 32]);
const NEXT: Pin = Pin([2; 32]);
const AFTER: Pin = Pin([3; 32]);

fn address(text: &str) -> Address {
    text.parse().expect("an address")
}

fn name(text: &str) -> Name {
    Name::device(text).expect("a name")
}

fn key() -> Arc<Key> {
    Arc::new(Key::generate().expect("a key"))
}

fn member() -> (Arc<Key>, Membership) {
    let key = key();
    let membership = Membership {
        name: Some(name("pump-3")),
        device_key: key.public().pin(),
        pins: Pins { current: OLD, next: NEXT },
        addresses: vec![address("told:443")],
        join_addresses: vec![address("first:443"), address("told:443")],
        tokens: vec![TokenId([7; 8])],
    };
    (key, membership)
}

fn candidate() -> Candidate {
    let pins = Pins { current: OLD, next: NEXT };
    let addresses = vec![address("new-1:443"), address("new-2:443")];
    let secret = Secret::from_bytes([9; 16]);
    let join = JoinString::new(Kind::Device, addresses, pins, TokenId([8; 8]), secret).expect("a string");
    Candidate::new(key(), &join, Some(name("pump-4")))
}

fn joining(member: Option<(Arc<Key>, Membership)>, candidate: Option<Candidate>) -> Joining {
    Joining::new(member, candidate, [5; 16]).expect("something to present")
}

fn welcome(proven: Pin, pins: Option<Pins>) -> Announcement {
    Announcement { proven, name: Some(name("pump-3")), pins, addresses: Vec::new(), time: None }
}

fn pins(current: Pin, next: Pin) -> Pins {
    Pins { current, next }
}

/// All that is tried in one round.
fn round(joining: &mut Joining) -> Vec<String> {
    let mut tried = Vec::new();
    loop {
        let Presentation { address, identity, .. } = joining.presentation();
        let token = if identity.join.is_some() { "token to " } else { "" };
        tried.push(format!("{token}{address}"));
        if joining.handle_failure() == Round::IsOver {
            return tried;
        }
    }
}

#[test]
fn without_a_relay_and_a_join_string_there_is_nothing_to_present() {
    assert!(Joining::new(None, None, [0; 16]).is_none());
}

#[test]
fn a_device_tries_where_the_relay_said_that_it_is_and_then_what_the_join_string_said() {
    let mut joining = joining(Some(member()), None);
    assert_eq!(round(&mut joining), ["told:443", "first:443"]);
    assert_eq!(round(&mut joining), ["told:443", "first:443"], "and again");
    let identity = &joining.presentation().identity;
    assert_eq!((identity.name.as_ref(), identity.pins), (Some(&name("pump-3")), pins(OLD, NEXT)));
}

#[test]
fn the_first_welcome_is_stored_with_all_that_the_next_start_needs() {
    let mut joining = joining(None, Some(candidate()));
    let key = joining.presentation().identity.key.public().pin();
    assert_eq!(joining.presentation().identity.name, Some(name("pump-4")), "it is a wish");
    assert_eq!(round(&mut joining), ["token to new-1:443", "token to new-2:443"]);
    let welcome = Announcement { addresses: vec![address("told:443")], ..welcome(OLD, Some(pins(OLD, NEXT))) };
    let (stored, notices) = joining.handle_welcome(&welcome);
    let stored = stored.expect("it is new");
    let expected = Membership {
        name: Some(name("pump-3")),
        device_key: key,
        pins: pins(OLD, NEXT),
        addresses: vec![address("told:443")],
        join_addresses: vec![address("new-1:443"), address("new-2:443")],
        tokens: vec![TokenId([8; 8])],
    };
    assert_eq!(stored, expected);
    let joined = Notice::Joined { name: Some(name("pump-3")), fingerprint: key };
    assert_eq!(joined.to_string(), format!("this device has joined the relay as pump-3; its key is {key}"));
    assert_eq!(notices[0], joined);
    assert_eq!(round(&mut joining), ["told:443", "new-1:443", "new-2:443"], "without the token");
    assert_eq!(joining.handle_welcome(&welcome), (None, Vec::new()), "nothing is new then");
}

#[test]
fn another_join_string_is_tried_first_and_the_device_goes_on_as_it_was_while_that_fails() {
    let old = member();
    let mut joining = joining(Some(old.clone()), Some(candidate()));
    let new_key = joining.presentation().identity.key.public().pin();
    let expected = ["token to new-1:443", "token to new-2:443", "told:443", "first:443"];
    assert_eq!(round(&mut joining), expected);
    joining.handle_failure();
    joining.handle_failure();
    assert_eq!(joining.presentation().identity.key.public().pin(), old.1.device_key);
    let (stored, notices) = joining.handle_welcome(&welcome(OLD, None));
    assert_eq!((stored, notices), (None, Vec::new()), "that was the old one");
    assert_eq!(round(&mut joining), expected, "the next link tries to join again");
    let (stored, _) = joining.handle_welcome(&welcome(OLD, None));
    let stored = stored.expect("joined");
    assert_eq!(stored.device_key, new_key);
    assert_eq!(stored.tokens, [TokenId([7; 8]), TokenId([8; 8])], "the old string means nothing any more");
    assert_eq!(round(&mut joining), ["new-1:443", "new-2:443"]);
}

#[test]
fn a_join_string_that_is_refused_for_good_is_given_up_where_there_is_a_relay_and_kept_where_there_is_none() {
    for code in [Code::Token, Code::Revoked, Code::UnknownDevice] {
        let mut both = joining(Some(member()), Some(candidate()));
        assert_eq!(both.handle_refusal(code), (Round::GoesOn, Some(Notice::JoinGivenUp(code))));
        assert_eq!(round(&mut both), ["told:443", "first:443"]);
        let mut first = joining(None, Some(candidate()));
        first.handle_failure();
        assert_eq!(first.handle_refusal(code), (Round::IsOver, None));
        assert_eq!(round(&mut first), ["token to new-1:443", "token to new-2:443"]);
    }
    let mut pending = joining(Some(member()), Some(candidate()));
    assert_eq!(pending.handle_refusal(Code::Pending), (Round::GoesOn, None), "it may be approved");
    assert_eq!(pending.presentation().address, address("told:443"));
    assert_eq!(pending.handle_refusal(Code::Revoked), (Round::IsOver, None), "both were refused");
    assert_eq!(pending.presentation().address, address("new-1:443"));
}

#[test]
fn another_identity_of_the_directory_takes_the_place_of_the_one_that_is_known() {
    let (key, other) = member();
    let adopted =
        |joining: &mut Joining| joining.adopt(Key::from_pkcs8(&key.to_pkcs8()).expect("a key"), other.clone());
    let mut alone = joining(Some(member()), None);
    alone.handle_failure();
    let notice = adopted(&mut alone).expect("it is another");
    let fingerprint = other.device_key;
    let text = "another program has joined a relay as pump-3, and this device goes on by that key, ";
    assert_eq!(notice.to_string(), format!("{text}{fingerprint}"));
    assert_eq!(alone.presentation().identity.key.public().pin(), fingerprint);
    assert_eq!(round(&mut alone), ["told:443", "first:443"], "from the beginning");
    assert_eq!(adopted(&mut alone), None, "it is known");

    let mut first = joining(None, Some(candidate()));
    adopted(&mut first).expect("it has none");
    assert_eq!(round(&mut first), ["token to new-1:443", "token to new-2:443", "told:443", "first:443"]);
    let used = Membership { tokens: vec![TokenId([8; 8]), TokenId([9; 8])], device_key: OLD, ..other.clone() };
    first.adopt(Key::generate().expect("a key"), used).expect("it is another");
    assert_eq!(round(&mut first), ["told:443", "first:443"], "its join string is used");

    let mut waiting = joining(Some(member()), Some(Candidate { secret: None, ..candidate() }));
    adopted(&mut waiting).expect("it is another");
    assert_eq!(
        round(&mut waiting),
        ["told:443", "first:443"],
        "it was joined later than the key that waits for approval"
    );
}

#[test]
fn what_another_program_by_the_same_key_has_stored_of_the_relay_is_taken_over() {
    let (key, known) = member();
    let mut joining = joining(Some((Arc::clone(&key), known.clone())), None);
    let mut adopt = |found: &Membership| {
        joining.handle_failure();
        let notice = joining.adopt(Key::from_pkcs8(&key.to_pkcs8()).expect("a key"), found.clone());
        (notice, joining.presentation().clone())
    };
    let more_tokens = Membership { tokens: vec![TokenId([6; 8]), TokenId([7; 8])], ..known };
    assert_eq!(adopt(&more_tokens).0, None, "nothing for a link is new");
    // It has changed its key twice meanwhile.
    let changed = Membership { pins: pins(AFTER, Pin([4; 32])), ..more_tokens };
    let (notice, next) = adopt(&changed);
    let notice = notice.expect("it is new");
    assert_eq!(notice, Notice::Learnt(changed.pins));
    assert!(!notice.is_warning() && notice.to_string().contains(&AFTER.to_string()), "{notice}");
    assert_eq!((next.identity.pins, next.address), (changed.pins, address("told:443")), "from the beginning");
    let moved = Membership { addresses: vec![address("moved:443")], ..changed };
    assert!(adopt(&moved).0.is_some());
    assert_eq!(adopt(&moved).0, None, "it is known");
}

/// The pins and the notices after a welcome.
fn learned(proven: Pin, announced: Option<Pins>) -> (Pins, Vec<Notice>) {
    let mut joining = joining(Some(member()), None);
    let (stored, notices) = joining.handle_welcome(&welcome(proven, announced));
    let pins = joining.presentation().identity.pins;
    assert_eq!(stored.map_or(Pins { current: OLD, next: NEXT }, |stored| stored.pins), pins, "what is used is stored");
    (pins, notices)
}

#[test]
fn a_relay_that_proves_the_next_key_makes_it_current_and_names_the_one_after_it() {
    let (now, notices) = learned(NEXT, Some(pins(NEXT, AFTER)));
    assert_eq!(now, pins(NEXT, AFTER));
    assert_eq!(notices, [Notice::KeyChanged(pins(NEXT, AFTER))]);
    assert!(!notices[0].is_warning());
}

#[test]
fn the_current_key_cannot_change_which_key_is_the_next() {
    for announced in [pins(OLD, AFTER), pins(AFTER, NEXT), pins(NEXT, AFTER), pins(AFTER, OLD)] {
        let (now, notices) = learned(OLD, Some(announced));
        assert_eq!(now, pins(OLD, NEXT), "{announced:?}");
        assert_eq!(notices, [Notice::AnnouncementIgnored(announced.next)]);
        assert!(notices[0].is_warning());
    }
    assert_eq!(learned(OLD, Some(pins(OLD, NEXT))), (pins(OLD, NEXT), Vec::new()));
    assert_eq!(learned(OLD, None), (pins(OLD, NEXT), Vec::new()));
}

#[test]
fn a_next_key_without_one_that_follows_it_drops_no_pin() {
    for announced in [None, Some(pins(OLD, NEXT)), Some(pins(AFTER, OLD))] {
        assert_eq!(learned(NEXT, announced), (pins(OLD, NEXT), vec![Notice::NoAnnouncement]));
    }
}

#[test]
fn a_join_string_may_be_as_old_as_one_change_of_the_key() {
    let mut joining = joining(None, Some(candidate()));
    let (stored, notices) = joining.handle_welcome(&welcome(NEXT, Some(pins(NEXT, AFTER))));
    assert_eq!(stored.expect("joined").pins, pins(NEXT, AFTER));
    assert!(matches!(notices[..], [Notice::Joined { .. }, Notice::KeyChanged(_)]));
}

#[test]
fn a_relay_that_has_moved_is_stored_and_an_address_that_would_spoil_the_file_is_not() {
    let mut joining = joining(Some(member()), None);
    let hostile = address("a\",\"evil:1");
    let moved = Announcement { addresses: vec![hostile, address("moved:443")], ..welcome(OLD, None) };
    let (stored, notices) = joining.handle_welcome(&moved);
    let stored = stored.expect("it moved");
    assert_eq!(stored.addresses, [address("moved:443")]);
    assert_eq!(stored.to_string().parse(), Ok(stored));
    assert_eq!(notices, [Notice::Moved(vec![address("moved:443")])]);
    assert_eq!(round(&mut joining), ["moved:443", "first:443", "told:443"]);
    let quiet = Announcement { addresses: Vec::new(), ..moved };
    assert_eq!(joining.handle_welcome(&quiet), (None, Vec::new()), "silence moves nothing");
}

#[test]
fn another_name_of_the_relays_choice_is_stored() {
    let mut joining = joining(Some(member()), None);
    let renamed = Announcement { name: Some(name("pump-9")), ..welcome(OLD, None) };
    let (stored, notices) = joining.handle_welcome(&renamed);
    assert_eq!(stored.expect("renamed").name, Some(name("pump-9")));
    assert_eq!(notices, [Notice::Renamed(name("pump-9"))]);
}

#[test]
fn what_is_stored_can_be_read_whatever_a_relay_says() {
    use proptest::prelude::*;
    proptest!(|(hosts in prop::collection::vec(".{1,40}", 0..5), port in 1u16..)| {
        let addresses = hosts.iter().filter_map(|host| Address::new(host, port).ok()).take(4).collect();
        let mut joining = joining(Some(member()), None);
        let (stored, _) = joining.handle_welcome(&Announcement { addresses, ..welcome(OLD, None) });
        if let Some(stored) = stored {
            prop_assert_eq!(stored.to_string().parse(), Ok(stored));
        }
    });
}
