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

#[test]
#[cfg(target_os = "linux")]
fn a_forked_child_seals_nothing_so_that_no_nonce_is_used_twice() {
    use fork::{Fork, fork};
    use nix::sys::signal::{Signal, raise};
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::Pid;

    let mut secure = Secure::new();
    let port = secure.port_of("pump-3");
    let join = secure.token("pump-3", |_| {});
    let handle = secure.device(&key(), Some(join));
    let mut client = TcpStream::connect(port).expect("connect");
    assert_eq!(secure.echo(&mut client, b"before"), b"before");
    let child = match fork().expect("a child") {
        Fork::Parent(child) => Pid::from_raw(child),
        Fork::Child => {
            // Of a process with threads it may only end, which it does in a way that says how it went.
            let is_refused = matches!(handle.close(), Err(crate::Error::Forked))
                && matches!(handle.reconnect(), Err(crate::Error::Forked))
                && matches!(handle.announcement(), Err(crate::Error::Forked));
            drop(handle);
            let _ = raise(if is_refused { Signal::SIGUSR1 } else { Signal::SIGUSR2 });
            loop {
                let _ = raise(Signal::SIGKILL);
            }
        }
    };
    let ended = waitpid(child, None).expect("a child");
    assert!(matches!(ended, WaitStatus::Signaled(_, Signal::SIGUSR1, _)), "{ended:?}");
    // A record of the child's would have broken the link.
    assert_eq!(secure.echo(&mut client, b"behind"), b"behind");
    assert_eq!(handle.status().expect("a status").reconnects, 0);
}
