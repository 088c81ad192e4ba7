//! Starts that fail: one line, the status, and nobody who was told before that the relay runs.

use std::os::unix::process::CommandExt;

use super::*;

/// Without the next key, which is warned of where it lies beside the other.
fn place() -> Place {
    let place = Place::new();
    fs::remove_file(place.path("relay-next.key")).unwrap();
    place
}

/// The one line of a relay that cannot run with this configuration.
fn failure(place: &Place, config: &str) -> String {
    place.configure(config);
    let text = place.failed(1, &["run"]);
    assert!(text.lines().count() == 1 && text.contains("ERROR the relay cannot run error="), "{text}");
    text
}

#[test]
fn a_state_directory_whose_path_is_too_long_for_a_socket_is_refused_with_what_to_do() {
    let (place, long) = (Place::new(), "s".repeat(108));
    fs::rename(place.path("state"), place.path(&long)).unwrap();
    place.configure(&format!("state = \"{long}\"\n{PLAIN}"));
    let text = place.failed(2, &["run"]);
    let wanted =
        "/control is too long for the path of a socket, which has at most 107 bytes; give 'state' a shorter path";
    assert!(text.contains(wanted), "{text}");
    let text = place.failed(1, &["devices"]);
    assert!(text.contains("no relay runs with the state directory"), "{text}");
}

#[test]
fn a_port_that_is_taken_is_all_that_a_relay_logs_whichever_it_is() {
    let place = place();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = other.local_addr().unwrap().to_string();
    for (number, whom) in ["devices in TLS", "the device", "clients"].iter().enumerate() {
        let parts: Vec<&str> = PLAIN.split("127.0.0.1:0").collect();
        assert_eq!(parts.len(), 4);
        let ports: Vec<&str> = (0..3).map(|port| if port == number { &taken[..] } else { "127.0.0.1:0" }).collect();
        let config = format!("{}{}{}{}{}{}{}", parts[0], ports[0], parts[1], ports[1], parts[2], ports[2], parts[3]);
        let text = failure(&place, &config);
        assert!(text.contains(&format!("cannot listen for {whom} at {taken}: Address already in use")), "{text}");
    }
}

#[test]
fn a_control_socket_that_cannot_be_made_ends_a_start_before_anybody_is_told_of_it() {
    let place = place();
    let manager = UnixDatagram::bind(place.path("notify")).unwrap();
    fs::create_dir(place.path("state/control")).unwrap();
    let output = run(command().args(["run", "--config", &place.config()]).env("NOTIFY_SOCKET", place.path("notify")));
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("cannot make the control socket ") && text.contains("another file is there; remove it"));
    assert_eq!(text.lines().count(), 1, "{text}");
    manager.set_nonblocking(true).unwrap();
    assert!(manager.recv(&mut [0; 64]).is_err(), "nobody was told that it runs");
}

#[test]
fn a_state_directory_has_one_relay_by_whichever_path_it_is_named() {
    let place = place();
    let relay = place.start();
    symlink(place.path("state"), place.path("link")).unwrap();
    let process = relay.process();
    for state in ["state", "link", "./state", "link/../state"] {
        let text = failure(&place, &format!("state = \"{state}\"\n{PLAIN}"));
        let wanted = format!(
            "{} is in use by another process ({process}); there is one relay for a state directory: stop that one first",
            place.path(state).display()
        );
        assert!(text.contains(&wanted), "{text}");
    }
    // The relay that runs has its socket still.
    place.done(&["devices"]);
}

#[test]
fn a_relay_that_is_given_no_threads_says_so_in_one_line() {
    // A user that has no other process, so that the limit is the relay's alone.
    const USER: u32 = 64_033;
    let place = place();
    let program = place.path("program");
    fs::copy(env!("CARGO_BIN_EXE_tcp-remote-relay"), &program).unwrap();
    for file in fs::read_dir(place.path("")).unwrap() {
        if chown(file.unwrap().path(), Some(USER), Some(USER)).is_err() {
            // Only root can give files away.
            return;
        }
    }
    for directory in [place.directory.path().to_owned(), place.path("")] {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
    }
    for threads in 1..=5 {
        let mut limited = Command::new("prlimit");
        limited.arg(format!("--nproc={threads}")).arg(&program).args(["run", "--config", &place.config()]);
        let output = run(limited.uid(USER).gid(USER));
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{threads}: {text}");
        assert!(text.lines().count() == 1 && text.contains("Resource temporarily unavailable"), "{threads}: {text}");
    }
}
