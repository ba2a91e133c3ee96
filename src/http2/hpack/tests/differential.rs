//! Against another implementation of HPACK, both ways.

use proptest::{collection::vec, prelude::*, sample::select};

use super::{
    pairs,
    random::{block_of, head, sorted},
};
use crate::{
    http::HeaderBlock,
    http2::hpack::{Decoder, Encoder, Outcome},
};

/// As the other crate takes flags: Huffman for names, for values, indexing, never, the best form.
const FORMS: [u8; 8] = [0, 0x3, 0x4, 0x7, 0x8, 0x10 | 0x7, 0x10 | 0x4, 0x10];

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn another_decoder_reads_what_we_write(heads in vec(head(), 1..4), order in vec(0..4_usize, 1..40)) {
        let (mut ours, mut theirs) = (Encoder::new(), httlib_hpack::Decoder::default());
        for place in order {
            let sent = block_of(&heads[place % heads.len()]);
            let mut block = Vec::new();
            ours.encode(&sent, &mut block);
            let mut arrived = Vec::new();
            prop_assert!(theirs.decode(&mut block, &mut arrived).is_ok());
            let head: HeaderBlock = arrived
                .iter()
                .map(|(name, value, _)| {
                    let text = |bytes| std::str::from_utf8(bytes).expect("it was sent as text");
                    (text(name), text(value))
                })
                .collect();
            prop_assert_eq!(sorted(&head), sorted(&sent));
        }
    }

    #[test]
    fn we_read_what_another_encoder_writes(
        heads in vec(vec((head(), select(&FORMS[..])), 1..4), 1..30)
    ) {
        let (mut theirs, mut ours) = (httlib_hpack::Encoder::default(), Decoder::new(4096));
        for parts in heads {
            let (mut block, mut sent) = (Vec::new(), Vec::new());
            for (fields, form) in parts {
                for (name, value, _) in fields {
                    let name = name.to_ascii_lowercase();
                    let field = (name.clone().into_bytes(), value.clone().into_bytes(), form);
                    prop_assert!(theirs.encode(field, &mut block).is_ok());
                    sent.push((name, value));
                }
            }
            let mut head = HeaderBlock::new();
            prop_assert_eq!(ours.decode(&block, &mut head, 1 << 20), Ok(Outcome::Decoded));
            let sent: Vec<_> =
                sent.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            prop_assert_eq!(super::fields(&head), pairs(&sent));
        }
    }
}
