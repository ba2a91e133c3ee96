//! W3C Trace Context: `traceparent` and `tracestate` read strictly and written, and the decision
//! whether a trace that starts here is sent.
//!
//! Reading follows <https://www.w3.org/TR/trace-context/>: what is not exactly well-formed starts a
//! new trace, because half of a wrong context would join strangers' traces. Nothing here reads a
//! clock or makes random numbers.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::record::SpanContext;

/// `00-<trace id>-<parent id>-<flags>`
const TRACEPARENT_BYTES: usize = 55;
/// What a `tracestate` passed on may have (the specification asks for at least so much).
const TRACESTATE_BYTES_MAX: usize = 512;
/// Members that go first when it is too long.
const TRACESTATE_LARGE_MEMBER_BYTES: usize = 128;
/// Members that a `tracestate` may have.
const TRACESTATE_MEMBERS_MAX: usize = 32;

/// Reads a `traceparent`: of version 00 exactly, of later ones what version 00 defines. `None` for
/// everything that the specification calls invalid: other lengths, upper-case digits, version `ff`,
/// a trace or parent id of zeros.
pub fn parse_traceparent(value: &[u8]) -> Option<SpanContext> {
    let head = value.first_chunk::<TRACEPARENT_BYTES>()?;
    let version = hex_pair(head[0], head[1])?;
    if version == 0xff || head[2] != b'-' || head[35] != b'-' || head[52] != b'-' {
        return None;
    }
    match value.get(TRACEPARENT_BYTES) {
        None => {}
        Some(b'-') if version > 0 => {}
        Some(_) => return None,
    }
    let trace_id = u128::from(hex(&head[3..19])?) << 64 | u128::from(hex(&head[19..35])?);
    let span_id = hex(&head[36..52])?;
    let sampled = hex_pair(head[53], head[54])? & 1 == 1;
    (trace_id != 0 && span_id != 0).then_some(SpanContext { trace_id, span_id, sampled })
}

/// In each byte of a number: one, and what the upper half of a byte must not have.
const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH_HALVES: u64 = 0xf0f0_f0f0_f0f0_f0f0;

/// Sixteen lower-case digits.
fn hex(digits: &[u8]) -> Option<u64> {
    let (high, low) = digits.split_first_chunk::<8>()?;
    Some(u64::from(hex_eight(*high)?) << 32 | u64::from(hex_eight(*low.first_chunk()?)?))
}

/// Eight lower-case digits, all at once: each is half a byte of the result.
fn hex_eight(digits: [u8; 8]) -> Option<u32> {
    let text = u64::from_be_bytes(digits);
    // Letters have bit 6, and `a` is 0x61.
    let halves = (text & (ONES * 0x0f)) + ((text >> 6) & ONES) * 9;
    if halves & HIGH_HALVES != 0 || write_halves(halves) != text {
        return None;
    }
    let pairs = (halves | halves >> 4) & 0x00ff_00ff_00ff_00ff;
    let fours = (pairs | pairs >> 8) & 0x0000_ffff_0000_ffff;
    u32::try_from((fours | fours >> 16) & 0xffff_ffff).ok()
}

/// The digits of the halves of bytes that stand in the bytes of a number.
const fn write_halves(halves: u64) -> u64 {
    // Six more than 9 is 16: what has that bit then is a letter.
    let letters = ((halves + ONES * 6) >> 4) & ONES;
    halves + ONES * 0x30 + letters * 39
}

fn hex_pair(high: u8, low: u8) -> Option<u8> {
    let digit = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    Some(digit(high)? << 4 | digit(low)?)
}

/// A `traceparent` as it is sent, without an allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traceparent([u8; TRACEPARENT_BYTES]);

impl Traceparent {
    /// The header's value.
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).expect("digits and dashes only")
    }

    /// The header's value.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Writes version 00 of `context`.
pub fn format(context: &SpanContext) -> Traceparent {
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
    for (place, bytes) in (3..).step_by(8).zip(context.trace_id.to_be_bytes().as_chunks().0) {
        text[place..place + 8].copy_from_slice(&write_eight(*bytes));
    }
    for (place, bytes) in (36..).step_by(8).zip(context.span_id.to_be_bytes().as_chunks().0) {
        text[place..place + 8].copy_from_slice(&write_eight(*bytes));
    }
    text[54] = if context.sampled { b'1' } else { b'0' };
    Traceparent(text)
}

/// The eight digits of four bytes.
fn write_eight(bytes: [u8; 4]) -> [u8; 8] {
    let fours = u64::from(u32::from_be_bytes(bytes));
    let fours = (fours | fours << 16) & 0x0000_ffff_0000_ffff;
    let pairs = (fours | fours << 8) & 0x00ff_00ff_00ff_00ff;
    write_halves((pairs | pairs << 4) & (ONES * 0x0f)).to_be_bytes()
}

/// Puts the values of all `tracestate` fields together as they are passed on: in order, at most 32
/// members and 512 bytes (longer members go first, then the last ones). Empty when any member is
/// malformed or a key stands twice, as the specification asks.
pub fn tracestate<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut members: Vec<&str> = Vec::new();
    for value in values {
        for member in value.split(|byte| *byte == b',') {
            let Some(member) = tracestate_member(member) else { return String::new() };
            if member.is_empty() {
                continue;
            }
            let key = tracestate_key(member);
            let twice = members.iter().any(|other| tracestate_key(other) == key);
            if twice || members.len() == TRACESTATE_MEMBERS_MAX {
                return String::new();
            }
            members.push(member);
        }
    }
    let bytes = |members: &[&str]| members.iter().map(|member| member.len() + 1).sum::<usize>();
    if bytes(&members) > TRACESTATE_BYTES_MAX + 1 {
        members.retain(|member| member.len() <= TRACESTATE_LARGE_MEMBER_BYTES);
    }
    while bytes(&members) > TRACESTATE_BYTES_MAX + 1 {
        members.pop();
    }
    members.join(",")
}

fn tracestate_key(member: &str) -> &str {
    member.split('=').next().unwrap_or_default()
}

/// One `key=value` without the space around it; empty for an empty member, which is permitted;
/// `None` for a malformed one.
fn tracestate_member(member: &[u8]) -> Option<&str> {
    let member = str::from_utf8(member).ok()?.trim_matches([' ', '\t']);
    if member.is_empty() {
        return Some(member);
    }
    let (key, value) = member.split_once('=')?;
    let key_byte = |b: u8| {
        b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-' | b'*' | b'/')
    };
    // Level 1 knows `tenant@system`; level 2 permits an `@` anywhere but at the start.
    let key_good = (1..=256).contains(&key.len())
        && key.bytes().all(|b| key_byte(b) || b == b'@')
        && key.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    let value_good = (1..=256).contains(&value.len())
        && value.bytes().all(|b| (0x20..=0x7e).contains(&b) && !matches!(b, b',' | b'='));
    (key_good && value_good).then_some(member)
}

/// A request's place in its trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The request's own span.
    pub span: SpanContext,
    /// The span that it continues; `None`: it starts the trace.
    pub parent: Option<u64>,
}

/// Continues the trace of `parent`, whose decision whether to sample stands, or starts one that is
/// sampled by `sampler`. `random` gives new ids and the sampler its throw; `now` is any clock, and read
/// only if the throw says so.
pub fn continue_or_start(
    parent: Option<SpanContext>,
    sampler: &Sampler,
    now: impl FnOnce() -> Duration,
    mut random: impl FnMut() -> u64,
) -> Place {
    if let Some(parent) = parent {
        let span = SpanContext { span_id: span_id(&mut random), ..parent };
        return Place { span, parent: Some(parent.span_id) };
    }
    let trace_id = u128::from(span_id(&mut random)) << 64 | u128::from(random());
    let span_id = span_id(&mut random);
    let sampled = sampler.sample(random(), now);
    Place { span: SpanContext { trace_id, span_id, sampled }, parent: None }
}

/// A new span id: any number but zero.
pub fn span_id(mut random: impl FnMut() -> u64) -> u64 {
    // Of a generator that gives only zeros, 1 is as good as any.
    random().max(1)
}

/// Which of the traces that start here are sent: a share of them, and at most so many a second, as
/// a bucket that holds one second's worth. Shared by all workers; one or two atomics each time.
#[derive(Debug)]
pub struct Sampler {
    /// Sampled when the throw is below; `u64::MAX` means all.
    threshold: AtomicU64,
    /// Nanoseconds that one sampled trace costs; 0: without a limit, `u64::MAX`: none at all.
    cost: AtomicU64,
    /// When the bucket will be full again, in nanoseconds of the caller's clock (GCRA).
    full_at: AtomicU64,
}

/// What the bucket holds at most, in time.
const BURST: Duration = Duration::from_secs(1);

impl Sampler {
    /// Samples `share` (0.0 to 1.0) of the traces, at most `per_second_max` a second.
    pub fn new(share: f64, per_second_max: f64) -> Self {
        let sampler = Self {
            threshold: AtomicU64::new(0),
            cost: AtomicU64::new(0),
            full_at: AtomicU64::new(0),
        };
        sampler.configure(share, per_second_max);
        sampler
    }

    /// Changes both from now on.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "float to integer saturates, which is what is meant"
    )]
    pub fn configure(&self, share: f64, per_second_max: f64) {
        self.threshold.store((share * u64::MAX as f64) as u64, Ordering::Relaxed);
        self.cost.store((1e9 / per_second_max.max(0.0)) as u64, Ordering::Relaxed);
    }

    /// Whether a trace that starts at `now` with the throw `random` is sampled.
    pub fn sample(&self, random: u64, now: impl FnOnce() -> Duration) -> bool {
        let threshold = self.threshold.load(Ordering::Relaxed);
        let thrown = threshold == u64::MAX || random < threshold;
        thrown && self.admit(u64::try_from(now().as_nanos()).unwrap_or(u64::MAX))
    }

    fn admit(&self, now: u64) -> bool {
        let cost = self.cost.load(Ordering::Relaxed);
        let burst = u64::try_from(BURST.as_nanos()).unwrap_or(u64::MAX).max(cost);
        if cost == u64::MAX {
            return false;
        }
        self.full_at
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
                // So far ahead it can only be when the clock was set back.
                let set_back = full_at > now.saturating_add(burst.saturating_mul(2));
                let full_at = if set_back { now } else { full_at.max(now) }.saturating_add(cost);
                (full_at <= now.saturating_add(burst)).then_some(full_at)
            })
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Sampler, continue_or_start, format, parse_traceparent, tracestate};
    use crate::telemetry::SpanContext;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn good(sampled: bool) -> Option<SpanContext> {
        let trace_id = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736;
        Some(SpanContext { trace_id, span_id: 0x00f0_67aa_0ba9_02b7, sampled })
    }

    #[test]
    fn traceparent_is_read_as_the_specification_says() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let parent = "00f067aa0ba902b7";
        for (value, expected) in [
            (GOOD.to_owned(), good(true)),
            (format!("00-{trace}-{parent}-00"), good(false)),
            (format!("00-{trace}-{parent}-03"), good(true)),
            (format!("00-{trace}-{parent}-fe"), good(false)),
            // Later versions: what version 00 knows of, if a dash follows.
            (format!("01-{trace}-{parent}-01"), good(true)),
            (format!("cc-{trace}-{parent}-01-what-the-future-holds"), good(true)),
            (format!("cc-{trace}-{parent}-01-"), good(true)),
            (format!("cc-{trace}-{parent}-01.what"), None),
            (format!("00-{trace}-{parent}-01-what"), None),
            (format!("00-{trace}-{parent}-01-"), None),
            (format!("ff-{trace}-{parent}-01"), None),
            (format!("0-{trace}-{parent}-01"), None),
            (format!("0g-{trace}-{parent}-01"), None),
            (format!("00-{}-{parent}-01", "0".repeat(32)), None),
            (format!("00-{trace}-{}-01", "0".repeat(16)), None),
            (format!("00-{}-{parent}-01", trace.to_uppercase()), None),
            (format!("00-{trace}-{parent}-1"), None),
            (format!("00-{trace}-{parent}-0x"), None),
            (format!("00-{trace}_{parent}-01"), None),
            (format!("00-{trace}-{parent}_01"), None),
            (format!("00_{trace}-{parent}-01"), None),
            (format!(" {GOOD}"), None),
            (format!("{GOOD} "), None),
            (format!("{GOOD},{GOOD}"), None),
            (GOOD[..54].to_owned(), None),
            (String::new(), None),
        ] {
            assert_eq!(parse_traceparent(value.as_bytes()), expected, "{value:?}");
        }
        assert_eq!(parse_traceparent(&[0xff; 55]), None);
    }

    #[test]
    fn what_is_written_is_read_back() {
        for sampled in [true, false] {
            let context = good(sampled).expect("a context");
            let text = format(&context);
            assert_eq!(parse_traceparent(text.as_bytes()), Some(context));
            assert_eq!(text.as_str()[..52], GOOD[..52]);
        }
        let largest = SpanContext { trace_id: u128::MAX, span_id: u64::MAX, sampled: true };
        assert_eq!(parse_traceparent(format(&largest).as_bytes()), Some(largest));
    }

    #[test]
    fn tracestate_is_joined_bounded_or_dropped() {
        let long = format!("a={}", "x".repeat(200));
        let medium: Vec<_> = (0..6).map(|i| format!("k{i}={}", "y".repeat(100))).collect();
        let many = (0..33).map(|i| format!("k{i}=v")).collect::<Vec<_>>().join(",");
        for (values, expected) in [
            (vec![], String::new()),
            (vec!["a=1,b=2"], "a=1,b=2".to_owned()),
            (vec!["a=1", "b=2"], "a=1,b=2".to_owned()),
            (vec![" a=1 ,, \tb=2"], "a=1,b=2".to_owned()),
            (vec!["tenant@system=x y"], "tenant@system=x y".to_owned()),
            (vec!["a=1,a=2"], String::new()),
            (vec!["a"], String::new()),
            (vec!["=1"], String::new()),
            (vec!["a="], String::new()),
            (vec!["A=1"], String::new()),
            (vec!["@a=1"], String::new()),
            (vec!["a=b=c"], String::new()),
            (vec!["a=\u{7f}"], String::new()),
            (vec![many.as_str()], String::new()),
            (vec![long.as_str(), "b=2"], format!("{long},b=2")),
            (vec![long.as_str(), &medium.join(",")], medium[..4].join(",")),
        ] {
            assert_eq!(tracestate(values.iter().map(|v| v.as_bytes())), expected, "{values:?}");
        }
    }

    #[test]
    fn every_byte_that_is_no_digit_makes_it_invalid() {
        for place in (3..35).chain(36..52) {
            for byte in 0..=u8::MAX {
                let mut text = GOOD.as_bytes().to_vec();
                text[place] = byte;
                let digit = matches!(byte, b'0'..=b'9' | b'a'..=b'f');
                let read = parse_traceparent(&text);
                assert_eq!(read.is_some(), digit, "{place} {byte}");
                if let Some(read) = read {
                    assert_eq!(format(&read).as_bytes(), text);
                }
            }
        }
    }

    fn zero() -> Duration {
        Duration::ZERO
    }

    fn counting() -> impl FnMut() -> u64 {
        let mut next = 6;
        move || {
            next += 1;
            next
        }
    }

    #[test]
    fn a_trace_is_continued_with_its_decision_or_started() {
        let none = Sampler::new(0.0, 50.0);
        let all = Sampler::new(1.0, 50.0);
        for sampled in [true, false] {
            let parent = good(sampled).expect("a context");
            let place = continue_or_start(Some(parent), &none, zero, counting());
            assert_eq!(place.parent, Some(parent.span_id));
            assert_eq!(place.span, SpanContext { span_id: 7, ..parent });
        }
        let place = continue_or_start(None, &all, zero, counting());
        assert_eq!((place.parent, place.span.sampled), (None, true));
        assert_eq!((place.span.trace_id, place.span.span_id), (7 << 64 | 8, 9));
        assert!(!continue_or_start(None, &none, zero, counting()).span.sampled);
        // A generator gone wrong makes no zeros, which are invalid.
        let place = continue_or_start(None, &all, zero, || 0);
        assert!(place.span.trace_id != 0 && place.span.span_id != 0);
    }

    #[test]
    fn the_share_is_kept() {
        let mut random = fastrand::Rng::with_seed(7);
        for share in [0.0, 0.01, 0.5, 1.0] {
            let sampler = Sampler::new(share, f64::INFINITY);
            let sampled = (0..100_000).filter(|_| sampler.sample(random.u64(..), zero)).count();
            let difference = f64::from(u32::try_from(sampled).expect("few")) - share * 1e5;
            assert!(difference.abs() <= 600.0, "{share}: {sampled}");
        }
        assert!(Sampler::new(1.0, f64::INFINITY).sample(u64::MAX, zero));
    }

    #[test]
    fn the_rate_is_kept_and_changed() {
        let sampler = Sampler::new(1.0, 50.0);
        let in_one_second = |sampler: &Sampler, from: u64| {
            let times = (0..1000).map(|ms| Duration::from_millis(from + ms));
            times.filter(|now| sampler.sample(0, || *now)).count()
        };
        assert_eq!(in_one_second(&sampler, 0), 50 + 49, "what it held and what came in");
        assert_eq!(in_one_second(&sampler, 1000), 50);
        sampler.configure(1.0, 0.0);
        assert_eq!(in_one_second(&sampler, 10_000), 0);
        sampler.configure(1.0, 0.5);
        assert_eq!(in_one_second(&sampler, 20_000), 1, "rates below one a second let one pass");
        assert_eq!(in_one_second(&sampler, 21_000), 0);
        assert_eq!(in_one_second(&sampler, 22_000), 1);
        sampler.configure(1.0, 50.0);
        assert!(in_one_second(&sampler, 1_000) >= 50, "a clock set back stops nothing");
    }
}
