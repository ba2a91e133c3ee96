//! Calls on two connected cores in any order: see `outrigger::http2::check_calls`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| outrigger::http2::check_calls(data));
