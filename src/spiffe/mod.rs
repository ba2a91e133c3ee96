//! SPIFFE words: identities, SVIDs and trust bundles, without I/O.

mod id;

pub use id::{IdError, SpiffeId};
