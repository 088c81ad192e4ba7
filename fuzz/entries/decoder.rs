//! Any bytes, cut anywhere, decode to the same items as in one piece.

use tcpremote::protocol::v1::{Decoder, Item};

/// The first byte of `data` is the length of the pieces; the rest is the stream.
pub(crate) fn run(data: &[u8]) {
    let Some((&piece, stream)) = data.split_first() else { return };
    let whole = decode(stream, stream.len());
    assert_eq!(whole, decode(stream, usize::from(piece)), "in pieces of {piece} bytes");
}

/// The items, with the pieces of each DATA payload put together.
fn decode(stream: &[u8], piece: usize) -> Vec<(String, Vec<u8>)> {
    let mut decoder = Decoder::default();
    let mut items: Vec<(String, Vec<u8>)> = Vec::new();
    for mut input in stream.chunks(piece.max(1)) {
        while let Some(item) = decoder.next(&mut input) {
            let Item::Data { client, bytes } = item else {
                items.push((format!("{item:?}"), Vec::new()));
                continue;
            };
            let name = format!("data {client}");
            match items.last_mut() {
                Some((last, all)) if *last == name => all.extend(bytes),
                _ => items.push((name, bytes.to_vec())),
            }
        }
        assert!(input.is_empty(), "all input is taken");
    }
    items
}
