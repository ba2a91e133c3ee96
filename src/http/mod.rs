//! What HTTP/1.1 and HTTP/2 share: heads read as slices, what is taken out of them on the way, and the
//! answers that the mesh itself makes.

pub mod answer;
mod block;
mod event;
pub mod fields;
pub mod grpc;
mod head;
mod name;
pub(crate) mod octets;

pub(crate) use block::FIELD_OVERHEAD;
pub use block::{Field, HeaderBlock, Mark, Slice};
pub use event::{ConnectionError, ErrorCode, Event, OpenError, StreamError};
pub use head::{Fields, Head};
pub use name::Token;
