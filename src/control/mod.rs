//! The control plane: store, validate, compile, push; registry and status.
//!
//! [`ControlPlane`] is all that the rest of the program sees; everything else is done through its
//! gRPC API. One writer at a time changes the store and then the [`world`], the immutable picture
//! that everybody reads; a task per sidecar tells it what of the world concerns it and how it
//! changed.

mod admin;
mod apply;
mod audit;
mod auth;
mod backup;
mod ca;
mod conditions;
mod config;
mod credential;
mod credentials;
mod delta;
mod difference;
mod discovery;
mod end;
mod error;
mod filter;
mod fleet;
mod gone;
mod grants;
mod guard;
mod issue;
mod key;
mod layers;
mod lease;
mod limit;
mod list;
mod listen;
mod live;
mod log;
mod metrics;
mod open;
mod plan;
mod plane;
mod refs;
mod registry;
mod related;
mod revisions;
mod rollback;
mod rotation;
#[cfg(test)]
mod sample;
mod scope;
mod selector;
mod server;
mod stand_in;
mod state;
mod status;
mod store;
mod tar;
mod time;
mod tokens;
mod traffic;
mod trail;
mod transitions;
mod trust;
mod upload;
mod validate;
mod watch;
mod world;
mod write;

pub use backup::{BackupError, Listed, Manifest, check as check_backup, restore};
pub use credential::CredentialFiles;
pub use plane::{ControlPlane, LEAF_TTL, OpenError, Options, Root};
pub use store::StoreError;

#[cfg(test)]
mod tests;
