//! The end of a certificate that somebody else renews, told in the log while there is still time: at
//! half of its life, at a quarter and at a tenth. A live sidecar renews its own, and says so when it can
//! not.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::sleep;

use crate::{clock, tls::Identity};

/// Percent of its life that are left when it is told, the most urgent first.
const PERCENT: [u32; 3] = [10, 25, 50];
/// Between two looks.
const PAUSE: [Duration; 2] = [Duration::from_millis(200), Duration::from_mins(1)];

/// Tells of the certificate's end, and of that of each that is put in its place.
pub(super) async fn tell(identity: Arc<Identity>) {
    let mut told = None;
    loop {
        let svid = identity.svid();
        let (begin, end) = (svid.not_before(), svid.not_after());
        let now = clock::now();
        let life = end.duration_since(begin).unwrap_or_default();
        if let Some(percent) = step(begin, end, now)
            && told != Some((end, percent))
        {
            told = Some((end, percent));
            let left_seconds = end.duration_since(now).unwrap_or_default().as_secs();
            let hint = "put a new one into its files and send SIGHUP";
            if percent == PERCENT[0] {
                tracing::error!(left_seconds, hint, "the certificate ends soon");
            } else {
                tracing::warn!(left_seconds, hint, "the certificate will end");
            }
        }
        drop(svid);
        sleep((life / 200).clamp(PAUSE[0], PAUSE[1])).await;
    }
}

/// The share of its life that is no more than left, of those that are told.
fn step(begin: SystemTime, end: SystemTime, now: SystemTime) -> Option<u32> {
    let life = end.duration_since(begin).unwrap_or_default();
    let left = end.duration_since(now).unwrap_or_default();
    PERCENT.into_iter().find(|percent| left <= life * *percent / 100)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::step;

    #[test]
    fn the_end_comes_in_three_steps() {
        let at = |second| UNIX_EPOCH + Duration::from_secs(second);
        for (now, expected) in [
            (0, None),
            (499, None),
            (500, Some(50)),
            (749, Some(50)),
            (750, Some(25)),
            (900, Some(10)),
            (1000, Some(10)),
            (2000, Some(10)),
        ] {
            assert_eq!(step(at(0), at(1000), at(now)), expected, "{now}");
        }
    }
}
