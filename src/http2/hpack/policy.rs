//! What the encoder puts into the dynamic table. A table serves only if it seldom changes: what is the
//! same on most requests goes in at once, what may differ on each is kept out and put last, and all
//! else goes in when it comes a second time. Secrets never go in (RFC 7541 section 7.1).

use crate::http::{Field, Token};

/// How a field is treated, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// Indexed at once.
    Steady,
    /// Indexed when the value comes a second time.
    Unknown,
    /// Never indexed, but for its name, and written after all others.
    Fleeting,
}

const CLASSES: [Class; Token::COUNT] = {
    let mut classes = [Class::Unknown; Token::COUNT];
    let mut steady = 0;
    while steady < STEADY.len() {
        classes[STEADY[steady] as usize] = Class::Steady;
        steady += 1;
    }
    let mut fleeting = 0;
    while fleeting < FLEETING.len() {
        classes[FLEETING[fleeting] as usize] = Class::Fleeting;
        fleeting += 1;
    }
    classes
};

const STEADY: [Token; 22] = [
    Token::Method,
    Token::Scheme,
    Token::Authority,
    Token::Protocol,
    Token::Status,
    Token::Accept,
    Token::AcceptCharset,
    Token::AcceptEncoding,
    Token::AcceptLanguage,
    Token::AcceptRanges,
    Token::AccessControlAllowOrigin,
    Token::CacheControl,
    Token::ContentEncoding,
    Token::ContentType,
    Token::GrpcAcceptEncoding,
    Token::GrpcEncoding,
    Token::GrpcStatus,
    Token::Server,
    Token::StrictTransportSecurity,
    Token::Te,
    Token::UserAgent,
    Token::Vary,
];

const FLEETING: [Token; 22] = [
    Token::Age,
    Token::Authorization,
    Token::Baggage,
    Token::ContentLength,
    Token::ContentRange,
    Token::Cookie,
    Token::Date,
    Token::Etag,
    Token::Expires,
    Token::GrpcMessage,
    Token::GrpcRetryPushbackMs,
    Token::GrpcTimeout,
    Token::IfModifiedSince,
    Token::IfNoneMatch,
    Token::LastModified,
    Token::Location,
    Token::ProxyAuthorization,
    Token::Range,
    Token::SetCookie,
    Token::Traceparent,
    Token::Tracestate,
    Token::XRequestId,
];

/// The class of a name. All fields of one name in a head have one class, so that their order among
/// themselves stays.
#[inline]
pub(super) fn class(token: Token) -> Class {
    CLASSES[token as usize]
}

/// Whether a field must never be indexed, by us or by anyone after us. A cookie that is short could be
/// guessed by its compression.
pub(super) fn is_secret(field: &Field<'_>) -> bool {
    const COOKIE_MIN: usize = 20;
    field.sensitive
        || match field.token {
            Token::Authorization | Token::ProxyAuthorization => true,
            Token::Cookie => field.value.len() < COOKIE_MIN,
            _ => false,
        }
}

/// How many insertions may happen at once.
const CREDIT_MAX: u32 = 64;
/// How many blocks earn one more.
const BLOCKS: u32 = 4;

/// A bound on insertions, so that values that come twice and never again do not turn the table over
/// and over: each insertion makes both sides forget what they remember.
pub(super) struct Credit(u32);

impl Default for Credit {
    fn default() -> Self {
        Self(CREDIT_MAX * BLOCKS)
    }
}

impl Credit {
    /// A block is written.
    pub(super) fn earn(&mut self) {
        self.0 = (self.0 + 1).min(CREDIT_MAX * BLOCKS);
    }

    /// Whether there may be an insertion.
    pub(super) fn is_left(&self) -> bool {
        self.0 >= BLOCKS
    }

    /// One is made.
    pub(super) fn spend(&mut self) {
        self.0 = self.0.saturating_sub(BLOCKS);
    }
}

/// Which values came before, by their hash.
#[derive(Default)]
pub(super) struct Seen(Vec<[u32; Self::WAYS]>);

impl Seen {
    const SETS: u32 = 16;
    const WAYS: usize = 4;

    /// Whether a value was noted and not pushed out since.
    pub(super) fn contains(&self, hash: u32) -> bool {
        self.0.get((hash % Self::SETS) as usize).is_some_and(|set| set.contains(&hash))
    }

    /// Notes a value.
    pub(super) fn note(&mut self, hash: u32) {
        self.0.resize(Self::SETS as usize, [0; Self::WAYS]);
        let set = &mut self.0[(hash % Self::SETS) as usize];
        if !set.contains(&hash) {
            set.rotate_right(1);
            set[0] = hash;
        }
    }

    /// How much memory it holds, in bytes.
    pub(super) fn memory(&self) -> usize {
        self.0.capacity() * size_of::<[u32; Self::WAYS]>()
    }
}

/// Which names of unknown class turned out to be fleeting, by their hash.
#[derive(Default)]
pub(super) struct Habits {
    /// How often in a row a value was new.
    misses: Vec<u8>,
    blocks: u32,
}

impl Habits {
    const BUCKETS: u32 = 256;
    /// So many new values in a row make a name fleeting.
    const FLEETING: u8 = 4;
    /// So many blocks later each name gets another chance.
    const BLOCKS: u32 = 4096;

    /// A block is written.
    pub(super) fn age(&mut self) {
        self.blocks += 1;
        if self.blocks >= Self::BLOCKS {
            self.blocks = 0;
            self.misses.fill(0);
        }
    }

    /// Whether nothing is fleeting, so that nobody need ask.
    pub(super) fn is_empty(&self) -> bool {
        self.misses.is_empty()
    }

    /// Whether values of a name were new each time.
    pub(super) fn is_fleeting(&self, name: u32) -> bool {
        let misses = self.misses.get((name % Self::BUCKETS) as usize);
        misses.is_some_and(|misses| *misses >= Self::FLEETING)
    }

    /// A value of a name was new.
    pub(super) fn miss(&mut self, name: u32) {
        let misses = self.bucket(name);
        *misses = misses.saturating_add(1);
    }

    /// A value of a name came again.
    pub(super) fn hit(&mut self, name: u32) {
        if let Some(misses) = self.misses.get_mut((name % Self::BUCKETS) as usize) {
            *misses = 0;
        }
    }

    /// A name has secrets, which are not looked at.
    pub(super) fn secret(&mut self, name: u32) {
        *self.bucket(name) = Self::FLEETING;
    }

    fn bucket(&mut self, name: u32) -> &mut u8 {
        self.misses.resize(Self::BUCKETS as usize, 0);
        &mut self.misses[(name % Self::BUCKETS) as usize]
    }

    /// How much memory it holds, in bytes.
    pub(super) fn memory(&self) -> usize {
        self.misses.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::{CREDIT_MAX, Class, Credit, FLEETING, Habits, STEADY, Seen, class};
    use crate::http::Token;

    #[test]
    fn a_name_has_one_class() {
        assert!(STEADY.iter().all(|token| class(*token) == Class::Steady));
        assert!(FLEETING.iter().all(|token| class(*token) == Class::Fleeting));
        assert!(FLEETING.iter().all(|token| !token.is_pseudo()));
        assert_eq!(class(Token::Other), Class::Unknown);
        assert_eq!(class(Token::Path), Class::Unknown);
    }

    #[test]
    fn insertions_are_earned() {
        let mut credit = Credit::default();
        for _ in 0..CREDIT_MAX {
            assert!(credit.is_left());
            credit.spend();
        }
        assert!(!credit.is_left());
        (0..4).for_each(|_| credit.earn());
        assert!(credit.is_left());
    }

    #[test]
    fn values_are_seen_until_they_are_pushed_out() {
        let mut seen = Seen::default();
        assert!(!seen.contains(1));
        for hash in [1, 17, 33, 49, 1, 1] {
            seen.note(hash);
        }
        assert!([1, 17, 33, 49].iter().all(|hash| seen.contains(*hash)));
        seen.note(65);
        assert!(!seen.contains(1) && seen.contains(65));
    }

    #[test]
    fn names_with_new_values_each_time_are_fleeting() {
        let mut habits = Habits::default();
        (0..3).for_each(|_| habits.miss(7));
        habits.hit(7);
        (0..3).for_each(|_| habits.miss(7));
        assert!(!habits.is_fleeting(7));
        habits.miss(7);
        habits.secret(8);
        assert!(habits.is_fleeting(7) && habits.is_fleeting(8) && !habits.is_fleeting(9));
        (0..4096).for_each(|_| habits.age());
        assert!(!habits.is_fleeting(7));
    }
}
