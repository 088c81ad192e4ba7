use std::cell::Cell;

use nix::ifaddrs::getifaddrs;

use super::*;

/// A resolver that knows these names only, and counts its calls.
struct Names {
    known: Vec<(&'static str, Vec<&'static str>)>,
    asked: Vec<String>,
}

fn names(known: &[(&'static str, &[&'static str])]) -> Names {
    Names { known: known.iter().map(|(name, ips)| (*name, ips.to_vec())).collect(), asked: Vec::new() }
}

impl Names {
    fn permit(&mut self, access: &Access, host: &str, port: u16) -> Result<Vec<String>, Refusal> {
        let permitted = access.permit(host, port, &OwnAddresses::new(), &mut |name, port| {
            self.asked.push(name.into());
            let known = self.known.iter().find(|(known, _)| *known == name);
            let (_, ips) = known.ok_or_else(|| io::Error::other("no such name"))?;
            Ok(ips.iter().map(|ip| socket_address(ip, port)).collect())
        });
        let permitted = permitted?;
        assert!(permitted.iter().all(|address| address.port() == port), "{permitted:?}");
        Ok(permitted.iter().map(|address| address.ip().to_string()).collect())
    }
}

/// `fe80::1%2` has interface 2.
fn socket_address(text: &str, port: u16) -> SocketAddr {
    let (ip, scope) = text.split_once('%').unwrap_or((text, "0"));
    let mut address = SocketAddr::new(ip.parse().expect(text), port);
    if let SocketAddr::V6(address) = &mut address {
        address.set_scope_id(scope.parse().expect(text));
    }
    address
}

fn service(text: &str) -> Address {
    text.parse().expect(text)
}

fn only(rules: &[&str]) -> Access {
    Access::Only(rules.iter().map(|rule| rule.parse().expect(rule)).collect())
}

/// Whether a literal address is permitted, with a resolver that knows nothing.
fn permits(access: &Access, host: &str, port: u16) -> bool {
    match names(&[]).permit(access, host, port) {
        Ok(_) => true,
        Err(Refusal::Denied { .. }) => false,
        Err(refusal) => panic!("{host}: {refusal}"),
    }
}

/// Whether it takes a lookup to decide.
fn asks(access: &Access, host: &str, port: u16) -> bool {
    let mut nothing = names(&[]);
    let _ = nothing.permit(access, host, port);
    !nothing.asked.is_empty()
}

fn refusal(access: &Access, host: &str, port: u16) -> String {
    names(&[("db.example", &["10.1.2.3", "10.1.2.4"]), ("any", &["10.9.9.9"]), ("link", &["fe80::1%2"])])
        .permit(access, host, port)
        .expect_err(host)
        .to_string()
}

#[test]
fn the_default_reaches_every_port_of_the_device_itself() {
    for host in ["127.0.0.1", "127.255.255.254", "::1", "0.0.0.0", "::", "::ffff:127.0.0.1", "::ffff:0.0.0.0"] {
        assert!(permits(&Access::default(), host, 1), "{host}");
        assert!(permits(&Access::default(), host, 65_535), "{host}");
    }
}

#[test]
fn the_default_reaches_the_addresses_of_the_interfaces() {
    let mut seen = 0;
    for interface in getifaddrs().expect("getifaddrs") {
        let own = interface.address.and_then(|own| own.as_sockaddr_in().map(|own| own.ip()));
        if let Some(own) = own {
            assert!(permits(&Access::Device, &own.to_string(), 22), "{own}");
            assert!(permits(&Access::Device, &format!("::ffff:{own}"), 22), "{own}");
            seen += 1;
        }
    }
    assert!(seen > 0, "not even loopback has an address");
}

#[test]
fn the_default_reaches_nothing_else() {
    for host in [
        "192.0.2.1",
        "126.255.255.255",
        "128.0.0.1",
        "255.255.255.255",
        "224.0.0.1",
        "169.254.169.254",
        "::ffff:192.0.2.1",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "::2",
        "fe80::1",
        "2001:db8::1",
    ] {
        assert!(!permits(&Access::Device, host, 22), "{host}");
    }
}

#[test]
fn a_name_is_judged_by_what_it_resolves_to_however_it_is_spelt() {
    let mut dns = names(&[
        ("0x7f.1", &["127.0.0.1"]),
        ("2130706433", &["127.0.0.1"]),
        ("localhost", &["::1", "127.0.0.1"]),
        ("rebound.example", &["192.0.2.1"]),
        ("0300.0.2.1", &["192.0.2.1"]),
        ("mapped.example", &["::ffff:192.0.2.1"]),
    ]);
    assert_eq!(dns.permit(&Access::Device, "0x7f.1", 22).expect("0x7f.1"), ["127.0.0.1"]);
    assert_eq!(dns.permit(&Access::Device, "2130706433", 22).expect("number"), ["127.0.0.1"]);
    assert_eq!(dns.permit(&Access::Device, "localhost", 22).expect("localhost"), ["::1", "127.0.0.1"]);
    for host in ["rebound.example", "0300.0.2.1", "mapped.example"] {
        assert!(matches!(dns.permit(&Access::Device, host, 22), Err(Refusal::Denied { .. })), "{host}");
    }
}

#[test]
fn of_a_name_with_several_addresses_only_the_permitted_ones_are_given_back_in_order() {
    let mut dns = names(&[("mixed", &["10.0.0.9", "192.0.2.1", "::ffff:10.0.0.1", "2001:db8::1", "10.0.0.5"])]);
    assert_eq!(dns.permit(&only(&["10.0.0.0/8"]), "mixed", 22).expect("mixed"), ["10.0.0.9", "10.0.0.1", "10.0.0.5"]);
    assert!(dns.permit(&only(&["[2001:db8::]:80"]), "mixed", 80).is_err());
    assert_eq!(dns.permit(&Access::Any, "mixed", 22).expect("mixed").len(), 5);
}

#[test]
fn the_port_asked_for_counts_not_one_that_the_resolver_made_up() {
    let permitted =
        Access::Any.permit("x", 22, &OwnAddresses::new(), &mut |_, _| Ok(vec![socket_address("::ffff:10.0.0.1", 99)]));
    assert_eq!(permitted.expect("x"), [socket_address("10.0.0.1", 22)]);
    let permitted =
        Access::Any.permit("x", 22, &OwnAddresses::new(), &mut |_, _| Ok(vec![socket_address("fe80::1%2", 99)]));
    assert_eq!(permitted.expect("x"), [socket_address("fe80::1%2", 22)]);
}

#[test]
fn an_interface_makes_another_address_of_those_of_a_link_alone() {
    let permitted =
        Access::Any.permit("x", 22, &OwnAddresses::new(), &mut |_, _| Ok(vec![socket_address("fd00::2%99", 22)]));
    assert_eq!(permitted.expect("x"), [socket_address("fd00::2", 22)]);
}

#[test]
fn a_rule_holds_for_its_ports_only() {
    let access = only(&["10.0.0.1:22", "10.0.0.1:8000-8100", "10.0.0.2"]);
    for (host, port) in
        [("10.0.0.1", 22), ("10.0.0.1", 8000), ("10.0.0.1", 8100), ("10.0.0.2", 1), ("10.0.0.2", 65_535)]
    {
        assert!(permits(&access, host, port), "{host}:{port}");
    }
    for (host, port) in [("10.0.0.1", 21), ("10.0.0.1", 23), ("10.0.0.1", 7999), ("10.0.0.1", 8101), ("10.0.0.3", 22)] {
        assert!(!permits(&access, host, port), "{host}:{port}");
    }
}

#[test]
fn ports_alone_are_those_of_the_device_itself() {
    let access = only(&["22", "8000-8100"]);
    for (host, port) in [("127.0.0.1", 22), ("::1", 8050), ("0.0.0.0", 22), ("::ffff:127.0.0.1", 22)] {
        assert!(permits(&access, host, port), "{host}:{port}");
    }
    assert!(!permits(&access, "127.0.0.1", 23));
    assert!(!permits(&access, "192.0.2.1", 22));
}

#[test]
fn networks_hold_exactly_the_addresses_that_share_their_prefix() {
    let access = only(&["10.0.0.0/8", "192.168.4.0/22", "[fd00::/8]", "203.0.113.7/32"]);
    for host in ["10.0.0.0", "10.255.255.255", "192.168.7.255", "fd00::1", "fdff::", "203.0.113.7", "::ffff:10.1.1.1"] {
        assert!(permits(&access, host, 22), "{host}");
    }
    for host in ["9.255.255.255", "11.0.0.0", "192.168.8.0", "192.168.3.255", "fe00::", "203.0.113.6", "::10.1.1.1"] {
        assert!(!permits(&access, host, 22), "{host}");
    }
    assert!(permits(&only(&["0.0.0.0/0"]), "203.0.113.7", 22));
    assert!(!permits(&only(&["0.0.0.0/0"]), "2001:db8::1", 22));
    assert!(permits(&only(&["[::/0]"]), "2001:db8::1", 22));
    assert!(!permits(&only(&["[::/0]"]), "::ffff:10.0.0.1", 22), "it is an IPv4 address");
}

#[test]
fn a_rule_in_ipv6_clothes_holds_for_the_ipv4_address() {
    assert!(permits(&only(&["[::ffff:10.0.0.1]:22"]), "10.0.0.1", 22));
    assert!(permits(&only(&["[::ffff:10.0.0.0/104]"]), "10.255.0.1", 22));
    assert!(!permits(&only(&["[::ffff:10.0.0.0/104]"]), "11.0.0.1", 22));
}

#[test]
fn an_empty_list_permits_nothing_and_any_permits_all() {
    assert!(!permits(&only(&[]), "127.0.0.1", 22));
    assert!(permits(&only(&["any"]), "192.0.2.1", 1));
    assert!(permits(&only(&["any:80"]), "2001:db8::1", 80));
    assert!(!permits(&only(&["any:80"]), "127.0.0.1", 81));
    assert!(permits(&Access::Any, "192.0.2.1", 1));
}

#[test]
fn a_named_rule_permits_its_name_in_any_case_and_whatever_that_resolves_to() {
    let mut dns = names(&[("Printer.LAN", &["10.0.0.7", "192.0.2.9"]), ("other.lan", &["10.0.0.8"])]);
    let access = only(&["printer.lan:9100"]);
    assert_eq!(dns.permit(&access, "Printer.LAN", 9100).expect("name"), ["10.0.0.7", "192.0.2.9"]);
    assert_eq!(dns.asked, ["Printer.LAN"], "the rule's own name needs no second lookup");
    assert!(dns.permit(&access, "Printer.LAN", 9101).is_err());
    assert!(dns.permit(&access, "other.lan", 9100).is_err());
}

#[test]
fn a_named_rule_permits_an_address_of_its_name() {
    let mut dns =
        names(&[("printer.lan", &["::ffff:10.0.0.7"]), ("alias.lan", &["10.0.0.7"]), ("printer.lan.", &["10.0.0.7"])]);
    let access = only(&["printer.lan:9100"]);
    for host in ["10.0.0.7", "::ffff:10.0.0.7", "alias.lan", "printer.lan."] {
        assert_eq!(dns.permit(&access, host, 9100).expect(host), ["10.0.0.7"]);
    }
    assert!(matches!(dns.permit(&access, "10.0.0.8", 9100), Err(Refusal::Denied { .. })));
}

#[test]
fn a_rules_name_is_looked_up_only_where_its_ports_match_and_nothing_else_permits() {
    let mut dns = names(&[("printer.lan", &["10.0.0.7"])]);
    let access = only(&["printer.lan:9100", "10.0.0.8"]);
    assert!(dns.permit(&access, "10.0.0.7", 22).is_err());
    assert!(dns.permit(&access, "10.0.0.8", 9100).is_ok());
    assert!(dns.asked.is_empty(), "{:?}", dns.asked);
    assert!(dns.permit(&access, "10.0.0.7", 9100).is_ok());
    assert_eq!(dns.asked, ["printer.lan"]);
}

#[test]
fn a_rules_name_that_does_not_resolve_permits_nothing_and_spoils_nothing() {
    let mut dns = names(&[("good.lan", &["10.0.0.7"])]);
    let access = only(&["gone.lan", "good.lan"]);
    assert!(dns.permit(&access, "10.0.0.7", 22).is_ok());
    assert!(matches!(dns.permit(&access, "10.0.0.8", 22), Err(Refusal::Denied { .. })));
    assert!(matches!(dns.permit(&access, "gone.lan", 22), Err(Refusal::Unresolved { .. })));
}

#[test]
fn link_local_addresses_differ_by_interface() {
    let mut dns =
        names(&[("fe80::1%eth0", &["fe80::1%2"]), ("fe80::1%eth1", &["fe80::1%3"]), ("fe80::1%2", &["fe80::1%2"])]);
    let access = only(&["[fe80::1%eth0]:22"]);
    assert!(dns.permit(&access, "fe80::1%eth0", 22).is_ok());
    assert!(dns.permit(&access, "fe80::1%2", 22).is_ok());
    assert!(dns.permit(&access, "fe80::1%eth1", 22).is_err());
    assert!(dns.permit(&only(&["fe80::1"]), "fe80::1%eth1", 22).is_ok(), "a rule without interface means them all");
}

#[test]
fn the_service_of_a_call_is_all_that_it_permits() {
    let access = Access::Call(Address::new("10.41.51.152", 23).expect("address"));
    assert!(permits(&access, "10.41.51.152", 23));
    assert!(permits(&access, "::ffff:10.41.51.152", 23));
    assert!(!permits(&access, "10.41.51.152", 22));
    assert!(!permits(&access, "127.0.0.1", 23));
    let mut dns = names(&[("any", &["10.0.0.1"]), ("localhost", &["::1", "127.0.0.1"])]);
    let access = Access::Call(Address::new("any", 23).expect("address"));
    assert!(dns.permit(&access, "any", 23).is_ok());
    assert!(dns.permit(&access, "10.0.0.2", 23).is_err(), "here 'any' is a host's name");
    let access = Access::Call(Address::new("localhost", 23).expect("address"));
    assert_eq!(dns.permit(&access, "127.0.0.1", 23).expect("127.0.0.1"), ["127.0.0.1"]);
    assert!(dns.permit(&access, "127.0.0.2", 23).is_err());
}

#[test]
fn a_name_is_looked_up_only_where_it_decides() {
    let access = only(&["printer.lan:9100", "10.0.0.8", "22"]);
    for (host, port) in [("10.0.0.8", 9100), ("10.0.0.7", 22), ("127.0.0.1", 22), ("::1", 80)] {
        assert!(!asks(&access, host, port), "{host}:{port}");
    }
    for (host, port) in [("printer.lan", 22), ("10.0.0.7", 9100), ("0x7f.1", 22), ("fe80::1%lo", 22), ("", 22)] {
        assert!(asks(&access, host, port), "{host}:{port}");
    }
    for access in [Access::Any, Access::Device] {
        assert!(!asks(&access, "192.0.2.1", 80));
        assert!(asks(&access, "localhost", 80));
    }
}

#[test]
fn a_refusal_shows_the_rule_that_would_permit_the_service() {
    assert_eq!(
        refusal(&Access::Device, "10.1.2.3", 80),
        "10.1.2.3:80 is not permitted; allow = { \"1-65535\", \"10.1.2.3:80\" } would permit it beside the device's \
         own ports"
    );
    assert_eq!(
        refusal(&only(&["22"]), "::ffff:10.1.2.3", 80),
        "10.1.2.3:80 is not permitted; add \"10.1.2.3:80\" to allow to permit it"
    );
    assert_eq!(
        refusal(&Access::offered([&service("10.0.0.5:502")]), "10.1.2.3", 80),
        "10.1.2.3:80 is not permitted; add NAME = \"10.1.2.3:80\" to services to permit it"
    );
    assert_eq!(
        refusal(&Access::Call(service("localhost:22")), "10.1.2.3", 80),
        "10.1.2.3:80 is not permitted; the call names localhost:22 alone; correct its local address and port, or give \
         allow = { \"10.1.2.3:80\" } in their place"
    );
    assert!(refusal(&Access::Device, "2001:db8::1", 80).contains("\"[2001:db8::1]:80\""));
    assert!(refusal(&Access::Device, "db.example", 80).starts_with("'db.example', which is 10.1.2.3:80, is not"));
    assert!(refusal(&Access::Device, "any", 80).contains("\"10.9.9.9:80\""), "not the rule that permits all");
    assert!(refusal(&Access::Any, "10.1.2.3", 0).starts_with("port 0 of '10.1.2.3' is not permitted"));
}

/// What a refusal tells to add to the services permits what was refused, and what was permitted before.
#[test]
fn a_refusal_shows_what_is_to_be_added_to_the_services() {
    for (host, port) in [("10.1.2.3", 80), ("2001:db8::1", 443), ("db.example", 22), ("link", 22)] {
        let told = refusal(&Access::offered([&service("10.0.0.5:502")]), host, port);
        let added = service(told.split('"').nth(1).expect("a quoted address"));
        let access = Access::offered([&service("10.0.0.5:502"), &added]);
        assert!(permits(&access, "10.0.0.5", 502), "{told}");
        if added.ip().is_some() {
            assert!(permits(&access, added.host(), port), "{told}");
        }
    }
}

#[test]
fn the_interfaces_are_asked_for_once_for_a_decision_and_only_where_they_decide() {
    thread_local!(static ASKED: Cell<u32> = const { Cell::new(0) });
    fn ask() -> Vec<SocketAddr> {
        ASKED.set(ASKED.get() + 1);
        vec![socket_address("10.0.0.9", 0)]
    }
    let many = ["10.0.0.1", "10.0.0.9", "10.0.0.3", "10.0.0.4"];
    let asked = |access: &Access, ips: &[&str]| {
        ASKED.set(0);
        let own = OwnAddresses::asked_by(ask);
        let permitted =
            access.permit("x", 22, &own, &mut |_, port| Ok(ips.iter().map(|ip| socket_address(ip, port)).collect()));
        let permitted = permitted.expect("some").into_iter().map(|address| address.ip().to_string());
        (permitted.collect::<Vec<_>>(), ASKED.get())
    };
    assert_eq!(asked(&Access::Device, &many), (vec!["10.0.0.9".to_owned()], 1));
    assert_eq!(asked(&only(&["22", "20-30", "1-65535"]), &many), (vec!["10.0.0.9".to_owned()], 1));
    assert_eq!(asked(&Access::Device, &["127.0.0.1"]).1, 0);
    assert_eq!(asked(&Access::Any, &many).1, 0);
}

#[test]
fn the_rule_in_a_refusal_permits_just_the_service() {
    for (host, port) in [("10.1.2.3", 80), ("2001:db8::1", 443), ("::ffff:10.0.0.1", 22)] {
        let told = refusal(&only(&[]), host, port);
        let rule = told.split('"').nth(1).expect("a quoted rule");
        assert!(permits(&only(&[rule]), host, port), "{told}");
        assert!(!permits(&only(&[rule]), host, port + 1), "{told}");
        assert!(!permits(&only(&[rule]), "127.0.0.1", port), "{told}");
    }
    let told = refusal(&only(&[]), "link", 22);
    assert!(told.split('"').nth(1).expect("a quoted rule").parse::<Rule>().is_ok(), "{told}");
}

#[test]
fn what_a_peer_wrote_cannot_break_or_flood_the_log() {
    let told = refusal(&Access::Device, "a\nb\u{1b}[2J", 80);
    assert_eq!(told, "cannot resolve 'a\\nb\\u{1b}[2J': no such name; check the name and the device's DNS");
    assert!(refusal(&Access::Device, &"é".repeat(60_000), 80).len() < 1000);
}

#[test]
fn a_name_without_addresses_is_unresolved() {
    let refusal = names(&[("empty", &[])]).permit(&Access::Any, "empty", 80).expect_err("empty").to_string();
    assert_eq!(refusal, "cannot resolve 'empty': it has no address; check the name and the device's DNS");
}
