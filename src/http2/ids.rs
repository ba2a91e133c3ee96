//! Which stream an identifier means. Identifiers of one side only grow, by two, so that a window of
//! places by identifier answers at once, without a hash map; a stream that is still open when the
//! window has moved on is found in a short sorted list. What became of closed streams is remembered
//! as long as the window reaches, because it decides whether a late frame is an error (RFC 9113
//! section 5.1).

/// How many identifiers the window spans: twice the usual limit of streams. One costs two bytes.
const SPAN: usize = 512;
/// How many it spans at first; it doubles while all of them are in use.
const SPAN_FIRST: usize = 16;

const SKIPPED: u16 = 0;
const ENDED: u16 = 1;
const CUT: u16 = 2;
/// From here on it is a place in the slab.
const OPEN: u16 = 3;

/// What is known of an identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// Never used.
    Idle,
    /// Passed over by a later one, and so closed (RFC 9113 section 5.1.1).
    Skipped,
    /// Closed, and the peer knows that it may send nothing more: it ended or reset it.
    Ended,
    /// Reset by this side before the peer had ended it: what the peer sent before it knew may come.
    Cut,
    /// Closed so long ago that nothing else is known.
    Forgotten,
    /// Open, at this place.
    Open(u16),
}

/// How a stream was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// See [`Found::Ended`].
    Ended,
    /// See [`Found::Cut`].
    Cut,
}

/// The identifiers of one side.
pub(super) struct Ids {
    /// By half of the identifier, modulo its length, which is a power of two.
    ring: Vec<u16>,
    /// The identifier of the window's first entry.
    first: u32,
    /// The smallest one that is idle.
    next: u32,
    /// Open streams that the window has passed, by rising identifier.
    old: Vec<(u32, u16)>,
}

impl Ids {
    /// Identifiers from `first` on, which is 1 or 2.
    pub(super) fn new(first: u32) -> Self {
        Self { ring: Vec::new(), first, next: first, old: Vec::new() }
    }

    /// The smallest identifier that was never used; past the largest one when all were.
    pub(super) fn next(&self) -> u32 {
        self.next
    }

    /// Where the entry of `id` is.
    #[inline]
    fn at(&self, id: u32) -> usize {
        (id as usize / 2) & self.ring.len().wrapping_sub(1)
    }

    /// What `id` means; an identifier of the other side is idle.
    #[inline]
    pub(super) fn find(&self, id: u32) -> Found {
        if id >= self.next || (id ^ self.first) & 1 != 0 {
            return Found::Idle;
        }
        if id < self.first {
            return self.find_old(id);
        }
        match self.ring.get(self.at(id)) {
            None | Some(&SKIPPED) => Found::Skipped,
            Some(&ENDED) => Found::Ended,
            Some(&CUT) => Found::Cut,
            Some(place) => Found::Open(place - OPEN),
        }
    }

    fn find_old(&self, id: u32) -> Found {
        match self.old.binary_search_by_key(&id, |entry| entry.0) {
            Ok(index) => Found::Open(self.old[index].1),
            Err(_) => Found::Forgotten,
        }
    }

    /// Opens `id`, which is idle and of this side, at a place of the slab.
    pub(super) fn open(&mut self, id: u32, place: u16) {
        self.push(id, place + OPEN);
    }

    /// Uses `id`, which is idle and of this side, for a stream that is closed at once.
    pub(super) fn pass(&mut self, id: u32, mark: Mark) {
        self.push(id, Self::entry(mark));
    }

    /// Closes an open one.
    pub(super) fn close(&mut self, id: u32, mark: Mark) {
        if id < self.first {
            return self.old.retain(|entry| entry.0 != id);
        }
        let at = self.at(id);
        if let Some(entry) = self.ring.get_mut(at) {
            *entry = Self::entry(mark);
        }
    }

    fn entry(mark: Mark) -> u16 {
        match mark {
            Mark::Ended => ENDED,
            Mark::Cut => CUT,
        }
    }

    fn push(&mut self, id: u32, entry: u16) {
        debug_assert!(id >= self.next && (id ^ self.first) & 1 == 0);
        if (id - self.next) as usize / 2 >= SPAN {
            while self.first < self.next {
                self.forget();
            }
            (self.first, self.next) = (id, id);
        }
        while self.next < id {
            self.push_entry(SKIPPED);
        }
        self.push_entry(entry);
    }

    fn push_entry(&mut self, entry: u16) {
        if (self.next - self.first) as usize / 2 == self.ring.len() {
            self.make_room();
        }
        let at = self.at(self.next);
        self.ring[at] = entry;
        self.next += 2;
    }

    fn make_room(&mut self) {
        if self.ring.len() == SPAN {
            return self.forget();
        }
        let length = (self.ring.len() * 2).max(SPAN_FIRST);
        let before = std::mem::replace(&mut self.ring, vec![SKIPPED; length]);
        for id in (self.first..self.next).step_by(2) {
            let at = self.at(id);
            self.ring[at] = before[(id as usize / 2) & (before.len() - 1)];
        }
    }

    /// Moves the window on by one.
    fn forget(&mut self) {
        let entry = self.ring.get(self.at(self.first)).copied();
        if let Some(place) = entry.and_then(|entry| entry.checked_sub(OPEN)) {
            self.old.push((self.first, place));
        }
        self.first += 2;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Strategy as _, any, prop_assert_eq, proptest};

    use super::{Found, Ids, Mark, SPAN};

    #[test]
    fn identifiers_are_found_by_what_became_of_them() {
        let mut ids = Ids::new(1);
        assert_eq!(ids.find(1), Found::Idle);
        ids.open(1, 0);
        ids.open(7, 1);
        ids.pass(9, Mark::Cut);
        let found: Vec<_> = (1..=11).step_by(2).map(|id| ids.find(id)).collect();
        let expected = [
            Found::Open(0),
            Found::Skipped,
            Found::Skipped,
            Found::Open(1),
            Found::Cut,
            Found::Idle,
        ];
        assert_eq!(found, expected);
        assert_eq!(ids.find(2), Found::Idle, "the other side's");
        ids.close(7, Mark::Ended);
        assert_eq!(ids.find(7), Found::Ended);
    }

    #[test]
    fn an_open_stream_stays_known_however_many_follow() {
        let mut ids = Ids::new(1);
        ids.open(1, 5);
        ids.open(3, 6);
        for id in (5..20_001).step_by(2) {
            ids.open(id, 7);
            ids.close(id, Mark::Ended);
        }
        assert_eq!((ids.find(1), ids.find(3)), (Found::Open(5), Found::Open(6)));
        assert_eq!(ids.find(5), Found::Forgotten);
        assert_eq!(ids.find(19_999), Found::Ended);
        ids.close(3, Mark::Cut);
        assert_eq!((ids.find(1), ids.find(3)), (Found::Open(5), Found::Forgotten));
        assert!(ids.ring.len() <= SPAN && ids.ring.capacity() <= 2 * SPAN);
        ids.open(0x7fff_ffff, 9);
        assert_eq!((ids.find(1), ids.find(0x7fff_ffff)), (Found::Open(5), Found::Open(9)));
        assert_eq!(ids.find(0x7fff_fffd), Found::Forgotten);
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_map(steps in proptest::collection::vec(
            (0_u32..700, any::<bool>(), any::<bool>()).prop_map(|step| step), 1..400,
        )) {
            let mut ids = Ids::new(1);
            let mut map = std::collections::BTreeMap::new();
            for (skip, close, end) in steps {
                let id = ids.next() + if skip > 600 { (skip - 600) * 20 } else { skip % 3 * 2 };
                let place = u16::try_from(map.len() % 1000).expect("small");
                ids.open(id, place);
                map.insert(id, place);
                if close && let Some((&id, _)) = map.iter().nth(skip as usize % map.len()) {
                    map.remove(&id);
                    ids.close(id, if end { Mark::Ended } else { Mark::Cut });
                }
                for (&id, &place) in &map {
                    prop_assert_eq!(ids.find(id), Found::Open(place));
                }
            }
        }
    }
}
