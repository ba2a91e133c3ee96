//! Random heads over whole connections: what arrives is what was sent, and the same with memory as
//! without. A decoder or encoder whose memory is given back before each block is one without.

use proptest::{collection::vec, prelude::*, sample::select};

use super::{LIST_MAX, fields};
use crate::{
    http::{HeaderBlock, Token},
    http2::hpack::{Decoder, Encoder, HpackError, Outcome},
};

/// One thing that happens on a connection.
#[derive(Debug, Clone)]
enum Step {
    Head(Vec<(String, String, bool)>),
    TableMax(Vec<usize>),
}

fn name() -> impl Strategy<Value = String> {
    const NAMES: &[&str] = &[
        ":method",
        ":path",
        ":authority",
        ":status",
        "content-type",
        "te",
        "traceparent",
        "date",
        "grpc-timeout",
        "grpc-status",
        "authorization",
        "cookie",
        "set-cookie",
        "x-mine",
        "X-Mine",
        "x-other",
        "via",
        "x-forwarded-for",
    ];
    prop_oneof![20 => select(NAMES).prop_map(str::to_owned), 1 => "[a-z][a-zA-Z0-9-]{0,40}"]
}

fn value() -> impl Strategy<Value = String> {
    const VALUES: &[&str] = &["", "GET", "POST", "/", "200", "a", "bb", "application/grpc", "Zz~9"];
    prop_oneof![
        20 => select(VALUES).prop_map(str::to_owned),
        3 => "[!-~]{1,60}",
        1 => (1..3000_usize).prop_map(|length| "v".repeat(length)),
    ]
}

pub(super) fn head() -> impl Strategy<Value = Vec<(String, String, bool)>> {
    vec((name(), value(), prop::bool::weighted(0.05)), 0..14)
}

/// Heads of which most come from a few, with some fields of their own.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    vec(head(), 1..6).prop_flat_map(|heads| {
        let of_few = (select(heads), vec((name(), value(), Just(false)), 0..3));
        let repeated = of_few.prop_map(|(head, more)| Step::Head([head, more].concat()));
        let table_max = vec(select(&[0_usize, 60, 100, 300, 4096, 65_536][..]), 1..3);
        vec(prop_oneof![30 => repeated, 1 => table_max.prop_map(Step::TableMax)], 1..60)
    })
}

pub(super) fn block_of(list: &[(String, String, bool)]) -> HeaderBlock {
    let mut head = HeaderBlock::new();
    let pseudo = |field: &&(String, String, bool)| field.0.starts_with(':');
    let regular = list.iter().filter(|field| !pseudo(field));
    for (name, value, sensitive) in list.iter().filter(pseudo).chain(regular) {
        let token = Token::of(name.as_bytes());
        head.append(token, name.as_bytes(), value.as_bytes(), *sensitive);
    }
    head
}

/// The fields by name; those of one name in order.
pub(super) fn sorted(head: &HeaderBlock) -> Vec<(String, String)> {
    let mut fields = fields(head);
    fields.iter_mut().for_each(|field| field.0.make_ascii_lowercase());
    fields.sort_by(|one, other| one.0.cmp(&other.0));
    fields
}

struct Side {
    encoder: Encoder,
    decoder: Decoder,
    remembers: bool,
}

impl Side {
    fn new(remembers: bool) -> Self {
        Self { encoder: Encoder::new(), decoder: Decoder::new(4096), remembers }
    }

    fn set_table_max(&mut self, table_max: usize) {
        self.encoder.set_table_max(table_max);
        self.decoder.set_table_max(table_max);
    }

    fn encode(&mut self, head: &HeaderBlock) -> Vec<u8> {
        if !self.remembers {
            self.encoder.release();
        }
        let mut block = Vec::new();
        self.encoder.encode(head, &mut block);
        self.encoder.table().check_invariants();
        block
    }

    fn decode(&mut self, block: &[u8]) -> Result<(Outcome, HeaderBlock), HpackError> {
        if !self.remembers {
            self.decoder.release();
        }
        let decoded = super::decode(&mut self.decoder, block);
        self.decoder.table().check_invariants();
        decoded
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn heads_arrive_with_memory_as_without(steps in steps()) {
        let (mut with, mut without) = (Side::new(true), Side::new(false));
        let mut other = Side::new(false);
        for step in steps {
            let list = match step {
                Step::Head(list) => list,
                Step::TableMax(maxima) => {
                    for table_max in maxima {
                        for side in [&mut with, &mut without, &mut other] {
                            side.set_table_max(table_max);
                        }
                    }
                    continue;
                }
            };
            let head = block_of(&list);
            let (block, longer) = (with.encode(&head), without.encode(&head));
            let (outcome, arrived) = with.decode(&block).expect("we encode what we decode");
            prop_assert_eq!(outcome, Outcome::Decoded);
            prop_assert_eq!(sorted(&arrived), sorted(&head));
            prop_assert_eq!(with.encoder.table().list(), with.decoder.table().list());
            prop_assert_eq!(other.decode(&block), Ok((Outcome::Decoded, arrived)));
            let (_, arrived) = without.decode(&longer).expect("we encode what we decode");
            prop_assert_eq!(sorted(&arrived), sorted(&head));
            let mut regular = arrived.iter().skip_while(|field| field.token.is_pseudo());
            prop_assert!(regular.all(|field| !field.token.is_pseudo()));
        }
    }

    #[test]
    fn any_blocks_are_decoded_with_memory_as_without(
        blocks in vec(block(), 1..40),
        list_max in select(&[100, 200, 400, LIST_MAX][..]),
    ) {
        let (mut with, mut without) = (Decoder::new(4096), Decoder::new(4096));
        for block in blocks {
            without.release();
            let (mut one, mut other) = (HeaderBlock::new(), HeaderBlock::new());
            let outcome = with.decode(&block, &mut one, list_max);
            prop_assert_eq!(outcome, without.decode(&block, &mut other, list_max));
            prop_assert_eq!(with.table().list(), without.table().list());
            if outcome.is_err() {
                break;
            }
            prop_assert_eq!(&one, &other);
            prop_assert!(one.size() <= list_max);
        }
    }

    #[test]
    fn no_bytes_break_the_decoder(blocks in vec(vec(any::<u8>(), 0..80), 1..20)) {
        let mut decoder = Decoder::new(4096);
        for block in blocks {
            let decoded = super::decode(&mut decoder, &block);
            decoder.table().check_invariants();
            if decoded.is_err() {
                break;
            }
        }
    }
}

/// A block of few different fields, so that beginnings are often alike; some change the table, some
/// are malformed.
fn block() -> impl Strategy<Value = Vec<u8>> {
    const FIELDS: &[&[u8]] = &[
        &[0x82],
        &[0x84],
        &[0x87],
        &[0x88],
        &[0xbe],
        &[0xbf],
        &[0x00, 0x01, b'a', 0x01, b'b'],
        &[0x00, 0x01, b'a', 0x02, b'b', b'c'],
        &[0x0f, 0x2f, 0x01, b'd'],
        &[0x10, 0x01, b'e', 0x81, 0x1f],
        &[0x40, 0x01, b'f', 0x01, b'g'],
        &[0x7e, 0x01, b'h'],
        &[0x00, 0x01, b'X', 0x01, b'b'],
        &[0x20],
        &[0x3f, 0xe1, 0x1f],
    ];
    let weighted = prop_oneof![8 => 0..10_usize, 1 => 10..FIELDS.len()];
    vec(weighted.prop_map(|field| FIELDS[field]), 0..8).prop_map(|fields| fields.concat())
}
