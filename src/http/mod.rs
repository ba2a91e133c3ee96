//! What HTTP/1.1 and HTTP/2 share: heads read as slices, replay buffers for bodies and the answers
//! that the mesh itself makes.

mod head;

pub use head::{Fields, Head};
