//! What the fuzzers found and were fed is tried again, and random bytes beside it, without a fuzzer.
#![cfg(feature = "relay")]

use std::fs;
use std::path::Path;

use proptest::prelude::*;

#[path = "../fuzz/entries/config.rs"]
mod config;
#[path = "../fuzz/entries/decoder.rs"]
mod decoder;
#[path = "../fuzz/entries/decoder_v2.rs"]
mod decoder_v2;
#[path = "../fuzz/entries/handshake.rs"]
mod handshake;
#[path = "../fuzz/entries/join.rs"]
mod join;
#[path = "../fuzz/entries/pair.rs"]
mod pair;
#[path = "../fuzz/entries/proxy_header.rs"]
mod proxy_header;
#[path = "../fuzz/entries/settings.rs"]
mod settings;

fn replay(target: &str, run: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let files = fs::read_dir(&corpus).expect("a corpus").map(|entry| entry.expect("a file").path());
    let mut count = 0;
    for file in files {
        run(&fs::read(&file).expect("a readable file"));
        count += 1;
    }
    assert!(count > 0, "{} is empty", corpus.display());
}

#[test]
fn the_decoder_passes_its_corpus() {
    replay("decoder", decoder::run);
}

#[test]
fn the_handshake_passes_its_corpus() {
    replay("handshake", handshake::run);
}

#[test]
fn the_pair_passes_its_corpus() {
    replay("pair", pair::run_v1);
}

#[test]
fn version_2_passes_its_corpora() {
    replay("decoder_v2", decoder_v2::run);
    replay("pair_v2", pair::run_v2);
}

#[test]
fn settings_pass_their_corpus() {
    replay("settings", settings::run);
}

#[test]
fn join_strings_pass_their_corpus() {
    replay("join", join::run);
}

#[test]
fn configurations_pass_their_corpus() {
    replay("config", config::run);
}

#[test]
fn proxy_headers_pass_their_corpus() {
    replay("proxy_header", proxy_header::run);
}

proptest! {
    #[test]
    fn no_text_makes_a_configuration_that_cannot_be(
        lines in prop::collection::vec(("[a-z_]{0,9}", "[\\]\\[{}\"'=#a-z0-9:*.\\\\\u{1b}\u{202e} ]{0,12}"), 0..12)
    ) {
        let lines: Vec<String> = lines.iter().map(|(key, value)| format!("{key} = {value}")).collect();
        config::run(lines.join("\n").as_bytes());
    }

    #[test]
    fn no_bytes_make_the_decoder_depend_on_how_they_were_cut(data in prop::collection::vec(any::<u8>(), 0..400)) {
        decoder::run(&data);
    }

    #[test]
    fn no_bytes_make_the_handshake_depend_on_how_they_were_cut(
        start in 0..4usize, data in prop::collection::vec(any::<u8>(), 0..400)
    ) {
        // As a record of the handshake or an alert at times, so that it is looked at.
        let start: &[u8] = [&b""[..], b"\x09\x16\x03\x01\x00\x20", b"\x05\x15\x03\x03\x00\x02", b"\x20\x16\x03\x03"][start];
        handshake::run(&[start, &data].concat());
    }

    #[test]
    fn no_fields_make_settings_that_cannot_be(
        fields in prop::collection::vec((0..18u16, prop::collection::vec(any::<u8>(), 0..40)), 0..8),
        texts in prop::collection::vec((prop::sample::select(vec![1u16, 3, 16]), "\\PC{0,40}"), 0..3),
    ) {
        let field = |tag: u16, value: &[u8]| {
            [&tag.to_be_bytes()[..], &(value.len() as u16).to_be_bytes(), value].concat()
        };
        let texts = texts.iter().map(|(tag, text)| {
            let counted = [&[text.len() as u8][..], text.as_bytes()].concat();
            field(*tag, if *tag == 16 { &counted } else { text.as_bytes() })
        });
        let fields = fields.iter().map(|(tag, value)| field(*tag, value)).chain(texts);
        settings::run(&fields.flatten().collect::<Vec<u8>>());
    }

    #[test]
    fn no_orders_confuse_the_pair(data in prop::collection::vec(any::<u8>(), 0..1200)) {
        pair::run_v1(&data);
    }

    #[test]
    fn no_bytes_make_the_decoder_of_version_2_depend_on_how_they_were_cut(
        data in prop::collection::vec(any::<u8>(), 0..400)
    ) {
        decoder_v2::run(&data);
    }

    #[test]
    fn no_orders_confuse_the_pair_in_version_2(data in prop::collection::vec(any::<u8>(), 0..1200)) {
        pair::run_v2(&data);
    }
}
