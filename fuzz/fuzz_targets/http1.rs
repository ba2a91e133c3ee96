//! Bytes of an HTTP/1.1 peer from anywhere: see `outrigger::http1::check`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| outrigger::http1::check(data));
