//! One stream to the control plane, on a connection of its own, and the pauses between two.

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::{
    app::{client::Client, joining::tls_source},
    resource::pb::{self, subscribe_request::Message},
    tls::Identity,
};

/// From the first packet to the head of the answer.
const OPEN_MAX: Duration = Duration::from_secs(15);
/// How long a message waits for a control plane that does not read.
const SEND_MAX: Duration = Duration::from_secs(10);
/// Messages that wait to be sent.
const SENDING_MAX: usize = 64;
/// The longest pause before the first try, doubled with each up to the longest.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// An open stream.
#[derive(Debug)]
pub(super) struct Link {
    sender: mpsc::Sender<pb::SubscribeRequest>,
    pub(super) inbound: Streaming<pb::SubscribeResponse>,
}

impl Link {
    /// Connects with the newest certificate, says hello, and waits for the head of the answer. On a
    /// new connection each time: one from before a renewal would still show the old certificate.
    ///
    /// # Errors
    /// When the control plane can not be reached or refuses.
    pub(super) async fn open(
        server: &str,
        identity: &Arc<Identity>,
        hello: pb::Hello,
    ) -> Result<Self, Status> {
        let client = Client::new(server, tls_source(identity))
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let (sender, receiver) = mpsc::channel(SENDING_MAX);
        let link = async {
            send(&sender, Message::Hello(hello)).await?;
            let answer = client.discovery().subscribe(ReceiverStream::new(receiver)).await?;
            Ok::<_, Status>(answer.into_inner())
        };
        let late = |_| Status::unavailable(format!("no answer within {}s", OPEN_MAX.as_secs()));
        let inbound = timeout(OPEN_MAX, link).await.map_err(late)??;
        Ok(Self { sender, inbound })
    }

    /// Sends a message.
    ///
    /// # Errors
    /// When the stream has ended, or the control plane does not read.
    pub(super) async fn send(&self, message: Message) -> Result<(), Status> {
        send(&self.sender, message).await
    }
}

async fn send(sender: &mpsc::Sender<pb::SubscribeRequest>, message: Message) -> Result<(), Status> {
    let request = pb::SubscribeRequest { message: Some(message) };
    match timeout(SEND_MAX, sender.send(request)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Status::unavailable("the stream has ended")),
        Err(_) => Err(Status::unavailable("the control plane does not read")),
    }
}

/// Pauses with full jitter, growing until something is heard.
#[derive(Debug)]
pub(super) struct Pauses {
    longest: Duration,
}

impl Pauses {
    pub(super) fn new() -> Self {
        Self { longest: PAUSE_FIRST }
    }

    /// The next pause; `random` is from 0.0 up to 1.0.
    pub(super) fn next(&mut self, random: f64) -> Duration {
        let pause = self.longest.mul_f64(random);
        self.longest = (self.longest * 2).min(PAUSE_MAX);
        pause
    }

    /// Short again.
    pub(super) fn reset(&mut self) {
        *self = Self::new();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{PAUSE_FIRST, PAUSE_MAX, Pauses};

    #[test]
    fn pauses_grow_to_their_bound_and_are_random_below_it() {
        let mut pauses = Pauses::new();
        assert_eq!(pauses.next(1.0), PAUSE_FIRST);
        assert_eq!(pauses.next(0.5), PAUSE_FIRST);
        assert_eq!(pauses.next(0.0), Duration::ZERO);
        assert_eq!((0..9).map(|_| pauses.next(1.0)).max(), Some(PAUSE_MAX));
        pauses.reset();
        assert_eq!(pauses.next(1.0), PAUSE_FIRST);
    }
}
