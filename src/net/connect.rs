//! Connections with a bound on how long they may take.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    net::{TcpStream, lookup_host},
    time::{Instant, timeout_at},
};

use super::options::tune;

/// How many of a name's addresses are tried.
const ADDRESSES_MAX: usize = 8;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// It took longer than permitted.
    #[error("no connection to {to} within {}", seconds(.bound))]
    Timeout {
        /// The address or name asked for.
        to: String,
        /// How long was waited.
        bound: Duration,
    },
    /// It was refused or there is no way to it.
    #[error("can not connect to {to}")]
    Refused {
        /// The address or name asked for.
        to: String,
        /// What the system said.
        source: io::Error,
    },
    /// The name has no address.
    #[error("can not find the address of {to}")]
    Name {
        /// The name asked for.
        to: String,
        /// What the resolver said.
        source: io::Error,
    },
}

/// Connects to an address within the bound and sets the stream's options.
///
/// # Errors
/// When the bound passes or the connection is refused.
pub async fn connect(to: SocketAddr, bound: Duration) -> Result<TcpStream, ConnectError> {
    connect_until(&[to], &to.to_string(), Instant::now() + bound, bound).await
}

/// Looks a `host:port` up and connects to the first of its addresses that answers, all within the
/// bound; each address but the last has an equal share of what is left.
///
/// # Errors
/// When the name is unknown, the bound passes, or every address refuses.
pub async fn connect_host(to: &str, bound: Duration) -> Result<TcpStream, ConnectError> {
    let end = Instant::now() + bound;
    let found = timeout_at(end, lookup_host(to)).await;
    let found = found.map_err(|_| ConnectError::Timeout { to: to.to_owned(), bound })?;
    let unknown = |source| ConnectError::Name { to: to.to_owned(), source };
    let addresses: Vec<SocketAddr> = found.map_err(unknown)?.take(ADDRESSES_MAX).collect();
    connect_until(&addresses, to, end, bound).await
}

async fn connect_until(
    addresses: &[SocketAddr],
    to: &str,
    end: Instant,
    bound: Duration,
) -> Result<TcpStream, ConnectError> {
    let nothing = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let mut last = ConnectError::Name { to: to.to_owned(), source: nothing };
    let mut left = u32::try_from(addresses.len()).unwrap_or(u32::MAX);
    for address in addresses {
        let now = Instant::now();
        let share = end.saturating_duration_since(now) / left.max(1);
        left = left.saturating_sub(1);
        last = match timeout_at(now + share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => match tune(&stream) {
                Ok(()) => return Ok(stream),
                Err(source) => ConnectError::Refused { to: to.to_owned(), source },
            },
            Ok(Err(source)) => ConnectError::Refused { to: to.to_owned(), source },
            Err(_) => ConnectError::Timeout { to: to.to_owned(), bound },
        };
    }
    Err(last)
}

/// `1.5s`; durations in messages are at most minutes.
fn seconds(duration: &Duration) -> String {
    format!("{}s", duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, time::Duration};

    use socket2::{Domain, Socket, Type};

    use super::{ConnectError, connect, connect_host};
    use crate::net::{accept, listen};

    const BOUND: Duration = Duration::from_secs(5);

    fn loopback() -> SocketAddr {
        "127.0.0.1:0".parse().expect("an address")
    }

    #[tokio::test]
    async fn both_ends_send_small_frames_at_once() {
        let listener = listen(loopback()).expect("a free port");
        let address = listener.local_addr().expect("bound");
        let name = format!("localhost:{}", address.port());
        let connecting = connect_host(&name, BOUND);
        let (near, far) = tokio::join!(connecting, accept(&listener));
        assert!(near.expect("connected").nodelay().expect("open"));
        assert!(far.expect("accepted").0.nodelay().expect("open"));
    }

    #[tokio::test]
    async fn a_closed_port_refuses_and_says_which() {
        let listener = listen(loopback()).expect("a free port");
        let address = listener.local_addr().expect("bound");
        drop(listener);
        let error = connect(address, BOUND).await.expect_err("nobody listens");
        assert!(matches!(error, ConnectError::Refused { .. }), "{error:?}");
        assert_eq!(error.to_string(), format!("can not connect to {address}"));
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_named() {
        let listener = listen(loopback()).expect("a free port");
        let address = listener.local_addr().expect("bound");
        let error = listen(address).expect_err("taken");
        assert_eq!(error.to_string(), format!("can not listen on {address}"));
        assert_eq!(error.source.kind(), std::io::ErrorKind::AddrInUse);
    }

    #[tokio::test]
    async fn nothing_is_waited_for_beyond_the_bound() {
        let full = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        full.bind(&loopback().into()).expect("a free port");
        full.listen(0).expect("room for one");
        let address = full.local_addr().expect("bound").as_socket().expect("IPv4");
        let bound = Duration::from_millis(20);
        let mut held = Vec::new();
        let error = loop {
            match connect(address, bound).await {
                Ok(stream) if held.len() < 16 => held.push(stream),
                other => break other.expect_err("nobody accepts"),
            }
        };
        assert_eq!(error.to_string(), format!("no connection to {address} within 0.02s"));
    }
}
