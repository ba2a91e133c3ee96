//! Header blocks from anywhere: see `outrigger::http2::hpack::check`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| outrigger::http2::hpack::check(data));
