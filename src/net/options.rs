//! The options of every TCP stream.

use std::{io, os::fd::AsFd, time::Duration};

use socket2::{SockRef, TcpKeepalive};

/// How long a connection is silent before the kernel asks whether the peer is still there.
pub const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
/// How long it waits between two such questions.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// After how many unanswered ones the connection ends.
pub const KEEPALIVE_PROBES: u32 = 3;
/// How long sent bytes may stay unacknowledged before the connection ends (`TCP_USER_TIMEOUT`):
/// without it a vanished host holds a stream for a quarter of an hour.
pub const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(30);

/// Sets them on a stream, or on a listener for all that it accepts: small frames leave at once, a dead peer is noticed.
///
/// # Errors
/// When the stream is closed already or is no TCP stream.
pub fn tune(stream: &impl AsFd) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE);
    let keepalive = keepalive.with_interval(KEEPALIVE_INTERVAL).with_retries(KEEPALIVE_PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))?;
    Ok(())
}
