//! Bytes of a peer from anywhere: see `outrigger::http2::check`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| outrigger::http2::check(data));
