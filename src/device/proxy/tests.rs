use super::*;

fn proxy(text: &str) -> Proxy {
    text.parse().expect("a proxy")
}

fn problem(text: &str) -> String {
    text.parse::<Proxy>().expect_err("no proxy").to_string()
}

fn asked(text: &str) -> Connecting {
    Connecting::new(&proxy(text), &"relay.example.com:443".parse().expect("an address"))
}

/// What an answer means to a device that gave its user's name.
fn answer(bytes: &[u8]) -> Result<(usize, bool), ProxyError> {
    asked("http://me:secret@proxy:3128").handle_bytes(bytes)
}

fn refusal(bytes: &str) -> String {
    answer(bytes.as_bytes()).expect_err("a refusal").to_string()
}

#[test]
fn a_proxy_is_asked_to_connect_and_told_who_asks() {
    let plain = "CONNECT relay.example.com:443 HTTP/1.1\r\nHost: relay.example.com:443\r\n\r\n";
    assert_eq!(asked("http://proxy:3128").unsent(), plain.as_bytes());
    assert_eq!(asked("HTTP://proxy:3128/").unsent(), plain.as_bytes());
    let mut asking = asked("http://Aladdin:open%20sesame@[::1]:3128");
    // The example of RFC 7617.
    let line = "Proxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n\r\n";
    assert!(asking.unsent().ends_with(line.as_bytes()));
    asking.advance(8);
    assert!(asking.unsent().starts_with(b"relay.example.com:443 HTTP/1.1"));
    let ipv6 = Connecting::new(&proxy("http://proxy:3128"), &"[2001:db8::1]:443".parse().expect("an address"));
    assert!(ipv6.unsent().starts_with(b"CONNECT [2001:db8::1]:443 HTTP/1.1\r\n"));
}

#[test]
fn user_and_password_may_have_any_character_but_control_ones() {
    let same = proxy("http://me:p%40ss%3Aw%2Ford%25@proxy:3128");
    assert_eq!(same, proxy("http://me:p@ss:w/ord%25@proxy:3128"));
    assert_eq!(same.address().to_string(), "proxy:3128");
    for bad in ["me:%", "me:%4", "me:%zz", "me:%0a", "me:%00", "me:\n", "m%3Ae:x"] {
        let text = problem(&format!("http://{bad}@proxy:3128"));
        assert!(text.starts_with("user or password has a '%' without") && !text.contains("me"), "{bad}: {text}");
    }
}

#[test]
fn the_password_is_in_no_text() {
    let secret = "http://me:hunter2@proxy:3128";
    assert_eq!(proxy(secret).to_string(), "http://proxy:3128");
    assert_eq!(
        format!("{:?}", proxy(secret)),
        "Proxy { address: Address { host: \"proxy\", port: 3128 }, credentials: Some(\"…\") }"
    );
    let asking = format!("{:?}", asked(secret));
    assert!(!asking.contains("hunter2") && !asking.contains("aHVudGVy"), "{asking}");
    for wrong in [
        "me:hunter2@proxy:3128",
        "https://me:hunter2@proxy:3128",
        "http://me:hunter2@proxy",
        "http://me:hunter2@proxy:3128/path",
        "http://hunter2@proxy:3128",
        "http://me:hunter2@:3128",
        "http://me:hunter2%@proxy:3128",
        "http://me:hun@ter2@proxy:x",
        "http://me:hunter2",
    ] {
        let text = problem(wrong);
        assert!(!text.contains("hunter2") && !text.contains("ter2"), "{wrong}: {text}");
    }
}

#[test]
fn what_is_no_proxy_is_refused_with_the_form_of_one() {
    assert!(problem("proxy:3128").ends_with("are not known here; write http://HOST:PORT"));
    assert!(problem("socks5://proxy:1080").starts_with("it does not begin with http://"));
    assert!(problem("héttp://x:1").starts_with("it does not begin with http://"));
    assert!(problem("http://proxy").starts_with("there is no host and port at its end; write "));
    assert!(problem("http://proxy:3128/x").starts_with("something stands behind its port; "));
    assert!(problem("http://me@proxy:3128").starts_with("there is no ':' between user and password; "));
}

#[test]
fn a_yes_opens_the_connection_and_what_stands_behind_it_is_the_links() {
    let yes = "HTTP/1.1 200 Connection established\r\nVia: 1.1 proxy\r\n\r\n";
    assert_eq!(answer(yes.as_bytes()), Ok((yes.len(), true)));
    let with_rest = [yes.as_bytes(), b"\x16\x03\x03\r\n\r\nrest"].concat();
    assert_eq!(answer(&with_rest), Ok((yes.len(), true)));
    let interim = format!("HTTP/1.1 100 Continue\r\n\r\n{yes}");
    assert_eq!(answer(&[interim.as_bytes(), b"rest"].concat()), Ok((interim.len(), true)));
    assert_eq!(answer(b"HTTP/1.0 200 OK\r\n\r\n"), Ok((19, true)));
}

#[test]
fn an_answer_may_come_in_any_pieces() {
    let whole = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nVia: x\r\n\r\nrest";
    let head = whole.len() - 4;
    for first in 0..head {
        for second in first..head {
            let mut asking = asked("http://proxy:3128");
            let mut taken = 0;
            for end in [first, second, whole.len()] {
                let (count, is_open) = asking.handle_bytes(&whole[taken..end]).expect("no refusal");
                taken += count;
                assert_eq!(is_open, end == whole.len(), "cut at {first} and {second}");
            }
            assert_eq!(taken, head);
        }
    }
}

#[test]
fn each_refusal_says_what_to_do() {
    let with = |status: &str| refusal(&format!("HTTP/1.1 {status}\r\n\r\n"));
    assert_eq!(with("407 No"), "it does not take the user or the password (407); correct them in proxy");
    let text = with("401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"Tinyproxy\"");
    assert_eq!(text, "it does not take the user or the password (401); correct them in proxy");
    let nobody = asked("http://proxy:3128").handle_bytes(b"HTTP/1.1 407 No\r\n\r\n").expect_err("a refusal");
    assert!(nobody.to_string().ends_with("give proxy = \"http://USER:PASSWORD@HOST:PORT\""));
    assert_eq!(
        with("403 Filtered"),
        "it does not permit that address (403 Filtered); ask its operator to permit CONNECT to it"
    );
    assert!(with("502 Bad Gateway").starts_with("it cannot reach that address (502 Bad Gateway); check"));
    assert!(with("504").starts_with("it cannot reach that address (504); check"));
    assert!(with("302 Found").starts_with("it answers 302 Found to CONNECT; ask"));
    assert!(with("405 Method Not Allowed").starts_with("it answers 405 Method Not Allowed to CONNECT; "));
    assert_eq!(refusal("SSH-2.0-OpenSSH_9.2\r\n"), "what it answers is no HTTP; is it an HTTP proxy?");
    assert_eq!(refusal("\x15\x03\x03\0\x02"), "what it answers is no HTTP; is it an HTTP proxy?");
}

#[test]
fn a_proxy_that_wants_another_way_to_authenticate_is_told_apart() {
    let with = |headers: &str| refusal(&format!("HTTP/1.1 407 x\r\n{headers}\r\n"));
    let text = with("Proxy-Authenticate: Negotiate\r\nproxy-authenticate: NTLM\r\n");
    assert!(
        text.starts_with("it wants to know its user by Negotiate or NTLM (407), and only Basic is known"),
        "{text}"
    );
    let text = with("Proxy-Authenticate: Negotiate\r\nProxy-Authenticate: basic realm=\"x\"\r\n");
    assert!(text.starts_with("it does not take the user or the password"), "{text}");
}

#[test]
fn an_answer_has_a_bound_and_a_harmless_text() {
    let long = [b"HTTP/1.1 200 OK\r\nX: ".to_vec(), vec![b'a'; MAX_HEAD]].concat();
    assert_eq!(answer(&long), Err(ProxyError::TooLong));
    let mut asking = asked("http://proxy:3128");
    let mut bytes = long.iter();
    let failed = loop {
        match asking.handle_bytes(&[*bytes.next().expect("it fails before")]) {
            Ok((1, false)) => assert!(asking.head.len() < MAX_HEAD),
            other => break other,
        }
    };
    assert_eq!(failed, Err(ProxyError::TooLong));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(MAX_HEADERS + 1));
    assert_eq!(answer(many.as_bytes()), Err(ProxyError::TooLong));
    let hostile = refusal(&format!("HTTP/1.1 403 {}\r\n\r\n", "é\u{7f}".repeat(200)));
    assert!(hostile.len() < 600 && !hostile.contains(char::is_control), "{hostile}");
}

#[test]
fn interim_answers_without_an_end_are_too_long() {
    let interim = b"HTTP/1.1 100 Continue\r\n\r\n";
    assert_eq!(answer(&interim.repeat(400)).expect_err("too long"), ProxyError::TooLong);
    let mut asking = asked("http://proxy:3128");
    let most = MAX_HEAD / interim.len();
    for _ in 0..most {
        assert_eq!(asking.handle_bytes(interim), Ok((interim.len(), false)));
    }
    assert_eq!(asking.handle_bytes(interim), Err(ProxyError::TooLong));
}

#[test]
fn no_answer_makes_it_panic() {
    use proptest::prelude::*;
    proptest!(|(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..40))| {
        let mut asking = asked("http://proxy:3128");
        asking.handle_bytes(b"HTTP/1.1 200 OK\r\n").expect("a part");
        for piece in pieces {
            if !matches!(asking.handle_bytes(&piece), Ok((_, false))) {
                break;
            }
        }
    });
}
