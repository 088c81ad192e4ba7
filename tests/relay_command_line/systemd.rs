//! The relay in the hands of systemd, whose part a test plays.

use super::*;

#[test]
fn systemd_is_told_that_the_relay_is_ready_reloads_is_alive_and_ends() {
    let place = Place::new();
    let path = place.path("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let next = |wanted: &str| {
        let mut buffer = [0; 4096];
        loop {
            let length = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("no {wanted}: {error}"));
            let text = String::from_utf8(buffer[..length].to_vec()).unwrap();
            if text.lines().any(|line| line == wanted) {
                return text;
            }
        }
    };
    let mut command = command();
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "40000").env_remove("WATCHDOG_PID");
    let mut relay = place.start_with(&mut command);
    assert!(next("READY=1").contains("STATUS=serving"));
    for _ in 0..3 {
        next("WATCHDOG=1");
    }
    relay.signal("HUP");
    let reloading = next("RELOADING=1");
    let now = reloading.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).unwrap();
    assert!(now.parse::<u64>().unwrap() > 0);
    next("READY=1");
    place.configure("x = 1");
    relay.signal("HUP");
    next("RELOADING=1");
    // It serves as before, and a person sees why that is not as the file says.
    assert!(next("READY=1").contains("STATUS=serving; the configuration was not reloaded"));
    relay.signal("TERM");
    next("STOPPING=1");
    assert_eq!(relay.wait(), Some(0), "{:?}", relay.log());
    // A relay that nobody asks to tell has nothing to tell.
    socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    while socket.recv(&mut [0; 4096]).is_ok() {}
}

#[test]
fn a_relay_serves_and_ends_though_systemd_does_not_read_what_it_is_told() {
    let place = Place::new();
    let path = place.path("notify");
    let _manager = UnixDatagram::bind(&path).unwrap();
    let filler = UnixDatagram::unbound().unwrap();
    filler.set_nonblocking(true).unwrap();
    while filler.send_to(b"x", &path).is_ok() {}
    let mut command = command();
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "40000").env_remove("WATCHDOG_PID");
    let mut relay = place.start_with(&mut command);
    // The loop turns: it answers.
    let _link = Link::listen(super::super::address_in(&relay.wait_for_logs("waiting for a device", 2)[0]));
    relay.client_addrs();
    relay.signal("TERM");
    assert_eq!(relay.wait(), Some(0), "{:?}", relay.log());
}

/// A relay to which this socket is given as systemd gives it: as descriptor 3, beside two variables, of which one says how
/// many there are.
fn start_with_sockets(place: &Place, socket: &TcpListener, count: &str) -> Child {
    let mut command = Command::new("sh");
    let script = "exec 3<&0 </dev/null; export LISTEN_FDS=$0 LISTEN_PID=$$; exec \"$@\"";
    command.args(["-c", script, count, env!("CARGO_BIN_EXE_tcp-remote-relay"), "run", "--config", &place.config()]);
    command.stdin(OwnedFd::from(socket.try_clone().unwrap())).stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

#[test]
fn nobody_is_refused_at_a_port_that_systemd_holds_while_the_relay_restarts() {
    let place = Place::new();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    // More may wait than come while a busy machine starts a relay.
    SockRef::from(&socket).listen(1024).unwrap();
    let address = socket.local_addr().unwrap();
    place.configure(&format!("[listen]\ntls = \"{address}\"\n"));
    let is_over = Arc::new(AtomicBool::new(false));
    let devices = thread::spawn({
        let is_over = Arc::clone(&is_over);
        move || {
            let mut came = 0;
            while !is_over.load(Ordering::Relaxed) {
                TcpStream::connect(address).unwrap();
                came += 1;
                thread::sleep(Duration::from_millis(10));
            }
            came
        }
    });
    for _ in 0..3 {
        let mut relay = start_with_sockets(&place, &socket, "1");
        eventually("it serves", DEADLINE, || UnixStream::connect(place.path("state/control")).is_ok());
        // It has not only the port: it reads what comes there, and ends what is no device.
        let mut device = TcpStream::connect(address).unwrap();
        device.set_read_timeout(Some(DEADLINE)).unwrap();
        device.write_all(b"this is no TLS\n").unwrap();
        let _ = device.read_to_end(&mut Vec::new());
        let ended = Command::new("kill").args(["-TERM", &relay.id().to_string()]).status().unwrap();
        assert!(ended.success());
        let status = relay.wait().unwrap();
        let mut log = String::new();
        relay.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        assert_eq!(status.code(), Some(0), "{log}");
        assert!(log.contains(&format!("waiting for a device at={address}")), "{log}");
    }
    is_over.store(true, Ordering::Relaxed);
    assert!(devices.join().unwrap() > 0, "none was refused");
}

#[test]
fn a_socket_of_systemd_that_the_configuration_does_not_have_is_told() {
    let place = Place::new();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    // One of clients cannot be systemd's, since it is closed while its device is away.
    let ports = [String::new(), format!("[[port]]\nlisten = \"{address}\"\nto = \"pump-3:ssh\"\n")];
    for port in ports {
        place.configure(&format!("[listen]\ntls = \"127.0.0.1:0\"\n{port}"));
        let mut relay = start_with_sockets(&place, &socket, "1");
        let has_ended = || relay.try_wait().unwrap().is_some();
        eventually("the relay's end", DEADLINE, has_ended);
        let output = relay.wait_with_output().unwrap();
        let log = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{log}");
        assert!(
            log.contains(&format!("systemd gives a socket at {address}, and no device port of the relay")),
            "{log}"
        );
    }
}

#[test]
fn a_line_for_the_journal_has_its_priority_and_no_time_of_its_own() {
    let place = Place::new();
    let path = place.path("journal");
    let journal = File::create(&path).unwrap();
    let metadata = journal.metadata().unwrap();
    let variable = format!("{}:{}", metadata.dev(), metadata.ino());
    let run_until = |wanted: &str, path: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tcp-remote-relay"));
        command.args(["run", "--config", &place.config()]).env("JOURNAL_STREAM", &variable).stdin(Stdio::null());
        // The journal stays the same file, and is empty again.
        let mut relay = command.stderr(File::create(path).unwrap()).spawn().unwrap();
        eventually(wanted, DEADLINE, || fs::read_to_string(path).unwrap().contains(wanted));
        relay.kill().unwrap();
        relay.wait().unwrap();
        fs::read_to_string(path).unwrap()
    };
    let serving = "waiting for a device";
    let log = run_until(serving, &path);
    assert!(log.lines().any(|line| line.starts_with("<6>waiting for a device at=127.0.0.1:")), "{log}");
    let warning = "<4>the port 127.0.0.1:0 leads to 'pump-3', and no device has this name";
    place.configure(&format!("{PLAIN}[[port]]\nlisten = \"127.0.0.1:0\"\nto = \"pump-3:ssh\"\n"));
    let log = run_until(serving, &path);
    assert!(log.lines().any(|line| line.starts_with(warning)), "{log}");
    // Another program's journal is none of its standard error.
    let log = run_until(serving, &place.path("elsewhere"));
    assert!(log.lines().all(|line| line.starts_with("20")) && log.contains("Z  WARN the port 127.0.0.1:0"), "{log}");
    // What is JSON stays as it is, behind the priority.
    place.configure(&format!("{PLAIN}[log]\nformat = \"json\"\n"));
    let log = run_until(serving, &path);
    assert!(log.lines().any(|line| line.starts_with("<6>{\"timestamp\":\"")), "{log}");
    // Before there is a log, each line of what is wrong is an error.
    place.configure("x = 1\ny = 2\n");
    let log = run_until("'y'", &path);
    assert!(log.lines().count() > 1 && log.lines().all(|line| line.starts_with("<3>")), "{log}");
}

#[test]
fn a_descriptor_of_the_relays_own_is_not_taken_for_one_of_systemd() {
    let place = Place::new();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    place.configure(&format!("[listen]\ntls = \"{}\"\n", socket.local_addr().unwrap()));
    for count in ["2", "1000000"] {
        let output = start_with_sockets(&place, &socket, count).wait_with_output().unwrap();
        let log = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{log}");
        assert!(log.contains("cannot take the sockets that systemd gives: Bad file descriptor (os error 9)"), "{log}");
    }
}
