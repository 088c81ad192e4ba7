use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use super::*;
use crate::device::Config;
use crate::io::event_loop::{EventLoop, Source};

const DEADLINE: Duration = Duration::from_secs(15);

/// A resolver whose server does not answer.
fn silent(_name: &str) -> io::Result<Vec<SocketAddr>> {
    thread::sleep(4 * DEADLINE);
    Err(io::ErrorKind::TimedOut.into())
}

fn context<'a>(config: &'a Config, event_loop: EventLoop, names: Names, shared: &'a Shared) -> Context<'a> {
    let Config { access, services, .. } = config;
    let events = ClientEvents::new(Instant::now(), shared);
    Context { io: Io::new(event_loop), names, shared, events, access, services }
}

/// CONNECT of version 1.
fn connect(client: u8, host: &str, port: u16) -> Vec<u8> {
    let payload = [&(host.len() as u16).to_be_bytes(), host.as_bytes(), &port.to_be_bytes()].concat();
    [&(payload.len() as u16).to_be_bytes(), &[1, client], &payload[..]].concat()
}

#[test]
fn a_name_that_hangs_and_one_that_waits_for_others_have_different_errors_after_10_s() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let peer = listener.local_addr().expect("address");
    let mut config = Config::new(peer.to_string().parse().expect("an address"));
    config.access = Access::Only(vec!["gate.example:80".parse().expect("a rule")]);
    let mut event_loop = EventLoop::new().expect("poll");
    let shared = Shared::new(config.server.clone(), event_loop.waker()).expect("a report");
    let mut io = net::connect(peer).expect("connect");
    let token = event_loop.register(&mut io, Source::Link(0)).expect("register");
    let device = Device::new(config.protocol, config.limits);
    let mut link = Link::new(device, 0, Reached { io, token, peer, server: config.server.clone() });
    let names = Names::with_lookup(event_loop.waker(), silent);
    let mut context = context(&config, event_loop, names, &shared);
    let (mut relay, _) = listener.accept().expect("accept");

    let mut frames = vec![0, 0, 2, 0xf2];
    // Of the names that are new six have a thread.
    let hosts = ["dead1", "dead2", "dead3", "dead4", "dead5", "dead6", "dead7", "192.0.2.1"];
    for (client, host) in (1..).zip(hosts) {
        frames.extend(connect(client, host, 80));
    }
    relay.write_all(&frames).expect("sent");
    let (began, now, mut buffer) = (Instant::now(), Instant::now(), vec![0; 1024]);
    while link.services.len() < hosts.len() {
        assert!(began.elapsed() < DEADLINE, "{} are asked for", link.services.len());
        link.session.handle_link_event(Readiness {
            source: Source::Link(0),
            readable: true,
            writable: true,
            more_behind: false,
            hung_up: false,
        });
        link.step(now, &mut context, &mut buffer).expect("the link is there");
    }
    link.step(now + Duration::from_secs(10), &mut context, &mut buffer).expect("the link is there");
    let events: Vec<Event> = std::iter::from_fn(|| shared.next_event()).collect();
    let failed: Vec<_> = events.iter().filter(|event| event.kind == EventKind::Failed).collect();
    assert_eq!(failed.len(), hosts.len(), "{events:?}");
    assert!(failed.iter().all(|event| event.code == Some("timeout")));
    let text = |client: u32| &*failed.iter().find(|event| event.client == Some(client)).expect("an event").message;
    let hangs = "the lookup of its name was not answered in 10 s; check the device's DNS";
    assert_eq!(text(1), format!("client 1 cannot reach dead1:80: {hangs}"));
    let waits = "waited for 10 s for those of other names, which hang; check the device's DNS";
    assert_eq!(text(7), format!("client 7 cannot reach dead7:80: the lookup of its name {waits}"));
    let rule = format!("the lookup of 'gate.example', a name in allow or services, {waits}");
    assert_eq!(text(8), format!("client 8 cannot reach 192.0.2.1:80: {rule}"));
}

#[test]
fn a_service_that_has_vanished_and_one_that_resets_have_different_events() {
    let reset = io::Error::from_raw_os_error(104).to_string();
    let text = "is done: its service reset it: Connection reset by peer (os error 104)";
    assert_eq!(failed_service(Code::Normal, &reset), text);
    let vanished = io::Error::from_raw_os_error(110).to_string();
    let text = "is done: its service has vanished: Connection timed out (os error 110)";
    assert_eq!(failed_service(Code::Idle, &vanished), text);
}

#[test]
fn what_a_service_answered_while_the_device_was_stopped_is_read_before_its_silence_is_judged() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let service = TcpListener::bind("127.0.0.1:0").expect("bind");
    let peer = listener.local_addr().expect("address");
    let mut config = Config::new(peer.to_string().parse().expect("an address"));
    config.access = Access::Any;
    let mut event_loop = EventLoop::new().expect("poll");
    let shared = Shared::new(config.server.clone(), event_loop.waker()).expect("a report");
    let mut io = net::connect(peer).expect("connect");
    let token = event_loop.register(&mut io, Source::Link(0)).expect("register");
    let mut link = Link::new(
        Device::new(config.protocol, config.limits),
        0,
        Reached { io, token, peer, server: config.server.clone() },
    );
    let names = Names::with_lookup(event_loop.waker(), silent);
    let mut context = context(&config, event_loop, names, &shared);
    let (mut relay, _) = listener.accept().expect("accept");
    relay.set_read_timeout(Some(DEADLINE)).expect("deadline");

    // Of 2012: it answers HELLO and the probe, and its client sends no more.
    let mut frames = vec![0, 0, 2, 0xf2, 0, 0, 2, 0xff];
    frames.extend(connect(1, "127.0.0.1", service.local_addr().expect("address").port()));
    frames.extend(b"\0\x03\x03\x01GET\0\0\x02\x01");
    relay.write_all(&frames).expect("sent");
    let (began, mut buffer) = (Instant::now(), vec![0; 1024]);
    let mut step = |link: &mut Link, late: Duration| {
        assert!(began.elapsed() < DEADLINE, "not in time");
        context.io.event_loop.wait(Some(Instant::now() + Duration::from_millis(1))).expect("wait");
        let now = Instant::now() + late;
        while let Some(event) = context.io.event_loop.next_ready() {
            match event.source {
                Source::Link(_) => link.session.handle_link_event(event),
                Source::Stream(_, key) => link.handle_stream_event(now, &mut context, key, event),
                Source::Waker | Source::Listener(_) | Source::Closing(_) | Source::Header(_) => {}
            }
        }
        link.step(now, &mut context, &mut buffer).expect("the link is there");
    };
    service.set_nonblocking(true).expect("mode");
    let mut served = loop {
        step(&mut link, Duration::ZERO);
        if let Ok((served, _)) = service.accept() {
            break served;
        }
    };
    served.set_nonblocking(true).expect("mode");
    let mut request = Vec::new();
    while served.read_to_end(&mut request).is_err() {
        step(&mut link, Duration::ZERO);
    }
    served.write_all(b"answer").expect("sent");
    step(&mut link, Duration::from_secs(2));
    let expected = b"\0\0\x04\0\0\0\x05\xf2\0\0\x03\xff\0\x06\x03\x01answer";
    let mut came = [0; 64];
    let mut count = 0;
    while count < 16 {
        count += relay.read(&mut came[count..]).expect("frames");
    }
    assert_eq!(came[..count].escape_ascii().to_string(), expected.escape_ascii().to_string());
}
