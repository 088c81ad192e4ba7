//! Any bytes are a configuration, from which a server's settings follow, or mistakes in lines that there are.

use std::path::Path;

use tcpremote::relay::file::File;

pub(crate) fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match File::parse(&text, Path::new("/etc/relay")) {
        Ok(file) => {
            assert!(file.tls.is_some() || file.plain.is_some());
            assert!((1..=256).contains(&file.clients) && file.addresses.len() <= 4);
        }
        Err(mistakes) => {
            assert!(!mistakes.is_empty() && mistakes.len() <= 50);
            let lines = 1 + text.matches('\n').count();
            for mistake in mistakes {
                assert!((1..=lines).contains(&mistake.line), "{mistake}");
                assert!(!mistake.text.chars().any(char::is_control), "{mistake:?}");
                assert!(mistake.text.len() < 2000, "{mistake}");
            }
        }
    }
}
