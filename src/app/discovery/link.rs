//! One stream to the control plane, on a connection of its own, and the pauses between two.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::{
    app::{client::Client, keeping::tls_source},
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
/// The longest time over which a control plane may spread its sidecars.
const SPREAD_MAX: Duration = Duration::from_secs(60);

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

/// Pauses with full jitter, growing until a stream has lasted. One that ends soon after something was
/// heard (a control plane that fails, two workloads of one name that replace each other) is no reason
/// to come again at once.
///
/// The control plane says over how long its sidecars should come again, which is more than a moment
/// when there are many of them: the first pause is random within that time, and none grows beyond it.
#[derive(Debug)]
pub(super) struct Pauses {
    longest: Duration,
    heard: Option<Instant>,
    spread: Duration,
}

impl Pauses {
    pub(super) fn new() -> Self {
        Self { longest: PAUSE_FIRST, heard: None, spread: Duration::ZERO }
    }

    /// The control plane wants its sidecars to come again within this time.
    pub(super) fn spread(&mut self, within: Duration) {
        self.spread = within.min(SPREAD_MAX);
    }

    /// The stream is over. The next pause; `random` is from 0.0 up to 1.0.
    pub(super) fn next(&mut self, random: f64, now: Instant) -> Duration {
        let heard = self.heard.take();
        let lasted = heard.is_some_and(|heard| now.saturating_duration_since(heard) >= PAUSE_MAX);
        if lasted {
            self.longest = PAUSE_FIRST;
        }
        let longest = if lasted { self.longest.max(self.spread) } else { self.longest };
        let pause = longest.mul_f64(random);
        self.longest = (self.longest * 2).min(PAUSE_MAX.max(self.spread));
        pause
    }

    /// The control plane said something.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard.get_or_insert(now);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{PAUSE_FIRST, PAUSE_MAX, Pauses};

    #[test]
    fn pauses_grow_to_their_bound_and_are_random_below_it() {
        let (mut pauses, now) = (Pauses::new(), Instant::now());
        assert_eq!(pauses.next(1.0, now), PAUSE_FIRST);
        assert_eq!(pauses.next(0.5, now), PAUSE_FIRST);
        assert_eq!(pauses.next(0.0, now), Duration::ZERO);
        assert_eq!((0..9).map(|_| pauses.next(1.0, now)).max(), Some(PAUSE_MAX));
    }

    #[test]
    fn only_a_stream_that_lasted_makes_them_short_again() {
        let (mut pauses, now) = (Pauses::new(), Instant::now());
        for _ in 0..9 {
            pauses.heard(now);
            pauses.next(1.0, now + Duration::from_secs(1));
        }
        assert_eq!(pauses.next(1.0, now), PAUSE_MAX);
        pauses.heard(now);
        pauses.heard(now + PAUSE_MAX);
        assert_eq!(pauses.next(1.0, now + PAUSE_MAX), PAUSE_FIRST);
    }

    #[test]
    fn who_lost_a_stream_that_lasted_comes_within_the_time_that_the_control_plane_gave() {
        let (mut pauses, now) = (Pauses::new(), Instant::now());
        let spread = Duration::from_secs(8);
        pauses.spread(spread);
        assert_eq!(pauses.next(1.0, now), PAUSE_FIRST, "at its start it waits for nobody");
        pauses.heard(now);
        assert_eq!(pauses.next(1.0, now + PAUSE_MAX), spread);
        assert_eq!(pauses.next(1.0, now + PAUSE_MAX), PAUSE_FIRST * 2, "nobody was there");
        assert_eq!((0..9).map(|_| pauses.next(1.0, now)).max(), Some(spread));
    }
}
