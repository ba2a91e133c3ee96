//! When a connection must end: at its greatest age, and with its peer's certificate. Certificates end
//! by the wall clock, which may jump or sleep with the machine, so that is looked at again and again.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::settings::EXPIRY_GRACE;
use crate::clock;

/// When a connection that opens now stops to take requests: at its age, less up to a tenth so that
/// not all end together, and a while before its peer's certificate ends.
pub(super) fn retirement(age_max: Duration, not_after: Option<SystemTime>, random: u64) -> Instant {
    let tenth = age_max / 10;
    let share = u32::try_from(random % 1024).unwrap_or_default();
    let age = age_max.saturating_sub(tenth * share / 1024);
    let left = not_after.map(|end| {
        let left = end.duration_since(clock::now()).unwrap_or_default();
        left.saturating_sub(EXPIRY_GRACE.min(left / 10))
    });
    Instant::now() + left.map_or(age, |left| left.min(age))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::retirement;
    use crate::clock;

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test(start_paused = true)]
    async fn a_connection_retires_by_age_or_before_its_certificate() {
        let now = Instant::now();
        assert_eq!(retirement(HOUR, None, 0), now + HOUR);
        let early = retirement(HOUR, None, 1023) - now;
        assert!(
            early > Duration::from_secs(3240) && early < Duration::from_secs(3250),
            "{early:?}"
        );
        let soon = retirement(HOUR, Some(clock::now() + Duration::from_secs(100)), 0) - now;
        assert!(soon <= Duration::from_secs(90) && soon > Duration::from_secs(88), "{soon:?}");
        assert_eq!(retirement(HOUR, Some(clock::now() - HOUR), 0), now);
    }
}
