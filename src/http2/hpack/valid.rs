//! Which octets names and values may have (RFC 9113 section 8.2.1 and RFC 9110 section 5), asked once
//! when a literal is read and not again when it comes from a table.

/// Whether each octet may be in a field's name: RFC 9110's `token` without capitals.
static NAME: [bool; 256] = {
    let mut allowed = [false; 256];
    let mut octet = 0;
    while octet < 256 {
        allowed[octet] = matches!(octet, 0x30..=0x39 | 0x61..=0x7a);
        octet += 1;
    }
    let others = b"!#$%&'*+-.^_`|~";
    let mut at = 0;
    while at < others.len() {
        allowed[others[at] as usize] = true;
        at += 1;
    }
    allowed
};

/// Whether `name`, which is no known pseudo-header field, may be a field's.
pub(super) fn name(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|octet| NAME[usize::from(*octet)])
}

/// Whether `value` may be a field's: no control character but the tabulator, and no white space at its
/// ends.
pub(super) fn value(value: &[u8]) -> bool {
    let space = |octet: Option<&u8>| octet.is_some_and(|octet| matches!(octet, b' ' | b'\t'));
    if space(value.first()) || space(value.last()) {
        return false;
    }
    let mut words = value.chunks_exact(WORD);
    let plain = words.by_ref().all(|word| is_plain(word.try_into().unwrap_or_default()));
    let rest = if plain { words.remainder() } else { value };
    rest.iter().all(|octet| !matches!(octet, 0..=8 | 10..=0x1f | 0x7f))
}

const WORD: usize = 8;

/// Whether eight octets have no control character at all.
fn is_plain(word: [u8; WORD]) -> bool {
    const EACH: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x80 * EACH;
    let word = u64::from_ne_bytes(word);
    // The high bit of an octet is set if it is below 0x20, or if it is 0x7f. A borrow can set one too
    // much, but only beside one that is set rightly.
    let below = word.wrapping_sub(0x20 * EACH) & !word;
    let delete = word ^ (0x7f * EACH);
    let delete = delete.wrapping_sub(EACH) & !delete;
    (below | delete) & HIGH == 0
}

#[cfg(test)]
mod tests {
    use super::{name, value};

    #[test]
    fn names_are_tokens_in_lower_case() {
        for good in ["a", "x-1", "!#$%&'*+-.^_`|~", "grpc-status"] {
            assert!(name(good.as_bytes()), "{good}");
        }
        for bad in ["", "A", "x:", ":x", "a b", "a\0", "\u{e4}", "a\x7f", "a\t", "(", "x-Y"] {
            assert!(!name(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn values_have_no_control_characters() {
        for good in ["", "a", "a\tb c", "\u{e4}\u{fc}", "~"] {
            assert!(value(good.as_bytes()), "{good}");
        }
        for octet in 0..=255_u8 {
            for place in 1..30 {
                let mut text = vec![b'a'; 31];
                text[place] = octet;
                let allowed = octet == b'\t' || (octet >= 0x20 && octet != 0x7f);
                assert_eq!(value(&text), allowed, "{octet} at {place}");
            }
        }
        for bad in [" ", "\t", " a", "a ", "a\t", "a\r\n", "\0", "a\x7fb", "a\x1fb", "\n"] {
            assert!(!value(bad.as_bytes()), "{bad:?}");
        }
    }
}
