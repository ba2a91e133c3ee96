//! RFC 7541 appendix C.2 to C.6: the fields and the table after each block. (C.1 is in `wire`.)

use super::{decode, fields, hex, pairs};
use crate::http2::hpack::{Decoder, Outcome};

/// A block, its fields, and the size and the entries of the table after it.
type Step<'a> = (&'a str, &'a [(&'a str, &'a str)], usize, &'a [(&'a str, &'a str)]);

fn check(table_max: usize, steps: &[Step<'_>]) {
    let mut decoder = Decoder::new(table_max);
    for (block, expected, size, table) in steps {
        let (outcome, head) = decode(&mut decoder, &hex(block)).expect("the block is well-formed");
        assert_eq!(outcome, Outcome::Decoded);
        assert_eq!(fields(&head), pairs(expected), "{block}");
        assert_eq!(decoder.table().list(), pairs(table), "{block}");
        assert_eq!(decoder.table().size(), *size, "{block}");
        decoder.table().check_invariants();
    }
}

#[test]
fn c_2_single_fields() {
    let custom = [("custom-key", "custom-header")];
    check(
        4096,
        &[(
            "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572",
            &custom,
            55,
            &custom,
        )],
    );
    check(4096, &[("040c 2f73 616d 706c 652f 7061 7468", &[(":path", "/sample/path")], 0, &[])]);
    check(
        4096,
        &[("1008 7061 7373 776f 7264 0673 6563 7265 74", &[("password", "secret")], 0, &[])],
    );
    check(4096, &[("82", &[(":method", "GET")], 0, &[])]);
    let mut decoder = Decoder::new(4096);
    let block = hex("1008 7061 7373 776f 7264 0673 6563 7265 74");
    let (_, head) = decode(&mut decoder, &block).expect("the block is well-formed");
    assert!(head.iter().all(|field| field.sensitive));
}

const AUTHORITY: (&str, &str) = (":authority", "www.example.com");
const NO_CACHE: (&str, &str) = ("cache-control", "no-cache");
const CUSTOM: (&str, &str) = ("custom-key", "custom-value");
const FIRST: &[(&str, &str)] =
    &[(":method", "GET"), (":scheme", "http"), (":path", "/"), AUTHORITY];
const SECOND: &[(&str, &str)] =
    &[(":method", "GET"), (":scheme", "http"), (":path", "/"), AUTHORITY, NO_CACHE];
const THIRD: &[(&str, &str)] =
    &[(":method", "GET"), (":scheme", "https"), (":path", "/index.html"), AUTHORITY, CUSTOM];

fn requests(blocks: [&str; 3]) {
    check(
        4096,
        &[
            (blocks[0], FIRST, 57, &[AUTHORITY]),
            (blocks[1], SECOND, 110, &[NO_CACHE, AUTHORITY]),
            (blocks[2], THIRD, 164, &[CUSTOM, NO_CACHE, AUTHORITY]),
        ],
    );
}

#[test]
fn c_3_requests_without_huffman() {
    requests([
        "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "8286 84be 5808 6e6f 2d63 6163 6865",
        "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
    ]);
}

#[test]
fn c_4_requests_with_huffman() {
    requests([
        "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
        "8286 84be 5886 a8eb 1064 9cbf",
        "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
    ]);
}

const DATE: (&str, &str) = ("date", "Mon, 21 Oct 2013 20:13:21 GMT");
const LATER: (&str, &str) = ("date", "Mon, 21 Oct 2013 20:13:22 GMT");
const PRIVATE: (&str, &str) = ("cache-control", "private");
const LOCATION: (&str, &str) = ("location", "https://www.example.com");
const COOKIE: (&str, &str) =
    ("set-cookie", "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1");
const FOUND: (&str, &str) = (":status", "302");
const MOVED: (&str, &str) = (":status", "307");
const GZIP: (&str, &str) = ("content-encoding", "gzip");

fn responses(blocks: [&str; 3]) {
    check(
        256,
        &[
            (blocks[0], &[FOUND, PRIVATE, DATE, LOCATION], 222, &[LOCATION, DATE, PRIVATE, FOUND]),
            (blocks[1], &[MOVED, PRIVATE, DATE, LOCATION], 222, &[MOVED, LOCATION, DATE, PRIVATE]),
            (
                blocks[2],
                &[(":status", "200"), PRIVATE, LATER, LOCATION, GZIP, COOKIE],
                215,
                &[COOKIE, GZIP, LATER],
            ),
        ],
    );
}

#[test]
fn c_5_responses_without_huffman() {
    responses([
        "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a
         3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "4803 3330 37c1 c0bf",
        "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04
         677a 6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49
         553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e 3d31",
    ]);
}

#[test]
fn c_6_responses_with_huffman() {
    responses([
        "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e
         919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
        "4883 640e ffc1 c0bf",
        "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7
         821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed
         4ee5 b106 3d50 07",
    ]);
}
