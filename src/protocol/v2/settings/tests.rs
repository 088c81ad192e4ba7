use proptest::prelude::*;

use super::*;
use crate::identity::Pin;

/// Fields, in their order.
fn payload(fields: &[(u16, &[u8])]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (tag, value) in fields {
        field::push(&mut payload, *tag, value);
    }
    payload
}

fn service(name: &str, port: u16, flags: ServiceFlags) -> Service {
    Service { name: Name::service(name).expect("a name"), port, flags }
}

/// With every field there is.
fn full() -> Settings {
    Settings {
        refuses: false,
        window: 32_768,
        streams: 256,
        open_rate: 7,
        acknowledges: true,
        software: "a device 2.0".into(),
        keepalive: Some(Duration::from_secs(90)),
        services: Some(vec![
            service("ssh", 22, ServiceFlags::default()),
            service("web", 443, ServiceFlags(ServiceFlags::HTTP.0 | ServiceFlags::TLS.0)),
            service("plc", 502, ServiceFlags::PROXY_PROTOCOL),
        ]),
        name: Some(Name::device("pump-3").expect("a name")),
        instance: Some([7; 16]),
        #[cfg(feature = "tls")]
        join: Some(Join {
            token: crate::identity::TokenId([8; 8]),
            secret: crate::identity::Secret::from_bytes([9; 16]),
        }),
        time: Some(1_700_000_000),
        pins: Some(Pins { current: Pin([1; 32]), next: Pin([2; 32]) }),
        addresses: ["relay.example.com:443", "[2001:db8::1]:443"].map(|text| text.parse().expect("an address")).into(),
    }
}

#[test]
fn settings_decode_from_their_frame_and_unknown_fields_are_passed_over() {
    for settings in [full(), Settings { acknowledges: true, ..Settings::default() }, Settings::default()] {
        let mut payload = settings.frame()[Header::LEN..].to_vec();
        for _ in 0..2 {
            field::push(&mut payload, 999, b"from the future");
            field::push(&mut payload, 11, b"kept free");
        }
        assert_eq!(Settings::decode(&payload), Ok(settings));
    }
    let none = Settings { services: Some(Vec::new()), ..Settings::default() };
    assert_eq!(Settings::decode(&none.frame()[Header::LEN..]), Ok(none), "no services, but by name alone");
}

#[test]
fn settings_of_the_first_ends_of_version_2_are_read_as_ever() {
    let first = b"\0\x03\0\x0ftcpremote 0.1.0\0\x04\0\x04\0\0\x80\0\0\x05\0\x04\0\0\x01\0\0\x06\0\x04\0\0\x27\x10";
    let settings = Settings::decode(first).expect("settings");
    let software = "tcpremote 0.1.0".into();
    let expected = Settings { window: 32_768, streams: 256, open_rate: 10_000, software, ..Settings::default() };
    assert_eq!(settings, expected);
    let with_acks = [&first[..], b"\0\x0a\0\0"].concat();
    assert_eq!(Settings::decode(&with_acks), Ok(Settings { acknowledges: true, ..expected }));
    let long = payload(&[(tag::SOFTWARE, &[b'x'; 200])]);
    assert_eq!(Settings::decode(&long).expect("settings").software.len(), 64, "it is cut, and no error");
}

#[test]
fn a_refusal_has_no_fields() {
    let refusal = Settings { refuses: true, ..Settings::default() };
    assert_eq!(refusal.frame(), [0, 0, 6, 0, 0, 0, 0, 0]);
    assert_eq!(Settings::decode(&[]), Ok(refusal));
    assert!(!Settings::decode(&Settings::default().frame()[Header::LEN..]).expect("settings").refuses);
}

#[test]
fn settings_never_lower_what_was_assumed() {
    let lowered = Settings { window: 1, streams: 0, open_rate: 0, ..Settings::default() };
    let read = Settings::decode(&lowered.frame()[Header::LEN..]).expect("settings");
    assert_eq!((read.window, read.streams, read.open_rate), (16 * 1024, 16, 1));
}

#[test]
fn a_known_field_that_comes_twice_is_an_error() {
    let full = full().frame();
    let mut tags = Vec::new();
    field::each(&full[Header::LEN..], |tag, value| {
        tags.push(tag);
        let twice = payload(&[(tag, value), (999, b""), (tag, value)]);
        assert_eq!(Settings::decode(&twice), Err(ProtocolError::RepeatedField(tag)));
        Ok(())
    })
    .expect("fields");
    let expected = if cfg!(feature = "tls") { 13 } else { 12 };
    assert_eq!(tags.len(), expected, "every known field: {tags:?}");
}

#[test]
fn a_field_of_another_length_than_its_own_is_an_error() {
    let error = |tag, value: &[u8]| Settings::decode(&payload(&[(tag, value)])).expect_err("wrong");
    for (tag, length) in [(tag::WINDOW, 4), (tag::STREAMS, 4), (tag::OPEN_RATE, 4), (tag::ACKNOWLEDGES, 0)] {
        assert_eq!(error(tag, &vec![1; length + 1]), ProtocolError::TruncatedField, "{tag}");
    }
    for (tag, length) in [(tag::INSTANCE, 16), (tag::KEEPALIVE, 2), (tag::TIME, 8), (tag::PINS, 64)] {
        assert!(Settings::decode(&payload(&[(tag, &vec![1; length])])).is_ok(), "{tag}");
        for wrong in [0, length - 1, length + 1, 200] {
            assert_eq!(error(tag, &vec![1; wrong]), ProtocolError::BadField(tag), "{tag}");
        }
    }
    assert_eq!(error(tag::KEEPALIVE, &[0, 0]), ProtocolError::BadField(tag::KEEPALIVE), "never is no interval");
}

#[test]
#[cfg(feature = "tls")]
fn a_token_has_24_bytes_and_debug_does_not_show_it() {
    for wrong in [0, 23, 25] {
        let refused = Settings::decode(&payload(&[(tag::JOIN, &vec![1; wrong])]));
        assert_eq!(refused, Err(ProtocolError::BadField(tag::JOIN)), "{wrong}");
    }
    let shown = format!("{:?}", full());
    assert!(shown.contains("Secret(…)") && !shown.contains("9, 9"), "{shown}");
    assert!(full().has_token() && !Settings::default().has_token());
}

#[test]
fn names_services_and_addresses_keep_their_grammar_and_their_limits() {
    let refused = |tag, value: &[u8]| {
        assert_eq!(Settings::decode(&payload(&[(tag, value)])), Err(ProtocolError::BadField(tag)), "{value:?}");
    };
    for name in [&b""[..], b"Pump", b"any", b"a\xff", &[b'a'; 64]] {
        refused(tag::NAME, name);
    }
    for services in [&b"\x03ssh\0"[..], b"\x04ssh\0\x16\0", b"\0\0\x16\0", b"\x03SSH\0\x16\0", b"\x03any\0\x16\0"] {
        refused(tag::SERVICES, services);
    }
    refused(tag::SERVICES, &b"\x03ssh\0\x16\0".repeat(2));
    let many = |count: usize, width: usize| -> Vec<u8> {
        (0..count)
            .flat_map(|index| {
                let name = format!("s{index:0width$}");
                [&[name.len() as u8][..], name.as_bytes(), &[0, 22, 0]].concat()
            })
            .collect()
    };
    assert!(Settings::decode(&payload(&[(tag::SERVICES, &many(64, 3))])).is_ok());
    refused(tag::SERVICES, &many(65, 3));
    assert!(Settings::decode(&payload(&[(tag::SERVICES, &many(64, 11))])).is_ok(), "1,024 bytes");
    refused(tag::SERVICES, &many(61, 12));
    for addresses in [&b"\x05relay"[..], b"\x0arelay:443", b"\0", b"\x07relay:0", b"\x09rel y:443"] {
        refused(tag::ADDRESSES, addresses);
    }
    refused(tag::ADDRESSES, &b"\x03a:1".repeat(5));
}

#[test]
fn lists_that_are_too_long_are_cut_to_what_a_peer_takes() {
    let services = (0..100).map(|index| service(&format!("service-number-{index:016}"), 22, ServiceFlags::default()));
    let address: Address = "relay:443".parse().expect("an address");
    let settings = Settings { services: Some(services.collect()), addresses: vec![address; 9], ..Settings::default() };
    let read = Settings::decode(&settings.frame()[Header::LEN..]).expect("a peer takes it");
    assert_eq!((read.services.expect("some").len(), read.addresses.len()), (1024 / 35, MAX_ADDRESSES));
}

#[test]
fn a_field_that_is_cut_short_is_an_error() {
    let frame = full().frame();
    let mut ends = vec![Header::LEN];
    field::each(&frame[Header::LEN..], |_, value| {
        ends.push(ends[ends.len() - 1] + 4 + value.len());
        Ok(())
    })
    .expect("fields");
    for end in Header::LEN..frame.len() {
        assert_eq!(Settings::decode(&frame[Header::LEN..end]).is_err(), !ends.contains(&end), "{end} bytes");
    }
    assert_eq!(Settings::decode(b"\x00\x04\x00\x03abc"), Err(ProtocolError::TruncatedField));
}

proptest! {
    #[test]
    fn what_is_read_of_any_fields_is_read_again_from_its_own_frame(
        fields in prop::collection::vec((0u16..20, prop::collection::vec(any::<u8>(), 0..40)), 0..6),
    ) {
        let fields: Vec<(u16, &[u8])> = fields.iter().map(|(tag, value)| (*tag, &value[..])).collect();
        if let Ok(mut settings) = Settings::decode(&payload(&fields)) {
            // What is no UTF-8 in it is longer afterwards, and cut.
            settings.software.clear();
            prop_assert_eq!(Settings::decode(&settings.frame()[Header::LEN..]), Ok(settings));
        }
    }
}
