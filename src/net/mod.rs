//! Sockets: listeners on the address asked for, connections with a bound.
//!
//! Every TCP stream of the program is made or accepted here and has the same options: no Nagle
//! delay, keepalive, and an end for a peer that acknowledges nothing.

mod connect;
mod listen;
mod options;

pub use connect::{ConnectError, connect, connect_host};
pub use listen::{ListenError, accept, listen};
pub use options::{KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_PROBES, UNACKNOWLEDGED_MAX, tune};
