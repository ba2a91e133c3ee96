//! THE DATA PLANE. Read `connection.rs`, the way of a connection, and then `request.rs`, the way of a
//! request; everything else here is a part of those two stories.
//!
//! One acceptor per listener hands each socket to the worker with the fewest connections; one worker
//! per core owns its connections, streams and pools, on one thread. Workers share the snapshot, the
//! table of destinations and what is counted, and nothing else.
//!
//! | files | hold |
//! |---|---|
//! | `request` `attempt` `ending` `exchange` | the story of a request |
//! | `inbound` `outbound` `route` `lane` `headers` `memory` | where it goes and what is written |
//! | `stream` `splice` | its two ends as the story sees them, and how bodies pass between them |
//! | `link` `events` `host` `codec` `wire` `hub` `tasks` `room` `window` `holding` `pressure` | connections under way, and the turn of the loop |
//! | `connection` `detect` `tunnel` `bytes` | what comes in |
//! | `opaque` `relay` | what is no HTTP |
//! | `pool` `dial` `expiry` | what goes out |
//! | `leave` | what is left when draining ends |

mod acceptor;
mod attempt;
mod bytes;
mod codec;
mod connection;
mod core;
mod destination;
mod detect;
mod dial;
mod ending;
mod ends;
mod events;
mod exchange;
mod expiry;
mod fault;
mod headers;
mod holding;
mod host;
mod hub;
mod inbound;
mod io;
mod lane;
mod leave;
mod link;
mod memory;
mod opaque;
mod outbound;
mod plan;
mod pool;
mod pressure;
mod relay;
mod request;
mod room;
mod route;
mod settings;
mod splice;
mod start;
mod stream;
mod tasks;
mod tunnel;
mod watch;
mod window;
mod wire;
mod worker;

pub use destination::{EndpointReport, EndpointState};
pub use settings::{Address, App, CONNECTION_AGE_MAX, Settings, Upstream};
pub use start::{Addresses, Discover, Proxy, Shared, StartError};

#[cfg(test)]
mod tests;
