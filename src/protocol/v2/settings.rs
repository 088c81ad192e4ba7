//! What each side can take, said once at the start.

use super::field;
use super::header::{Flags, Header, Type};
use crate::protocol::ProtocolError;

/// The payload of SETTINGS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Bytes that the peer may send on a new stream before the first CREDIT.
    pub window: u32,
    /// Streams that the relay may have open at once; sent by the device.
    pub streams: u32,
    /// Streams that the relay may open in a second, and at once; sent by the device.
    pub open_rate: u32,
    /// The sender answers DATA that asks with ACK.
    pub acknowledges: bool,
    /// Name and version of the sender, for logs. At most 64 bytes are kept.
    pub software: String,
}

/// What a field means. 1 (identity), 2 (boot id) and 7 (services offered) are kept free for what they are to mean.
mod tag {
    pub(super) const SOFTWARE: u16 = 3;
    pub(super) const WINDOW: u16 = 4;
    pub(super) const STREAMS: u16 = 5;
    pub(super) const OPEN_RATE: u16 = 6;
    pub(super) const ACKNOWLEDGES: u16 = 10;
}

/// The longest name of a software that is kept, in bytes.
const MAX_SOFTWARE: usize = 64;

impl Default for Settings {
    /// What a side assumes of the other before its SETTINGS are here: the least that any may say.
    fn default() -> Self {
        Self { window: 16 * 1024, streams: 16, open_rate: 10_000, acknowledges: false, software: String::new() }
    }
}

impl Settings {
    /// The whole frame.
    pub fn frame(&self) -> Vec<u8> {
        let mut payload = Vec::new();
        field::push(&mut payload, tag::SOFTWARE, self.software.as_bytes());
        field::push(&mut payload, tag::WINDOW, &self.window.to_be_bytes());
        field::push(&mut payload, tag::STREAMS, &self.streams.to_be_bytes());
        field::push(&mut payload, tag::OPEN_RATE, &self.open_rate.to_be_bytes());
        if self.acknowledges {
            field::push(&mut payload, tag::ACKNOWLEDGES, &[]);
        }
        let header = Header { size: payload.len() as u16, kind: Type::Settings, flags: Flags::NONE, stream: 0 };
        [&header.encode()[..], &payload].concat()
    }

    /// Reads a payload. Windows and streams only ever raise what was assumed.
    pub(super) fn decode(payload: &[u8]) -> Result<Self, ProtocolError> {
        let mut settings = Self::default();
        let least = Self::default();
        field::each(payload, |tag, value| {
            match tag {
                tag::SOFTWARE => settings.software = field::text(&value[..value.len().min(MAX_SOFTWARE)]),
                tag::WINDOW => settings.window = field::number(value)?.max(least.window),
                tag::STREAMS => settings.streams = field::number(value)?.max(least.streams),
                tag::OPEN_RATE => settings.open_rate = field::number(value)?.max(1),
                tag::ACKNOWLEDGES if value.is_empty() => settings.acknowledges = true,
                tag::ACKNOWLEDGES => return Err(ProtocolError::TruncatedField),
                _ => {}
            }
            Ok(())
        })?;
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_decode_from_their_frame_and_unknown_fields_are_passed_over() {
        for acknowledges in [false, true] {
            let software = "a device 2.0".into();
            let settings = Settings { window: 32_768, streams: 256, open_rate: 7, acknowledges, software };
            let mut payload = settings.frame()[Header::LEN..].to_vec();
            field::push(&mut payload, 999, b"from the future");
            assert_eq!(Settings::decode(&payload), Ok(settings));
        }
        assert!(Settings::decode(b"\0\x0a\0\x01x").is_err(), "a field that has no value has one");
    }

    #[test]
    fn settings_never_lower_what_was_assumed() {
        let lowered = Settings { window: 1, streams: 0, open_rate: 0, ..Settings::default() };
        let read = Settings::decode(&lowered.frame()[Header::LEN..]).expect("settings");
        assert_eq!((read.window, read.streams, read.open_rate), (16 * 1024, 16, 1));
    }

    #[test]
    fn a_field_that_is_cut_short_is_an_error() {
        let frame = Settings::default().frame();
        for end in Header::LEN + 1..frame.len() {
            let whole_fields = [12, 20, 28].map(|at| Header::LEN + at - 8).contains(&end);
            assert_eq!(Settings::decode(&frame[Header::LEN..end]).is_err(), !whole_fields, "{end} bytes");
        }
        assert_eq!(Settings::decode(b"\x00\x04\x00\x03abc"), Err(ProtocolError::TruncatedField));
    }
}
