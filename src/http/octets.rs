//! Which octets may be where in a message, for both versions of HTTP: one table, so that what one codec
//! takes the other one writes.

/// A length of more digits than these is refused; fewer can not overflow.
const LENGTH_DIGITS_MAX: usize = 18;

/// RFC 9110 section 5.6.2.
const TOKEN: u8 = 1;
/// RFC 3986 section 3.1.
const SCHEME: u8 = 2;
/// Visible, and no fragment.
const PATH: u8 = 4;
/// Visible, and nothing that delimits an authority or belongs into none.
const AUTHORITY: u8 = 8;

/// Where each octet may be, a bit for each kind of value.
static OCTETS: [u8; 256] = {
    let mut table = [0; 256];
    let mut octet = 0_u8;
    while octet < 128 {
        let letter = octet.is_ascii_alphanumeric();
        let visible = octet > 0x20 && octet < 0x7f;
        let mut kinds = 0;
        if letter || is_one_of(octet, b"!#$%&'*+-.^_`|~") {
            kinds |= TOKEN;
        }
        if letter || is_one_of(octet, b"+-.") {
            kinds |= SCHEME;
        }
        if visible && octet != b'#' {
            kinds |= PATH;
        }
        if visible && !is_one_of(octet, b"@/?#\\\"<>^`{|}") {
            kinds |= AUTHORITY;
        }
        table[octet as usize] = kinds;
        octet += 1;
    }
    table
};

const fn is_one_of(octet: u8, list: &[u8]) -> bool {
    let mut at = 0;
    while at < list.len() {
        if list[at] == octet {
            return true;
        }
        at += 1;
    }
    false
}

fn is_of(kind: u8, value: &[u8]) -> bool {
    let all = value.iter().fold(kind, |all, octet| all & OCTETS[usize::from(*octet)]);
    !value.is_empty() && all != 0
}

/// Whether it is a token (RFC 9110 section 5.6.2), as methods and the names of fields are.
pub(crate) fn is_token(value: &[u8]) -> bool {
    is_of(TOKEN, value)
}

/// Whether it is a scheme (RFC 3986 section 3.1).
pub(crate) fn is_scheme(value: &[u8]) -> bool {
    value.first().is_some_and(u8::is_ascii_alphabetic) && is_of(SCHEME, value)
}

/// Whether every octet may be in a path and query that go on: visible ASCII, and no fragment.
pub(crate) fn is_path(value: &[u8]) -> bool {
    is_of(PATH, value)
}

/// Whether every octet may be in an authority without user names.
pub(crate) fn is_authority(value: &[u8]) -> bool {
    is_of(AUTHORITY, value)
}

/// A content length: digits and nothing else, and not too many.
pub(crate) fn length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > LENGTH_DIGITS_MAX {
        return None;
    }
    value.iter().try_fold(0_u64, |number, octet| {
        let digit = octet.wrapping_sub(b'0');
        (digit < 10).then(|| number * 10 + u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::{is_authority, is_path, is_scheme, is_token, length};

    #[test]
    fn each_kind_of_value_has_its_octets() {
        type Kind = fn(&[u8]) -> bool;
        let token =
            |octet: u8| octet.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&octet);
        let path = |octet: u8| (0x21..0x7f).contains(&octet) && octet != b'#';
        let authority = |octet| path(octet) && !b"@/?#\\\"<>^`{|}".contains(&octet);
        let scheme = |octet: u8| octet.is_ascii_alphanumeric() || b"+-.".contains(&octet);
        let kinds: [(Kind, &dyn Fn(u8) -> bool); 4] = [
            (is_token, &token),
            (is_path, &path),
            (is_authority, &authority),
            (is_scheme, &scheme),
        ];
        for (is, may) in kinds {
            assert!(!is(b""));
            for octet in 0..=u8::MAX {
                assert_eq!(is(&[b'a', octet, b'b']), may(octet), "{octet:#x}");
            }
        }
        assert!(is_scheme(b"h") && !is_scheme(b"1h") && !is_scheme(b"+"));
    }

    #[test]
    fn a_length_is_digits() {
        for (text, expected) in [
            ("0", Some(0)),
            ("00012", Some(12)),
            ("999999999999999999", Some(999_999_999_999_999_999)),
            ("1000000000000000000", None),
            ("", None),
            ("+1", None),
            ("1 ", None),
            ("0x1", None),
            ("1,1", None),
        ] {
            assert_eq!(length(text.as_bytes()), expected, "{text:?}");
        }
    }
}
