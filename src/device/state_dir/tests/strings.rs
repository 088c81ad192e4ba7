//! Several join strings, relays and programs in one directory.

use super::*;

#[test]
fn another_join_string_has_a_key_beside_the_old_one_which_takes_over_when_it_is_stored() {
    let place = place();
    let (directory, old) = joined(&place);
    let new = directory.key_for(TokenId([2; 8])).expect("a key");
    assert_ne!(new.public().pin(), old);
    directory.key_for(TokenId([3; 8])).expect("a key that comes to nothing");
    assert_eq!(directory.key_for(TokenId([2; 8])).expect("the same").public(), new.public());
    assert_eq!(member(&directory), Some(old), "nothing has changed yet");
    directory.store(&new, &membership(&new, 2), Some(old)).expect("stored");
    assert_eq!(member(&directory), Some(new.public().pin()));
    assert_eq!(names(&directory), ["key", "relay.toml"]);
}

#[test]
fn the_tokens_of_all_programs_are_remembered() {
    let place = place();
    let (directory, old) = joined(&place);
    let new = directory.key_for(TokenId([2; 8])).expect("a key");
    directory.store(&new, &membership(&new, 2), Some(old)).expect("stored");
    let renamed = Membership { name: Some(Name::device("pump-4").expect("a name")), ..membership(&new, 2) };
    open(&place).store(&new, &renamed, Some(old)).expect("stored");
    let stored = directory.membership().expect("read").expect("there");
    assert_eq!(stored, Membership { tokens: vec![TokenId([1; 8]), TokenId([2; 8])], ..renamed });
}

#[test]
fn a_key_that_another_program_has_removed_is_written_again_before_it_is_in_force() {
    let place = place();
    let (directory, old) = joined(&place);
    let [other, new] = [2, 3].map(|token| directory.key_for(TokenId([token; 8])).expect("a key"));
    directory.store(&other, &membership(&other, 2), Some(old)).expect("stored");
    assert_eq!(names(&directory), ["key", "relay.toml"]);
    directory.store(&new, &membership(&new, 3), Some(other.public().pin())).expect("stored");
    assert_eq!(member(&directory), Some(new.public().pin()));
    assert_eq!(names(&directory), ["key", "relay.toml"]);
}

#[test]
fn a_crash_between_the_file_and_the_key_is_made_up_for() {
    let place = place();
    let (directory, old) = joined(&place);
    let new = directory.key_for(TokenId([2; 8])).expect("a key");
    // All that the first of the two renames does.
    fs::write(directory.path.join("relay.toml"), membership(&new, 2).to_string()).expect("written");
    assert_ne!(new.public().pin(), old);
    assert_eq!(member(&directory), Some(new.public().pin()));
    assert_eq!(names(&directory), ["key", "relay.toml"]);
    assert_eq!(member(&directory), Some(new.public().pin()));
}

#[test]
fn a_program_does_not_write_over_what_another_has_joined() {
    let place = place();
    let (directory, old) = joined(&place);
    let old_key = first_key(&directory);
    let new = directory.key_for(TokenId([2; 8])).expect("a key");
    directory.store(&new, &membership(&new, 2), Some(old)).expect("stored");
    let text = directory.store(&old_key, &membership(&old_key, 1), Some(old)).expect_err("it is another's").to_string();
    assert!(text.ends_with("; start this one again"), "{text}");
    assert_eq!(member(&directory), Some(new.public().pin()));
}

#[test]
fn a_key_that_was_made_for_one_relay_is_shown_to_no_other_one() {
    let place = place();
    let directory = open(&place);
    let other = Pins { current: Pin([7; 32]), next: Pin([8; 32]) };
    let key = first_key(&directory);
    let own = directory.first_key(TokenId([2; 8]), &other).expect("a key");
    assert_ne!(own.public(), key.public());
    assert_eq!(directory.first_key(TokenId([2; 8]), &other).expect("a key").public(), own.public(), "the same again");
    // The relay may change its key, and a string may come to nothing.
    let changed = Pins { current: RELAYS_PINS.next, next: Pin([9; 32]) };
    assert_eq!(directory.first_key(TokenId([3; 8]), &changed).expect("a key").public(), key.public());
    // The one program joins, and the other one as well.
    directory.store(&key, &membership(&key, 1), None).expect("stored");
    let own_membership = Membership { pins: other, ..membership(&own, 2) };
    let text = directory.store(&own, &own_membership, None).expect_err("it is another relay's").to_string();
    assert!(
        text.contains("another program has joined another relay in '") && text.contains("of its own, and"),
        "{text}"
    );
    assert_eq!(member(&directory), Some(key.public().pin()));
    // A program that looked before that, too.
    let late = directory.first_key(TokenId([4; 8]), &other).expect("a key");
    assert_ne!(late.public(), key.public());
    assert_eq!(first_key(&directory).public(), key.public());
}

#[test]
fn a_key_that_its_owner_has_put_there_is_for_any_relay() {
    let place = place();
    let directory = open(&place);
    let own = Key::generate().expect("a key");
    replace(&directory.path, "key", &own.to_pkcs8(), &mut no_fault).expect("written");
    let other = Pins { current: Pin([7; 32]), next: Pin([8; 32]) };
    for key in [first_key(&directory), directory.first_key(TokenId([2; 8]), &other).expect("a key")] {
        assert_eq!(key.public(), own.public());
    }
    assert_eq!(names(&directory), ["key"]);
}

#[test]
fn a_key_that_its_owner_has_put_in_the_place_of_one_that_was_made_is_for_any_relay() {
    let place = place();
    let directory = open(&place);
    // Its relay was not there.
    first_key(&directory);
    let own = Key::generate().expect("a key");
    replace(&directory.path, "key", &own.to_pkcs8(), &mut no_fault).expect("written");
    let other = Pins { current: Pin([7; 32]), next: Pin([8; 32]) };
    assert_eq!(directory.first_key(TokenId([2; 8]), &other).expect("a key").public(), own.public());
}

#[test]
fn a_key_that_waits_for_approval_is_forgotten_once_a_later_string_has_succeeded() {
    let place = place();
    let directory = open(&place);
    let other = Pins { current: Pin([7; 32]), next: Pin([8; 32]) };
    let first = first_key(&directory);
    let pend = |token: u8, key: &Key| {
        let waiting = Membership { pins: other, ..membership(key, token) };
        directory.store_pending(&waiting).expect("stored");
        assert!(directory.load().expect("loaded").pending.is_some());
    };
    // The one that succeeds is `key` already, or takes its place.
    pend(2, &directory.first_key(TokenId([2; 8]), &other).expect("a key"));
    directory.store(&first, &membership(&first, 1), None).expect("stored");
    assert_eq!(names(&directory), ["key", "relay.toml"]);
    pend(3, &directory.key_for(TokenId([3; 8])).expect("a key"));
    let later = directory.key_for(TokenId([4; 8])).expect("a key");
    directory.store(&later, &membership(&later, 4), Some(first.public().pin())).expect("stored");
    assert_eq!(names(&directory), ["key", "relay.toml"]);
    // One that came later than the membership stays, whatever else is learnt of that.
    pend(5, &directory.key_for(TokenId([5; 8])).expect("a key"));
    directory.store(&later, &membership(&later, 4), Some(later.public().pin())).expect("stored");
    assert!(directory.load().expect("loaded").pending.is_some());
}

#[test]
fn a_key_waits_on_for_which_an_earlier_program_has_stored_no_token_but_its_own() {
    let place = place();
    let (directory, member) = joined(&place);
    let waiting = directory.key_for(TokenId([2; 8])).expect("a key");
    directory.store_pending(&membership(&waiting, 2)).expect("stored");
    let path = directory.path.join("pending.toml");
    let text = fs::read_to_string(&path).expect("read");
    let earlier: Vec<_> = text.lines().filter(|line| !line.starts_with("tokens_before")).collect();
    assert_eq!(earlier.len() + 1, text.lines().count());
    fs::write(&path, earlier.join("\n")).expect("written");
    let pending = directory.load().expect("loaded").pending.map(|(key, _)| key.public().pin());
    assert_eq!(pending, Some(waiting.public().pin()));
    // It is approved, and takes the place of the other.
    directory.store(&waiting, &membership(&waiting, 2), Some(member)).expect("stored");
    assert_eq!(names(&directory), ["key", "relay.toml"]);
}

type Files = std::collections::BTreeMap<String, Vec<u8>>;

fn files(directory: &StateDir) -> Files {
    let read = |name: String| {
        let content = fs::read(directory.path.join(&name)).expect("read");
        (name, content)
    };
    names(directory).into_iter().map(read).collect()
}

/// All that a power cut can leave of a join once `relay.toml` has its name: each removal may have come to the disk or not,
/// and no candidate is removed before the key has its name.
fn cuts(before: &Files, after: &Files, candidate: &str) -> Vec<Files> {
    let mut begun = before.clone();
    begun.insert("relay.toml".into(), after["relay.toml"].clone());
    let mut renamed = begun.clone();
    renamed.insert("key".into(), after["key"].clone());
    renamed.remove(candidate);
    let rest: Vec<_> = renamed.keys().filter(|name| !after.contains_key(*name)).cloned().collect();
    let mut all = vec![begun.clone()];
    begun.remove("joining");
    all.push(begun);
    for chosen in 0..1 << rest.len() {
        let mut cut = renamed.clone();
        cut.retain(|name, _| rest.iter().position(|other| other == name).is_none_or(|place| chosen >> place & 1 == 0));
        all.push(cut);
    }
    all
}

#[test]
fn a_power_cut_in_a_join_leaves_the_device_as_it_was_or_as_it_is_to_be_and_nothing_waits_beside_that() {
    let other = Pins { current: Pin([7; 32]), next: Pin([8; 32]) };
    for has_joined in [true, false] {
        let place = place();
        let directory = open(&place);
        let first = first_key(&directory);
        let old = has_joined.then(|| first.public().pin());
        if has_joined {
            directory.store(&first, &membership(&first, 1), None).expect("stored");
        }
        // One waits, and a later one of another relay is admitted.
        let waiting = if has_joined { directory.key_for(TokenId([2; 8])).expect("a key") } else { first };
        directory.store_pending(&membership(&waiting, 2)).expect("stored");
        let new = directory.first_key(TokenId([3; 8]), &other).expect("a key");
        let before = files(&directory);
        let joined = Membership { pins: other, ..membership(&new, 3) };
        directory.store(&new, &joined, old).expect("stored");
        let after = files(&directory);

        let lay = |files: &Files| {
            for name in names(&directory) {
                fs::remove_file(directory.path.join(name)).expect("removed");
            }
            for (name, content) in files {
                fs::write(directory.path.join(name), content).expect("written");
                fs::set_permissions(directory.path.join(name), Permissions::from_mode(0o600)).expect("changed");
            }
        };
        let found = || {
            let Stored { member, pending } = directory.load().expect("loaded");
            [member, pending].map(|identity| {
                identity.map(|(key, membership)| {
                    assert_eq!(key.public().pin(), membership.device_key);
                    membership.device_key
                })
            })
        };
        for rest in ["", "half of"] {
            let mut cut = before.clone();
            cut.insert(".relay.toml.new".into(), rest.into());
            lay(&cut);
            assert_eq!(found(), [old, Some(waiting.public().pin())]);
            directory.store(&new, &joined, old).expect("stored the next time");
            assert_eq!(files(&directory), after);
        }
        let cuts = cuts(&before, &after, "key.0303030303030303");
        assert!(cuts.len() >= 6, "{}", cuts.len());
        for cut in cuts {
            lay(&cut);
            for _ in 0..2 {
                assert_eq!(found(), [Some(new.public().pin()), None], "{:?}", cut.keys());
            }
            // Another string can wait then.
            let next = directory.key_for(TokenId([4; 8])).expect("a key");
            directory.store_pending(&membership(&next, 4)).expect("stored");
            assert_eq!(found(), [Some(new.public().pin()), Some(next.public().pin())]);
        }
    }
}

#[test]
fn a_key_that_is_refused_for_good_waits_for_approval_no_more() {
    let place = place();
    let (directory, member) = joined(&place);
    let waiting = directory.key_for(TokenId([2; 8])).expect("a key");
    directory.store_pending(&membership(&waiting, 2)).expect("stored");
    directory.forget_pending(member).expect("it is another key");
    assert!(directory.load().expect("loaded").pending.is_some());
    directory.forget_pending(waiting.public().pin()).expect("removed");
    assert!(!directory.path.join("pending.toml").exists());
    directory.forget_pending(waiting.public().pin()).expect("nothing is there");
}

#[test]
fn a_key_that_two_relays_have_admitted_belongs_to_the_first_that_is_stored() {
    let place = place();
    let (directory, pin) = joined(&place);
    let key = first_key(&directory);
    let other = Membership { pins: Pins { current: Pin([7; 32]), next: Pin([8; 32]) }, ..membership(&key, 2) };
    let error = directory.store(&key, &other, None).expect_err("it is another relay's");
    assert!(matches!(error, StateDirError::OtherRelay { .. }), "{error}");
    // The relay of this key has changed its own twice since that could be stored.
    directory.store(&key, &other, Some(pin)).expect("it is the same one's");
}

#[test]
fn a_program_does_not_bring_back_the_relays_old_key_that_another_has_seen_go() {
    let place = place();
    let (directory, pin) = joined(&place);
    let key = first_key(&directory);
    let known = directory.membership().expect("read").expect("there");
    let with = |current, next| Membership { pins: Pins { current, next }, ..known.clone() };
    let (old, current, next) = (known.pins.current, known.pins.next, Pin([4; 32]));
    directory.store(&key, &with(current, next), Some(pin)).expect("stored");
    let renamed = Membership { name: Some(Name::device("pump-4").expect("a name")), ..with(old, current) };
    open(&place).store(&key, &renamed, Some(pin)).expect("stored");
    let stored = directory.membership().expect("read").expect("there");
    assert_eq!(stored, Membership { pins: with(current, next).pins, ..renamed });
    // The next change is taken.
    directory.store(&key, &with(next, Pin([5; 32])), Some(pin)).expect("stored");
    let stored = directory.membership().expect("read").expect("there");
    assert_eq!(stored.pins, Pins { current: next, next: Pin([5; 32]) });
}
