use super::*;

fn full() -> Membership {
    Membership {
        name: Some(Name::device("pump-3").expect("a name")),
        device_key: Pin([1; 32]),
        pins: Pins { current: Pin([2; 32]), next: Pin([3; 32]) },
        addresses: vec![
            "relay.example.com:443".parse().expect("an address"),
            "[2001:db8::1]:443".parse().expect("one"),
        ],
        join_addresses: vec!["192.0.2.7:443".parse().expect("an address")],
        tokens: vec![TokenId([0xaa; 8]), TokenId([0xab; 8])],
    }
}

fn problem(text: &str) -> String {
    text.parse::<Membership>().expect_err("no membership").to_string()
}

#[test]
fn a_membership_reads_back_from_its_text() {
    let whole = full();
    assert_eq!(whole.to_string().parse(), Ok(whole.clone()));
    let one = Membership { tokens: vec![TokenId([0xab; 8])], ..whole.clone() };
    assert_eq!(one.to_string().parse(), Ok(one));
    let least = Membership { name: None, addresses: Vec::new(), tokens: Vec::new(), ..whole };
    assert_eq!(least.to_string().parse(), Ok(least));
}

#[test]
fn the_file_is_one_that_a_person_can_read_and_change() {
    let text = full().to_string();
    let key = |name: &str, byte: u8| format!("\n{name} = \"{}\"\n", Pin([byte; 32]));
    for line in [
        "\nname = \"pump-3\"\n",
        &key("device_key", 1),
        &key("relay_key", 2),
        &key("next_relay_key", 3),
        "\naddresses = [\"relay.example.com:443\", \"[2001:db8::1]:443\"]\n",
        "\njoin_addresses = [\"192.0.2.7:443\"]\n",
        "\ntoken = \"abababababababab\"\n",
        "\ntokens_before = [\"aaaaaaaaaaaaaaaa\"]\n",
    ] {
        assert!(text.contains(line), "{line:?} is not in {text}");
    }
    let changed = format!("\n  # moved\n{}", text.replace("[\"192.0.2.7:443\"]", "[ \"192.0.2.8:443\" , ]  "));
    let read: Membership = changed.parse().expect("a membership");
    assert_eq!(read.join_addresses, ["192.0.2.8:443".parse().expect("an address")]);
}

#[test]
fn what_a_newer_program_has_written_is_left_alone() {
    for future in ["future = \"x\"", "future = [ 1, 2 ]", "a.b = { c = true }"] {
        assert_eq!(format!("{future}\n{}{future}\n", full()).parse(), Ok(full()), "{future}");
    }
}

#[test]
fn what_is_wrong_is_said_with_its_line() {
    let text = full().to_string();
    let with = |line: &str, other: &str| problem(&text.replace(line, other));
    assert_eq!(
        with("name = \"pump-3\"", "name = \"Pump\""),
        "line 2: name: device name 'Pump' has 'P' where that is not allowed; write 1 to 63 of a-z, 0-9 and '-', a letter \
         first and no '-' last, and not 'localhost', 'relay' or 'any'"
    );
    assert_eq!(with("relay_key", "realy_key"), "there is no 'relay_key'");
    assert_eq!(with("name = \"pump-3\"", "pump-3"), "line 2: it is no 'key = \"value\"'");
    for wrong in ["pump-3", "\"pump-3", "\"pump\\u002d3\"", "\"a\" # \"b\""] {
        let problem = with("\"pump-3\"", wrong);
        assert_eq!(problem, "line 2: name: a text in \"quotation marks\" is wanted, and nothing behind it", "{wrong}");
    }
    assert!(with("[\"192.0.2.7:443\"]", "\"192.0.2.7:443\"").contains(": join_addresses: a list such as"));
    assert!(with("192.0.2.7:443", "192.0.2.7").contains("'192.0.2.7' has no port; write host:port"));
    let five = "[\"a:1\", \"b:1\", \"c:1\", \"d:1\", \"e:1\"]";
    assert!(with("[\"192.0.2.7:443\"]", five).contains("5 are too many; a relay has at most 4"));
    assert!(problem(&format!("{text}name = \"pump-4\"\n")).ends_with("name: it is there twice"));
    assert_eq!(problem(""), "there is no 'join_addresses'");
    assert_eq!(problem("join_addresses = []"), "there is no 'address'");
    assert_eq!(problem("join_addresses = [\"a:1\"]"), "there is no 'device_key'");
}

#[test]
fn a_file_that_is_cut_anywhere_is_none_or_lacks_only_tokens() {
    let text = full().to_string();
    for end in 0..text.len() {
        if let Ok(read) = text[..end].parse::<Membership>() {
            assert_eq!(read, Membership { tokens: read.tokens.clone(), ..full() }, "cut at {end}");
        }
    }
}

#[test]
fn a_bounded_number_of_used_tokens_is_remembered_each_once_and_the_newest_of_them() {
    let token = |number: u8| TokenId([number; 8]);
    let mut membership = Membership { tokens: vec![token(0)], ..full() };
    for number in 1..=40 {
        let before = std::mem::replace(&mut membership.tokens, vec![token(number)]);
        membership.remember(&before);
        membership.remember(&before);
    }
    let expected: Vec<_> = (25..=40).map(token).collect();
    assert_eq!(membership.tokens, expected);
    assert!(membership.has_used(token(25)) && !membership.has_used(token(24)));
    assert_eq!(membership.to_string().parse(), Ok(membership.clone()));
    let more = membership.to_string().replace("tokens_before = [", "tokens_before = [\"0000000000000000\", ");
    assert_eq!(more.parse(), Ok(membership), "a newer program may remember more");
}
