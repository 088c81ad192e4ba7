use std::net::TcpListener;

use super::*;
use crate::link::{Limits, Mux, MuxOutput, Role};
use crate::protocol::v2::{GoAway, Settings};

#[test]
fn what_the_other_end_said_last_is_heard_though_the_link_takes_no_more() {
    let now = Instant::now();
    let mut event_loop = EventLoop::new().expect("poll");
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let mut io = net::connect(listener.local_addr().expect("address")).expect("connect");
    let (mut relay, _) = listener.accept().expect("accept");
    let token = event_loop.register(&mut io, Source::Link(0)).expect("register");
    let device = Mux::new(now, Role::Device, Limits::DEVICE, &[]);
    let mut session = Session::new(device, 0, io, token);
    let mut buffer = [0; 1024];
    session.turn(now, &mut event_loop, &mut buffer).expect("SETTINGS leave");
    let reason = String::from("a newer link took the place of this one");
    let away = GoAway { code: Code::Replaced, retry_after: 0, last_stream: 0, reason };
    relay.write_all(&Settings::default().frame()).expect("sent");
    relay.write_all(&away.frame()).expect("sent");
    net::reset(&relay);
    drop(relay);
    // The event that would tell has not come, and there is something to write.
    loop {
        session.endpoint.go_away(now, Code::Normal, 0, "");
        if session.turn(now, &mut event_loop, &mut buffer).is_err() {
            break;
        }
    }
    let outputs: Vec<_> = std::iter::from_fn(|| session.endpoint.poll_output()).collect();
    assert!(matches!(&outputs[..], [MuxOutput::Settings, MuxOutput::GoAway(heard)] if *heard == away), "{outputs:?}");
}

#[test]
fn a_read_ends_with_the_last_frame_that_it_has_room_for() {
    let frame = MAX_FRAME;
    assert_eq!(whole_frames(2 * frame, 0), 2 * frame);
    assert_eq!(whole_frames(2 * frame, 16), 16 + frame);
    assert_eq!(whole_frames(2 * frame, frame), 2 * frame);
    assert_eq!(whole_frames(2 * frame, frame + 1), frame + 1);
    assert_eq!(whole_frames(frame / 2, 16), 16 + frame / 4);
    assert_eq!(whole_frames(frame / 2, frame), frame / 2);
}

/// A session with one stream, whose socket has a copy as a forked child would hold it, and the socket's other end.
#[cfg(target_os = "linux")]
fn with_copied_socket(event_loop: &mut EventLoop) -> (Session<Mux>, StreamKey, [std::net::TcpStream; 3]) {
    let now = Instant::now();
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    let mut link = net::connect(address).expect("connect");
    let (relay, _) = listener.accept().expect("accept");
    let token = event_loop.register(&mut link, Source::Link(0)).expect("register");
    let device = Mux::new(now, Role::Device, Limits::DEVICE, &[]);
    let mut session = Session::new(device, 0, link, token);
    let io = std::net::TcpStream::connect(address).expect("connect");
    let copy = io.try_clone().expect("a copy");
    io.set_nonblocking(true).expect("mode");
    let mut io = TcpStream::from_std(io);
    net::tune_stream(&io).expect("options");
    let (peer, _) = listener.accept().expect("accept");
    peer.set_read_timeout(Some(std::time::Duration::from_secs(15))).expect("deadline");
    let key = StreamKey { index: 0, generation: 0 };
    let token = event_loop.register(&mut io, Source::Stream(0, key)).expect("register");
    session.attach(event_loop, key, io, token);
    (session, key, [relay, copy, peer])
}

#[test]
#[cfg(target_os = "linux")]
fn a_stream_ends_on_its_connection_though_a_child_has_a_copy_of_its_socket() {
    let mut event_loop = EventLoop::new().expect("poll");
    let (mut session, key, [_relay, _copy, mut peer]) = with_copied_socket(&mut event_loop);
    session.reset(&mut event_loop, key);
    assert_eq!(peer.read(&mut [0]).expect_err("a reset").kind(), io::ErrorKind::ConnectionReset);

    for at_end in [true, false] {
        let (mut session, key, [_relay, _copy, mut peer]) = with_copied_socket(&mut event_loop);
        session.socket(key).expect("it is there").at_end = at_end;
        session.finish(Instant::now(), &mut event_loop, &mut Lingering::default(), key);
        assert_eq!(peer.read(&mut [0]).expect("an end"), 0);
    }

    let (mut session, _, [_relay, _copy, mut peer]) = with_copied_socket(&mut event_loop);
    session.abort(Instant::now(), &mut event_loop);
    assert_eq!(peer.read(&mut [0]).expect_err("a reset").kind(), io::ErrorKind::ConnectionReset);

    // As in a panic of the loop.
    let (session, _, [mut relay, _copy, mut peer]) = with_copied_socket(&mut event_loop);
    let _copy_of_link = socket2::SockRef::from(&session.link.as_ref().expect("a link").io).try_clone().expect("a copy");
    relay.set_read_timeout(Some(std::time::Duration::from_secs(15))).expect("deadline");
    drop(session);
    for end in [&mut peer, &mut relay] {
        assert_eq!(end.read(&mut [0]).expect_err("a reset").kind(), io::ErrorKind::ConnectionReset);
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_peer_that_has_vanished_is_told_from_one_that_resets() {
    use io::ErrorKind::{ConnectionReset, HostUnreachable, NetworkUnreachable, TimedOut};
    let mut event_loop = EventLoop::new().expect("poll");
    for (kind, code) in [
        (TimedOut, Code::Idle),
        (HostUnreachable, Code::Idle),
        (NetworkUnreachable, Code::Idle),
        (ConnectionReset, Code::Normal),
    ] {
        let (mut session, key, _others) = with_copied_socket(&mut event_loop);
        session.fail(Instant::now(), &mut event_loop, key, &kind.into());
        let failure = session.traffic(key).and_then(|traffic| traffic.failure.clone());
        assert_eq!(failure.map(|(code, _)| code), Some(code));
    }
}
