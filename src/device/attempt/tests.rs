use std::net::{Shutdown, TcpListener};
use std::thread;
use std::time::Duration;

use super::*;

/// A proxy that reads one head and then sends `answer`; and what it has read.
struct Scripted {
    address: SocketAddr,
    asked: thread::JoinHandle<(std::net::TcpStream, String)>,
}

fn scripted(answer: &'static [u8]) -> Scripted {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    let asked = thread::spawn(move || {
        let mut io = listener.accept().expect("a device").0;
        io.set_read_timeout(Some(Duration::from_secs(15))).expect("deadline");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            io.read_exact(&mut byte).expect("a head");
            head.extend(byte);
        }
        io.write_all(answer).expect("an answer");
        (io, String::from_utf8(head).expect("text"))
    });
    Scripted { address, asked }
}

fn through(proxy: &str) -> Config {
    let mut config = Config::new("relay.example.com:443".parse().expect("an address"));
    config.proxy = Some(proxy.parse().expect("a proxy"));
    config.connect_timeout = Duration::from_secs(15);
    config
}

/// What becomes of an attempt.
fn outcome(config: &Config) -> Result<Reached, Error> {
    let mut event_loop = EventLoop::new().expect("poll");
    let mut names = RelayNames::new(event_loop.waker());
    let mut attempt =
        Attempt::new(config, config.server.clone(), 0, (Instant::now(), config.connect_timeout), &mut names);
    loop {
        if let Some(found) = names.poll(attempt.awaited_name(config)) {
            attempt.handle_name(config, Instant::now(), found)?;
        }
        if let Some(result) = attempt.poll(config, Instant::now(), &mut event_loop) {
            return result;
        }
        event_loop.wait(attempt.poll_timeout()).expect("events");
        while event_loop.next_ready().is_some() {}
    }
}

fn refusal(config: &Config) -> String {
    let error = outcome(config).expect_err("no way");
    assert_eq!(error.code(), "proxy");
    error.to_string()
}

#[test]
fn what_stands_behind_the_proxys_answer_is_left_for_the_link() {
    let proxy = scripted(b"HTTP/1.1 200 OK\r\n\r\nthe link's\r\n\r\nfirst bytes");
    let mut reached = outcome(&through(&format!("http://me:secret@{}", proxy.address))).expect("reached");
    let (theirs, head) = proxy.asked.join().expect("no panic");
    assert!(head.starts_with("CONNECT relay.example.com:443 HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("\r\nProxy-Authorization: Basic bWU6c2VjcmV0\r\n"), "{head}");
    assert_eq!((reached.peer, reached.server.to_string()), (proxy.address, "relay.example.com:443".into()));
    theirs.shutdown(Shutdown::Write).expect("ended");
    let mut rest = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(15);
    while let Err(error) = reached.io.read_to_end(&mut rest) {
        assert!(error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline, "{error}");
        thread::yield_now();
    }
    assert_eq!(rest, b"the link's\r\n\r\nfirst bytes");
}

#[test]
fn a_proxy_that_says_no_is_named_with_its_reason_and_without_the_password() {
    let proxy = scripted(b"HTTP/1.1 403 Filtered\r\nContent-Length: 3\r\n\r\nno!");
    let config = through(&format!("http://me:secret@{}", proxy.address));
    let expected = format!(
        "the link to relay.example.com:443 cannot be made through the proxy {}: it does not permit that address (403 \
         Filtered); ask its operator to permit CONNECT to it",
        proxy.address
    );
    assert_eq!(refusal(&config), expected);
    assert!(!format!("{config:?}").contains("secret"));
}

#[test]
fn a_proxy_that_ends_or_is_not_there_or_never_answers_is_told_apart() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let proxy = format!("http://{}", listener.local_addr().expect("address"));
    let ending = thread::spawn(move || {
        let mut io = listener.accept().expect("a device").0;
        let _ = io.read(&mut [0; 4096]);
        listener
    });
    let text = refusal(&through(&proxy));
    let listener = ending.join().expect("no panic");
    assert!(text.contains(": it ended the connection before it had answered; ask its operator"), "{text}");

    // The kernel takes the connection, and nobody reads from it.
    let mut config = through(&proxy);
    config.connect_timeout = Duration::from_millis(50);
    let text = refusal(&config);
    assert!(
        text.contains(": it did not answer in time; check that it works, or give a longer connect_timeout"),
        "{text}"
    );

    drop(listener);
    let text = refusal(&through(&proxy));
    assert!(text.contains(": it cannot be reached: Connection refused (os error 111); check proxy and"), "{text}");
    let text = refusal(&through("http://no-such-host.invalid:3128"));
    assert!(text.contains(": it cannot be reached: no address for its name, "), "{text}");
}
