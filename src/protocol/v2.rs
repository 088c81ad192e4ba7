//! Version 2: streams with credit, half-close and reasons. `docs/protocol.md` is the whole of it in prose.
//!
//! Every frame, in both directions, is an 8-byte header and a payload, integers big-endian:
//!
//! ```text
//! u16 size | u8 type | u8 flags | u32 stream | size bytes of payload
//! ```
//!
//! | type | stream | payload |
//! | --- | --- | --- |
//! | 1 CONNECT | new | host and port as in version 1, or none of both where a field names the service; then fields |
//! | 2 CLOSE | open | `u16 code`, reason in UTF-8 |
//! | 3 DATA | open | bytes; flag FIN: no more from this side; flags ASK and LIMITED, for peers that acknowledge |
//! | 6 SETTINGS | 0 | fields |
//! | 7 CONNECTED | open | none |
//! | 8 CREDIT | open | `u64`: bytes that may have been sent on the stream since its start |
//! | 9 PING | 0 | 8 bytes; flag ACK on the answer |
//! | 10 GOAWAY | 0 | `u16 code, u16 retry after, u32 last stream`, reason in UTF-8 |
//! | 11 ACK | 0 | `u64 offset, u32 clock`: so much of the link was read, and when |
//!
//! A field is `u16 tag | u16 length | bytes`; unknown tags are passed over.

mod code;
mod connect;
mod decoder;
mod field;
mod frame;
mod header;
mod settings;

pub use code::Code;
pub use connect::{Connect, Part, Target};
pub use decoder::{Decoder, Item};
pub use frame::{ACK_LEN, Close, GoAway, ack, credit, ping};
pub use header::{Flags, Header, Type};
#[cfg(feature = "tls")]
pub use settings::Join;
pub use settings::{MAX_ADDRESSES, MAX_SERVICES, MAX_SERVICES_LEN, Service, ServiceFlags, Settings, services_len};

use super::v1;

/// The frame that asks for version 2, or grants it; it has the shape of version 1, and a relay of 2012 survives it.
pub const HELLO: v1::Header = hello(2);

/// The HELLO of a device that is held to version 1: it asks for nothing but an answer.
pub const HELLO_V1: v1::Header = hello(1);

/// The number of HELLO among the commands of version 1.
const HELLO_COMMAND: u8 = 5;
/// The version stands in the lower half of HELLO's id, so that it is an id that few links ever use.
const HELLO_ID: u8 = 0xf0;

const fn hello(version: u8) -> v1::Header {
    v1::Header { size: 0, command: v1::Command::Other(HELLO_COMMAND), client: HELLO_ID | version }
}

/// The version in a HELLO: the highest that its sender speaks. `None` if it is another frame.
pub fn version_in(header: v1::Header) -> Option<u8> {
    let v1::Header { size, command, client } = header;
    let is_hello = size == 0 && command.number() == HELLO_COMMAND && client & HELLO_ID == HELLO_ID;
    is_hello.then_some(client & !HELLO_ID)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hello_is_the_frame_that_a_relay_of_2012_survives() {
        assert_eq!(HELLO.encode(), [0, 0, 5, 0xf2]);
        assert_eq!(version_in(HELLO), Some(2));
        assert_eq!(HELLO_V1.encode(), [0, 0, 5, 0xf1]);
        assert_eq!(version_in(HELLO_V1), Some(1));
        for other in [[0, 0, 2, 0xf2], [0, 1, 5, 0xf2], [0, 0, 5, 0x02]] {
            assert_eq!(version_in(v1::Header::decode(other)), None);
        }
    }
}
