//! Memory that bodies take while they wait for slow readers, or for another attempt. Each worker
//! counts its own and tells the others in steps, so that what is bounded is the process and counting
//! costs no shared write per frame. Long before the bound the windows of all connections become small;
//! short of it new requests are refused, while those under way go on with what they have.

use std::{
    cell::Cell,
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::settings::{STREAM_WINDOW_BYTES, STREAM_WINDOW_TIGHT_BYTES, WAITING_BYTES_MAX};

/// A worker tells the others when its own count has moved by so much.
const STEP: usize = 64 * 1024;

/// Of the whole process.
#[derive(Debug)]
pub(super) struct Pressure {
    waiting: AtomicUsize,
    max: usize,
}

/// What one worker holds.
pub(super) struct Share {
    all: Arc<Pressure>,
    own: Cell<usize>,
    /// The part of it that the others know.
    told: Cell<usize>,
    /// Whether windows are small.
    tight: Cell<bool>,
}

impl Pressure {
    /// Bounded by `max` bytes.
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { waiting: AtomicUsize::new(0), max })
    }
}

impl Share {
    /// Of a worker that holds nothing yet.
    pub(super) fn new(all: &Arc<Pressure>) -> Self {
        Self {
            all: Arc::clone(all),
            own: Cell::new(0),
            told: Cell::new(0),
            tight: Cell::new(false),
        }
    }

    /// So much more waits. Returns whether it was enough to tell the others.
    pub(super) fn wait(&self, bytes: usize) -> bool {
        self.own.set(self.own.get() + bytes);
        let enough = self.own.get() >= self.told.get() + STEP;
        if enough {
            self.tell();
        }
        enough
    }

    /// It went on or was dropped.
    pub(super) fn went(&self, bytes: usize) {
        debug_assert!(bytes <= self.own.get(), "what went had waited");
        self.own.set(self.own.get().saturating_sub(bytes));
        if self.own.get() + STEP <= self.told.get() {
            self.tell();
        }
    }

    fn tell(&self) {
        let (own, told) = (self.own.get(), self.told.replace(self.own.get()));
        if own >= told {
            self.all.waiting.fetch_add(own - told, Ordering::Relaxed);
        } else {
            self.all.waiting.fetch_sub(told - own, Ordering::Relaxed);
        }
    }

    /// Bytes that wait in the process.
    fn waiting(&self) -> usize {
        let others = self.all.waiting.load(Ordering::Relaxed).saturating_sub(self.told.get());
        others + self.own.get()
    }

    /// Bytes that wait in this worker.
    #[cfg(test)]
    pub(super) fn own(&self) -> usize {
        self.own.get()
    }

    /// Whether new requests are to be refused: from three quarters of the bound on, as what is under
    /// way may still grow.
    pub(super) fn is_over(&self) -> bool {
        self.waiting() > self.all.max / 4 * 3
    }

    /// What windows of streams are to be now: large as long as less than a quarter of the bound
    /// waits, small until it is an eighth again. The second part: whether that has changed.
    pub(super) fn window(&self) -> (u32, bool) {
        let waiting = self.waiting();
        let before = self.tight.get();
        let tight = waiting > self.all.max / if before { 8 } else { 4 };
        self.tight.set(tight);
        let window = if tight { STREAM_WINDOW_TIGHT_BYTES } else { STREAM_WINDOW_BYTES };
        (window, before != tight)
    }

    /// What windows are now if they are small.
    pub(super) fn narrow(&self) -> Option<u32> {
        self.tight.get().then_some(STREAM_WINDOW_TIGHT_BYTES)
    }

    /// Whether [`Self::window`] would say something else than it did.
    pub(super) fn has_turned(&self) -> bool {
        let before = self.tight.get();
        before != (self.waiting() > self.all.max / if before { 8 } else { 4 })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.own.set(0);
        self.tell();
    }
}

/// The bound by default: a quarter of what the system lets this process have, so that there is room
/// for everything else and it is never killed for its memory.
pub(super) fn waiting_max() -> usize {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limit = limit(Path::new("/sys/fs/cgroup"), &own);
    limit.map_or(WAITING_BYTES_MAX, |limit| (limit / 4).min(WAITING_BYTES_MAX))
}

/// The least limit of memory among the control groups that `own` (`/proc/self/cgroup`) names and
/// those above them; `None` when there is none.
fn limit(root: &Path, own: &str) -> Option<usize> {
    let mut least = None;
    for line in own.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (root, file) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            one if one.split(',').any(|one| one == "memory") => {
                (root.join("memory"), "memory.limit_in_bytes")
            }
            _ => continue,
        };
        for group in Path::new(path.trim_start_matches('/')).ancestors() {
            let text = fs::read_to_string(root.join(group).join(file)).unwrap_or_default();
            // Without a limit it says `max`.
            let found = text.trim().parse().ok();
            least = [least, found].into_iter().flatten().min();
        }
    }
    least
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::Arc};

    use super::{Pressure, STEP, Share, limit};
    use crate::proxy::settings::{STREAM_WINDOW_BYTES, STREAM_WINDOW_TIGHT_BYTES};

    #[test]
    fn all_workers_together_are_bounded() {
        let all = Pressure::new(STEP * 16);
        let (one, other) = (Share::new(&all), Share::new(&all));
        one.wait(STEP * 6);
        assert!(!one.is_over() && !other.is_over());
        other.wait(STEP * 6 + 1);
        assert!(one.is_over() && other.is_over());
        one.went(STEP);
        assert!(!one.is_over() && !other.is_over());
        assert_eq!((one.own(), other.own()), (STEP * 5, STEP * 6 + 1));
        drop(other);
        one.went(STEP * 5);
        assert_eq!(one.waiting(), 0);
        drop(one);
        assert_eq!(Share::new(&Arc::clone(&all)).waiting(), 0);
    }

    #[test]
    fn what_is_not_told_to_the_others_is_less_than_a_step() {
        let all = Pressure::new(STEP);
        let (one, other) = (Share::new(&all), Share::new(&all));
        for _ in 0..STEP - 1 {
            one.wait(1);
        }
        assert_eq!((one.waiting(), other.waiting()), (STEP - 1, 0));
        one.wait(1);
        assert_eq!(other.waiting(), STEP);
        one.went(STEP - 1);
        assert_eq!((one.waiting(), other.waiting()), (1, STEP));
        one.went(1);
        assert_eq!(other.waiting(), 0);
    }

    #[test]
    fn windows_are_small_while_much_waits() {
        let share = Share::new(&Pressure::new(STEP * 16));
        for (up, waits, expected) in [
            (true, 4, (STREAM_WINDOW_BYTES, false)),
            (true, 1, (STREAM_WINDOW_TIGHT_BYTES, true)),
            (true, 1, (STREAM_WINDOW_TIGHT_BYTES, false)),
            (false, 3, (STREAM_WINDOW_TIGHT_BYTES, false)),
            (false, 1, (STREAM_WINDOW_BYTES, true)),
        ] {
            if up {
                share.wait(STEP * waits);
            } else {
                share.went(STEP * waits);
            }
            assert_eq!(share.has_turned(), expected.1);
            assert_eq!(share.window(), expected, "{waits}");
        }
    }

    #[test]
    fn the_least_limit_of_all_groups_above_counts() {
        let root = tempfile::tempdir().expect("a directory");
        let write = |group: &str, file: &str, text: &str| {
            let directory = root.path().join(group);
            fs::create_dir_all(&directory).expect("made");
            fs::write(directory.join(file), text).expect("written");
        };
        write("pods", "memory.max", "4096\n");
        write("pods/one", "memory.max", "max\n");
        write("pods/two", "memory.max", "1024\n");
        write("memory/old", "memory.limit_in_bytes", "2048\n");
        for (own, expected) in [
            ("0::/pods/one\n", Some(4096)),
            ("0::/pods/two\n", Some(1024)),
            ("0::/\n", None),
            ("3:cpu:/old\n2:hugetlb,memory:/old/inner\n", Some(2048)),
            ("1:cpu:/pods/two\nnonsense\n", None),
            ("", None),
        ] {
            assert_eq!(limit(root.path(), own), expected, "{own}");
        }
    }
}
