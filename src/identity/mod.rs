//! The mesh CA, join tokens, CSRs, and a sidecar's SVID from first join through every renewal.
//!
//! The control plane holds an [`Authority`] and checks [`JoinToken`]s. A sidecar makes a key and a
//! CSR ([`csr`]), keeps what it got in its data directory ([`disk`]) and renews it ([`rotation`]).
//! A private key never leaves the machine it was made on, and is new at every renewal.

mod ca;
pub mod csr;
pub mod disk;
mod exchange;
mod files;
mod root;
mod roots;
pub mod rotation;
mod token;

pub use ca::{Authority, BACKDATE, CaError, Issued};
pub use exchange::{Phase, Rotation, RotationError};
pub use files::{Files, FilesError};
pub use root::RootKey;
pub use roots::{Opened, Roots};
pub use token::{JoinToken, TokenError, secret_matches};

#[cfg(test)]
mod tests;
