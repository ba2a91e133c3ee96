//! What the system and the supervisor may ask of a running role.

use std::io;

use tokio::{
    io::AsyncReadExt as _,
    net::UnixStream,
    signal::unix::{Signal, SignalKind, signal},
};

/// One wish from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// SIGTERM, or the supervisor is gone: end in order.
    Terminate,
    /// SIGINT: the same, from a person at a terminal.
    Interrupt,
    /// SIGHUP: read the configuration again.
    Reload,
}

/// The signals that a role listens to, and the supervisor's end.
#[derive(Debug)]
pub struct Wishes {
    terminate: Signal,
    interrupt: Signal,
    reload: Signal,
    lifeline: Option<UnixStream>,
}

impl Wishes {
    /// Listens from now on; these signals no longer end the process by themselves. With
    /// `supervised`, stdin is a socket whose other end a supervisor holds, and its end is a wish to
    /// terminate: a supervisor that dies whatever way takes its children along.
    ///
    /// # Errors
    /// When the system gives no handler, or stdin is no socket.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn listen(supervised: bool) -> io::Result<Self> {
        let lifeline = if supervised { Some(stdin_socket()?) } else { None };
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            reload: signal(SignalKind::hangup())?,
            lifeline,
        })
    }

    /// The next one. Cancelling it loses none.
    pub async fn next(&mut self) -> Wish {
        let gone = async {
            match &mut self.lifeline {
                Some(socket) => ended(socket).await,
                None => std::future::pending().await,
            }
        };
        let wish = tokio::select! {
            _ = self.terminate.recv() => Wish::Terminate,
            _ = self.interrupt.recv() => Wish::Interrupt,
            _ = self.reload.recv() => Wish::Reload,
            () = gone => Wish::Terminate,
        };
        if wish == Wish::Terminate {
            // The end of the supervisor stays readable; it is told once.
            self.lifeline = None;
        }
        wish
    }
}

fn stdin_socket() -> io::Result<UnixStream> {
    use std::os::fd::AsFd as _;

    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    let socket = std::os::unix::net::UnixStream::from(socket);
    socket.set_nonblocking(true)?;
    UnixStream::from_std(socket)
}

async fn ended(socket: &mut UnixStream) {
    let mut ignored = [0; 64];
    while let Ok(1..) = socket.read(&mut ignored).await {}
}
