//! Streams whose time is up while nobody reads them. hyper asks a body for more only when its reader
//! takes more, so a reader that never does would keep a permit, an upstream stream and a record past
//! every deadline. A worker looks after them now and then; those that are read see to it themselves.

use std::{
    cell::{Cell, RefCell},
    rc::{Rc, Weak},
    time::Duration,
};

use rustc_hash::FxHashMap;
use tokio::time::Instant;

use super::body::Forward;

/// How long a stream may take to notice by itself that its time is up.
const GRACE: Duration = Duration::from_secs(1);

/// The streams of one worker that have limits.
#[derive(Default)]
pub(super) struct Watch {
    next: Cell<u64>,
    streams: RefCell<FxHashMap<u64, Weak<RefCell<Forward>>>>,
}

/// A stream that is watched until this is dropped.
pub(super) struct Watched {
    watch: Rc<Watch>,
    number: u64,
}

impl Watch {
    /// Looks after a stream.
    pub(super) fn add(self: &Rc<Self>, stream: &Rc<RefCell<Forward>>) -> Watched {
        let number = self.next.get();
        self.next.set(number.wrapping_add(1));
        self.streams.borrow_mut().insert(number, Rc::downgrade(stream));
        Watched { watch: Rc::clone(self), number }
    }

    /// Ends the streams whose time has been up for a while.
    pub(super) fn sweep(&self, now: Instant) {
        let Some(late) = now.checked_sub(GRACE) else { return };
        let is_over = |stream: &Rc<RefCell<Forward>>| stream.borrow().may_be_over(late);
        let over: Vec<_> = {
            let streams = self.streams.borrow();
            streams.values().filter_map(Weak::upgrade).filter(is_over).collect()
        };
        for stream in over {
            stream.borrow_mut().end_late(late);
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.watch.streams.borrow_mut().remove(&self.number);
    }
}
