use super::super::store::Store;
use super::*;

#[test]
fn a_token_that_makes_no_sense_is_refused_with_what_to_do() {
    let bench = Bench::new();
    bench.add("pump-1", 1).expect("added");
    let alice = || TokenSubject::User("alice".parse().expect("a user"));
    for (wrong, text) in [
        (token(1, "pump-1"), "device pump-1 is there already (active); replace its key by the token (--replace), or"),
        (
            NewToken { uses: 2, ..token(1, "pump-2") },
            "a name is one device's, and a token for it has one use; give a pa",
        ),
        (NewToken { uses: 0, ..token(1, "a*") }, "a token is for one use at least"),
        (NewToken { replace: true, ..token(1, "a*") }, "a token that replaces a key is for one device's name"),
        (NewToken { replace: true, pending: true, ..token(1, "a") }, "a token that replaces a key is for one device's"),
        (NewToken { replace: true, subject: alice(), ..token(1, "a") }, "a token that replaces a key is for one devic"),
        (NewToken { expires: NOW - 60, ..token(1, "a") }, "the token would be expired when it is made"),
        (NewToken { creator: "r".repeat(65), ..token(1, "a") }, "the creator's name is longer than 64 bytes"),
        (token(1, &format!("{}*", "a".repeat(56))), "the pattern leaves no room for the 8 characters"),
    ] {
        let refused = bench.refused_token(wrong);
        assert!(refused.starts_with(text), "{refused}");
    }
    bench.token(token(1, "a"));
    assert_eq!(bench.refused_token(token(1, "b")), "there is a token with this id; make another");
    bench.token(token(2, &format!("{}*", "a".repeat(55))));
    assert!(name_of(&bench.join(2, 2)).is_some_and(|name| name.len() == 63));
}

#[test]
fn open_tokens_are_listed_and_deleted() {
    let bench = Bench::new();
    bench.token(NewToken { uses: 3, pending: true, ..token(1, "line7-*") });
    bench.token(NewToken { expires: NOW, ..token(2, "expired") });
    bench.token(token(3, "used"));
    bench.join(3, 3);
    bench.join(1, 1);
    let [open] = &bench.open_tokens()[..] else { panic!("one is open") };
    assert_eq!((open.id, open.uses, open.used, open.pending), (TokenId([1; 8]), 3, 1, true));
    assert_eq!((open.subject.to_string(), &*open.creator), ("line7-*".into(), "root"));
    let delete = || ask(|answer| bench.registry().delete_token(TokenId([1; 8]), NOW, answer));
    delete().expect("deleted");
    assert_eq!(bench.open_tokens(), []);
    assert_eq!(delete().expect_err("gone").to_string(), "there is no such token; list those there are");
}

#[test]
fn a_key_that_knocked_is_approved_by_its_fingerprint() {
    let bench = Bench::new();
    let error = bench.approve(1, None).expect_err("nobody came").to_string();
    assert_eq!(error, "no such key waits or has knocked; compare the fingerprint with what the device prints");
    bench.admit(candidate(1, Some("pump-1"), None));
    bench.admit(candidate(2, Some("pump-1"), None));
    bench.admit(candidate(3, Some("Pump 3"), None));
    assert_eq!(bench.approve(1, None).expect("approved").name, device("pump-1"));
    assert!(bench.approve(2, None).expect_err("taken").to_string().starts_with("pump-1 is there already (active)"));
    assert_eq!(bench.approve(2, Some("pump-2")).expect("approved").name, device("pump-2"));
    let error = bench.approve(3, None).expect_err("no name").to_string();
    assert_eq!(error, "this key claimed no valid name; give it one (--name)");
    let error = bench.approve(1, None).expect_err("known").to_string();
    assert_eq!(error, "this key is pump-1's and does not wait; it is active");
    bench.revoke("pump-1").expect("revoked");
    let error = bench.approve(1, None).expect_err("revoked").to_string();
    assert_eq!(error, "this key is pump-1's and does not wait; it is revoked");
    assert_eq!(name_of(&bench.come(2)), Some("pump-2"));
}

#[test]
fn approval_gives_no_name_that_another_has() {
    let bench = Bench::new();
    bench.add("pump-1", 1).expect("added");
    bench.token(NewToken { pending: true, ..token(1, "pump-2") });
    bench.join(2, 1);
    assert!(bench.approve(2, Some("pump-1")).is_err());
    assert_eq!(bench.contents(), ["pump-1 active [] 1", "pump-2 pending [] 1"]);
    bench.approve(2, None).expect("approved");
    assert_eq!(name_of(&bench.come(2)), Some("pump-2"));
}

#[test]
fn a_name_and_a_key_are_added_once() {
    let bench = Bench::new();
    bench.add("pump-1", 1).expect("added");
    assert!(bench.add("pump-1", 2).expect_err("name").to_string().starts_with("pump-1 is there already (active)"));
    assert_eq!(bench.add("pump-2", 1).expect_err("key").to_string(), "the key is pump-1's already (active)");
    bench.revoke("pump-1").expect("revoked");
    assert_eq!(bench.add("pump-2", 1).expect_err("key").to_string(), "the key is pump-1's already (revoked)");
    bench.remove("pump-1").expect("removed");
    assert_eq!(
        bench.add("pump-2", 1).expect_err("key").to_string(),
        "the key was pump-1's and is revoked; make another"
    );
    bench.add("pump-1", 2).expect("the name is free");
    bench.remove("pump-1").expect("removed");
    bench.add("pump-3", 2).expect("an unrevoked key of a removed device is added again");
    assert_eq!(name_of(&bench.come(2)), Some("pump-3"));
    assert_eq!(bench.contents(), ["pump-3 active [] 1"]);
}

#[test]
fn a_table_is_imported_whole_or_not_at_all() {
    let bench = Bench::new();
    let line = |name: &str, key, labels: &str| format!("{name},{},{labels}", public_key(key));
    let good = format!(
        "\u{feff}name,key,labels\r\n{}\r\n\n\"pump-2\",\"{}\"\n{}\n",
        line("pump-1", 1, "site=berlin line=7"),
        public_key(2),
        line("pump-3", 3, "\"a=b;c=d\"")
    );
    assert_eq!(bench.import(&good).expect("imported"), 3);
    let contents = ["pump-1 active [line=7 site=berlin] 1", "pump-2 active [] 1", "pump-3 active [a=b c=d] 1"];
    assert_eq!(bench.contents(), contents);

    let number = bench.registry().snapshot().number();
    let wrong = [
        line("pump-4", 4, ""),
        line("pump-1", 5, ""),
        line("pump-5", 2, ""),
        line("pump-4", 6, ""),
        line("pump-7", 4, ""),
    ];
    let error = bench.import(&wrong.join("\n")).expect_err("wrong").to_string();
    assert_eq!(
        error,
        "nothing was imported: line 2: pump-1 is there already (active); give another name, or remove it first; line 3: the \
         key is pump-2's already (active); line 4: pump-4 stands in an earlier line too; line 5: the key stands in an \
         earlier line too"
    );
    let unreadable = format!("pump-4\nPump,{}\npump-4,key,\n{}", public_key(4), line("pump-4", 4, "site"));
    let error = bench.import(&unreadable).expect_err("wrong").to_string();
    for part in [
        "line 1: this is not name,key",
        "line 2: device name 'Pump' has 'P'",
        "line 3: 'key' is no",
        "line 4: label 'site' has no '='",
    ] {
        assert!(error.contains(part), "{error}");
    }
    let many = bench.import(&"?\n".repeat(1000)).expect_err("wrong").to_string();
    assert!(many.ends_with("line 20: this is not name,key or name,key,labels; and 980 lines more"), "{many}");
    assert_eq!((bench.contents(), bench.registry().snapshot().number()), (contents.map(String::from).into(), number));
}

#[test]
fn labels_are_set_and_removed() {
    let mut bench = Bench::new();
    bench.add("pump-1", 1).expect("added");
    bench.label("pump-1", &["site=berlin", "line=7"], &[]).expect("labelled");
    bench.label("pump-1", &["site=paris"], &["line", "other"]).expect("labelled");
    assert_eq!(bench.contents(), ["pump-1 active [site=paris] 1"]);
    bench.reopen(|_| ());
    assert_eq!(bench.contents(), ["pump-1 active [site=paris] 1"]);
    let error = bench.label("pump-2", &[], &[]).expect_err("nobody").to_string();
    assert_eq!(error, "there is no pump-2; list those there are");
}

#[test]
fn a_revocation_keeps_the_name_and_can_be_undone() {
    let mut bench = Bench::new();
    bench.add("pump-1", 1).expect("added");
    bench.revoke("pump-1").expect("revoked");
    bench.revoke("pump-1").expect("revoked twice is revoked");
    bench.reopen(|_| ());
    assert!(matches!(refusal(bench.come(1)), Refusal::Revoked(_)));
    assert!(bench.add("pump-1", 2).is_err());
    bench.unrevoke("pump-1").expect("unrevoked");
    assert_eq!(name_of(&bench.come(1)), Some("pump-1"));
    assert_eq!(bench.unrevoke("pump-1").expect_err("not").to_string(), "pump-1 is not revoked, but active");
}

#[test]
fn what_waits_is_removed_rather_than_revoked_so_that_nothing_undone_lets_it_in() {
    let bench = Bench::new();
    bench.token(NewToken { pending: true, ..token(1, "pump-1") });
    bench.join(1, 1);
    let error = bench.revoke("pump-1").expect_err("pending").to_string();
    assert_eq!(error, "pump-1 was never approved; remove it instead");
    bench.remove("pump-1").expect("removed");
    assert!(matches!(fault(bench.join(1, 1)), TokenFault::Used(_)));
}

#[test]
fn removing_a_device_voids_the_tokens_that_would_replace_its_key() {
    let bench = Bench::new();
    bench.add("pump-1", 1).expect("added");
    bench.token(NewToken { replace: true, ..token(1, "pump-1") });
    bench.remove("pump-1").expect("removed");
    assert_eq!(fault(bench.join(2, 1)), TokenFault::Void);
    assert_eq!(bench.contents(), [""; 0]);
}

#[test]
fn a_snapshot_stays_as_it_was_and_the_next_has_the_next_number() {
    let bench = Bench::new();
    let before = bench.registry().snapshot();
    bench.token(token(1, "pump-1"));
    assert_eq!(bench.registry().snapshot().number(), before.number(), "a token is no principal");
    let principal = bench.add("pump-1", 2).expect("added");
    let after = bench.registry().snapshot();
    assert_eq!(after.number(), before.number() + 1);
    assert!(before.by_name(&device("pump-1")).is_none() && before.by_key(&public_key(2).pin()).is_none());
    assert_eq!(after.by_name(&device("pump-1")), Some(&principal));
    assert_eq!(after.by_id(principal.id), Some(&principal));
    bench.remove("pump-1").expect("removed");
    let removed = bench.registry().snapshot();
    assert!(removed.by_name(&device("pump-1")).is_none());
    assert_eq!(removed.by_id(principal.id).map(|principal| principal.state), Some(State::Removed));
    assert_eq!(after.standing(Kind::Device, &public_key(2).pin()), Standing::Active(&principal));
    assert_eq!(removed.standing(Kind::Device, &public_key(2).pin()), Standing::Unknown);
}

#[test]
fn when_a_device_was_last_seen_is_told_at_once_and_written_late() {
    let mut bench = Bench::new();
    let id = bench.add("pump-1", 1).expect("added").id;
    let seen = |bench: &Bench| bench.registry().list()[0].seen;
    assert_eq!(seen(&bench), None);
    bench.registry().note_seen(id, NOW + 5);
    bench.registry().note_seen(PrincipalId(99), NOW);
    assert_eq!(seen(&bench), Some(NOW + 5));
    let number = bench.registry().snapshot().number();
    bench.reopen(|_| ());
    assert_eq!((seen(&bench), bench.registry().snapshot().number()), (Some(NOW + 5), number.min(1)));
}

#[test]
fn a_device_lacks_a_key_that_it_was_not_told_of_if_it_was_ever_there_and_may_come_again() {
    let (mut bench, [next, other, after]) = (Bench::new(), [2, 3, 4].map(|byte| Pin([byte; 32])));
    let id = bench.add("pump-1", 1).expect("added").id;
    let lacks = |bench: &Bench, key| bench.registry().list()[0].lacks(key);
    assert!(!lacks(&bench, next), "it was never there");
    bench.registry().note_seen(id, NOW);
    assert!(lacks(&bench, next), "its link may have been lost before it could read");
    bench.registry().note_told(id, pins(1, 2));
    bench.registry().note_told(PrincipalId(99), pins(1, 2));
    bench.reopen(|_| ());
    assert!(!lacks(&bench, next) && lacks(&bench, other));
    // As a device does, whatever else is announced by the key by which it knows the relay.
    bench.registry().note_told(id, pins(1, 3));
    assert!(!lacks(&bench, next) && lacks(&bench, other));
    bench.registry().note_told(id, pins(2, 4));
    assert!(!lacks(&bench, after) && lacks(&bench, other));
    bench.revoke("pump-1").expect("revoked");
    assert!(!lacks(&bench, other), "it is not let in anyway");
}

#[test]
fn what_a_join_string_says_of_the_relay_is_on_the_disk_with_the_key_that_joins_by_it() {
    let bench = Bench::new();
    let on_disk = |file: &str| {
        let file = bench.directory.path().join(file);
        bench.backup(&file).expect("written");
        let mut all: Vec<_> =
            Store::open(file).and_then(|store| store.last_seen()).expect("read").into_iter().collect();
        all.sort_by_key(|(id, _)| id.0);
        all.into_iter().map(|(_, last)| (last.seen, last.pins)).collect::<Vec<_>>()
    };
    bench.token(token(1, "pump-1"));
    assert_eq!(name_of(&bench.join(1, 1)), Some("pump-1"));
    assert_eq!(on_disk("joined"), [(Some(NOW), Some(pins(1, 2)))]);
    let listed = || bench.registry().list().remove(0);
    bench.registry().note_told(listed().principal.id, pins(2, 3));
    // The device of the new key may know less than the old one did.
    bench.token(NewToken { replace: true, ..token(2, "pump-1") });
    assert_eq!(name_of(&bench.join(2, 2)), Some("pump-1"));
    assert_eq!(listed().pins, Some(pins(1, 2)));
    assert_eq!(on_disk("replaced"), [(Some(NOW), Some(pins(1, 2)))]);
    // What an approved key knows was not asked; but it was there.
    bench.admit(candidate(3, Some("pump-2"), None));
    bench.approve(3, None).expect("approved");
    assert_eq!(on_disk("approved")[1], (Some(NOW), None));
    assert!(bench.registry().list()[1].lacks(Pin([2; 32])));
}

#[test]
fn a_reserved_name_is_given_to_nobody_by_any_way() {
    let bench = Bench::new();
    let reserve = |names: &[&str]| {
        let names = names.iter().map(|name| device(name)).collect();
        ask(|answer| bench.registry().reserve(names, answer)).expect("reserved")
    };
    bench.token(token(1, "old-*"));
    bench.token(token(2, "old-gateway"));
    bench.token(NewToken { pending: true, ..token(3, "pump-*") });
    assert_eq!(reserve(&["old-gateway", "pump-1"]), []);
    let taken = "old-gateway comes by the plain listener, and has no key; give another name";
    assert_eq!(bench.add("old-gateway", 1).expect_err("reserved").to_string(), taken);
    let error = bench.import(&format!("pump-2,{}\nold-gateway,{}", public_key(1), public_key(2)));
    assert_eq!(error.expect_err("reserved").to_string(), format!("nothing was imported: line 2: {taken}"));
    bench.admit(candidate(1, Some("old-gateway"), None));
    assert_eq!(bench.approve(1, None).expect_err("reserved").to_string(), taken);
    assert_eq!(bench.refused_token(token(4, "old-gateway")), taken);
    assert_eq!(bench.refused_token(NewToken { replace: true, ..token(4, "old-gateway") }), taken);
    bench.join(3, 3);
    assert_eq!(bench.approve(3, Some("old-gateway")).expect_err("reserved").to_string(), taken);

    // Nothing was written, so the tokens are good for other names, and for this one when it is free.
    let number = bench.registry().snapshot().number();
    let reserved = |decision| matches!(refusal(decision), Refusal::NameReserved(name) if name == device("old-gateway"));
    assert!(reserved(bench.admit(candidate(4, Some("old-gateway"), Some(1)))));
    assert!(reserved(bench.admit(candidate(4, None, Some(2)))));
    assert_eq!(bench.registry().snapshot().number(), number);
    assert_eq!(name_of(&bench.admit(candidate(4, Some("old-pump"), Some(1)))), Some("old-pump"));
    assert_eq!(reserve(&["old-pump"]), [device("old-pump")], "it keeps its name");
    assert_eq!(name_of(&bench.join(5, 2)), Some("old-gateway"));
}

#[test]
fn an_answer_that_does_not_come_in_time_is_told_as_such_and_what_was_asked_is_done() {
    let bench = Bench::new();
    let (go_on, waits) = mpsc::channel::<()>();
    let blocks = Box::new(move |_| {
        let _ = waits.recv_timeout(DEADLINE);
    });
    bench.registry().open_tokens(NOW, blocks);
    let within = Duration::from_millis(1);
    let late = wait_within(within, |answer| bench.registry().add(newcomer("pump-1", 1), NOW, answer));
    let late = late.expect_err("late").to_string();
    assert!(late.contains("has not answered within 50 s, and may still do what was asked"), "{late}");
    drop(go_on);
    assert!(bench.add("pump-1", 2).expect_err("it is done").to_string().starts_with("pump-1 is there already"));
}
