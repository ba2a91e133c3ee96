//! Values with a unit, and names: parsed once at the edge, so that the rest of the program can not
//! hold a wrong one. Every parser says what it expected ([`UnitError`], [`NameError`]), because its
//! words are what a person reads below the wrong line of a file.

mod byte_size;
pub mod duration;
mod error;
pub mod name;
mod percent;
mod rate;

pub use byte_size::ByteSize;
pub use error::UnitError;
pub use name::{NameError, ServiceName};
pub use percent::Percent;
pub use rate::Rate;
