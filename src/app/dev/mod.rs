//! `outrigger dev`: a control plane and several services with their sidecars on one machine, each a
//! process of its own, and all of them gone when this one is, however it ends.

mod config;
mod directory;
mod instance;
mod mesh;
mod output;
mod pass;
mod process;

pub use config::{Config, ConfigError, Restart, Service, Words};
pub use directory::Directory;
pub use instance::{Instance, Serving, State};
pub use mesh::{Mesh, Options, StartError};
pub use output::Output;
