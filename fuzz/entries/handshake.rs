//! What comes before anybody has proved a key: any bytes, cut anywhere, end a handshake in the same way as in one piece, and
//! nothing is kept beyond its bound.

use tcpremote::identity::Pins;
use tcpremote::tls::{Acceptor, HANDSHAKE_LIMIT, Key, Opener, Scratch, Tls};

/// The first byte of `data` is the length of the pieces; the rest goes to an acceptor and to an opener.
pub(crate) fn run(data: &[u8]) {
    let Some((&piece, stream)) = data.split_first() else { return };
    let key = Key::from_pkcs8(&PKCS8).expect("a key");
    let pins = Pins { current: key.public().pin(), next: key.public().pin() };
    let (opener, acceptor) = (Opener::new(&key, pins).expect("an opener"), Acceptor::new(&key).expect("an acceptor"));
    let accept = |piece| receive(acceptor.start().expect("a handshake"), stream, piece);
    assert_eq!(accept(stream.len()), accept(usize::from(piece)), "an acceptor, in pieces of {piece} bytes");
    let open = |piece| {
        let mut scratch = Scratch::new(1024);
        receive(opener.start("relay", &mut scratch).expect("a handshake"), stream, piece)
    };
    assert_eq!(open(stream.len()), open(usize::from(piece)), "an opener, in pieces of {piece} bytes");
}

/// How it ended.
fn receive(mut tls: Tls, stream: &[u8], piece: usize) -> String {
    let (mut plaintext, mut scratch) = (Vec::new(), Scratch::new(1024));
    let mut stream = stream.to_vec();
    let result = stream.chunks_mut(piece.max(1)).try_for_each(|piece| {
        let result = tls.open(piece, &mut plaintext, &mut scratch);
        assert!(tls.buffered() <= 2 * HANDSHAKE_LIMIT);
        result
    });
    let result = result.and_then(|()| tls.handle_end());
    assert!(plaintext.is_empty() && tls.peer_key().is_none(), "nobody has proved a key");
    format!("{result:?}")
}

/// Any key, so that every run is the same.
const PKCS8: [u8; 48] = *b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20\
    a key that is known to everybody";
