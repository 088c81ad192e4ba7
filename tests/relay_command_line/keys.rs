//! `rotate-key`: the next key becomes the relay's key.

use super::*;

#[test]
fn the_next_key_becomes_the_key_and_a_change_that_was_interrupted_is_finished() {
    let place = Place::new();
    let read = |name: &str| fs::read(place.path(name)).unwrap();
    let kept = place.path("kept");
    fs::rename(place.path("relay-next.key"), &kept).unwrap();
    let (key, next) = (read("relay.key"), read("kept"));
    let error = place.failed(2, &["rotate-key"]);
    assert!(error.contains("name the file of the next key, where it was kept, by --next-key"), "{error}");
    let wrong = place.failed(2, &["rotate-key", "--next-key", place.path("relay.key").to_str().unwrap()]);
    assert!(wrong.contains("is not the key that devices were told of") && read("relay.key") == key, "{wrong}");
    let text = place.done(&["rotate-key", "--next-key", kept.to_str().unwrap()]);
    assert!(text.contains("Restart the relay.") && read("relay.key") == next, "{text}");
    assert!(text.contains(&format!("4. Delete {} once the relay proves it.", kept.display())), "{text}");
    assert_ne!(read("relay-next.key"), next);
    // Once more by mistake: devices know no other key yet.
    assert_eq!(place.failed(2, &["rotate-key"]), error);
    assert_eq!(place.failed(2, &["rotate-key", "--next-key", kept.to_str().unwrap()]).lines().count(), 1);
    assert!(read("relay.key") == next);
    // As if the machine had stopped between the two steps.
    let after = read("relay-next.key");
    fs::write(place.path("relay.key"), &after).unwrap();
    assert!(place.failed(2, &["check"]).contains("finish it with 'tcp-remote-relay rotate-key'"));
    place.done(&["rotate-key"]);
    assert!(read("relay.key") == after && read("relay-next.key") != after);
    place.done(&["check"]);
}

#[test]
fn of_two_that_change_the_key_at_once_one_is_told_and_changes_nothing() {
    let place = Place::new();
    let directory = fs::File::open(place.path("")).unwrap();
    rustix::fs::flock(&directory, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let files = ["relay.key", "relay-next.key", "relay-next.pub"];
    let before = files.map(|name| fs::read(place.path(name)).unwrap());
    let beside = place.path("relay-next.key");
    let rotate = ["rotate-key", "--next-key", beside.to_str().unwrap()];
    let error = place.failed(1, &rotate);
    assert!(error.contains("another 'rotate-key' or 'init' is at work in "), "{error}");
    let init = run(command().arg("init").arg(place.path("")).args(["--address", "relay.example.com:443"]));
    assert_eq!(init.status.code(), Some(1), "{init:?}");
    assert!(files.map(|name| fs::read(place.path(name)).unwrap()) == before, "nothing is changed");
    drop(directory);
    place.done(&rotate);
}

#[test]
fn the_key_is_not_changed_twice_before_the_relay_that_runs_proves_it() {
    let place = Place::new();
    let read = |name: &str| fs::read(place.path(name)).unwrap();
    let mut relay = place.start();
    let beside = place.path("relay-next.key");
    let rotate = ["rotate-key", "--next-key", beside.to_str().unwrap()];
    let kept = place.path("kept");
    fs::copy(&beside, &kept).unwrap();
    let text = place.done(&rotate);
    assert!(!text.contains("Delete"), "the one beside the key was written anew: {text}");
    let files = ["relay.key", "relay-next.key", "relay-next.pub"];
    let before = files.map(read);
    let error = place.failed(2, &rotate);
    assert!(error.contains("so the key was changed and the relay not restarted; restart it and let every"), "{error}");
    assert!(files.map(read) == before, "nothing is changed");
    // Nor where the key is lost meanwhile: the relay announces another than the one that is to take its place.
    fs::remove_file(place.path("relay.key")).unwrap();
    let error = place.failed(2, &rotate);
    assert!(error.contains("the relay that runs announces ") && error.contains("relay-next.pub has "), "{error}");
    assert!(!place.path("relay.key").exists());
    fs::copy(&kept, place.path("relay.key")).unwrap();
    // A change that was interrupted is finished nevertheless: devices know the key that the relay will prove.
    fs::write(place.path("relay-next.pub"), public_line(&before[0])).unwrap();
    place.done(&["rotate-key"]);
    assert!(read("relay.key") == before[0]);
    relay.signal("TERM");
    assert_eq!(relay.wait(), Some(0), "{:?}", relay.log());
    let _relay = place.start();
    place.done(&rotate);
}

/// Devices know two keys, and one that was away for two changes must join anew.
#[test]
fn the_key_is_not_changed_again_before_devices_that_were_here_know_the_next_unless_that_is_forced() {
    let place = Place::new();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    place.configure(&format!("addresses = [\"127.0.0.1:{port}\"]\n[listen]\ntls = \"127.0.0.1:{port}\"\n"));
    let mut relay = place.start();
    let join = place.done(&["token", "device", "pump-3"]);
    let device = |join: Option<&str>| {
        let enrolment = Enrolment::open_strictly(&place.path("device"), join, None).unwrap();
        let mut config = device::Config::new(enrolment.addresses()[0].clone());
        config.enrolment = Some(enrolment);
        // The relay takes commands a moment before it takes devices.
        (config.reconnect, config.keep_trying) = (true, true);
        Handle::start(config).unwrap()
    };
    let lacks = |count: usize| {
        let listed = place.done(&["devices", "--json"]);
        listed.matches("\"lacks_next_key\": true").count() == count && listed.contains("\"seen\": 1")
    };
    fs::DirBuilder::new().mode(0o700).create(place.path("device")).unwrap();
    // One that never was there can lack nothing.
    place.done(&["add", "pump-4", "--key", KEY]);
    let here = device(Some(&join));
    // It counts by its join string from before it is told so.
    eventually("it has joined", DEADLINE, || here.status().unwrap().state == State::Listening);
    assert!(lacks(0));
    here.close().unwrap();
    let beside = place.path("relay-next.key");
    let rotate = ["rotate-key", "--next-key", beside.to_str().unwrap()];
    place.done(&rotate);
    let restart = |mut relay: Relay| {
        relay.signal("TERM");
        assert_eq!(relay.wait(), Some(0), "{:?}", relay.log());
        place.start()
    };
    relay = restart(relay);

    let files = ["relay.key", "relay-next.key", "relay-next.pub"];
    let read = || files.map(|name| fs::read(place.path(name)).unwrap());
    let before = read();
    let refused = || {
        let error = place.failed(2, &rotate);
        let text =
            "these devices do not know the next key yet, and would have to join anew: pump-3; let each connect once";
        assert!(
            error.contains(text) && error.contains("give --force; nothing was changed") && read() == before,
            "{error}"
        );
    };
    refused();
    let listed = place.done(&["devices"]);
    assert!(listed.ends_with("let them connect once before 'rotate-key':\npump-3\n"), "{listed}");
    assert!(lacks(1));
    // The same as the registry's file has it.
    relay.signal("TERM");
    assert_eq!(relay.wait(), Some(0), "{:?}", relay.log());
    refused();

    relay = place.start();
    let here = device(None);
    eventually("it knows the key", DEADLINE, || lacks(0));
    place.done(&rotate);
    relay = restart(relay);
    eventually("it knows the key after that", DEADLINE, || lacks(0));
    here.close().unwrap();
    place.done(&rotate);
    let _relay = restart(relay);
    place.failed(2, &rotate);
    place.done(&[&rotate[..], &["--force"]].concat());
}

/// A relay that is killed has written nothing since the device joined, and none of its links may have told the device of the
/// key that is announced now.
#[test]
fn a_device_that_keeps_to_another_next_key_lacks_the_one_that_is_announced() {
    let place = Place::new();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    place.configure(&format!("addresses = [\"127.0.0.1:{port}\"]\n[listen]\ntls = \"127.0.0.1:{port}\"\n"));
    let relay = place.start();
    let join = place.done(&["token", "device", "pump-3"]);
    fs::DirBuilder::new().mode(0o700).create(place.path("device")).unwrap();
    let enrolment = Enrolment::open_strictly(&place.path("device"), Some(&join), None).unwrap();
    let mut config = device::Config::new(enrolment.addresses()[0].clone());
    config.enrolment = Some(enrolment);
    (config.reconnect, config.keep_trying) = (true, true);
    let device = Handle::start(config).unwrap();
    relay.wait_for_log("a device has joined");
    drop(relay);
    let other = place.path("other.key");
    fs::copy(place.path("relay-next.key"), &other).unwrap();
    fs::write(&other, &*Key::generate().unwrap().to_pkcs8()).unwrap();
    fs::write(place.path("relay-next.pub"), public_line(&fs::read(&other).unwrap())).unwrap();
    let rotate = ["rotate-key", "--next-key", other.to_str().unwrap()];
    let refused = || {
        let error = place.failed(2, &rotate);
        assert!(error.contains("would have to join anew: pump-3; let each connect once"), "{error}");
    };
    refused();
    let relay = place.start();
    eventually("the device has read what is announced", DEADLINE, || {
        let listed = place.done(&["devices", "--json"]);
        listed.contains("\"round_trip_ms\": ") && !listed.contains("\"round_trip_ms\": null")
    });
    assert!(place.done(&["devices", "--json"]).contains("\"lacks_next_key\": true"));
    refused();
    device.close().unwrap();
    // Nor does a relay count for nothing that has the registry, and no keys.
    drop(relay);
    place.configure(&PLAIN.replace("tls = ", "# tls = "));
    let _relay = place.start();
    refused();
}

/// The public key of a private one, as its file has it.
fn public_line(pkcs8: &[u8]) -> String {
    format!("{}\n", Key::from_pkcs8(pkcs8).unwrap().public())
}

#[test]
fn the_next_key_takes_the_place_of_one_that_is_lost() {
    let place = Place::new();
    let kept = place.path("kept");
    fs::rename(place.path("relay-next.key"), &kept).unwrap();
    fs::remove_file(place.path("relay.key")).unwrap();
    assert!(place.failed(2, &["rotate-key"]).contains("name the file of the next key"));
    place.done(&["rotate-key", "--next-key", kept.to_str().unwrap()]);
    assert!(fs::read(place.path("relay.key")).unwrap() == fs::read(&kept).unwrap());
    place.done(&["check"]);
}
