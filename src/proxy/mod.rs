//! THE DATA PLANE. Read `connection.rs`, the way of a connection, and then `request.rs`, the way of a
//! request; everything else here is a part of those two stories.
//!
//! One acceptor per listener hands each socket to the worker with the fewest connections; one worker
//! per core owns its connections, streams and pools, on one thread. Workers share the snapshot, the
//! table of destinations and what is counted, and nothing else. HTTP is hyper's low-level connections;
//! what is decided and recorded about a request does not know that.

mod acceptor;
mod attempt;
mod connection;
mod core;
mod destination;
mod detect;
mod dial;
mod ending;
mod exchange;
mod exec;
mod expiry;
mod fault;
mod headers;
mod inbound;
mod io;
mod lane;
mod memory;
mod outbound;
mod pool;
mod request;
mod route;
mod settings;
mod start;
mod stream;
mod tunnel;
mod watch;
mod worker;

pub use destination::{EndpointReport, EndpointState};
pub use settings::{Address, App, CONNECTION_AGE_MAX, Settings, Upstream};
pub use start::{Addresses, Discover, Proxy, Shared, StartError};

#[cfg(test)]
mod tests;
