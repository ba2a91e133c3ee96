//! The streams of one connection by number. Numbers grow and streams are short, so a window over the
//! latest ones is a plain array; the few that live long move to a map when the window leaves them
//! behind.

use std::collections::VecDeque;

use rustc_hash::FxHashMap;

/// The widest window. Whatever is older is in the map.
const SPAN_MAX: u32 = 1024;

/// Values by growing numbers.
pub(super) struct Window<T> {
    /// By how much a number is shifted: HTTP/2's are every second one.
    shift: u32,
    base: u32,
    recent: VecDeque<Option<T>>,
    old: FxHashMap<u32, T>,
    len: usize,
}

impl<T> Window<T> {
    /// Numbers are divided by two to the power of `shift`.
    pub(super) fn new(shift: u32) -> Self {
        Self { shift, base: 0, recent: VecDeque::new(), old: FxHashMap::default(), len: 0 }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Puts one in; an old value of the same number goes.
    pub(super) fn insert(&mut self, number: u32, value: T) {
        let place = number >> self.shift;
        while place.saturating_sub(self.base) >= SPAN_MAX {
            match self.recent.pop_front() {
                Some(Some(left)) => {
                    self.old.insert(self.base, left);
                    self.base += 1;
                }
                Some(None) => self.base += 1,
                None => self.base = place,
            }
        }
        if self.recent.is_empty() {
            self.base = place;
        }
        let Some(index) = self.index(place) else {
            self.len += usize::from(self.old.insert(place, value).is_none());
            return;
        };
        while self.recent.len() <= index {
            self.recent.push_back(None);
        }
        self.len += usize::from(self.recent[index].replace(value).is_none());
    }

    fn index(&self, place: u32) -> Option<usize> {
        place.checked_sub(self.base).and_then(|index| usize::try_from(index).ok())
    }

    /// The value of that number.
    pub(super) fn get(&self, number: u32) -> Option<&T> {
        let place = number >> self.shift;
        match self.index(place) {
            Some(index) => self.recent.get(index)?.as_ref(),
            None => self.old.get(&place),
        }
    }

    /// Takes one out.
    pub(super) fn remove(&mut self, number: u32) -> Option<T> {
        let place = number >> self.shift;
        let removed = match self.index(place) {
            Some(index) => {
                let removed = self.recent.get_mut(index)?.take();
                while matches!(self.recent.front(), Some(None)) {
                    self.recent.pop_front();
                    self.base += 1;
                }
                removed
            }
            None => self.old.remove(&place),
        };
        self.len -= usize::from(removed.is_some());
        removed
    }

    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = &T> {
        self.old.values().chain(self.recent.iter().flatten())
    }

    /// Takes all out.
    pub(super) fn take(&mut self) -> Vec<T> {
        self.len = 0;
        let old = std::mem::take(&mut self.old).into_values();
        old.chain(std::mem::take(&mut self.recent).into_iter().flatten()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{SPAN_MAX, Window};

    #[test]
    fn streams_are_found_until_they_are_removed() {
        let mut window = Window::new(1);
        for number in [1_u32, 3, 9] {
            window.insert(number, number);
        }
        assert_eq!((window.len(), window.get(3), window.get(5)), (3, Some(&3), None));
        assert_eq!((window.remove(1), window.remove(1)), (Some(1), None));
        assert_eq!((window.remove(3), window.remove(9), window.len()), (Some(3), Some(9), 0));
        window.insert(2_000_000_001, 7);
        assert_eq!(window.get(2_000_000_001), Some(&7));
        assert_eq!(window.take(), [7]);
    }

    #[test]
    fn one_old_stream_does_not_hold_the_memory_of_those_after_it() {
        let mut window = Window::new(1);
        window.insert(1, 1);
        for number in (3..200_001).step_by(2) {
            window.insert(number, number);
            assert_eq!(window.remove(number), Some(number));
        }
        window.insert(400_001, 2);
        let span = usize::try_from(SPAN_MAX).expect("small");
        assert!(window.recent.capacity() <= span * 2, "{}", window.recent.capacity());
        assert_eq!((window.get(1), window.get(400_001), window.len()), (Some(&1), Some(&2), 2));
        assert_eq!((window.remove(1), window.len()), (Some(1), 1));
    }
}
