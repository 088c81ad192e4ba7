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
