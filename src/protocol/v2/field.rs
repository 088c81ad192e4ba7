//! Fields: what a payload may have more of in a later version.

use crate::protocol::ProtocolError;

/// Appends one field. Values are cut at what a length can tell; ours are far shorter.
pub(super) fn push(payload: &mut Vec<u8>, tag: u16, value: &[u8]) {
    let value = &value[..value.len().min(usize::from(u16::MAX))];
    payload.extend(tag.to_be_bytes());
    payload.extend((value.len() as u16).to_be_bytes());
    payload.extend(value);
}

/// Hands every field of `payload` to `take`, in order.
pub(super) fn each(
    mut payload: &[u8],
    mut take: impl FnMut(u16, &[u8]) -> Result<(), ProtocolError>,
) -> Result<(), ProtocolError> {
    while !payload.is_empty() {
        let (head, rest) = payload.split_first_chunk::<4>().ok_or(ProtocolError::TruncatedField)?;
        let [a, b, c, d] = *head;
        let length = usize::from(u16::from_be_bytes([c, d]));
        let (value, rest) = rest.split_at_checked(length).ok_or(ProtocolError::TruncatedField)?;
        take(u16::from_be_bytes([a, b]), value)?;
        payload = rest;
    }
    Ok(())
}

/// The number in a field of four bytes.
pub(super) fn number(value: &[u8]) -> Result<u32, ProtocolError> {
    value.try_into().map(u32::from_be_bytes).map_err(|_| ProtocolError::TruncatedField)
}

/// Text for people, as far as it is text.
pub(super) fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}
