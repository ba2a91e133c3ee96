//! A connection's bytes on their way from and to its socket: sealed by TLS or plain, and nobody above
//! sees the difference. Plaintext is opened into the worker's shared buffer and sealed in full records.

use std::{
    io::{self, IoSlice, Read as _, Write as _},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use rustls_pki_types::CertificateDer;
use socket2::SockRef;
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};

use super::io::Socket;

/// How much is read from a socket at once.
pub(super) const READ_BYTES: usize = 64 * 1024;
/// How much is sealed before it is written: a stalled socket holds no more of it.
const SEAL_BYTES: usize = 64 * 1024;
/// The shared read buffer: what a socket gives at once, behind what was left of the time before.
const PLAIN_BYTES: usize = 160 * 1024;

/// The buffers of a worker that all of its connections read into.
pub(super) struct Buffers {
    /// What was opened.
    pub(super) plain: Vec<u8>,
    sealed: Vec<u8>,
}

impl Default for Buffers {
    fn default() -> Self {
        Self { plain: vec![0; PLAIN_BYTES], sealed: vec![0; READ_BYTES] }
    }
}

/// A socket and its TLS, if it has any.
pub(super) struct Wire {
    socket: Socket,
    tls: Option<Box<rustls::Connection>>,
    /// Bytes of the socket that were read before TLS or the codec was there.
    first: Vec<u8>,
    /// Whether the handshake may have read what comes after it.
    fresh: bool,
    /// Whether the peer has ended its side of TLS.
    closed: bool,
    /// What was sealed since nothing was left that TLS had to write.
    sealed: usize,
}

/// How a write went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Written {
    /// Everything is with the system.
    All,
    /// The socket takes no more for now; whoever asked is woken.
    Blocked,
}

impl Wire {
    /// A socket in plaintext; `first` was read from it already.
    pub(super) fn plain(socket: Socket, first: Vec<u8>) -> Self {
        Self { socket, tls: None, first, fresh: false, closed: false, sealed: 0 }
    }

    /// A socket whose TLS handshake is done; `first` is ciphertext that was read and not given to it.
    pub(super) fn sealed(socket: Socket, mut tls: rustls::Connection, first: Vec<u8>) -> Self {
        tls.set_buffer_limit(None);
        Self { socket, tls: Some(Box::new(tls)), first, fresh: true, closed: false, sealed: 0 }
    }

    /// Reads once, and opens it behind the first `from` bytes of `buffers.plain`. Returns how many
    /// bytes of plaintext there are now; 0 is the end.
    ///
    /// # Errors
    /// When the socket or TLS is broken.
    pub(super) fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        buffers: &mut Buffers,
        from: usize,
    ) -> Poll<io::Result<usize>> {
        if buffers.plain.len() < from + PLAIN_BYTES - READ_BYTES {
            buffers.plain.resize(from + PLAIN_BYTES, 0);
        }
        let Some(tls) = &mut self.tls else {
            if !self.first.is_empty() {
                let first = std::mem::take(&mut self.first);
                let end = from + first.len();
                if buffers.plain.len() < end {
                    buffers.plain.resize(end, 0);
                }
                buffers.plain[from..end].copy_from_slice(&first);
                return Poll::Ready(Ok(first.len()));
            }
            let room = &mut buffers.plain[from..from + READ_BYTES];
            return poll_read(&mut self.socket, cx, room);
        };
        if self.closed {
            return Poll::Ready(Ok(0));
        }
        let plain = &mut buffers.plain;
        let mut filled = from;
        if std::mem::take(&mut self.fresh) {
            let first = std::mem::take(&mut self.first);
            self.closed = open(tls, &first, plain, &mut filled)?;
        }
        while filled == from && !self.closed {
            let length = ready!(poll_read(&mut self.socket, cx, &mut buffers.sealed))?;
            if length == 0 {
                return Poll::Ready(Ok(0));
            }
            self.closed = open(tls, &buffers.sealed[..length], plain, &mut filled)?;
        }
        Poll::Ready(Ok(filled - from))
    }

    /// Seals and writes from the front of `output` and removes what was sealed. Whoever `cx` wakes is
    /// woken when the socket takes more.
    ///
    /// # Errors
    /// When the socket or TLS is broken.
    pub(super) fn poll_drain(
        &mut self,
        cx: &mut Context<'_>,
        output: &mut Vec<u8>,
    ) -> io::Result<Written> {
        let mut done = 0;
        let written = match &mut self.tls {
            None => drain_plain(&mut self.socket, cx, output, &mut done),
            Some(tls) => {
                let written = drain_sealed(&mut self.socket, tls, cx, output, &mut done);
                self.sealed = if tls.wants_write() { self.sealed + done } else { 0 };
                written
            }
        };
        if done == output.len() {
            output.clear();
        } else {
            output.drain(..done);
        }
        written
    }

    /// Bytes, about, that were sealed and wait for the socket.
    pub(super) fn unsent(&self) -> usize {
        self.sealed.min(SEAL_BYTES)
    }

    /// The certificates that the peer has shown; TLS keeps them.
    pub(super) fn peer_certificates(&self) -> &[CertificateDer<'static>] {
        self.tls.as_ref().and_then(|tls| tls.peer_certificates()).unwrap_or_default()
    }

    /// Says in TLS that nothing more comes, as far as the socket takes it at once.
    pub(super) fn say_goodbye(&mut self, cx: &mut Context<'_>) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
        }
        drop(self.poll_drain(cx, &mut Vec::new()));
    }

    /// Ends the sending half, as far as the socket takes it at once.
    pub(super) fn shut_down(&mut self, cx: &mut Context<'_>) {
        self.say_goodbye(cx);
        // Whether it was heard shows by what is read.
        let _ended = Pin::new(&mut self.socket).poll_shutdown(cx);
    }

    /// Ends the sending half once everything was written. Ready when the peer has been told; the other
    /// half stays open.
    ///
    /// # Errors
    /// When the socket or TLS is broken.
    pub(super) fn poll_shut_down(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(tls) = &mut self.tls {
            // The second time it says nothing.
            tls.send_close_notify();
        }
        match self.poll_drain(cx, &mut Vec::new())? {
            Written::All => Pin::new(&mut self.socket).poll_shutdown(cx),
            Written::Blocked => Poll::Pending,
        }
    }

    /// Acknowledges now what came. A program that writes a message in two parts without `TCP_NODELAY`
    /// has its system hold back the second one until then (Nagle, RFC 9293 section 3.7.4), which
    /// otherwise takes the 40 ms of a delayed acknowledgement.
    pub(super) fn acknowledge(&self) {
        if let Socket::Tcp(stream) = &self.socket {
            // Without it everything goes on, only later.
            drop(stream.set_quickack(true));
        }
    }

    /// Whether it ended without saying so in TLS: somebody may have cut it (RFC 8446 section 6.1).
    pub(super) fn was_cut(&self) -> bool {
        self.tls.is_some() && !self.closed
    }

    /// Makes the end of it a reset, so that the peer does not take it for an orderly one.
    pub(super) fn abort(&self) {
        if let Socket::Tcp(stream) = &self.socket {
            // One that is gone already needs none.
            drop(SockRef::from(stream).set_linger(Some(Duration::ZERO)));
        }
    }

    /// The socket, for whatever remains to be done with it.
    pub(super) fn into_socket(self) -> Socket {
        self.socket
    }
}

fn poll_read(socket: &mut Socket, cx: &mut Context<'_>, to: &mut [u8]) -> Poll<io::Result<usize>> {
    let mut buffer = ReadBuf::new(to);
    ready!(Pin::new(socket).poll_read(cx, &mut buffer))?;
    Poll::Ready(Ok(buffer.filled().len()))
}

/// Opens `sealed` behind what is in `plain` up to `filled`. Returns whether the peer has said that
/// nothing more comes.
fn open(
    tls: &mut rustls::Connection,
    mut sealed: &[u8],
    plain: &mut Vec<u8>,
    filled: &mut usize,
) -> io::Result<bool> {
    loop {
        if !sealed.is_empty() {
            tls.read_tls(&mut sealed)?;
        }
        let state = tls.process_new_packets().map_err(io::Error::other)?;
        let ready = state.plaintext_bytes_to_read();
        if plain.len() < *filled + ready {
            plain.resize(*filled + ready, 0);
        }
        if ready > 0 {
            tls.reader().read_exact(&mut plain[*filled..*filled + ready])?;
            *filled += ready;
        }
        if state.peer_has_closed() {
            return Ok(true);
        }
        if sealed.is_empty() {
            return Ok(false);
        }
    }
}

fn drain_plain(
    socket: &mut Socket,
    cx: &mut Context<'_>,
    output: &[u8],
    done: &mut usize,
) -> io::Result<Written> {
    while *done < output.len() {
        match Pin::new(&mut *socket).poll_write(cx, &output[*done..]) {
            Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(Ok(length)) => *done += length,
            Poll::Ready(Err(error)) => return Err(error),
            Poll::Pending => return Ok(Written::Blocked),
        }
    }
    flush(socket, cx)
}

fn drain_sealed(
    socket: &mut Socket,
    tls: &mut rustls::Connection,
    cx: &mut Context<'_>,
    output: &[u8],
    done: &mut usize,
) -> io::Result<Written> {
    loop {
        while tls.wants_write() {
            match tls.write_tls(&mut Taking { socket, cx }) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Written::Blocked);
                }
                Err(error) => return Err(error),
            }
        }
        if *done == output.len() {
            return flush(socket, cx);
        }
        let end = output.len().min(*done + SEAL_BYTES);
        tls.writer().write_all(&output[*done..end])?;
        *done = end;
    }
}

/// Sockets have nothing to flush; a tunnel may.
fn flush(socket: &mut Socket, cx: &mut Context<'_>) -> io::Result<Written> {
    let Socket::Other(io) = socket else { return Ok(Written::All) };
    match Pin::new(io).poll_flush(cx) {
        Poll::Ready(flushed) => flushed.map(|()| Written::All),
        Poll::Pending => Ok(Written::Blocked),
    }
}

/// A socket as rustls writes to it.
struct Taking<'a, 'b, 'c> {
    socket: &'a mut Socket,
    cx: &'b mut Context<'c>,
}

impl io::Write for Taking<'_, '_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        would_block(Pin::new(&mut *self.socket).poll_write(self.cx, bytes))
    }

    fn write_vectored(&mut self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        would_block(Pin::new(&mut *self.socket).poll_write_vectored(self.cx, bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn would_block(written: Poll<io::Result<usize>>) -> io::Result<usize> {
    match written {
        Poll::Ready(written) => written,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}
