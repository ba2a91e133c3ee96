//! Blocks that must be refused, and heads that must be while the table stays in step.

use super::{LIST_MAX, decode, fields, hex, pairs};
use crate::{
    http::HeaderBlock,
    http2::hpack::{Decoder, HpackError, Outcome},
};

#[test]
fn malformed_blocks_are_refused() {
    let cases = [
        ("index zero", "80", HpackError::Index),
        ("an index past both tables", "be", HpackError::Index),
        ("a name past both tables", "7e 01 61", HpackError::Index),
        ("a name past both tables, not indexed", "0f 2f 01 61", HpackError::Index),
        ("a huge index", "ff ff ff ff ff 0f", HpackError::Integer),
        ("an endless index", "ff 80 80 80 80 80 80 80 80 80 00", HpackError::Integer),
        ("an index that breaks off", "82 ff", HpackError::Truncated),
        ("a literal without name", "40", HpackError::Truncated),
        ("a literal without value", "40 01 61", HpackError::Truncated),
        ("a literal with half a name", "40 05 61 61", HpackError::Truncated),
        ("a literal with half a value", "00 01 61 05 61", HpackError::Truncated),
        ("a length that breaks off", "00 7f", HpackError::Truncated),
        ("a length above the block", "00 01 61 7f ff ff ff ff 0e", HpackError::Truncated),
        ("a length that overflows", "00 01 61 7f ff ff ff ff 7f", HpackError::Integer),
        ("bad padding", "00 01 61 81 18", HpackError::Huffman),
        ("too much padding", "00 01 61 82 1f ff", HpackError::Huffman),
        ("EOS", "00 01 61 84 ff ff ff ff", HpackError::Huffman),
        ("an update above the setting", "3f e2 1f 82", HpackError::SizeAboveLimit),
        ("an update after a field", "82 20", HpackError::SizeMisplaced),
        ("three updates", "20 20 20 82", HpackError::SizeMisplaced),
        ("an update that breaks off", "3f", HpackError::Truncated),
    ];
    for (what, block, error) in cases {
        let mut decoder = Decoder::new(4096);
        assert_eq!(decode(&mut decoder, &hex(block)).map(|_| ()), Err(error), "{what}");
    }
}

#[test]
fn an_evicted_index_is_gone() {
    let mut decoder = Decoder::new(4096);
    decode(&mut decoder, &hex("40 01 61 01 62")).expect("it is well-formed");
    assert_eq!(decode(&mut decoder, &hex("be")).map(|found| found.1.len()), Ok(1));
    assert_eq!(decode(&mut decoder, &hex("20 be")).map(|_| ()), Err(HpackError::Index));
}

#[test]
fn a_lowered_setting_must_be_confirmed_by_the_next_block() {
    let lowered = |maxima: &[usize], block: &str| {
        let mut decoder = Decoder::new(4096);
        maxima.iter().for_each(|table_max| decoder.set_table_max(*table_max));
        decode(&mut decoder, &hex(block)).map(|_| decoder.table().size_max())
    };
    assert_eq!(lowered(&[100], "82"), Err(HpackError::SizeMissing));
    assert_eq!(lowered(&[100], ""), Err(HpackError::SizeMissing));
    assert_eq!(lowered(&[100], "3f 45 82"), Ok(100));
    assert_eq!(lowered(&[100], "20 82"), Ok(0));
    assert_eq!(lowered(&[100], "3f 46 82"), Err(HpackError::SizeAboveLimit));
    assert_eq!(lowered(&[0, 4096], "20 3f e1 1f 82"), Ok(4096));
    assert_eq!(lowered(&[0, 4096], "3f e1 1f 82"), Err(HpackError::SizeMissing));
    assert_eq!(lowered(&[8192], "82"), Ok(4096));
    assert_eq!(lowered(&[8192], "3f e1 3f 82"), Ok(8192));
}

#[test]
fn a_list_that_is_too_large_keeps_the_table_in_step() {
    let mut decoder = Decoder::new(4096);
    // :method GET, then custom: value and x: y, both into the table.
    let block = hex("82 40 06 637573746f6d 05 76616c7565 40 01 78 01 79");
    for (list_max, stored, outcome) in [
        (42 + 43 + 34, 3, Outcome::Decoded),
        (42 + 43 + 33, 2, Outcome::TooLarge),
        (42 + 42, 1, Outcome::TooLarge),
        (0, 0, Outcome::TooLarge),
    ] {
        let mut into = HeaderBlock::new();
        assert_eq!(decoder.decode(&block, &mut into, list_max), Ok(outcome), "{list_max}");
        assert_eq!(into.len(), stored, "{list_max}");
        // Indexed, twice: remembered the second time.
        for _ in 0..3 {
            let mut into = HeaderBlock::new();
            assert_eq!(decoder.decode(&[0x82, 0xbf, 0xbe], &mut into, list_max), Ok(outcome));
            assert_eq!(into.len(), stored, "{list_max}");
        }
        let (_, head) = decode(&mut decoder, &[0xbf, 0xbe]).expect("both are in the table");
        assert_eq!(fields(&head), pairs(&[("custom", "value"), ("x", "y")]));
    }
}

#[test]
fn forbidden_characters_make_a_head_malformed_each_time() {
    let cases = [
        ("a capital in a name", "40 01 58 01 79"),
        ("a known name with a capital", "40 02 5465 01 79"),
        ("an empty name", "40 00 01 79"),
        ("an unknown pseudo-header field", "40 02 3a78 01 79"),
        ("a space in a name", "40 03 782078 01 79"),
        ("NUL", "40 01 78 01 00"),
        ("CR", "40 01 78 03 79 0d 79"),
        ("LF", "40 01 78 03 79 0a 79"),
        ("white space before", "40 01 78 02 20 79"),
        ("white space after", "40 01 78 02 79 09"),
    ];
    for (what, block) in cases {
        let mut decoder = Decoder::new(4096);
        let is_malformed = |found: Result<(Outcome, HeaderBlock), HpackError>| {
            matches!(found, Ok((Outcome::Malformed(_), _)))
        };
        assert!(is_malformed(decode(&mut decoder, &hex(block))), "{what}");
        assert!(is_malformed(decode(&mut decoder, &[0xbe])), "{what}, indexed");
        assert!(is_malformed(decode(&mut decoder, &[0xbe])), "{what}, indexed again");
        let never: Vec<u8> = [0x10].into_iter().chain(hex(block).into_iter().skip(1)).collect();
        assert!(is_malformed(decode(&mut decoder, &never)), "{what}, never indexed");
        assert!(is_malformed(decode(&mut decoder, &never)), "{what}, never indexed, again");
    }
    let mut decoder = Decoder::new(4096);
    decode(&mut decoder, &hex("40 01 78 01 00")).expect("the table is in step");
    let (outcome, _) = decode(&mut decoder, &hex("7e 01 79")).expect("the name is in the table");
    assert_eq!(outcome, Outcome::Decoded, "only the value was malformed");
    let (outcome, _) = decode(&mut decoder, &hex("7e 00")).expect("the name is in the table");
    assert_eq!(outcome, Outcome::Decoded, "a value may be empty");
}

#[test]
fn fields_are_appended_to_what_is_there() {
    let mut decoder = Decoder::new(4096);
    for block in ["82 40 01 78 01 79", "82 be", "82 be", "82 be 84", "82 be 85"] {
        let mut into: HeaderBlock = [("before", "it")].into_iter().collect();
        assert_eq!(decoder.decode(&hex(block), &mut into, LIST_MAX), Ok(Outcome::Decoded));
        let begin = [("before", "it"), (":method", "GET"), ("x", "y")];
        assert_eq!(fields(&into)[..3], pairs(&begin)[..], "{block}");
    }
}

#[test]
fn nothing_is_remembered_over_a_change_of_the_table() {
    let value = |decoder: &mut Decoder, block: &str| {
        let (_, head) = decode(decoder, &hex(block)).expect("it is well-formed");
        fields(&head).pop().expect("there is a field").1
    };
    let mut decoder = Decoder::new(4096);
    for round in [0x61, 0x62, 0x63] {
        // A block that changes the table, whose beginning does not, and blocks that use its newest entry.
        let change = format!("82 84 40 01 78 01 {round:x}");
        let expected = char::from(round).to_string();
        assert_eq!(value(&mut decoder, &change), expected);
        for block in ["82 84 be", "82 84 be", "82 84 be 00 01 79 01 7a be", "be"] {
            assert_eq!(value(&mut decoder, block), expected, "{block}");
        }
        // The same change again: another entry, so that the indexes move.
        assert_eq!(value(&mut decoder, &change), expected);
        assert_eq!(value(&mut decoder, "82 84 bf"), expected);
    }
    assert_eq!(decoder.table().len(), 6);
    assert_eq!(value(&mut decoder, "20 82"), "GET");
    assert_eq!(decode(&mut decoder, &hex("82 84 be")).map(|_| ()), Err(HpackError::Index));
}
