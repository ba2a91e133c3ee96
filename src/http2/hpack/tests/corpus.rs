//! The inputs of the fuzzer, and random ones.

use proptest::{collection::vec, prelude::*};

use crate::http2::hpack::check;

#[test]
fn the_fuzzers_inputs_pass() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/hpack");
    let mut inputs = 0;
    for entry in std::fs::read_dir(corpus).expect("the corpus is there") {
        let path = entry.expect("it can be listed").path();
        check(&std::fs::read(path).expect("it can be read"));
        inputs += 1;
    }
    assert!(inputs > 0);
}

proptest! {
    #[test]
    fn any_input_passes(data in vec(any::<u8>(), 0..400)) {
        check(&data);
    }
}
