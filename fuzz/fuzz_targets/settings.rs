#![no_main]
//! RUSTC_BOOTSTRAP=1 cargo fuzz run settings

#[path = "../entries/settings.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::run(data));
