use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

/// Version 2; PROXY.
const PROXY: u8 = 0x21;

fn header(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u16).to_be_bytes();
    [&SIGNATURE[..], &[command, family], &length, payload].concat()
}

/// From 192.0.2.1:4000 to 10.0.0.2:80, with an extension behind it that nobody knows.
fn ipv4() -> Vec<u8> {
    header(PROXY, 0x11, b"\xc0\0\x02\x01\x0a\0\0\x02\x0f\xa0\0\x50\xee\0\x03abc")
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect(text)
}

/// What is read of `bytes` when at most `most` come at a time, and how many are left for the client.
fn read(bytes: &[u8], most: usize) -> (Result<Option<Option<SocketAddr>>, HeaderError>, usize) {
    let (mut reader, mut rest) = (HeaderReader::default(), bytes);
    while !rest.is_empty() {
        let (now, later) = rest.split_at(reader.wanted().min(most).min(rest.len()));
        rest = later;
        match reader.receive(now) {
            Ok(None) => {}
            answer => return (answer, rest.len()),
        }
    }
    (Ok(None), 0)
}

fn source(bytes: &[u8]) -> Result<Option<Option<SocketAddr>>, HeaderError> {
    read(bytes, usize::MAX).0
}

#[test]
fn a_header_is_read_wherever_it_is_split_and_what_follows_is_the_clients() {
    let v6 = [[0x20; 16], [1; 16]].concat();
    let v6 = header(PROXY, 0x21, &[&v6[..], b"\x0f\xa0\0\x50"].concat());
    let from_v6 = SocketAddr::from(([0x2020u16; 8], 4000));
    for (header, from) in [(ipv4(), address("192.0.2.1:4000")), (v6, from_v6)] {
        let bytes = [&header[..], b"GET /"].concat();
        for most in 1..=header.len() {
            assert_eq!(read(&bytes, most), (Ok(Some(Some(from))), 5), "{most} at a time");
        }
        for cut in 0..header.len() {
            let mut reader = HeaderReader::default();
            let (one, other) = header.split_at(cut);
            let mut parts: VecDeque<&[u8]> = [one, other].into();
            let mut found = None;
            while let Some(part) = parts.pop_front().filter(|part| !part.is_empty() || found.is_none()) {
                let (now, later) = part.split_at(reader.wanted().min(part.len()));
                found = reader.receive(now).expect("a header");
                if !later.is_empty() {
                    parts.push_front(later);
                }
            }
            assert_eq!(found, Some(Some(from)), "cut at {cut}");
            assert_eq!(source(one), Ok(None), "cut at {cut}");
        }
    }
}

#[test]
fn a_connection_of_the_proxy_itself_or_without_such_an_address_names_none() {
    let addresses = &ipv4()[FIXED..];
    for header in [
        header(LOCAL, 0, b""),
        header(LOCAL, 0x11, addresses),
        header(LOCAL, 0x77, b"whatever"),
        header(PROXY, 0, b""),
        header(PROXY, 0, b"whatever"),
        header(PROXY, 0x12, addresses),
        header(PROXY, 0x31, &[b'/'; 216]),
    ] {
        assert_eq!(source(&header), Ok(Some(None)), "{header:?}");
    }
    let mapped = [&Ipv6Addr::from([0, 0, 0, 0, 0, 0xffff, 0xc000, 0x0201]).octets()[..], &[1; 16], b"\0\x01\0\x02"];
    assert_eq!(source(&header(PROXY, 0x21, &mapped.concat())), Ok(Some(Some(address("192.0.2.1:1")))));
}

#[test]
fn what_is_no_header_is_refused_at_its_first_wrong_byte() {
    for (bytes, error) in [
        (&b"GET / HTTP"[..], HeaderError::Missing),
        (b"\0\0\x04\0", HeaderError::Missing),
        (b"\r\n\r\n\0\r\nQUIX", HeaderError::Missing),
        (b"PROXY TCP4 1", HeaderError::Version1),
        (b"POST / HTTP/", HeaderError::Missing),
    ] {
        assert_eq!(source(bytes), Err(error), "{}", bytes.escape_ascii());
    }
    assert_eq!(source(b"PROX"), Ok(None));
    assert_eq!(read(b"GET /", 1), (Err(HeaderError::Missing), 4));
    for malformed in [
        header(0x11, 0x11, &[0; 12]),
        header(0x22, 0x11, &[0; 12]),
        header(PROXY, 0x11, &[0; 11]),
        header(PROXY, 0x21, &[0; 35]),
        header(PROXY, 0x31, &[0; 215]),
        header(PROXY, 0x41, &[0; 64]),
    ] {
        assert_eq!(source(&malformed), Err(HeaderError::Malformed), "{}", malformed.escape_ascii());
    }
    let mut long = header(PROXY, 0x11, &[0; MAX_HEADER]);
    assert_eq!(source(&long), Err(HeaderError::TooLong(MAX_HEADER + FIXED)));
    long = header(PROXY, 0x11, &[1; MAX_HEADER - FIXED]);
    assert!(matches!(source(&long), Ok(Some(Some(_)))));
}

/// A socket that takes a byte at every other call.
#[derive(Default)]
struct Reluctant {
    taken: Vec<u8>,
    calls: usize,
}

impl Write for Reluctant {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.calls += 1;
        match self.calls % 3 {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            1 => Err(io::ErrorKind::Interrupted.into()),
            _ => {
                self.taken.extend(&bytes[..1]);
                Ok(1)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_header_is_written_whole_in_however_many_pieces() {
    for (client, service) in [
        (Some("192.0.2.1:4000"), "10.0.0.2:80"),
        (Some("[2001:db8::1]:4000"), "[::1]:80"),
        (Some("[2001:db8::1]:4000"), "10.0.0.2:80"),
        (Some("192.0.2.1:4000"), "[::1]:80"),
        (None, "10.0.0.2:80"),
    ] {
        let client = client.map(address);
        let mut writer = HeaderWriter::new(client, address(service));
        let mut socket = Reluctant::default();
        let mut tries = 0;
        while !writer.write_to(&mut socket).expect("it goes on") {
            tries += 1;
        }
        assert!(tries >= socket.taken.len() - 1, "each byte waits for the next try");
        assert_eq!(source(&socket.taken), Ok(Some(client)), "{client:?} {service}");
    }
    let mut v4 = Vec::new();
    assert!(HeaderWriter::new(Some(address("192.0.2.1:4000")), address("10.0.0.2:80")).write_to(&mut v4).expect("all"));
    assert_eq!(v4, header(PROXY, 0x11, b"\xc0\0\x02\x01\x0a\0\0\x02\x0f\xa0\0\x50"));
}

proptest! {
    #[test]
    fn whatever_comes_is_read_to_its_end_and_no_further(
        mut bytes in prop::collection::vec(any::<u8>(), 0..128),
        is_signed: bool,
        most in 1usize..32,
    ) {
        if is_signed {
            bytes.splice(..0, SIGNATURE);
        }
        let (answer, left) = read(&bytes, most);
        prop_assert_eq!(&answer, &read(&bytes, usize::MAX).0);
        if let Ok(Some(_)) = answer {
            let size = FIXED + usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
            prop_assert_eq!(bytes.len() - left, size);
        }
    }
}
