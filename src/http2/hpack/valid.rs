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
    let control = |octet: u8| (octet < 0x20) & (octet != b'\t') | (octet == 0x7f);
    let space = |octet: Option<&u8>| octet.is_some_and(|octet| matches!(octet, b' ' | b'\t'));
    !value.iter().fold(false, |bad, octet| bad | control(*octet))
        && !space(value.first())
        && !space(value.last())
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
        for bad in [" ", "\t", " a", "a ", "a\t", "a\r\n", "\0", "a\x7fb", "a\x1fb", "\n"] {
            assert!(!value(bad.as_bytes()), "{bad:?}");
        }
    }
}
