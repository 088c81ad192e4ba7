//! The way to a relay through an HTTP proxy: CONNECT (RFC 9110, 9.3.6), with Basic authentication (RFC 7617). No socket.

use std::fmt;
use std::str::FromStr;

use base64ct::{Base64, Encoding as _};
use zeroize::Zeroizing;

use crate::address::Address;

/// An answer's heads, at most: the last one and the interim ones before it, which a proxy may send without an end.
pub(super) const MAX_HEAD: usize = 8 * 1024;
/// Lines in it, at most.
const MAX_HEADERS: usize = 64;
/// How much of the proxy's own words an error shows, in characters.
const SHOWN: usize = 80;

/// An HTTP proxy, and what it wants to know of its user. No text shows the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    address: Address,
    /// `user:password` in Base64.
    credentials: Option<Zeroizing<String>>,
}

/// Why a text is no proxy. The text is not shown, since a password may stand in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyTextError {
    /// It does not begin with `http://`.
    #[error("it does not begin with http://, and other kinds of proxies are not known here; write http://HOST:PORT")]
    Scheme,
    /// Something stands behind the port.
    #[error("something stands behind its port; write http://HOST:PORT, or http://USER:PASSWORD@HOST:PORT")]
    Path,
    /// A user without a password.
    #[error("there is no ':' between user and password; write http://USER:PASSWORD@HOST:PORT")]
    NoPassword,
    /// A character of user or password that cannot be there.
    #[error(
        "user or password has a '%' without two hexadecimal digits behind it, or a control character; write % as %25, \
         @ as %40, : as %3A and / as %2F"
    )]
    Escape,
    /// No host and port at its end.
    #[error("there is no host and port at its end; write http://HOST:PORT, or http://USER:PASSWORD@HOST:PORT")]
    NoAddress,
}

/// Why a proxy does not let the link through.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// It wants a user, and none is given.
    #[error("it wants to know a user ({0}); give proxy = \"http://USER:PASSWORD@HOST:PORT\"")]
    NoCredentials(u16),
    /// It does not take the user or the password.
    #[error("it does not take the user or the password ({0}); correct them in proxy")]
    WrongCredentials(u16),
    /// It wants a way to say who the user is that is not known here.
    #[error("it wants to know its user by {1} ({0}), and only Basic is known here; ask its operator for that")]
    Scheme(u16, String),
    /// It does not permit the relay's address.
    #[error("it does not permit that address (403{}); ask its operator to permit CONNECT to it", said(.0))]
    Forbidden(String),
    /// It cannot reach the relay.
    #[error("it cannot reach that address ({0}{text}); check the address, and the proxy's own network", text = said(.1))]
    Gateway(u16, String),
    /// It answers something else.
    #[error("it answers {0}{text} to CONNECT; ask its operator whether it is a proxy, and permits CONNECT", text = said(.1))]
    Status(u16, String),
    /// What it answers is no HTTP.
    #[error("what it answers is no HTTP; is it an HTTP proxy?")]
    NotHttp,
    /// Its answer does not end.
    #[error("its answer is longer than {MAX_HEAD} bytes or {MAX_HEADERS} lines; is it an HTTP proxy?")]
    TooLong,
    /// It ended the connection.
    #[error("it ended the connection before it had answered; ask its operator whether it permits this device")]
    Ended,
    /// It did not answer in time.
    #[error("it did not answer in time; check that it works, or give a longer connect_timeout")]
    Timeout,
    /// It cannot be reached itself.
    #[error("it cannot be reached: {0}; check proxy and the device's network")]
    Unreachable(String),
}

/// The reason that stands behind a status, if there is one.
fn said(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(" {reason}") }
}

impl Proxy {
    /// Where it is.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// What to send it, so that it connects to `target`.
    fn request(&self, target: &Address) -> Zeroizing<String> {
        let authorization = match &self.credentials {
            Some(credentials) => format!("Proxy-Authorization: Basic {}\r\n", credentials.as_str()),
            None => String::new(),
        };
        let authorization = Zeroizing::new(authorization);
        let authorization = authorization.as_str();
        Zeroizing::new(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{authorization}\r\n"))
    }
}

impl FromStr for Proxy {
    type Err = ProxyTextError;

    fn from_str(text: &str) -> Result<Self, ProxyTextError> {
        let scheme = text.get(..7).filter(|scheme| scheme.eq_ignore_ascii_case("http://"));
        let rest = scheme.map(|scheme| &text[scheme.len()..]).ok_or(ProxyTextError::Scheme)?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (user, host) = match rest.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, rest),
        };
        if host.contains(['/', '?', '#']) {
            return Err(ProxyTextError::Path);
        }
        let credentials = user.map(credentials).transpose()?;
        Ok(Self { address: host.parse().map_err(|_| ProxyTextError::NoAddress)?, credentials })
    }
}

/// User and password of a URL, as Basic wants them.
fn credentials(text: &str) -> Result<Zeroizing<String>, ProxyTextError> {
    let (user, password) = text.split_once(':').ok_or(ProxyTextError::NoPassword)?;
    let mut plain = Zeroizing::new(Vec::with_capacity(text.len()));
    unescape(user, &mut plain)?;
    // A colon there would end the name in Basic.
    if plain.contains(&b':') {
        return Err(ProxyTextError::Escape);
    }
    plain.push(b':');
    unescape(password, &mut plain)?;
    Ok(Zeroizing::new(Base64::encode_string(&plain)))
}

fn unescape(text: &str, plain: &mut Vec<u8>) -> Result<(), ProxyTextError> {
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        let (byte, behind) = match (byte, behind) {
            (b'%', [high, low, behind @ ..]) => {
                let digit = |digit: u8| char::from(digit).to_digit(16).ok_or(ProxyTextError::Escape);
                // Two digits are below 256.
                ((digit(*high)? * 16 + digit(*low)?) as u8, behind)
            }
            (b'%', _) => return Err(ProxyTextError::Escape),
            _ => (byte, behind),
        };
        if byte.is_ascii_control() {
            return Err(ProxyTextError::Escape);
        }
        plain.push(byte);
        rest = behind;
    }
    Ok(())
}

impl fmt::Display for Proxy {
    /// Without user and password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.address)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let credentials = self.credentials.as_ref().map(|_| "…");
        f.debug_struct("Proxy").field("address", &self.address).field("credentials", &credentials).finish()
    }
}

/// One CONNECT: what is to be written, and what has come of the answer.
pub(super) struct Connecting {
    request: Zeroizing<String>,
    /// How much of it is written.
    sent: usize,
    /// The bytes of the interim heads before this one.
    interim: usize,
    head: Vec<u8>,
    has_credentials: bool,
}

impl Connecting {
    /// Through `proxy`, to `target`.
    pub(super) fn new(proxy: &Proxy, target: &Address) -> Self {
        let has_credentials = proxy.credentials.is_some();
        Self { request: proxy.request(target), sent: 0, interim: 0, head: Vec::new(), has_credentials }
    }

    /// What is to be written next.
    pub(super) fn unsent(&self) -> &[u8] {
        &self.request.as_bytes()[self.sent..]
    }

    /// The socket took so many bytes of it.
    pub(super) fn advance(&mut self, count: usize) {
        self.sent += count;
    }

    /// Looks at what has come: how many bytes of it are the answer's, and whether that is complete and the connection
    /// open. What stands behind them belongs to the link.
    pub(super) fn handle_bytes(&mut self, bytes: &[u8]) -> Result<(usize, bool), ProxyError> {
        let mut taken = 0;
        loop {
            let before = self.head.len();
            let rest = &bytes[taken..];
            let room = (MAX_HEAD - self.interim - before).min(rest.len());
            self.head.extend_from_slice(&rest[..room]);
            let Some((length, is_open)) = parse(&self.head, self.has_credentials)? else {
                if self.interim + self.head.len() == MAX_HEAD {
                    return Err(ProxyError::TooLong);
                }
                return Ok((bytes.len(), false));
            };
            // No head ended within what was there before.
            taken += length - before;
            self.interim += length;
            self.head.clear();
            if is_open {
                return Ok((taken, true));
            }
        }
    }
}

impl fmt::Debug for Connecting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connecting").field("sent", &self.sent).field("head", &self.head.len()).finish_non_exhaustive()
    }
}

/// The length of a complete head, and whether it says yes; an interim one (1xx) says nothing yet.
fn parse(head: &[u8], has_credentials: bool) -> Result<Option<(usize, bool)>, ProxyError> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let length = match response.parse(head) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(ProxyError::TooLong),
        Err(_) => return Err(ProxyError::NotHttp),
    };
    let reason: String = response.reason.unwrap_or("").chars().take(SHOWN).flat_map(char::escape_debug).collect();
    match response.code.ok_or(ProxyError::NotHttp)? {
        100..=199 => Ok(Some((length, false))),
        200..=299 => Ok(Some((length, true))),
        // Some answer to a wrong password as a server does.
        code @ (401 | 407) => Err(unauthorized(code, response.headers, has_credentials)),
        403 => Err(ProxyError::Forbidden(reason)),
        code @ 500..=599 => Err(ProxyError::Gateway(code, reason)),
        code => Err(ProxyError::Status(code, reason)),
    }
}

fn unauthorized(code: u16, headers: &[httparse::Header<'_>], has_credentials: bool) -> ProxyError {
    let name = if code == 401 { "WWW-Authenticate" } else { "Proxy-Authenticate" };
    let wanted = headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
    let wanted = wanted.filter_map(|header| std::str::from_utf8(header.value).ok());
    let schemes: Vec<_> = wanted.filter_map(|value| value.split_ascii_whitespace().next()).collect();
    if !schemes.is_empty() && !schemes.iter().any(|scheme| scheme.eq_ignore_ascii_case("Basic")) {
        let schemes = schemes.join(" or ");
        return ProxyError::Scheme(code, schemes.chars().take(SHOWN).flat_map(char::escape_debug).collect());
    }
    if has_credentials { ProxyError::WrongCredentials(code) } else { ProxyError::NoCredentials(code) }
}

#[cfg(test)]
mod tests;
