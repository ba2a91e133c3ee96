//! What HTTP/1.1 and HTTP/2 share: heads read as slices, replay buffers for bodies and the answers
//! that the mesh itself makes.

pub mod answer;
pub mod fields;
pub mod grpc;
mod head;
mod replay;

pub use head::{Fields, Head};
pub use replay::{Cancelled, Replay, ReplayBody};
