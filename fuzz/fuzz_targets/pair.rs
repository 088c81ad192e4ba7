#![no_main]
//! RUSTC_BOOTSTRAP=1 cargo fuzz run pair

#[allow(dead_code, reason = "each target runs one version")]
#[path = "../entries/pair.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::run_v1(data));
