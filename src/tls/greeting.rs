//! What the first bytes of a connection are, for a clear message where a port is used for the wrong protocol.

/// How a connection begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Greeting {
    /// A record of TLS: to a port, a ClientHello.
    Tls,
    /// LISTEN or HELLO: a link without TLS.
    PlainLink,
    /// A request or an answer of HTTP.
    Http,
    /// The version line of SSH.
    Ssh,
    /// Something else.
    Unknown,
}

/// The beginnings of requests, and of an answer.
const HTTP: [&[u8]; 10] = [b"GET ", b"HEAD", b"POST", b"PUT ", b"DELE", b"CONN", b"OPTI", b"TRAC", b"PATC", b"HTTP"];

impl Greeting {
    /// What these first bytes begin, or `None` while more bytes must tell; four always suffice. More bytes never change
    /// the answer.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let [first, rest @ ..] = bytes else { return None };
        match first {
            // A change of ciphers, an alert, a handshake or data; then 3 for every version there was.
            20..=23 => rest.first().map(|&version| if version == 3 { Self::Tls } else { Self::Unknown }),
            _ => {
                let known =
                    [(Self::PlainLink, &b"\0\0\x04\0"[..]), (Self::PlainLink, b"\0\0\x05"), (Self::Ssh, b"SSH-")];
                let mut known = known.into_iter().chain(HTTP.map(|start| (Self::Http, start)));
                let common = |start: &[u8]| bytes.iter().zip(start).all(|(byte, expected)| byte == expected);
                match known.find(|(_, start)| common(start)) {
                    Some((_, start)) if bytes.len() < start.len() => None,
                    Some((greeting, _)) => Some(greeting),
                    None => Some(Self::Unknown),
                }
            }
        }
    }

    /// What it is, in words that follow "it received".
    pub fn description(self) -> &'static str {
        match self {
            Self::Tls => "TLS",
            Self::PlainLink => "a link without TLS",
            Self::Http => "HTTP",
            Self::Ssh => "SSH",
            Self::Unknown => "bytes of no protocol that it knows",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_bytes_tell_and_more_change_nothing() {
        let cases: [(&[u8], Greeting); 12] = [
            (b"\x16\x03\x01\x02\x00\x01", Greeting::Tls),
            (b"\x15\x03\x03\x00\x02", Greeting::Tls),
            (b"\x16\x02\x01\x02\x00\x01", Greeting::Unknown),
            (b"\0\0\x04\0\0\0\x05\xf2", Greeting::PlainLink),
            (b"\0\0\x05\xf2", Greeting::PlainLink),
            (b"\0\0\x04\x01", Greeting::Unknown),
            (b"GET / HTTP/1.1\r\n", Greeting::Http),
            (b"CONNECT pump-3:22 HTTP/1.1\r\n", Greeting::Http),
            (b"HTTP/1.1 400 Bad Request\r\n", Greeting::Http),
            (b"SSH-2.0-OpenSSH_9.6\r\n", Greeting::Ssh),
            (b"\x05\x01\x00\x00", Greeting::Unknown),
            (b"PING", Greeting::Unknown),
        ];
        for (bytes, greeting) in cases {
            assert_eq!(Greeting::of(bytes), Some(greeting), "{bytes:x?}");
            for length in 0..bytes.len() {
                let early = Greeting::of(&bytes[..length]);
                assert!(early == Some(greeting) || early.is_none() && length < 4, "{:x?}", &bytes[..length]);
            }
        }
        assert_eq!(Greeting::of(b"P"), None, "PUT, POST or PATCH");
    }
}
