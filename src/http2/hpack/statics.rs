//! The static table (RFC 7541 appendix A), read by index and by name.

use crate::http::Token;

/// How many entries there are; the dynamic table begins after them.
pub(super) const COUNT: usize = ENTRIES.len();

/// Names and values; the first has index 1.
const ENTRIES: [(Token, &str); 61] = [
    (Token::Authority, ""),
    (Token::Method, "GET"),
    (Token::Method, "POST"),
    (Token::Path, "/"),
    (Token::Path, "/index.html"),
    (Token::Scheme, "http"),
    (Token::Scheme, "https"),
    (Token::Status, "200"),
    (Token::Status, "204"),
    (Token::Status, "206"),
    (Token::Status, "304"),
    (Token::Status, "400"),
    (Token::Status, "404"),
    (Token::Status, "500"),
    (Token::AcceptCharset, ""),
    (Token::AcceptEncoding, "gzip, deflate"),
    (Token::AcceptLanguage, ""),
    (Token::AcceptRanges, ""),
    (Token::Accept, ""),
    (Token::AccessControlAllowOrigin, ""),
    (Token::Age, ""),
    (Token::Allow, ""),
    (Token::Authorization, ""),
    (Token::CacheControl, ""),
    (Token::ContentDisposition, ""),
    (Token::ContentEncoding, ""),
    (Token::ContentLanguage, ""),
    (Token::ContentLength, ""),
    (Token::ContentLocation, ""),
    (Token::ContentRange, ""),
    (Token::ContentType, ""),
    (Token::Cookie, ""),
    (Token::Date, ""),
    (Token::Etag, ""),
    (Token::Expect, ""),
    (Token::Expires, ""),
    (Token::From, ""),
    (Token::Host, ""),
    (Token::IfMatch, ""),
    (Token::IfModifiedSince, ""),
    (Token::IfNoneMatch, ""),
    (Token::IfRange, ""),
    (Token::IfUnmodifiedSince, ""),
    (Token::LastModified, ""),
    (Token::Link, ""),
    (Token::Location, ""),
    (Token::MaxForwards, ""),
    (Token::ProxyAuthenticate, ""),
    (Token::ProxyAuthorization, ""),
    (Token::Range, ""),
    (Token::Referer, ""),
    (Token::Refresh, ""),
    (Token::RetryAfter, ""),
    (Token::Server, ""),
    (Token::SetCookie, ""),
    (Token::StrictTransportSecurity, ""),
    (Token::TransferEncoding, ""),
    (Token::UserAgent, ""),
    (Token::Vary, ""),
    (Token::Via, ""),
    (Token::WwwAuthenticate, ""),
];

/// The index of the first entry with a token's name, or 0.
#[allow(clippy::cast_possible_truncation, reason = "there are 61 entries")]
const FIRST: [u8; Token::COUNT] = {
    let mut first = [0; Token::COUNT];
    let mut index = COUNT;
    while index > 0 {
        first[ENTRIES[index - 1].0 as usize] = index as u8;
        index -= 1;
    }
    first
};

/// The entry at an index from 1 to [`COUNT`].
#[inline]
pub(super) fn get(index: usize) -> Option<(Token, &'static str)> {
    ENTRIES.get(index.wrapping_sub(1)).copied()
}

/// The index of a name.
#[inline]
pub(super) fn name(token: Token) -> Option<usize> {
    let first = usize::from(FIRST[token as usize]);
    (first > 0).then_some(first)
}

/// The index of a name with a value.
pub(super) fn pair(token: Token, value: &[u8]) -> Option<usize> {
    let first = name(token)?;
    let same = ENTRIES[first - 1..].iter().take_while(|entry| entry.0 == token);
    let place = same.map(|entry| entry.1).position(|other| other.as_bytes() == value)?;
    Some(first + place)
}

#[cfg(test)]
mod tests {
    use super::{COUNT, get, name, pair};
    use crate::http::Token;

    #[test]
    fn entries_are_found_by_index_name_and_pair() {
        assert_eq!(get(0), None);
        assert_eq!(get(COUNT + 1), None);
        assert_eq!(get(usize::MAX), None);
        for index in 1..=COUNT {
            let (token, value) = get(index).expect("it is in the table");
            assert!(token != Token::Other);
            assert_eq!(pair(token, value.as_bytes()), Some(index));
            assert!(name(token).expect("it has a name") <= index);
        }
        assert_eq!(name(Token::Other), None);
        assert_eq!(name(Token::GrpcStatus), None);
        assert_eq!(pair(Token::Status, b"201"), None);
        assert_eq!(pair(Token::Other, b""), None);
    }
}
