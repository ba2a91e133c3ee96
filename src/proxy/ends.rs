//! Which connections this process has with itself. One that it dialled and that comes in by one of
//! its own listeners is a loop: the application's address, or a name outside the mesh, leads back
//! here, and each round would dial the next.
//!
//! Both ends are compared. The kernel gives one local port to several connections as long as they go
//! to different places, so another process's connection may well come from an address that is also
//! the local end of one of ours.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use rustc_hash::FxHashSet;
use tokio::net::TcpStream;

/// The two ends of a TCP connection, as the side that dialled sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Ends {
    from: SocketAddr,
    to: SocketAddr,
}

impl Ends {
    /// Those of a connection from `from` to `to`. An IPv4 address reads the same by a socket of
    /// either family.
    pub(super) fn new(from: SocketAddr, to: SocketAddr) -> Self {
        let canonical = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
        Self { from: canonical(from), to: canonical(to) }
    }

    /// Those of a connection that was dialled; `None` when it is gone already.
    pub(super) fn of(dialled: &TcpStream) -> Option<Self> {
        Some(Self::new(dialled.local_addr().ok()?, dialled.peer_addr().ok()?))
    }
}

/// The plaintext connections that this process has dialled and that are open.
#[derive(Debug, Default)]
pub(super) struct OwnSockets {
    open: Mutex<FxHashSet<Ends>>,
}

impl OwnSockets {
    /// Whether this process dialled that connection itself.
    pub(super) fn contains(&self, ends: Ends) -> bool {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).contains(&ends)
    }
}

/// One of them, as long as it is open.
#[derive(Debug)]
pub(super) struct OwnSocket {
    sockets: Arc<OwnSockets>,
    ends: Ends,
}

impl OwnSocket {
    pub(super) fn new(sockets: &Arc<OwnSockets>, ends: Ends) -> Self {
        sockets.open.lock().unwrap_or_else(PoisonError::into_inner).insert(ends);
        Self { sockets: Arc::clone(sockets), ends }
    }
}

impl Drop for OwnSocket {
    fn drop(&mut self) {
        self.sockets.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.ends);
    }
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, sync::Arc};

    use super::{Ends, OwnSocket, OwnSockets};

    fn ends(from: &str, to: &str) -> Ends {
        let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
        Ends::new(address(from), address(to))
    }

    #[test]
    fn a_connection_is_our_own_by_both_of_its_ends() {
        let sockets = Arc::new(OwnSockets::default());
        let own = OwnSocket::new(&sockets, ends("127.0.0.1:4000", "127.0.0.1:9090"));
        let second = OwnSocket::new(&sockets, ends("127.0.0.1:4000", "127.0.0.1:9091"));
        for (from, to, is_own) in [
            ("127.0.0.1:4000", "127.0.0.1:9090", true),
            ("127.0.0.1:4000", "127.0.0.1:9091", true),
            ("[::ffff:127.0.0.1]:4000", "[::ffff:127.0.0.1]:9090", true),
            // Another process's: it has the same local port to another place.
            ("127.0.0.1:4000", "127.0.0.1:15006", false),
            ("127.0.0.1:4001", "127.0.0.1:9090", false),
            ("127.0.0.2:4000", "127.0.0.1:9090", false),
        ] {
            assert_eq!(sockets.contains(ends(from, to)), is_own, "{from} -> {to}");
        }
        drop(second);
        assert!(sockets.contains(ends("127.0.0.1:4000", "127.0.0.1:9090")), "it is still open");
        drop(own);
        assert!(!sockets.contains(ends("127.0.0.1:4000", "127.0.0.1:9090")));
    }
}
