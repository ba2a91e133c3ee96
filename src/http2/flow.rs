//! Flow control (RFC 9113 section 5.2): what each side may still send, and what became of what was
//! received. Every byte of a window is at one place at any time: open to the peer, on its way in
//! within an unfinished frame, held by the user, or owed to the peer; `check_invariants` counts them.

/// The largest window (RFC 9113 section 6.9.1).
pub(super) const WINDOW_MAX: u32 = 0x7fff_ffff;
/// What a window is before anybody says otherwise (RFC 9113 section 6.9.2).
pub(super) const WINDOW_DEFAULT: u32 = 65_535;

/// A window over [`WINDOW_MAX`], or more sent than it permits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Overflow;

/// What this side may still send. Below zero after the peer made it smaller (RFC 9113 section 6.9.2).
#[derive(Debug, Clone, Copy)]
pub(super) struct SendWindow(i64);

impl SendWindow {
    pub(super) fn new(size: u32) -> Self {
        Self(i64::from(size))
    }

    /// Bytes that may be sent now.
    pub(super) fn open(self) -> usize {
        usize::try_from(self.0).unwrap_or(0)
    }

    /// `bytes` were sent; not more than [`SendWindow::open`].
    pub(super) fn take(&mut self, bytes: u32) {
        self.0 -= i64::from(bytes);
    }

    /// Moves it: by WINDOW_UPDATE upwards, by settings both ways.
    pub(super) fn shift(&mut self, by: i64) -> Result<(), Overflow> {
        let moved = self.0 + by;
        if moved > i64::from(WINDOW_MAX) {
            return Err(Overflow);
        }
        self.0 = moved;
        Ok(())
    }
}

/// What a peer may still send on one stream.
#[derive(Debug, Clone, Copy)]
pub(super) struct StreamWindow {
    /// The size that the window is kept at.
    pub(super) size: u32,
    /// What the peer may still send; below zero after this side made it smaller.
    pub(super) open: i64,
    /// Reported to the user, not given back yet.
    pub(super) held: u32,
    /// To be announced to the peer.
    pub(super) owed: u32,
}

impl StreamWindow {
    pub(super) fn new(size: u32) -> Self {
        Self { size, open: i64::from(size), held: 0, owed: 0 }
    }

    /// A frame's payload begins.
    pub(super) fn receive(&mut self, bytes: u32) -> Result<(), Overflow> {
        if i64::from(bytes) > self.open {
            return Err(Overflow);
        }
        self.open -= i64::from(bytes);
        Ok(())
    }

    /// Received bytes went to the user.
    pub(super) fn hold(&mut self, bytes: u32) {
        self.held += bytes;
    }

    /// Received bytes that the user never sees: padding.
    pub(super) fn refund(&mut self, bytes: u32) {
        self.owed += bytes;
    }

    /// The user passed bytes on.
    pub(super) fn release(&mut self, bytes: u32) {
        let bytes = bytes.min(self.held);
        self.held -= bytes;
        self.owed += bytes;
    }

    /// What a WINDOW_UPDATE should say now: half a window gathers first. A user that keeps up gets a
    /// larger window, up to `size_max`; a slow one keeps the first, so that it holds little.
    pub(super) fn announce(&mut self, size_max: u32) -> Option<u32> {
        if self.owed == 0 || self.owed < self.size / 2 {
            return None;
        }
        if self.size < size_max && self.held <= self.size / 4 {
            let more = self.size.min(size_max - self.size);
            self.size += more;
            self.owed += more;
        }
        let increment = std::mem::take(&mut self.owed);
        self.open += i64::from(increment);
        Some(increment)
    }

    /// This side's settings changed the size of new windows and of this one (acknowledged).
    pub(super) fn resize(&mut self, from: u32, to: u32) {
        let by = i64::from(to) - i64::from(from);
        self.open += by;
        self.size = u32::try_from((i64::from(self.size) + by).max(1)).unwrap_or(WINDOW_MAX);
    }
}

/// What a peer may still send on all streams of a connection. Bytes are given back on receipt, so
/// that one slow stream does not hold up the others, until too many are held.
#[derive(Debug, Clone, Copy)]
pub(super) struct ConnectionWindow {
    pub(super) size: u32,
    pub(super) open: u32,
    pub(super) owed: u32,
    /// Reported to the user, not given back yet.
    pub(super) held: u64,
    /// The part of it that was not returned to the peer on receipt.
    pub(super) late: u32,
    held_max: u64,
}

impl ConnectionWindow {
    /// `size` is announced at once above the protocol's default; see [`ConnectionWindow::announce`].
    pub(super) fn new(size: u32, held_max: u32) -> Self {
        let size = size.max(WINDOW_DEFAULT);
        let (open, owed) = (WINDOW_DEFAULT, size - WINDOW_DEFAULT);
        Self { size, open, owed, held: 0, late: 0, held_max: u64::from(held_max) }
    }

    /// A frame's payload begins.
    pub(super) fn receive(&mut self, bytes: u32) -> Result<(), Overflow> {
        self.open = self.open.checked_sub(bytes).ok_or(Overflow)?;
        Ok(())
    }

    /// Received bytes went to the user.
    pub(super) fn hold(&mut self, bytes: u32) {
        self.held += u64::from(bytes);
        if self.held > self.held_max {
            self.late += bytes;
        } else {
            self.owed += bytes;
        }
    }

    /// Received bytes that the user never sees: padding, and what came for streams that are over.
    pub(super) fn refund(&mut self, bytes: u32) {
        self.owed += bytes;
    }

    /// The user passed bytes on.
    pub(super) fn release(&mut self, bytes: u32) {
        self.held = self.held.saturating_sub(u64::from(bytes));
        let late = if self.held == 0 { self.late } else { self.late.min(bytes) };
        self.late -= late;
        self.owed += late;
    }

    /// What a WINDOW_UPDATE should say now: half a window gathers first.
    pub(super) fn announce(&mut self) -> Option<u32> {
        if self.owed == 0 || self.owed < self.size / 2 {
            return None;
        }
        self.announce_all()
    }

    /// What a WINDOW_UPDATE should say now, however little it is.
    pub(super) fn announce_all(&mut self) -> Option<u32> {
        let increment = std::mem::take(&mut self.owed);
        self.open += increment;
        (increment > 0).then_some(increment)
    }
}

#[cfg(test)]
mod tests {
    use super::{ConnectionWindow, Overflow, SendWindow, StreamWindow, WINDOW_MAX};

    #[test]
    fn a_send_window_goes_below_zero_and_never_over_the_largest() {
        let mut window = SendWindow::new(10);
        window.take(8);
        assert_eq!(window.open(), 2);
        window.shift(-5).expect("smaller");
        assert_eq!(window.open(), 0);
        window.shift(4).expect("larger");
        assert_eq!(window.open(), 1);
        assert_eq!(window.shift(i64::from(WINDOW_MAX)), Err(Overflow));
        assert_eq!(window.open(), 1);
    }

    #[test]
    fn half_a_window_gathers_before_it_is_announced() {
        let mut window = StreamWindow::new(100);
        window.receive(60).expect("open");
        assert_eq!(window.receive(41), Err(Overflow));
        window.hold(60);
        window.release(49);
        assert_eq!(window.announce(100), None);
        window.release(1);
        assert_eq!(window.announce(100), Some(50));
        assert_eq!((window.open, window.held, window.owed), (90, 10, 0));
    }

    #[test]
    fn a_window_grows_only_for_a_user_that_keeps_up() {
        let mut slow = StreamWindow::new(100);
        slow.receive(100).expect("open");
        slow.hold(100);
        slow.release(50);
        assert_eq!((slow.announce(400), slow.size), (Some(50), 100));
        let mut quick = StreamWindow::new(100);
        quick.receive(100).expect("open");
        quick.hold(100);
        quick.release(100);
        assert_eq!((quick.announce(400), quick.size), (Some(200), 200));
        quick.receive(200).expect("open");
        quick.hold(200);
        quick.release(200);
        assert_eq!((quick.announce(300), quick.size), (Some(300), 300));
    }

    #[test]
    fn a_connection_returns_on_receipt_until_too_much_is_held() {
        let mut window = ConnectionWindow::new(100_000, 150_000);
        assert_eq!(window.announce_all(), Some(100_000 - 65_535));
        for expected in [Some(90_000), None] {
            window.receive(90_000).expect("open");
            window.hold(90_000);
            assert_eq!(window.announce(), expected);
        }
        assert_eq!(window.receive(10_001), Err(Overflow));
        window.release(60_000);
        assert_eq!(window.announce(), Some(60_000));
        window.release(120_000);
        assert_eq!((window.held, window.late, window.owed), (0, 0, 30_000));
        assert_eq!(window.open + window.owed, 100_000);
    }
}
