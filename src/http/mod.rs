//! What HTTP/1.1 and HTTP/2 share: heads read as slices, replay buffers for bodies and the answers
//! that the mesh itself makes.

pub mod answer;
mod block;
mod event;
pub mod fields;
pub mod grpc;
mod head;
mod name;
mod replay;

pub(crate) use block::{FIELD_OVERHEAD, Mark};
pub use block::{Field, HeaderBlock};
pub use event::{ConnectionError, ErrorCode, Event, OpenError, StreamError};
pub use head::{Fields, Head};
pub use name::Token;
pub use replay::{Cancelled, Replay, ReplayBody};
