use proptest::prelude::*;

use super::*;

fn sample(kind: Kind, addresses: &[&str]) -> JoinString {
    let addresses = addresses.iter().map(|text| text.parse().expect("an address")).collect();
    let secret = Secret::from_bytes([0x44; 16]);
    let pins = Pins { current: Pin([0x11; 32]), next: Pin([0x22; 32]) };
    JoinString::new(kind, addresses, pins, TokenId([0x33; 8]), secret).expect("a string")
}

/// A string with this content, and a check that fits.
fn with_check(content: &[u8]) -> String {
    format!("{PREFIX}{}", Base64UrlUnpadded::encode_string(&[content, &check(content)].concat()))
}

fn read(text: &str) -> Result<JoinString, JoinError> {
    JoinString::decode(text, Kind::Device)
}

/// The content of a good one.
fn content() -> Vec<u8> {
    let fixed = [&[0x11; 32][..], &[0x22; 32], &[0x33; 8], &[0x44; 16]].concat();
    [&b"\x01\x01\x09relay:443"[..], &fixed].concat()
}

#[test]
fn a_join_string_has_these_bytes() {
    let join = sample(Kind::Device, &["relay:443"]);
    assert_eq!(*join.encode(), with_check(&content()));
    // By another program: Python's base64 and hashlib.
    let expected = "tcpr1.AQEJcmVsYXk6NDQzEREREREREREREREREREREREREREREREREREREREREREiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIi\
                    IiIiIiIjMzMzMzMzMzRERERERERERERERERERERFzLoRo";
    assert_eq!(*join.encode(), expected);
    assert_eq!(read(&join.encode()), Ok(join));
}

#[test]
fn white_space_around_it_means_nothing() {
    let join = sample(Kind::Device, &["relay:443"]);
    assert_eq!(read(&format!(" {}\r\n", &*join.encode())), Ok(join));
}

#[test]
fn every_change_of_one_character_is_refused() {
    let text = sample(Kind::Device, &["relay.example.com:443", "[2001:db8::1]:443"]).encode().to_string();
    let alphabet: Vec<char> = ('!'..='~').chain([' ', 'ü']).collect();
    for (index, right) in text.char_indices() {
        for &wrong in alphabet.iter().filter(|&&wrong| wrong != right) {
            let changed = format!("{}{wrong}{}", &text[..index], &text[index + 1..]);
            let error = read(&changed).expect_err(&changed);
            let is_newer = matches!(error, JoinError::Newer(_));
            assert_eq!(is_newer, index == 4 && ('2'..='9').contains(&wrong), "{changed}");
            assert!(is_newer || matches!(error, JoinError::NotJoinString | JoinError::Damaged), "{changed}: {error}");
        }
        assert_eq!(read(&text[..index]).is_err_and(|error| error == JoinError::Damaged), index >= PREFIX.len());
    }
    assert_eq!(read(&format!("{text}A")), Err(JoinError::Damaged));
    assert_eq!(read(&format!("{text}{text}")), Err(JoinError::Damaged));
}

#[test]
fn an_error_says_what_to_do_and_shows_nothing_of_the_string() {
    let error = |text: &str| read(text).expect_err("none").to_string();
    let none =
        "this is no join string, which begins with 'tcpr1.'; copy the line that 'tcp-remote-relay token' printed";
    for text in ["", "hunter2", "tcpr.AQ", "tcpr0.AQ", "tcpr-2.AQ", "TCPR1.AQ", "tcpr99999999999.AQ"] {
        assert_eq!(error(text), none, "{text}");
    }
    assert_eq!(
        error("tcpr2.AQ"),
        "the join string is of version 2, and 1 is the only one known here; update this program"
    );
    let damaged = "the join string is cut or changed (its check does not fit); copy all of the line once more";
    for text in ["tcpr1.", "tcpr1.AQ", "tcpr1.AQ==", "tcpr1.%"] {
        assert_eq!(error(text), damaged, "{text}");
    }
    assert_eq!(error(&format!("tcpr1.{}", "A".repeat(1 << 20))), damaged);
    assert_eq!(
        error(&sample(Kind::User, &["relay:443"]).encode()),
        "the join string is for a user, and a device needs one of its own: 'tcp-remote-relay token device NAME'"
    );
    let user = JoinString::decode(&sample(Kind::Device, &["relay:443"]).encode(), Kind::User).expect_err("a device's");
    assert!(user.to_string().ends_with("'tcp-remote-relay token user NAME'"), "{user}");
}

#[test]
fn what_says_what_cannot_be_is_refused_though_its_check_fits() {
    let good = content();
    let changed = |from: &[u8], to: &[u8]| {
        let at = good.windows(from.len()).position(|window| window == from).expect("it is there");
        with_check(&[&good[..at], to, &good[at + from.len()..]].concat())
    };
    assert!(read(&with_check(&good)).is_ok());
    let malformed = |text: &str| match read(text) {
        Err(JoinError::Malformed(what)) => what,
        other => panic!("{other:?}"),
    };
    assert_eq!(malformed(&changed(b"\x01\x01\x09", b"\x03\x01\x09")), "it is for nothing that is known here");
    assert_eq!(malformed(&changed(b"relay:443", b"relay:0\0\0")), "an address in it is none");
    assert_eq!(malformed(&changed(b"relay:443", b"rel y:443")), "an address in it is none");
    assert_eq!(malformed(&changed(b"relay:443", b"rel\xffy:443")), "an address in it is none");
    assert_eq!(malformed(&with_check(&[&good[..], b"x"].concat())), "it is too long");
    for end in 0..good.len() {
        let what = malformed(&with_check(&good[..end]));
        assert!(what == "it is too short" || what == "an address in it is none", "{end}: {what}");
    }
    assert_eq!(read(&changed(b"\x01\x01\x09relay:443", b"\x01\0")), Err(JoinError::Addresses(0)));
    let five = [&b"\x01\x05"[..], &b"\x03a:1".repeat(5)].concat();
    assert_eq!(read(&changed(b"\x01\x01\x09relay:443", &five)), Err(JoinError::Addresses(5)));
}

#[test]
fn it_has_one_to_four_addresses_that_are_not_too_long() {
    let make = |addresses: Vec<Address>| {
        JoinString::new(
            Kind::User,
            addresses,
            Pins { current: Pin([0; 32]), next: Pin([0; 32]) },
            TokenId([0; 8]),
            Secret::from_bytes([0; 16]),
        )
    };
    let address = |text: &str| text.parse::<Address>().expect("an address");
    assert_eq!(make(vec![]), Err(JoinError::Addresses(0)));
    assert_eq!(make(vec![address("a:1"); 5]), Err(JoinError::Addresses(5)));
    let name = "a".repeat(249);
    let longest = make(vec![address(&format!("{name}:65535")); 4]).expect("255 bytes each");
    assert_eq!(JoinString::decode(&longest.encode(), Kind::User), Ok(longest));
    let error = make(vec![address(&format!("{name}b:65535"))]).expect_err("256 bytes").to_string();
    assert!(error.ends_with("use a shorter name, of at most 249 characters"), "{error}");
}

#[test]
fn debug_shows_no_secret() {
    let shown = format!("{:?}", sample(Kind::Device, &["relay:443"]));
    assert!(shown.contains("Secret(…)") && !shown.contains("68, 68"), "{shown}");
    assert_eq!(TokenId([0, 1, 0xab, 3, 4, 5, 6, 0xff]).to_string(), "0001ab03040506ff");
}

proptest! {
    #[test]
    fn whatever_is_encoded_decodes(
        is_user in any::<bool>(),
        hosts in prop::collection::vec(("[a-z0-9.-]{1,60}", 1u16..), 1..=4),
        current in any::<[u8; 32]>(),
        next in any::<[u8; 32]>(),
        token in any::<[u8; 8]>(),
        secret in any::<[u8; 16]>(),
    ) {
        let kind = if is_user { Kind::User } else { Kind::Device };
        let addresses = hosts.iter().map(|(host, port)| Address::new(host, *port).expect("an address")).collect();
        let pins = Pins { current: Pin(current), next: Pin(next) };
        let join = JoinString::new(kind, addresses, pins, TokenId(token), Secret::from_bytes(secret)).expect("a string");
        prop_assert_eq!(JoinString::decode(&join.encode(), kind), Ok(join));
    }

    #[test]
    fn no_text_and_no_content_make_it_panic(text in ".{0,80}", content in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = read(&text);
        let _ = read(&format!("{PREFIX}{text}"));
        let _ = read(&with_check(&content));
    }
}
