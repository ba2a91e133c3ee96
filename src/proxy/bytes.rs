//! A caller's stream as plain bytes, for what is inside a tunnel: CONNECT over HTTP/1.1 or over one
//! stream of HTTP/2 looks the same from here, and is read and written as a socket is.

use std::{
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    splice::{Listener, Sent, Stream},
    stream::Caller,
};
use crate::http::ErrorCode;

/// The bytes of a tunnel, whose response's head is out. Dropped before its end, it is reset.
pub(super) struct Bytes(Rc<Stream>);

impl Bytes {
    /// Takes the caller's stream over.
    pub(super) fn new(caller: Caller) -> Self {
        Self(caller.into_stream())
    }

    /// One task reads and writes a tunnel, so one waker is enough.
    fn listen(&self, cx: &Context<'_>) {
        *self.0.listener.borrow_mut() = Listener::Task(cx.waker().clone());
    }
}

impl AsyncRead for Bytes {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let stream = &self.0;
        let mut received = stream.received.borrow_mut();
        let rest = received.inbox.rest();
        if !rest.is_empty() {
            let length = rest.len().min(buf.remaining());
            buf.put_slice(&rest[..length]);
            received.inbox.take(length, &stream.link);
            drop(received);
            stream.link.credit(stream.id, length);
            return Poll::Ready(Ok(()));
        }
        if received.end {
            return Poll::Ready(Ok(()));
        }
        if received.error.is_some() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        drop(received);
        self.listen(cx);
        Poll::Pending
    }
}

impl AsyncWrite for Bytes {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let stream = &self.0;
        if stream.sent.get() != Sent::Open {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let taken = stream.link.send(stream.id, buf, false);
        if taken == 0 && !buf.is_empty() {
            self.listen(cx);
            return Poll::Pending;
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = &self.0;
        if stream.sent.get() == Sent::Open {
            stream.link.send(stream.id, &[], true);
            stream.sent.set(Sent::Ended);
            stream.finish();
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        let stream = &self.0;
        *stream.listener.borrow_mut() = Listener::Nobody;
        stream.discard();
        if !stream.gone.get() {
            match stream.sent.get() {
                Sent::Ended => stream.link.answered(stream),
                Sent::Open | Sent::Nothing => stream.reset(ErrorCode::CONNECT_ERROR),
            }
        }
    }
}
