//! What callers send, within bounds of memory and of time: a message says its length before it comes,
//! and a large one needs room for all of it by then, or is refused before it is sent. A message that
//! has begun has to go on.
//!
//! Without this a few callers could fill the memory with writes of the largest size, or hold it with
//! ones that never end.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body::Frame;
use tokio::time::{Instant, Sleep, sleep};
use tonic::{Code, Status, body::Body};

use super::{auth::Principal, error, layers::Around};

/// A shorter message needs no place: as many as there may be calls fill little.
const SMALL_BYTES_MAX: u32 = 64 << 10;
/// Messages of one caller together: one of the largest.
const OF_CALLER_BYTES_MAX: u32 = 64 << 20;
/// Messages of all callers together.
const ALL_BYTES_MAX: u32 = 192 << 20;
/// Between two parts of a message.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// When a message that was refused may be tried again.
const PAUSE: Duration = Duration::from_secs(1);
/// gRPC's frame: whether it is compressed, and how long it is.
const FRAME_HEAD_BYTES: usize = 5;

/// The bytes of large messages that are here or announced, by caller.
#[derive(Debug, Default)]
pub(crate) struct Room {
    taken: Mutex<HashMap<String, u32>>,
}

/// Room that one message takes.
#[derive(Debug)]
struct Place {
    room: Arc<Room>,
    who: String,
    bytes: u32,
}

impl Room {
    /// Room for a message of so many bytes.
    fn take(self: &Arc<Self>, who: &str, bytes: u32) -> Result<Place, Status> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let all: u32 = taken.values().sum();
        let own = taken.get(who).copied().unwrap_or_default();
        let busy = |whose: &str, most: u32| {
            let message =
                format!("{whose} large writes under way have {} MiB together", most >> 20);
            Err(error::later(Code::ResourceExhausted, "BUSY", &message, PAUSE))
        };
        if own + bytes > OF_CALLER_BYTES_MAX {
            return busy("this caller's", OF_CALLER_BYTES_MAX);
        }
        if all + bytes > ALL_BYTES_MAX {
            return busy("the", ALL_BYTES_MAX);
        }
        taken.insert(who.to_owned(), own + bytes);
        Ok(Place { room: Arc::clone(self), who: who.to_owned(), bytes })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.room.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = taken.get_mut(&self.who) {
            *own -= self.bytes;
            if *own == 0 {
                taken.remove(&self.who);
            }
        }
    }
}

/// The place of a call's message: given back when the call is answered and its body is gone, or asked
/// for what comes after the message.
type Held = Arc<Mutex<Option<Place>>>;

/// Looks at what calls send.
#[derive(Debug, Clone)]
pub(crate) struct Uploads {
    pub room: Arc<Room>,
}

impl Around for Uploads {
    fn call<F>(
        &self,
        request: Request<Body>,
        next: impl FnOnce(Request<Body>) -> F,
    ) -> BoxFuture<'static, Response<Body>>
    where
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let who = request.extensions().get::<Principal>().map_or("", Principal::name).to_owned();
        let (room, held) = (Arc::clone(&self.room), Held::default());
        let of_call = Arc::clone(&held);
        let request = request.map(|inner| {
            Body::new(Upload { inner, who, room, held, head: Vec::new(), left: 0, silence: None })
        });
        let call = next(request);
        Box::pin(async move {
            // What was decoded of the message lives until the answer.
            let _held = of_call;
            call.await
        })
    }
}

/// A body that is looked at.
struct Upload {
    inner: Body,
    who: String,
    room: Arc<Room>,
    held: Held,
    /// The head of a message, as far as it is there.
    head: Vec<u8>,
    /// What is still to come of the message.
    left: usize,
    /// Until when the next part of the message has to come.
    silence: Option<Pin<Box<Sleep>>>,
}

impl Upload {
    /// Follows the frames of gRPC in these bytes.
    fn read(&mut self, mut bytes: &[u8]) -> Result<(), Status> {
        while !bytes.is_empty() {
            let skipped = self.left.min(bytes.len());
            self.left -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            if bytes.is_empty() {
                break;
            }
            let (head, rest) =
                bytes.split_at((FRAME_HEAD_BYTES - self.head.len()).min(bytes.len()));
            self.head.extend_from_slice(head);
            bytes = rest;
            if let [_, a, b, c, d] = self.head[..] {
                self.head.clear();
                let length = u32::from_be_bytes([a, b, c, d]);
                self.left = usize::try_from(length).unwrap_or(usize::MAX);
                self.begin(length)?;
            }
        }
        Ok(())
    }

    fn begin(&mut self, length: u32) -> Result<(), Status> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        *held = None;
        // One that is longer than any may be is refused by whoever reads it, and not taken in.
        if (SMALL_BYTES_MAX..=OF_CALLER_BYTES_MAX).contains(&length) {
            *held = Some(self.room.take(&self.who, length)?);
        }
        Ok(())
    }

    /// A stream's message has been read when the next one is asked for; that of another call is held
    /// until the answer, because what was decoded of it is.
    fn give_back(&self) {
        if !self.is_within_message() && Arc::strong_count(&self.held) == 1 {
            *self.held.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }

    fn is_within_message(&self) -> bool {
        self.left > 0 || !self.head.is_empty()
    }

    /// Whether a message that has begun does not go on.
    fn is_silent(&mut self, context: &mut Context<'_>) -> bool {
        if !self.is_within_message() {
            self.silence = None;
            return false;
        }
        let silence = self.silence.get_or_insert_with(|| Box::pin(sleep(SILENCE_MAX)));
        silence.as_mut().poll(context).is_ready()
    }
}

impl http_body::Body for Upload {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.give_back();
        let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(context) else {
            if self.is_silent(context) {
                let message = format!("no part of the message came for {}s", SILENCE_MAX.as_secs());
                return Poll::Ready(Some(Err(Status::deadline_exceeded(message))));
            }
            return Poll::Pending;
        };
        let Some(frame) = frame else { return Poll::Ready(None) };
        let frame = frame?;
        if let Some(data) = frame.data_ref() {
            let data = data.clone();
            if let Err(refused) = self.read(&data) {
                return Poll::Ready(Some(Err(refused)));
            }
        }
        if let Some(silence) = &mut self.silence {
            silence.as_mut().reset(Instant::now() + SILENCE_MAX);
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::{Arc, Mutex},
        time::Duration,
    };

    use bytes::Bytes;
    use http::{Request, Response};
    use http_body::Frame;
    use http_body_util::{BodyExt as _, StreamBody};
    use tokio::{sync::mpsc, task::JoinHandle, time::timeout};
    use tokio_stream::wrappers::ReceiverStream;
    use tonic::{Code, Status, body::Body};
    use tonic_types::StatusExt as _;
    use tower::{Layer as _, Service as _, service_fn};

    use super::{OF_CALLER_BYTES_MAX, Room, SILENCE_MAX, Uploads};
    use crate::{
        control::{auth::Principal, layers::Layered},
        task,
        tls::Peer,
    };

    fn caller(name: &str) -> Principal {
        Principal::Workload(Peer {
            id: format!("spiffe://mesh.local/ns/shop/svc/{name}").parse().expect("well-formed"),
            not_after: std::time::UNIX_EPOCH,
            sha256: String::new(),
        })
    }

    /// A call under way: its body's sender, and how its reader ended.
    struct Call {
        body: mpsc::Sender<Result<Frame<Bytes>, Status>>,
        ended: JoinHandle<Option<Result<usize, Status>>>,
    }

    impl Call {
        /// One whose handler reads the whole body.
        fn begin(room: &Arc<Room>, who: &str) -> Self {
            let (body, receiver) = mpsc::channel(64);
            let read = Arc::<Mutex<Option<Result<usize, Status>>>>::default();
            let tell = Arc::clone(&read);
            let inner = service_fn(move |request: Request<Body>| {
                let tell = Arc::clone(&tell);
                async move {
                    let read = request.into_body().collect().await;
                    let read = read.map(|body| body.to_bytes().len());
                    *tell.lock().expect("unpoisoned") = Some(read);
                    Ok::<_, Infallible>(Response::new(Body::default()))
                }
            });
            let mut uploads = Layered(Uploads { room: Arc::clone(room) }).layer(inner);
            let stream = StreamBody::new(ReceiverStream::new(receiver));
            let mut request = Request::new(Body::new(stream));
            request.extensions_mut().insert(caller(who));
            let call = uploads.call(request);
            let ended = task::spawn("call", async move {
                let _answer = call.await;
                read.lock().expect("unpoisoned").take().expect("read")
            });
            Self { body, ended }
        }

        async fn send(&self, bytes: &[u8]) {
            let frame = Frame::data(Bytes::copy_from_slice(bytes));
            self.body.send(Ok(frame)).await.expect("open");
        }

        /// The head of a message, and so much of it.
        async fn message(&self, length: u32, sent: usize) {
            let mut bytes = vec![0];
            bytes.extend(length.to_be_bytes());
            bytes.resize(5 + sent, 0);
            // In parts that fall anywhere.
            for part in bytes.chunks(70_001) {
                self.send(part).await;
            }
        }

        async fn end(self) -> Result<usize, (Code, bool)> {
            drop(self.body);
            let ended = timeout(Duration::from_secs(60), self.ended).await.expect("in time");
            ended
                .expect("no panic")
                .expect("an end")
                .map_err(|status| (status.code(), status.get_details_retry_info().is_some()))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_is_passed_on_as_it_came() {
        let room = Arc::default();
        let call = Call::begin(&room, "web");
        for part in [&[0][..], &[0, 0, 0], &[2, 7], &[7, 0, 0, 0, 0, 0]] {
            call.send(part).await;
        }
        assert_eq!(call.end().await, Ok(12));
        let call = Call::begin(&room, "web");
        call.message(1 << 20, 1 << 20).await;
        assert_eq!(call.end().await, Ok((1 << 20) + 5));
        assert!(room.taken.lock().expect("unpoisoned").is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_without_room_is_refused_before_it_comes() {
        let room = Arc::default();
        let large = OF_CALLER_BYTES_MAX;
        let mut under_way = Vec::new();
        for who in ["a", "b", "c"] {
            let call = Call::begin(&room, who);
            call.message(large, 10).await;
            under_way.push(call);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        for (who, length, expected) in [
            ("a", large, Err((Code::ResourceExhausted, true))),
            ("d", 1 << 20, Err((Code::ResourceExhausted, true))),
            ("a", 1000, Ok(1005)),
        ] {
            let call = Call::begin(&room, who);
            let sent = if expected.is_ok() { 1000 } else { 0 };
            call.message(length, sent).await;
            assert_eq!(call.end().await, expected, "{who} {length}");
        }
        drop(under_way.pop());
        tokio::time::sleep(SILENCE_MAX * 2).await;
        let call = Call::begin(&room, "d");
        call.message(1 << 20, 1 << 20).await;
        assert_eq!(call.end().await, Ok((1 << 20) + 5), "there is room again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_gives_the_room_of_a_message_back_when_it_was_read() {
        let room = Arc::<Room>::default();
        let (body, receiver) = mpsc::channel(64);
        let inner = service_fn(|request: Request<Body>| async {
            // As a stream is answered before it is read.
            let _reading = task::spawn("read", request.into_body().collect());
            Ok::<_, Infallible>(Response::new(Body::default()))
        });
        let mut uploads = Layered(Uploads { room: Arc::clone(&room) }).layer(inner);
        let stream = StreamBody::new(ReceiverStream::new(receiver));
        let mut request = Request::new(Body::new(stream));
        request.extensions_mut().insert(caller("web"));
        uploads.call(request).await.expect("answered");
        let call = Call { body, ended: task::spawn("never", std::future::pending()) };
        let taken = || room.taken.lock().expect("unpoisoned").values().sum::<u32>();
        call.message(1 << 20, 10).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(taken(), 1 << 20);
        call.send(&vec![0; (1 << 20) - 10]).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(taken(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_does_not_go_on_ends_its_call_and_an_idle_stream_goes_on() {
        let room = Arc::default();
        let idle = Call::begin(&room, "web");
        idle.message(3, 3).await;
        let stalled = Call::begin(&room, "web");
        stalled.message(1 << 20, 100).await;
        let slow = Call::begin(&room, "slow");
        slow.message(10, 0).await;
        for _ in 0..9 {
            tokio::time::sleep(SILENCE_MAX / 2).await;
            slow.send(&[0]).await;
        }
        let Call { body, ended } = stalled;
        let status = ended.await.expect("no panic").expect("an end").expect_err("cut");
        assert_eq!(status.code(), Code::DeadlineExceeded);
        drop(body);
        tokio::time::sleep(SILENCE_MAX * 3).await;
        idle.message(4, 4).await;
        assert_eq!(idle.end().await, Ok(17));
        // It was within a message all that time, and then silent for too long.
        assert!(slow.end().await.is_err());
        assert!(room.taken.lock().expect("unpoisoned").is_empty());
    }
}
