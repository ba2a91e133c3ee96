//! Writes that are made once, however often they are sent: each has an ID of its own, by which the
//! control plane knows the second one whose first answer was lost.

use std::time::Duration;

use tokio::time::sleep;
use tonic::{Code, Status};

/// Tries after the first.
const AGAIN_MAX: u32 = 3;
/// Before the first of them; then twice as long each time.
const PAUSE: Duration = Duration::from_millis(200);

/// A random ID for one write.
pub(super) fn request_id() -> String {
    format!("{:032x}", fastrand::u128(..))
}

/// Sends a write again until it is answered, a few times at most.
///
/// # Errors
/// The last answer, or that there was none.
pub(super) async fn until_answered<T>(
    mut call: impl AsyncFnMut() -> Result<T, Status>,
) -> Result<T, Status> {
    for tried in 0.. {
        match call().await {
            Err(status) if status.code() == Code::Unavailable && tried < AGAIN_MAX => {
                sleep(PAUSE * 2_u32.pow(tried)).await;
            }
            answer => return answer,
        }
    }
    Err(Status::unavailable("no answer"))
}

#[cfg(test)]
mod tests {
    use tonic::{Code, Status};

    use super::{request_id, until_answered};

    #[tokio::test(start_paused = true)]
    async fn a_lost_answer_is_asked_for_again_and_a_refusal_is_not() {
        for (fails, code, expected) in [
            (0, Code::Unavailable, (1, None)),
            (3, Code::Unavailable, (4, None)),
            (9, Code::Unavailable, (4, Some(Code::Unavailable))),
            (9, Code::Aborted, (1, Some(Code::Aborted))),
        ] {
            let mut calls = 0;
            let answer = until_answered(async || {
                calls += 1;
                if calls <= fails { Err(Status::new(code, "")) } else { Ok(()) }
            });
            let error = answer.await.err().map(|status| status.code());
            assert_eq!((calls, error), expected);
        }
        assert_ne!(request_id(), request_id());
    }
}
