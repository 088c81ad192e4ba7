//! Any bytes, cut anywhere, decode to the same items of version 2, and the same error, as in one piece.

use tcpremote::protocol::v2::{Decoder, Flags, Item};

/// The first byte of `data` is the length of the pieces; the rest is the stream.
pub(crate) fn run(data: &[u8]) {
    let Some((&piece, stream)) = data.split_first() else { return };
    let whole = decode(stream, stream.len());
    assert_eq!(whole, decode(stream, usize::from(piece)), "in pieces of {piece} bytes");
}

/// The items, with the pieces of each DATA payload put together, and the error that ended them.
fn decode(stream: &[u8], piece: usize) -> Vec<(String, Vec<u8>)> {
    let mut decoder = Decoder::default();
    let mut items: Vec<(String, Vec<u8>)> = Vec::new();
    let mut open = false;
    for mut input in stream.chunks(piece.max(1)) {
        loop {
            let item = match decoder.next(&mut input) {
                Ok(Some(item)) => item,
                Ok(None) => break,
                Err(error) => {
                    items.push((error.to_string(), Vec::new()));
                    return items;
                }
            };
            let Item::Data { stream, bytes, flags } = item else {
                items.push((format!("{item:?}"), Vec::new()));
                open = false;
                continue;
            };
            let name = format!("data {stream}");
            match items.last_mut() {
                Some((last, all)) if open && *last == name => all.extend(bytes),
                _ => items.push((name, bytes.to_vec())),
            }
            open = flags == Flags::NONE;
            if !open {
                items.push((format!("{flags:?}"), Vec::new()));
            }
        }
        assert!(input.is_empty(), "all input is taken");
    }
    items
}
