//! Listeners, and accepting from them without end.

use std::{io, net::SocketAddr, time::Duration};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

use super::options::tune;

/// How many connections the kernel holds that nobody accepted yet.
const BACKLOG: i32 = 4096;
/// How long to wait when no file descriptor is left, so that the loop does not spin.
const EXHAUSTED_WAIT: Duration = Duration::from_millis(50);

/// Why there is no listener.
#[derive(Debug, thiserror::Error)]
#[error("can not listen on {address}")]
pub struct ListenError {
    /// The address asked for.
    pub address: SocketAddr,
    /// What the system said.
    pub source: io::Error,
}

/// Listens on exactly this address; port 0 takes a free one, which `local_addr` tells. `[::]` is
/// IPv4 too where the system has it so. Needs a Tokio runtime.
///
/// # Errors
/// When the address is taken, not of this machine, or not permitted.
pub fn listen(address: SocketAddr) -> Result<TcpListener, ListenError> {
    bind(address).map_err(|source| ListenError { address, source })
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    // A restarted process takes its port back while old connections still linger in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    // Accepted sockets inherit them, each of which would cost six system calls otherwise.
    tune(&socket)?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// The next connection, which has the options of its listener. What concerns a single connection (it was gone before
/// it was accepted) or passes (no file descriptors left) is no end of the listener.
///
/// Cancel safe: no connection is lost.
///
/// # Errors
/// When the listener itself is broken.
pub async fn accept(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    loop {
        match listener.accept().await {
            Ok(accepted) => return Ok(accepted),
            Err(error) if is_exhausted(&error) => {
                tracing::warn!(%error, "can not accept connections, waiting");
                tokio::time::sleep(EXHAUSTED_WAIT).await;
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => return Err(error),
        }
    }
}

fn is_exhausted(error: &io::Error) -> bool {
    let codes = [
        rustix::io::Errno::MFILE,
        rustix::io::Errno::NFILE,
        rustix::io::Errno::NOBUFS,
        rustix::io::Errno::NOMEM,
    ];
    codes.iter().any(|code| error.raw_os_error() == Some(code.raw_os_error()))
}

/// Linux hands errors that are pending on the new connection to `accept` (accept(2)).
fn is_of_one_connection(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let codes = [
        Errno::PROTO,
        Errno::NOPROTOOPT,
        Errno::OPNOTSUPP,
        Errno::PERM,
        Errno::HOSTDOWN,
        Errno::HOSTUNREACH,
        Errno::NETDOWN,
        Errno::NETUNREACH,
    ];
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    ) || codes.iter().any(|code| error.raw_os_error() == Some(code.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use socket2::SockRef;
    use tokio::net::TcpStream;

    use super::{accept, listen};
    use crate::net::options::{
        KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_PROBES, UNACKNOWLEDGED_MAX,
    };

    #[tokio::test]
    async fn an_accepted_connection_has_the_options_of_its_listener() {
        let listener = listen("127.0.0.1:0".parse().expect("an address")).expect("a port");
        let to = listener.local_addr().expect("bound");
        let (dialled, accepted) = tokio::join!(TcpStream::connect(to), accept(&listener));
        let (_open, (stream, _)) = (dialled.expect("connected"), accepted.expect("accepted"));
        let socket = SockRef::from(&stream);
        assert!(socket.tcp_nodelay().expect("open"));
        assert!(socket.keepalive().expect("open"));
        assert_eq!(socket.tcp_keepalive_time().expect("open"), KEEPALIVE_IDLE);
        assert_eq!(socket.tcp_keepalive_interval().expect("open"), KEEPALIVE_INTERVAL);
        assert_eq!(socket.tcp_keepalive_retries().expect("open"), KEEPALIVE_PROBES);
        #[cfg(target_os = "linux")]
        assert_eq!(socket.tcp_user_timeout().expect("open"), Some(UNACKNOWLEDGED_MAX));
    }
}
