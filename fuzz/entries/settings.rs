//! Any bytes are the fields of SETTINGS, which say the same when they are sent on, or an error; and nothing in them is
//! beyond its bound, or a name that is none.

use tcpremote::identity::Name;
use tcpremote::protocol::ProtocolError;
use tcpremote::protocol::v2::{Decoder, Item, MAX_ADDRESSES, MAX_SERVICES, Settings};

/// The longest payload of a control frame.
const MAX_PAYLOAD: usize = 4096;

pub(crate) fn run(data: &[u8]) {
    let payload = &data[..data.len().min(MAX_PAYLOAD)];
    let [high, low] = (payload.len() as u16).to_be_bytes();
    let Ok(said) = read(&[&[high, low, 6, 0, 0, 0, 0, 0], payload].concat()) else { return };
    assert_eq!(said.refuses, payload.is_empty());
    assert!(said.software.chars().count() <= 64 && said.addresses.len() <= MAX_ADDRESSES);
    if let Some(name) = &said.name {
        assert_eq!(Name::device(name.as_str()).as_ref(), Ok(name));
    }
    for service in said.services.iter().flatten() {
        assert_eq!(Name::service(service.name.as_str()).as_ref(), Ok(&service.name));
    }
    assert!(said.services.iter().all(|services| services.len() <= MAX_SERVICES));
    for address in &said.addresses {
        let shown = address.to_string();
        assert!(shown.chars().all(|c| "\"'\\".contains(c) || c.escape_debug().len() == 1), "{shown:?}");
        assert_eq!(shown.parse().as_ref(), Ok(address));
    }
    let again = read(&said.frame()).expect("what was read can be sent");
    // Bytes that are no text have become longer ones.
    assert_eq!(Settings { software: said.software.clone(), ..again }, said);
}

fn read(mut frame: &[u8]) -> Result<Settings, ProtocolError> {
    match Decoder::default().next(&mut frame)? {
        Some(Item::Settings(settings)) => Ok(settings),
        other => panic!("{other:?}"),
    }
}
