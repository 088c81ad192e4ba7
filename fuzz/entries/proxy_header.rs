//! Any bytes are a header of the PROXY protocol, or none, however they are cut; and what follows is left alone.

use std::net::SocketAddr;

use tcpremote::protocol::proxy::{HeaderError, HeaderReader, MAX_HEADER};

type Answer = Result<Option<Option<SocketAddr>>, HeaderError>;

/// The answer, and how many bytes were not taken.
fn read(data: &[u8], most: usize) -> (Answer, usize) {
    let (mut reader, mut rest) = (HeaderReader::default(), data);
    while !rest.is_empty() {
        let count = reader.wanted().min(most).min(rest.len());
        assert!(count > 0, "it has no answer, and wants no more");
        let (now, later) = rest.split_at(count);
        rest = later;
        match reader.receive(now) {
            Ok(None) => {}
            answer => return (answer, rest.len()),
        }
    }
    (Ok(None), 0)
}

pub(crate) fn run(data: &[u8]) {
    let (answer, left) = read(data, usize::MAX);
    if let Ok(Some(_)) = answer {
        let taken = data.len() - left;
        assert!((16..=MAX_HEADER).contains(&taken));
        assert_eq!(read(&data[..taken], usize::MAX), (answer, 0), "what follows is of no matter");
    }
    for most in [1, 7] {
        let (cut, cut_left) = read(data, most);
        assert_eq!(cut, answer, "{most} at a time");
        // What is no header is found earlier where less is read at a time.
        assert!(cut_left == left || answer.is_err());
    }
}
