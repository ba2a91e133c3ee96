//! Bytes of a peer from anywhere: see `outrigger::http2::check`, and `agree` for what the h2 crate says.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    outrigger::http2::check(data);
    let _read_by_both = outrigger::http2::agree(data);
});
