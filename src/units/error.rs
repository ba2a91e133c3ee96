//! What is wrong with a quantity. One small error for every unit: what the text should have been,
//! and how such a thing is written, so that messages and hints read alike everywhere.

/// A text is not the quantity it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{message}; expected {expected}")]
pub struct UnitError {
    /// What is wrong, without the text itself: `not a duration`.
    pub message: &'static str,
    /// How it is written: `h, m, s or ms after each number, like 250ms or 1h30m`.
    pub expected: &'static str,
}

impl UnitError {
    pub(super) const fn new(message: &'static str, expected: &'static str) -> Self {
        Self { message, expected }
    }
}
