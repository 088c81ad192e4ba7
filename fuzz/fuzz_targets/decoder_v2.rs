#![no_main]
//! RUSTC_BOOTSTRAP=1 cargo fuzz run decoder_v2

#[path = "../entries/decoder_v2.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::run(data));
