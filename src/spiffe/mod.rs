//! SPIFFE words: identities, SVIDs and trust bundles, without I/O.

mod bundle;
mod id;
mod leaf;
mod pem;
mod svid;
mod well_known;

pub use bundle::{BundleError, TrustBundle, fingerprint, hex, sha256};
pub use id::{IdError, SpiffeId};
pub use leaf::{Leaf, LeafError, may_sign_der, not_after, subject, validity};
pub use pem::certificate_pem;
pub use svid::{Svid, SvidError};
pub use well_known::{CONTROL_PLANE_PATH, CREDENTIAL_PATH, control_plane, credential};
