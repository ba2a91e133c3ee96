//! Listeners. Each has one acceptor, which lives on a worker and hands every socket to the worker with
//! the fewest connections: with one listener per worker the kernel would spread them by hash, and a
//! few long-lived connections would often leave a worker idle. What stays with the worker that
//! accepted it costs no other thread's attention.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    rc::Rc,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    net::{TcpListener, UnixListener},
    time::Instant,
};

use super::{
    connection::Side,
    ends::Ends,
    settings::{Address, CONNECTIONS_MAX, WARN_EVERY},
    start::StartError,
    worker::{Crew, Handed, Socket, Worker},
};
use crate::{
    net::{self, ListenError},
    task::Drain,
};

/// A listener that is open.
pub(super) enum Listener {
    /// TCP.
    Tcp(TcpListener, SocketAddr),
    /// A Unix socket, whose file goes when the listener does.
    Unix(UnixListener, SocketFile),
}

impl Listener {
    pub(super) fn open(address: &Address) -> Result<Self, StartError> {
        match address {
            Address::Tcp(address) => Self::tcp(net::listen(*address)?),
            Address::Unix(path) => {
                Self::unix(path).map_err(|source| StartError::Unix { path: path.clone(), source })
            }
        }
    }

    pub(super) fn tcp(listener: TcpListener) -> Result<Self, StartError> {
        let unknown = SocketAddr::from((IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0));
        let address =
            listener.local_addr().map_err(|source| ListenError { address: unknown, source })?;
        Ok(Self::Tcp(listener, address))
    }

    fn unix(path: &Path) -> io::Result<Self> {
        // A socket file that nobody listens on is left over from a process that was killed.
        if std::os::unix::net::UnixStream::connect(path)
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
        {
            std::fs::remove_file(path)?;
        }
        let listener = UnixListener::bind(path)?;
        Ok(Self::Unix(listener, SocketFile(path.to_owned())))
    }

    /// Where it listens, if that is an address.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(_, address) => Some(*address),
            Self::Unix(..) => None,
        }
    }

    /// The same, woken by the runtime of this thread.
    pub(super) fn moved_here(self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(listener, address) => {
                Self::Tcp(TcpListener::from_std(listener.into_std()?)?, address)
            }
            Self::Unix(listener, file) => {
                Self::Unix(UnixListener::from_std(listener.into_std()?)?, file)
            }
        })
    }

    /// The next connection. Cancel safe.
    async fn accept(&self) -> io::Result<(Socket, Arc<str>, Option<Ends>)> {
        match self {
            Self::Tcp(listener, _) => {
                let (stream, peer) = net::accept(listener).await?;
                let ends = Ends::new(peer, stream.local_addr()?);
                Ok((Socket::Tcp(stream), peer.to_string().into(), Some(ends)))
            }
            Self::Unix(listener, file) => {
                let (stream, _) = listener.accept().await?;
                let address = format!("unix:{}", file.0.display());
                Ok((Socket::Unix(stream), address.into(), None))
            }
        }
    }
}

/// The file of a Unix socket.
pub(super) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Somebody else may have removed it.
        drop(std::fs::remove_file(&self.0));
    }
}

/// Connections of one side; beyond the limit new ones are closed at once. Sides are counted apart,
/// so that strangers can not lock the application out.
#[derive(Debug, Clone, Default)]
pub(super) struct Limit(Arc<AtomicUsize>);

/// A connection that counts.
#[derive(Debug)]
pub(super) struct Counted(Arc<AtomicUsize>);

impl Limit {
    fn count(&self) -> Option<Counted> {
        let before = self.0.fetch_add(1, Ordering::Relaxed);
        let counted = Counted::of(&self.0);
        (before < CONNECTIONS_MAX).then_some(counted)
    }
}

impl Counted {
    /// Takes one off `counter` when dropped; the caller has added it.
    pub(super) fn of(counter: &Arc<AtomicUsize>) -> Self {
        Self(Arc::clone(counter))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whom a listener's connections are for, and how many there may be.
pub(super) struct Acceptor {
    pub(super) listener: Listener,
    pub(super) side: Side,
    pub(super) drain: Drain,
    pub(super) limit: Limit,
}

/// Accepts until asked to end or the crew is dismissed, and then closes the listener: who dials it
/// then is refused, which tells a sidecar that its request was unseen.
pub(super) async fn accept(worker: Rc<Worker>, crew: Weak<Crew>, acceptor: Acceptor) {
    let Acceptor { listener, side, drain, limit } = acceptor;
    let mut warned: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            biased;
            () = drain.signalled() => return,
            accepted = listener.accept() => accepted,
        };
        let (socket, address, ends) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // A Unix listener's errors are of one connection, or pass: no descriptors left.
                tracing::warn!(%error, "can not accept a connection");
                tokio::time::sleep(super::settings::ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(counted) = limit.count() else {
            // A flood of connections must not become a flood of lines.
            if warned.is_none_or(|last| last.elapsed() >= WARN_EVERY) {
                warned = Some(Instant::now());
                let max = CONNECTIONS_MAX;
                tracing::warn!(%address, max, "too many connections; new ones are closed");
            }
            continue;
        };
        let Some(crew) = crew.upgrade() else { return };
        let side = side.clone();
        let handed = Handed { socket, side, address, ends, guard: drain.guard(), counted };
        crew.hand(&worker, handed).await;
    }
}

#[cfg(test)]
mod tests {
    use super::Limit;
    use crate::proxy::settings::CONNECTIONS_MAX;

    #[test]
    fn a_connection_over_the_limit_is_not_taken_until_another_ends() {
        let limit = Limit::default();
        let mut open: Vec<_> = (0..CONNECTIONS_MAX).map(|_| limit.count()).collect();
        assert!(open.iter().all(Option::is_some));
        assert!(limit.count().is_none());
        drop(open.pop());
        assert!(limit.count().is_some());
    }
}
