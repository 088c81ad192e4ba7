#![no_main]
//! RUSTC_BOOTSTRAP=1 cargo fuzz run config

#[path = "../entries/config.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::run(data));
