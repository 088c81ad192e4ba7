//! What works.

use super::*;

#[test]
fn a_device_joins_is_told_its_name_and_echoes_over_tls_and_comes_again_without_its_token() {
    let mut secure = Secure::new();
    let port = secure.port_of("pump-3");
    let (key, join) = (key(), secure.token("pump-3", |_| {}));
    let handle = secure.device(&key, Some(join));
    let announcement = handle.announcement().expect("in this process").expect("admitted");
    assert_eq!(announcement.name, Some(name("pump-3")));
    assert_eq!((announcement.proven, announcement.pins), (secure.pins().current, Some(secure.pins())));
    assert_eq!(announcement.addresses, ["relay.example.com:443".parse().expect("an address")]);
    assert!(announcement.time.is_some_and(|time| time > 1_700_000_000));
    assert_eq!(handle.status().expect("a status").protocol, Some(2));

    let mut client = TcpStream::connect(port).expect("connect");
    assert_eq!(secure.echo(&mut client, b"over TLS"), b"over TLS");
    let large: Vec<u8> = (0..1_000_000u32).map(|at| (at % 251) as u8).collect();
    assert!(secure.echo(&mut client, &large) == large, "all of it");
    drop(client);
    handle.close().expect("in this process");

    let handle = secure.device(&key, None);
    let mut client = TcpStream::connect(port).expect("connect");
    assert_eq!(secure.echo(&mut client, b"again"), b"again");
    handle.close().expect("in this process");
    secure.bench.run_until("it is gone", |server| server.served == 0);
}
