//! Values with a unit, and names: parsed once at the edge, so that the rest of the program can not
//! hold a wrong one.

mod name;

pub use name::ServiceName;
