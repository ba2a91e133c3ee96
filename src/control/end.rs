//! How a connection ended: by word of the other end, or in silence. A process that ends, however badly,
//! has its system say so; a machine without power and a network that drops packets say nothing, and
//! from here nobody can tell which of the two it is.

use std::{
    io::{self, ErrorKind},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// From a stream's end until its connection's, when they end together.
const TOGETHER: Duration = Duration::from_millis(100);

/// How one connection ended.
#[derive(Debug, Default)]
pub(crate) struct End {
    /// The other end said that it is over.
    heard: AtomicBool,
    /// It is over.
    ended: CancellationToken,
}

impl End {
    /// Takes the outcome of a read into a buffer with so much room.
    pub(crate) fn note(&self, read: Result<usize, &io::Error>, room: usize) {
        use ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
        let heard = match read {
            Ok(bytes) => bytes == 0 && room > 0,
            Err(error) => matches!(
                error.kind(),
                UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe
            ),
        };
        if heard {
            self.heard.store(true, Ordering::Relaxed);
        }
    }

    /// The connection is over.
    pub(crate) fn ended(&self) {
        self.ended.cancel();
    }

    /// Whether the connection of a stream that is over is over too, and the other end did not say so.
    pub(crate) async fn was_silent(&self) -> bool {
        let heard = || self.heard.load(Ordering::Relaxed);
        !heard() && timeout(TOGETHER, self.ended.cancelled()).await.is_ok() && !heard()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, ErrorKind};

    use super::End;

    #[tokio::test(start_paused = true)]
    async fn only_a_connection_that_ended_without_a_word_was_silent() {
        let error = |kind: ErrorKind| Some(io::Error::from(kind));
        for (bytes, error, ended, silent) in [
            (1, None, false, false),
            (1, None, true, true),
            (0, None, true, false),
            (0, error(ErrorKind::ConnectionReset), true, false),
            (0, error(ErrorKind::UnexpectedEof), true, false),
            (0, error(ErrorKind::TimedOut), true, true),
            (0, error(ErrorKind::HostUnreachable), true, true),
        ] {
            let end = End::default();
            end.note(error.as_ref().map_or(Ok(bytes), Err), 8);
            if ended {
                end.ended();
            }
            assert_eq!(end.was_silent().await, silent, "{bytes} {error:?} {ended}");
        }
    }

    #[tokio::test]
    async fn a_read_into_no_room_says_nothing() {
        let end = End::default();
        end.note(Ok(0), 0);
        end.ended();
        assert!(end.was_silent().await);
    }
}
