//! Any bytes are a join string for one kind, which encodes back to itself, or none.

use tcpremote::identity::{JoinError, JoinString, Kind};

pub(crate) fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for kind in [Kind::Device, Kind::User] {
        match JoinString::decode(&text, kind) {
            Ok(join) => {
                assert_eq!(JoinString::decode(&join.encode(), kind), Ok(join.clone()));
                let other = if kind == Kind::Device { Kind::User } else { Kind::Device };
                assert!(matches!(JoinString::decode(&text, other), Err(JoinError::WrongKind { .. })));
            }
            Err(error) => assert!(error.to_string().len() < 200, "{error}"),
        }
    }
}
