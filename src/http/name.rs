//! Field names that the engine, its codecs or the decisions ask for, as one byte each: a decoder that
//! knows a name says so once, and nobody compares its bytes again.

/// The number of hash buckets; a power of two.
const BUCKETS: usize = 256;

macro_rules! names {
    ($($token:ident $name:literal,)*) => {
        /// A known field name, or [`Token::Other`].
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Token {
            /// Any name that is not listed; its bytes are with the field.
            Other,
            $(#[doc = concat!("`", $name, "`")] $token,)*
        }

        const NAMES: &[&str] = &["", $($name,)*];
        const TOKENS: &[Token] = &[Token::Other, $(Token::$token,)*];
    };
}

names! {
    Method ":method",
    Scheme ":scheme",
    Authority ":authority",
    Path ":path",
    Protocol ":protocol",
    Status ":status",
    Accept "accept",
    AcceptCharset "accept-charset",
    AcceptEncoding "accept-encoding",
    AcceptLanguage "accept-language",
    AcceptRanges "accept-ranges",
    AccessControlAllowOrigin "access-control-allow-origin",
    Age "age",
    Allow "allow",
    Authorization "authorization",
    Baggage "baggage",
    CacheControl "cache-control",
    Connection "connection",
    ContentDisposition "content-disposition",
    ContentEncoding "content-encoding",
    ContentLanguage "content-language",
    ContentLength "content-length",
    ContentLocation "content-location",
    ContentRange "content-range",
    ContentType "content-type",
    Cookie "cookie",
    Date "date",
    Etag "etag",
    Expect "expect",
    Expires "expires",
    From "from",
    GrpcAcceptEncoding "grpc-accept-encoding",
    GrpcEncoding "grpc-encoding",
    GrpcMessage "grpc-message",
    GrpcRetryPushbackMs "grpc-retry-pushback-ms",
    GrpcStatus "grpc-status",
    GrpcTimeout "grpc-timeout",
    Host "host",
    Http2Settings "http2-settings",
    IfMatch "if-match",
    IfModifiedSince "if-modified-since",
    IfNoneMatch "if-none-match",
    IfRange "if-range",
    IfUnmodifiedSince "if-unmodified-since",
    KeepAlive "keep-alive",
    LastModified "last-modified",
    Link "link",
    Location "location",
    MaxForwards "max-forwards",
    OutriggerReason "outrigger-reason",
    OutriggerUnseen "outrigger-unseen",
    ProxyAuthenticate "proxy-authenticate",
    ProxyAuthorization "proxy-authorization",
    ProxyConnection "proxy-connection",
    Range "range",
    Referer "referer",
    Refresh "refresh",
    RetryAfter "retry-after",
    SecWebsocketAccept "sec-websocket-accept",
    SecWebsocketKey "sec-websocket-key",
    SecWebsocketVersion "sec-websocket-version",
    Server "server",
    SetCookie "set-cookie",
    StrictTransportSecurity "strict-transport-security",
    Te "te",
    Traceparent "traceparent",
    Tracestate "tracestate",
    Trailer "trailer",
    TransferEncoding "transfer-encoding",
    Upgrade "upgrade",
    UserAgent "user-agent",
    Vary "vary",
    Via "via",
    WwwAuthenticate "www-authenticate",
    XForwardedClientCert "x-forwarded-client-cert",
    XForwardedFor "x-forwarded-for",
    XRequestId "x-request-id",
}

/// The first token of every bucket, and the next one in the same bucket after each token.
const TABLE: ([Token; BUCKETS], [Token; NAMES.len()]) = {
    let mut first = [Token::Other; BUCKETS];
    let mut next = [Token::Other; NAMES.len()];
    let mut index = NAMES.len() - 1;
    while index > 0 {
        let bucket = hash(NAMES[index].as_bytes());
        next[index] = first[bucket];
        first[bucket] = TOKENS[index];
        index -= 1;
    }
    (first, next)
};

const fn hash(name: &[u8]) -> usize {
    match name {
        [] => 0,
        [first, .., last] => mix(*first, name[name.len() / 2], *last, name.len()),
        [only] => mix(*only, *only, *only, 1),
    }
}

/// Bit 5 is what letters of both cases differ in.
const fn mix(first: u8, middle: u8, last: u8, length: usize) -> usize {
    let (first, middle, last) = (first | 0x20, middle | 0x20, last | 0x20);
    (first as usize * 5 + middle as usize * 31 + last as usize * 7 + length * 11) % BUCKETS
}

/// Whether `name` is `known` but for case, eight bytes at a time.
fn is_same(known: &[u8], name: &[u8]) -> bool {
    if known.len() != name.len() {
        return false;
    }
    let (Some(known_end), Some(name_end)) = (known.last_chunk(), name.last_chunk()) else {
        return known.eq_ignore_ascii_case(name);
    };
    let (known, _) = known.as_chunks::<8>();
    let (name, _) = name.as_chunks::<8>();
    known.iter().zip(name).all(|(one, other)| is_same_eight(one, other))
        && is_same_eight(known_end, name_end)
}

/// All of `known` is lower-case letters and bytes that become controls without bit 5, so that `name` is
/// the same if it differs in bit 5 only and has no controls.
fn is_same_eight(known: &[u8; 8], name: &[u8; 8]) -> bool {
    const BIT_5: u64 = 0x2020_2020_2020_2020;
    const BIT_6: u64 = 0x4040_4040_4040_4040;
    let (known, name) = (u64::from_ne_bytes(*known), u64::from_ne_bytes(*name));
    (known ^ name) & !BIT_5 == 0 && (name | (name << 1)) & BIT_6 == BIT_6
}

impl Token {
    /// All of them, each at the place of its number.
    pub(crate) const ALL: &[Self] = TOKENS;

    /// How many there are, [`Token::Other`] included.
    pub const COUNT: usize = NAMES.len();

    /// The token of `name`, in whatever case.
    pub fn of(name: &[u8]) -> Self {
        let mut token = TABLE.0[hash(name)];
        while token != Self::Other && !is_same(NAMES[token as usize].as_bytes(), name) {
            token = TABLE.1[token as usize];
        }
        token
    }

    /// The name in lower case; empty for [`Token::Other`].
    pub const fn name(self) -> &'static str {
        NAMES[self as usize]
    }

    /// Whether it is one of HTTP/2's pseudo-header fields (RFC 9113 section 8.3).
    pub const fn is_pseudo(self) -> bool {
        (self as u8) >= (Self::Method as u8) && (self as u8) <= (Self::Status as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::{NAMES, TOKENS, Token};

    #[test]
    fn every_name_is_found_in_any_case() {
        for (name, token) in NAMES.iter().zip(TOKENS).skip(1) {
            assert_eq!(Token::of(name.as_bytes()), *token, "{name}");
            assert_eq!(Token::of(name.to_ascii_uppercase().as_bytes()), *token, "{name}");
            assert_eq!(token.name(), *name);
            assert_eq!(token.is_pseudo(), name.starts_with(':'), "{name}");
        }
    }

    #[test]
    fn other_names_are_other() {
        for name in ["", "x", "contentXtype", "content-typ", "content-typee", "\0", "tE\0"] {
            assert_eq!(Token::of(name.as_bytes()), Token::Other, "{name:?}");
        }
    }
}
