//! The few places in which a codec remembers what it has read or written lately. They hold for one
//! state of the dynamic table; their memory is kept when they are forgotten.

const SLOTS: usize = 8;
/// How much may be remembered in all places together, in bytes.
const HELD_MAX: usize = 16 * 1024;
/// Once all places are taken, one in so many misses replaces one: what never comes back costs little
/// then, and of more than there are places some stay remembered.
const REPLACE: u8 = 4;

/// What is remembered in one place.
pub(super) trait Remembered: Default {
    /// How much it holds of what was remembered, in bytes.
    fn held(&self) -> usize;

    /// How much memory it has besides itself, in bytes.
    fn memory(&self) -> usize;
}

/// Places.
#[derive(Default)]
pub(super) struct Slots<T> {
    slots: Vec<T>,
    /// How many of the slots are in use; the memory of the others is kept.
    live: usize,
    misses: u8,
    next: usize,
}

impl<T: Remembered> Slots<T> {
    /// Those in use.
    #[inline]
    pub(super) fn live(&self) -> &[T] {
        &self.slots[..self.live]
    }

    /// Those in use, to change them.
    #[inline]
    pub(super) fn live_mut(&mut self) -> &mut [T] {
        &mut self.slots[..self.live]
    }

    /// A place for something of `size` bytes, if it is to be remembered; it may hold something else.
    pub(super) fn place(&mut self, size: usize) -> Option<usize> {
        if self.live().iter().map(T::held).sum::<usize>() + size > HELD_MAX {
            self.live = 0;
        }
        if self.live < SLOTS {
            if self.live == self.slots.len() {
                self.slots.push(T::default());
            }
            self.live += 1;
            return Some(self.live - 1);
        }
        self.misses = (self.misses + 1) % REPLACE;
        if self.misses > 0 {
            return None;
        }
        self.next = (self.next + 1) % SLOTS;
        Some(self.next)
    }

    /// The table changed: nothing holds any more. The memory is kept.
    #[inline]
    pub(super) fn forget(&mut self) {
        self.live = 0;
    }

    /// How much memory there is besides itself, in bytes.
    pub(super) fn memory(&self) -> usize {
        let slots = self.slots.iter().map(T::memory).sum::<usize>();
        self.slots.capacity() * size_of::<T>() + slots
    }
}
