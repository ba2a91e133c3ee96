//! What a peer may do that costs this side work without being work: budgets per connection that
//! honest work replenishes. A budget is a bucket of tokens over the life of the connection; what
//! clients do between requests (PING, WINDOW_UPDATE, cancels) is refilled by completed requests, by
//! body bytes and slowly by time, so that no honest use empties one, and a flood does in one burst.
//! An empty bucket ends this connection (ENHANCE_YOUR_CALM) and touches no other.

use std::time::Duration;

use crate::http::ConnectionError;

/// Control frames in one burst.
const CONTROL_MAX: u32 = 1_000;
const CONTROL_PER_SECOND: u32 = 100;
const CONTROL_PER_REQUEST: u32 = 16;
/// Per body frame, received or sent whole: peers that measure bandwidth send a PING, and those that
/// give credit frame by frame two WINDOW_UPDATEs.
const CONTROL_PER_BODY_FRAME: u32 = 3;
/// Body bytes sent that pay for a control frame, where a narrow window cuts frames into pieces.
const BYTES_PER_CONTROL: u32 = 1_024;
/// Streams that a client cancels early in one burst: below 250, where rapid reset has to end.
const RESETS_MAX: u32 = 200;
const RESETS_PER_SECOND: u32 = 100;
/// Callers whose cancels a sidecar's connection carries, at most of the time.
const CALLERS: u32 = 100;
/// Cancels that one success pays for.
const RESETS_PER_REQUEST: u32 = 8;
/// A cancel of a stream as old as this is no rapid reset: with the limit of streams, their rate is
/// bounded by it.
const RESET_EARLY: Duration = Duration::from_millis(20);
/// Resets that a peer makes this side send: MadeYouReset has to end within 200.
const PROVOKED_MAX: u32 = 100;
const PROVOKED_PER_SECOND: u32 = 2;
/// Requests over the announced limit of streams, which are refused unseen.
const EXCESS_MAX: u32 = 1_000;
const EXCESS_PER_SECOND: u32 = 100;
/// Frames without content that end nothing.
const EMPTY_MAX: u32 = 100;
const EMPTY_PER_SECOND: u32 = 10;
const EMPTY_PER_REQUEST: u32 = 4;

/// A bucket of tokens.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: u32,
    max: u32,
    what: &'static str,
}

impl Bucket {
    const fn new(max: u32, what: &'static str) -> Self {
        Self { left: max, max, what }
    }

    fn spend(&mut self, tokens: u32) -> Result<(), ConnectionError> {
        match self.left.checked_sub(tokens) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(ConnectionError::Abuse(self.what)),
        }
    }

    fn earn(&mut self, tokens: u32) {
        self.left = self.left.saturating_add(tokens).min(self.max);
    }
}

/// A connection's budgets.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    /// How many callers' cancels are to be expected.
    callers: u32,
    /// Body bytes sent that have not paid yet.
    sent: u32,
    control: Bucket,
    resets: Bucket,
    provoked: Bucket,
    excess: Bucket,
    empty: Bucket,
}

impl Budget {
    /// Full ones; `many_callers` for a peer that carries the requests of many.
    pub(super) fn new(many_callers: bool) -> Self {
        let callers = if many_callers { CALLERS } else { 1 };
        Self {
            callers,
            sent: 0,
            control: Bucket::new(CONTROL_MAX, "control frames"),
            resets: Bucket::new(RESETS_MAX * callers, "resets"),
            provoked: Bucket::new(PROVOKED_MAX, "stream errors"),
            excess: Bucket::new(EXCESS_MAX, "streams over the limit"),
            empty: Bucket::new(EMPTY_MAX, "empty frames"),
        }
    }

    /// Control frames that cost `tokens`.
    pub(super) fn control(&mut self, tokens: u32) -> Result<(), ConnectionError> {
        self.control.spend(tokens)
    }

    /// The peer cancelled a stream that was `age` old; `answered` says whether the head of a response
    /// was sent, in which case the work was done and had its worth.
    pub(super) fn cancelled(
        &mut self,
        age: Duration,
        answered: bool,
    ) -> Result<(), ConnectionError> {
        if answered || age >= RESET_EARLY { Ok(()) } else { self.resets.spend(1) }
    }

    /// The peer made this side reset a stream.
    pub(super) fn provoked(&mut self) -> Result<(), ConnectionError> {
        self.provoked.spend(1)
    }

    /// The peer opened a stream over the limit that it had been told.
    pub(super) fn excess(&mut self) -> Result<(), ConnectionError> {
        self.excess.spend(1)
    }

    /// A DATA frame without data that ended nothing, or a fragment of a head without bytes.
    pub(super) fn empty(&mut self) -> Result<(), ConnectionError> {
        self.empty.spend(1)
    }

    /// A request and its response were completed.
    pub(super) fn completed(&mut self) {
        self.control.earn(CONTROL_PER_REQUEST);
        self.resets.earn(RESETS_PER_REQUEST);
        self.provoked.earn(1);
        self.empty.earn(EMPTY_PER_REQUEST);
    }

    /// A body frame went through whole, either way.
    pub(super) fn body(&mut self) {
        self.control.earn(CONTROL_PER_BODY_FRAME);
        self.empty.earn(1);
    }

    /// So many body bytes were sent, whether whole frames or not.
    pub(super) fn sent(&mut self, bytes: u32) {
        let sent = self.sent.saturating_add(bytes);
        self.control.earn(sent / BYTES_PER_CONTROL);
        self.sent = sent % BYTES_PER_CONTROL;
    }

    /// A control frame let bytes go on that waited for it.
    pub(super) fn of_use(&mut self) {
        self.control.earn(1);
    }

    /// This side cancelled a stream: what the peer still says of it is no abuse.
    pub(super) fn cancelled_here(&mut self) {
        self.control.earn(4);
    }

    /// Time passed.
    pub(super) fn elapse(&mut self, time: Duration) {
        let earn = |bucket: &mut Bucket, per_second: u32| {
            let tokens = time.as_millis().saturating_mul(u128::from(per_second)) / 1000;
            bucket.earn(u32::try_from(tokens).unwrap_or(u32::MAX));
        };
        earn(&mut self.control, CONTROL_PER_SECOND);
        earn(&mut self.resets, RESETS_PER_SECOND * self.callers);
        earn(&mut self.provoked, PROVOKED_PER_SECOND);
        earn(&mut self.excess, EXCESS_PER_SECOND);
        earn(&mut self.empty, EMPTY_PER_SECOND);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Budget, RESET_EARLY, RESETS_MAX};
    use crate::http::ConnectionError;

    #[test]
    fn a_burst_of_early_cancels_ends_and_late_ones_do_not() {
        let mut budget = Budget::new(false);
        for _ in 0..RESETS_MAX {
            budget.cancelled(Duration::ZERO, false).expect("within the burst");
        }
        assert_eq!(budget.cancelled(Duration::ZERO, false), Err(ConnectionError::Abuse("resets")));
        budget.cancelled(RESET_EARLY, false).expect("it was worked on");
        budget.cancelled(Duration::ZERO, true).expect("it was answered");
        budget.elapse(Duration::from_millis(10));
        budget.cancelled(Duration::ZERO, false).expect("time pays for one");
        budget.cancelled(Duration::ZERO, false).expect_err("but not for two");
        budget.completed();
        for _ in 0..8 {
            budget.cancelled(Duration::ZERO, false).expect("a success pays for eight");
        }
    }

    #[test]
    fn a_bucket_never_holds_more_than_a_burst() {
        let mut budget = Budget::new(false);
        budget.elapse(Duration::from_secs(1 << 40));
        (0..1_000).for_each(|_| budget.control(1).expect("within the burst"));
        budget.control(1).expect_err("the burst is spent");
        budget.sent(1_000);
        budget.control(1).expect_err("not yet");
        budget.sent(1_048);
        (0..2).for_each(|_| budget.control(1).expect("bytes pay, whatever frames they were in"));
        budget.control(1).expect_err("that was all");
    }
}
