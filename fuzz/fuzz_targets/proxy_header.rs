#![no_main]
//! RUSTC_BOOTSTRAP=1 cargo fuzz run proxy_header

#[path = "../entries/proxy_header.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::run(data));
