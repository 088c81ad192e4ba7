use super::peers::{Habit, Shown};
use super::*;

#[test]
fn both_ends_prove_their_keys() {
    let (device, relay) = (key(), key());
    let (mut opener, mut acceptor) = (End::opener(&device, pins(&relay)), End::acceptor(&relay));
    assert_eq!((opener.tls.peer_key(), acceptor.tls.peer_key()), (None, None));
    assert_eq!(carry(&mut opener, &mut acceptor), (Ok(()), Ok(())));
    assert_eq!(opener.tls.peer_key(), Some(relay.public()));
    assert_eq!(acceptor.tls.peer_key(), Some(device.public()));
}

#[test]
fn a_relay_that_proves_the_next_key_is_taken() {
    let (device, relay) = (key(), key());
    let next = Pins { current: key().public().pin(), next: relay.public().pin() };
    let (mut opener, mut acceptor) = (End::opener(&device, next), End::acceptor(&relay));
    assert_eq!(carry(&mut opener, &mut acceptor), (Ok(()), Ok(())));
}

#[test]
fn the_openers_first_data_leaves_with_the_end_of_its_handshake() {
    let (device, relay) = (key(), key());
    let (mut opener, mut acceptor) = (End::opener(&device, pins(&relay)), End::acceptor(&relay));
    assert_eq!(opener.seal(b"too early"), 0);
    let hello = opener.send();
    acceptor.receive(&hello).expect("a ClientHello");
    assert_eq!(acceptor.seal(b"too early"), 0);
    let answer = acceptor.send();
    assert!(hello.len() < 1024 && answer.len() < 1024, "{} {}", hello.len(), answer.len());
    opener.receive(&answer).expect("the acceptor's handshake");
    assert!(opener.tls.is_established());
    assert_eq!(opener.seal(b"SETTINGS"), 8);
    let last = opener.send();
    acceptor.receive(&last).expect("the end of the handshake, and data");
    assert_eq!(acceptor.plaintext, b"SETTINGS");
    // It decides now whom it has before it, and TLS itself has said nothing more.
    assert!(acceptor.send().is_empty() && last.len() < 1024, "{}", last.len());
}

#[test]
fn a_peer_that_would_resume_gets_no_ticket() {
    let mut acceptor = End::acceptor(&key());
    let mut client = Habit::of(Shown::honest(&key())).client();
    assert_eq!(client.meet(&mut acceptor), (Ok(()), Ok(())));
    let rustls::Connection::Client(client) = client.0 else { unreachable!("it is a client") };
    assert_eq!(client.tls13_tickets_received(), 0);
}

#[test]
fn any_host_can_be_dialled() {
    let (device, relay) = (key(), key());
    let opener = Opener::new(&device, pins(&relay)).expect("a configuration");
    let long = "a".repeat(253);
    for (host, named) in
        [("relay.example.com", true), ("192.0.2.1", false), ("::1", false), ("fe80::1%eth0", false), (&long, false)]
    {
        let mut scratch = scratch();
        let mut tls = opener.start(host, &mut scratch).expect("a handshake");
        let hello = tls.unsent(&scratch).to_vec();
        let has_name = hello.windows(host.len()).any(|part| part == host.as_bytes());
        assert_eq!(has_name, named, "{host}");
        tls.advance(&mut scratch, hello.len());
        let mut acceptor = End::acceptor(&relay);
        acceptor.receive(&hello).expect("a ClientHello");
        let answer = &mut acceptor.send();
        tls.open(answer, &mut Vec::new(), &mut scratch).expect("the acceptor's handshake");
        assert!(tls.is_established(), "{host}");
    }
}

#[test]
fn a_handshake_may_come_split_at_any_byte() {
    let (device, relay) = (key(), key());
    let length = End::opener(&device, pins(&relay)).send().len();
    for cut in 1..length {
        let (mut opener, mut acceptor) = (End::opener(&device, pins(&relay)), End::acceptor(&relay));
        let hello = opener.send();
        acceptor.receive(&hello[..cut]).expect("a part");
        assert!(acceptor.send().is_empty() && acceptor.tls.buffered() > 0, "cut at {cut}");
        acceptor.receive(&hello[cut..]).expect("the rest");
        assert_eq!(carry(&mut opener, &mut acceptor), (Ok(()), Ok(())), "cut at {cut}");
        assert!(opener.tls.is_established() && acceptor.tls.is_established(), "cut at {cut}");
    }
}

#[test]
fn a_session_may_come_byte_by_byte() {
    let (device, relay) = (key(), key());
    let (mut opener, mut acceptor) = (End::opener(&device, pins(&relay)), End::acceptor(&relay));
    let drip = |from: &mut End, to: &mut End| {
        for byte in from.send() {
            to.receive(&[byte]).expect("a byte of it");
        }
    };
    drip(&mut opener, &mut acceptor);
    drip(&mut acceptor, &mut opener);
    opener.seal(b"request");
    drip(&mut opener, &mut acceptor);
    acceptor.seal(b"answer");
    drip(&mut acceptor, &mut opener);
    assert_eq!((&acceptor.plaintext[..], &opener.plaintext[..]), (&b"request"[..], &b"answer"[..]));
    assert_eq!((opener.tls.buffered(), acceptor.tls.buffered()), (0, 0));
}

#[test]
fn only_an_end_that_was_announced_is_one() {
    let (mut opener, mut acceptor) = pair();
    acceptor.seal(b"refused");
    acceptor.tls.close(&mut acceptor.scratch).expect("a connection");
    assert_eq!(acceptor.seal(b"more"), 0, "nothing comes behind the end");
    let mut last = acceptor.send();
    let whole = last.len();
    last.extend_from_slice(b"anything");
    for (place, &byte) in last.iter().enumerate() {
        assert_eq!(opener.tls.has_peer_closed(), place >= whole, "at byte {place} of {whole}");
        opener.receive(&[byte]).expect("a byte");
    }
    assert_eq!(opener.plaintext, b"refused");
    assert_eq!(opener.tls.handle_end(), Ok(()));
    // The other direction goes on.
    assert_eq!(opener.seal(b"late"), 4);
    opener.tls.close(&mut opener.scratch).expect("a connection");
    let late = opener.send();
    acceptor.receive(&late).expect("data and an end");
    assert_eq!((&acceptor.plaintext[..], acceptor.tls.handle_end()), (&b"late"[..], Ok(())));
}

#[test]
fn a_session_that_is_cut_at_any_byte_is_lost() {
    let (device, relay) = (key(), key());
    // In steps that no record's length is a multiple of, over the handshake, a message and the end.
    for cut in (0..).step_by(7) {
        let (mut opener, mut acceptor) = (End::opener(&device, pins(&relay)), End::acceptor(&relay));
        acceptor.receive(&opener.send()).expect("a ClientHello");
        let mut came = acceptor.send();
        opener.receive(&came[..cut.min(came.len())]).expect("a part");
        if cut >= came.len() {
            acceptor.receive(&opener.send()).expect("the end of the handshake");
            acceptor.seal(b"an answer");
            acceptor.tls.close(&mut acceptor.scratch).expect("a connection");
            let before = came.len();
            came.extend(acceptor.send());
            if cut >= came.len() {
                return;
            }
            opener.receive(&came[before..cut]).expect("a part");
        }
        let established = opener.tls.is_established();
        let error = if established { TlsError::Cut } else { TlsError::EndInHandshake };
        assert_eq!(opener.tls.handle_end(), Err(error.clone()), "cut at {cut} of {}", came.len());
        assert_eq!(opener.receive(b"x"), Err(error));
    }
}

#[test]
fn a_connection_can_be_handed_to_another_thread() {
    fn is_send<T: Send + Sync>() {}
    is_send::<(Tls, Opener, Acceptor, Scratch, Key)>();
}
