//! Paths as authorization reads them. Applications and frameworks differ in what they make of a path
//! before they route it: they merge slashes, resolve dots, cut parameters, decode escapes once or
//! twice. A path on which two of them could disagree is doubtful, and a policy that names paths does
//! not guess (CVE-2019-9901, CVE-2021-29492, CVE-2021-39156, CVE-2026-33186 and their like).

/// Whether everybody reads a path in the same way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    Plain,
    Doubtful,
}

impl Spelling {
    pub(super) fn of(path: &str) -> Self {
        if is_plain(path.as_bytes()) { Self::Plain } else { Self::Doubtful }
    }
}

/// Begins with a slash; no empty segment but the last, no dot segment, no parameter, fragment or
/// backslash, nothing but visible ASCII, and no escape that needs none.
fn is_plain(path: &[u8]) -> bool {
    let Some(rest) = path.strip_prefix(b"/") else { return false };
    let mut segments = rest.split(|byte| *byte == b'/');
    let last = segments.next_back().unwrap_or_default();
    let dots = |segment: &[u8]| matches!(segment, b"." | b"..");
    let one_meaning = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b'\\' | b';' | b'#');
    path.iter().all(one_meaning)
        && segments.all(|segment| !segment.is_empty() && !dots(segment))
        && !dots(last)
        && escapes_are_needed(path)
}

/// Every `%` begins an escape of a byte that a path can not hold otherwise and that nobody gives a
/// meaning to once it is decoded.
fn escapes_are_needed(path: &[u8]) -> bool {
    let mut rest = path;
    while let Some(start) = rest.iter().position(|byte| *byte == b'%') {
        let Some(byte) = rest.get(start + 1..start + 3).and_then(hex_byte) else { return false };
        let unreserved = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
        let special = matches!(byte, b'/' | b'\\' | b'%' | b';' | b'#' | b'?');
        if unreserved || special || byte.is_ascii_control() {
            return false;
        }
        rest = &rest[start + 3..];
    }
    true
}

fn hex_byte(digits: &[u8]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    match digits {
        [high, low] => Some(digit(*high)? * 16 + digit(*low)?),
        _ => None,
    }
}

/// Whether a plain path is the wanted one, or begins with it. Byte by byte, but for the case of an
/// escape's digits, which has no meaning (RFC 3986 section 6.2.2.1).
pub(super) fn matches(wanted: &str, prefix: bool, path: &str) -> bool {
    let (wanted, path) = (wanted.as_bytes(), path.as_bytes());
    if path.len() < wanted.len() || (!prefix && path.len() != wanted.len()) {
        return false;
    }
    let in_escape = |at: usize| {
        let percent = |back: usize| at.checked_sub(back).is_some_and(|at| path[at] == b'%');
        percent(1) || percent(2)
    };
    let equal = |(at, (one, other)): (usize, (&u8, &u8))| {
        one == other || (in_escape(at) && one.eq_ignore_ascii_case(other))
    };
    wanted.iter().zip(path).enumerate().all(equal)
}

#[cfg(test)]
mod tests {
    use super::{Spelling, matches};

    #[test]
    fn paths_that_everybody_reads_alike_are_plain() {
        for path in [
            "/",
            "/admin",
            "/admin/",
            "/a/b.c",
            "/a/.b",
            "/a/..b",
            "/a/b..",
            "/a-b_c~d",
            "/a:b@c",
            "/a,b=c&d",
            "/a+b!$'()*",
            "/%20x",
            "/caf%C3%A9",
            "/caf%c3%a9",
            "/a%2Bb",
            "/...",
        ] {
            assert_eq!(Spelling::of(path), Spelling::Plain, "{path}");
        }
    }

    #[test]
    fn paths_that_somebody_reads_otherwise_are_doubtful() {
        for path in [
            "",
            "admin",
            "*",
            "http://x/admin",
            "//admin",
            "/admin//",
            "/a//b",
            "/./admin",
            "/../admin",
            "/a/../admin",
            "/a/./b",
            "/a/..",
            "/a/.",
            "/.",
            "/..",
            "/%2e%2e/admin",
            "/%2E/admin",
            "/.%2e/admin",
            "/a%2fb",
            "/a%2Fadmin",
            "/a%5cb",
            "/a%5Cb",
            "/a\\b",
            "/admin%00",
            "/admin%0a",
            "/admin%0D",
            "/admin%09",
            "/admin%7f",
            "/admin;x=1",
            "/;/admin",
            "/admin%3bx",
            "/admin#x",
            "/admin%23",
            "/admin%3Fx",
            "/%61dmin",
            "/admi%6E",
            "/%7Eadmin",
            "/%252fadmin",
            "/%252e%252e/admin",
            "/a%25",
            "/admin%",
            "/admin%2",
            "/admin%zz",
            "/admin%2\u{661}",
            "/admin ",
            "/ad min",
            "/admin\t",
            "/admin\0",
            "/admin\u{7f}",
            "/\u{e9}",
            "/admin\u{ff0f}",
            "/\u{2025}/admin",
        ] {
            assert_eq!(Spelling::of(path), Spelling::Doubtful, "{path:?}");
        }
    }

    #[test]
    fn only_the_case_of_escapes_is_no_difference() {
        for (wanted, prefix, path, expected) in [
            ("/admin", false, "/admin", true),
            ("/admin", false, "/Admin", false),
            ("/admin", false, "/admin/", false),
            ("/admin", false, "/admi", false),
            ("/admin/", true, "/admin/x", true),
            ("/admin/", true, "/admin/", true),
            ("/admin/", true, "/admin", false),
            ("/", true, "/x", true),
            ("/caf%C3%A9", false, "/caf%c3%a9", true),
            ("/caf%c3%a9/", true, "/caf%C3%A9/x", true),
            ("/a%C3x", false, "/a%C3X", false),
            ("/%20a", false, "/%20A", false),
        ] {
            assert_eq!(matches(wanted, prefix, path), expected, "{wanted} {prefix} {path}");
        }
    }
}
