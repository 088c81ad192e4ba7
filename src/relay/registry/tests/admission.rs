use std::collections::HashSet;

use super::*;

#[test]
fn a_token_binds_its_name_to_a_key_and_is_used_up() {
    let bench = Bench::new();
    bench.token(NewToken { labels: Labels::parse("site=berlin").expect("labels"), ..token(1, "pump-3") });
    let Decision::Admitted { principal, joined: true } = bench.join(1, 1) else { panic!("not let in") };
    assert_eq!((principal.name.as_str(), &*principal.labels.to_string()), ("pump-3", "site=berlin"));
    let Decision::Admitted { principal: again, joined: false } = bench.come(1) else { panic!("not let in") };
    assert_eq!(principal, again);
    let Refusal::Token(TokenFault::Used(used)) = refusal(bench.join(2, 1)) else { panic!("used twice") };
    assert_eq!((used.pin, used.address, used.used), (public_key(1).pin(), [192, 0, 2, 1].into(), NOW));
}

#[test]
fn the_same_key_with_the_same_token_succeeds_again_since_the_answer_may_have_been_lost() {
    let mut bench = Bench::new();
    bench.token(token(1, "pump-3"));
    for _ in 0..2 {
        assert_eq!(name_of(&bench.join(1, 1)), Some("pump-3"));
        bench.reopen(|_| ());
    }
}

#[test]
fn unknown_used_expired_and_deleted_tokens_and_wrong_secrets_are_one_answer() {
    let bench = Bench::new();
    bench.token(token(1, "used"));
    bench.join(1, 1);
    bench.token(NewToken { expires: NOW, ..token(2, "expired") });
    bench.token(token(3, "deleted"));
    ask(|answer| bench.registry().delete_token(TokenId([3; 8]), NOW, answer)).expect("deleted");
    bench.token(token(4, "another-secret"));
    let mut guess = candidate(9, None, Some(4));
    guess.token.as_mut().expect("a token").secret.0[31] ^= 1;
    bench.token(NewToken { subject: TokenSubject::User("alice".parse().expect("a user")), ..token(5, "alice") });

    let decisions =
        [bench.join(9, 0), bench.join(9, 1), bench.join(9, 2), bench.join(9, 3), bench.admit(guess), bench.join(9, 5)];
    let reasons: HashSet<String> = decisions.iter().map(|decision| refusal(decision.clone()).reason()).collect();
    assert_eq!(Vec::from_iter(reasons), ["the token is unknown, expired or used; ask for another"]);
    let faults = decisions.map(fault);
    assert!(
        matches!(
            faults,
            [
                TokenFault::Unknown,
                TokenFault::Used(_),
                TokenFault::Expired,
                TokenFault::Void,
                TokenFault::WrongSecret,
                TokenFault::Unknown
            ]
        ),
        "{faults:?}"
    );
    assert_eq!(bench.contents(), ["used active [] 1"]);
}

#[test]
fn a_key_that_has_a_name_keeps_it_and_uses_up_no_token() {
    let bench = Bench::new();
    bench.add("pump-1", 1).expect("added");
    bench.token(token(1, "pump-2"));
    assert_eq!(name_of(&bench.join(1, 1)), Some("pump-1"));
    assert_eq!(name_of(&bench.admit(candidate(1, Some("pump-9"), None))), Some("pump-1"), "a claim is no name");
    assert_eq!(name_of(&bench.join(2, 1)), Some("pump-2"));
}

#[test]
fn a_revoked_key_is_refused_whatever_it_presents() {
    let mut bench = Bench::new();
    bench.token(token(1, "pump-1"));
    bench.join(1, 1);
    bench.revoke("pump-1").expect("revoked");
    bench.token(token(2, "*"));
    for _ in 0..2 {
        for token in [None, Some(1), Some(2), Some(99)] {
            let refused = refusal(bench.admit(candidate(1, None, token)));
            assert!(matches!(refused, Refusal::Revoked(_)), "{refused:?}");
        }
        bench.reopen(|_| ());
    }
    bench.remove("pump-1").expect("removed");
    assert!(matches!(refusal(bench.join(1, 2)), Refusal::Revoked(_)), "also when its name is free");
    assert_eq!(name_of(&bench.join(2, 2)), Some(&*derived("device-", 2)), "the token was not used");
}

#[test]
fn a_key_of_one_kind_is_unknown_as_the_other() {
    let bench = Bench::new();
    bench.add("pump-1", 1).expect("added");
    bench.token(NewToken { subject: TokenSubject::User("alice".parse().expect("a user")), ..token(1, "alice") });
    let as_user = Candidate { kind: Kind::User, ..candidate(1, None, Some(1)) };
    assert_eq!(refusal(bench.admit(as_user)), Refusal::Unknown);
}

#[test]
fn a_pattern_gives_the_wished_name_or_one_made_of_the_key() {
    let bench = Bench::new();
    bench.token(NewToken { uses: 3, ..token(1, "line7-*") });
    assert_eq!(name_of(&bench.admit(candidate(1, Some("line7-press"), Some(1)))), Some("line7-press"));
    assert_eq!(name_of(&bench.join(2, 1)), Some(&*derived("line7-", 2)));
    for outside in ["line8-press", "line7-\u{1b}", "relay", ""] {
        assert_eq!(refusal(bench.admit(candidate(3, Some(outside), Some(1)))), Refusal::Wish, "{outside}");
    }
    let taken = refusal(bench.admit(candidate(3, Some("line7-press"), Some(1))));
    assert_eq!(taken, Refusal::NameTaken(device("line7-press")));
    assert!(name_of(&bench.join(3, 1)).is_some(), "a refused wish uses nothing up");
    assert!(matches!(fault(bench.join(4, 1)), TokenFault::Used(_)), "uses are counted");
}

#[test]
fn a_token_for_a_name_gives_no_other_one() {
    let bench = Bench::new();
    bench.token(token(1, "pump-1"));
    assert_eq!(refusal(bench.admit(candidate(1, Some("pump-2"), Some(1)))), Refusal::Wish);
    assert_eq!(name_of(&bench.admit(candidate(1, Some("pump-1"), Some(1)))), Some("pump-1"));
}

#[test]
fn a_name_made_of_a_key_is_longer_where_another_has_it() {
    let bench = Bench::new();
    bench.token(token(1, "line7-*"));
    bench.add(&derived("line7-", 2), 1).expect("added");
    let pin = public_key(2).pin();
    let longer = format!("{}{:02x}", derived("line7-", 2), pin.0[4]);
    assert_eq!(name_of(&bench.join(2, 1)), Some(&*longer));
}

#[test]
fn replacing_revokes_the_old_key_and_keeps_the_principal() {
    let bench = Bench::new();
    let id = bench.add("pump-1", 1).expect("added").id;
    bench.token(NewToken { replace: true, ..token(1, "pump-1") });
    let Decision::Admitted { principal, joined: true } = bench.join(2, 1) else { panic!("not let in") };
    assert_eq!((principal.id, principal.state), (id, State::Active));
    assert!(matches!(refusal(bench.come(1)), Refusal::Revoked(_)));
    assert!(matches!(fault(bench.join(3, 1)), TokenFault::Used(_)));
    bench.revoke("pump-1").expect("revoked");
    bench.unrevoke("pump-1").expect("unrevoked");
    assert!(matches!(refusal(bench.come(1)), Refusal::Revoked(_)), "the old key stays out for ever");
    assert_eq!(name_of(&bench.come(2)), Some("pump-1"));
}

#[test]
fn a_revoked_device_comes_back_by_a_token_made_after_that_and_by_none_made_before() {
    let bench = Bench::new();
    bench.add("pump-1", 1).expect("added");
    bench.token(NewToken { replace: true, ..token(1, "pump-1") });
    bench.revoke("pump-1").expect("revoked");
    assert_eq!(fault(bench.join(2, 1)), TokenFault::Void);
    bench.token(NewToken { replace: true, ..token(2, "pump-1") });
    assert_eq!(name_of(&bench.join(2, 2)), Some("pump-1"));
    assert!(matches!(refusal(bench.come(1)), Refusal::Revoked(_)));
}

#[test]
fn the_key_of_a_pending_token_waits_for_approval() {
    let mut bench = Bench::new();
    bench.token(NewToken { pending: true, ..token(1, "pump-1") });
    for _ in 0..2 {
        assert!(matches!(bench.join(1, 1), Decision::Pending(_)));
        assert!(matches!(bench.come(1), Decision::Pending(_)));
        bench.reopen(|_| ());
    }
    assert!(matches!(fault(bench.join(2, 1)), TokenFault::Used(_)));
    assert_eq!(bench.contents(), ["pump-1 pending [] 1"]);
    bench.approve(1, Some("press-1")).expect("approved");
    assert_eq!(name_of(&bench.come(1)), Some("press-1"));
    assert_eq!(bench.contents(), ["press-1 active [] 1"]);
}

#[test]
fn a_used_token_stays_used_when_its_device_is_removed() {
    let mut bench = Bench::new();
    bench.token(token(1, "pump-1"));
    bench.token(NewToken { uses: 9, ..token(2, "line7-*") });
    bench.join(1, 1);
    bench.admit(candidate(2, Some("line7-a"), Some(2)));
    bench.remove("pump-1").expect("removed");
    bench.remove("line7-a").expect("removed");
    for _ in 0..2 {
        for (key, token) in [(1, 1), (2, 2), (3, 1)] {
            let fault = fault(bench.join(key, token));
            assert!(matches!(fault, TokenFault::Used(_)), "key {key}, token {token}: {fault:?}");
        }
        assert_eq!(refusal(bench.come(1)), Refusal::Unknown);
        bench.reopen(|_| ());
    }
    bench.token(token(3, "pump-1"));
    assert_eq!(name_of(&bench.join(1, 3)), Some("pump-1"), "another token is another decision");
}

#[test]
fn a_user_has_a_key_for_each_token() {
    let bench = Bench::new();
    let alice: UserName = "alice@example.com".parse().expect("a user");
    bench.token(NewToken { subject: TokenSubject::User(alice), uses: 2, ..token(1, "x") });
    let join = |key| bench.admit(Candidate { kind: Kind::User, ..candidate(key, None, Some(1)) });
    let (Decision::Admitted { principal: one, .. }, Decision::Admitted { principal: other, .. }) = (join(1), join(2))
    else {
        panic!("not let in");
    };
    assert_eq!((one.id, one.keys.len(), other.keys.len()), (other.id, 1, 2));
    assert!(matches!(fault(join(3)), TokenFault::Used(_)));
}

#[test]
fn unknown_keys_are_listed_until_they_are_known_and_no_more_than_1000() {
    let bench = Bench::new();
    for key in 0..1100 {
        bench.admit(Candidate { now: NOW + u64::from(key), ..candidate(key, Some("pump-\u{1b}[31m"), None) });
    }
    bench.admit(Candidate { now: NOW + 2000, ..candidate(100, Some("pump-1"), None) });
    let knocks = bench.registry().knocks();
    assert_eq!(knocks.len(), MAX_KNOCKS);
    let Knock { pin, claimed, first, last, count, .. } = &knocks[0];
    assert_eq!((*pin, *first, *last, *count), (public_key(100).pin(), NOW + 100, NOW + 2000, 2));
    assert_eq!(claimed.as_ref().map(ClaimedName::as_str), Some("pump-1"));
    assert_eq!(knocks[1].claimed.as_ref().map(ClaimedName::as_str), Some("pump-?[31m"));
    assert_eq!(knocks.last().map(|knock| knock.pin), Some(public_key(101).pin()), "the oldest went");
    bench.token(token(1, "pump-1"));
    bench.join(100, 1);
    bench.add("pump-2", 101).expect("added");
    let left: Vec<Pin> = bench.registry().knocks().iter().map(|knock| knock.pin).collect();
    assert!(left.len() == 998 && !left.contains(&public_key(100).pin()) && !left.contains(&public_key(101).pin()));
}

/// The name that a pattern and the key make.
fn derived(beginning: &str, key: u32) -> String {
    let digits: String = public_key(key).pin().0[..4].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{beginning}{digits}")
}
