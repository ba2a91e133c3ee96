//! What `--guard` shows while the control plane watches a write, and how it ended.

use std::{process::ExitCode, time::Duration};

use tokio::{signal, time};

use super::{
    output::{self, Failure, Format, printable},
    remote::Connected,
    report::Report,
    words,
    writing::is_for_programs,
};
use crate::{clock, resource::pb};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long after its end a guard may still say that it watches: a control plane that was away.
const LATE_MAX: Duration = Duration::from_secs(30);
/// Services named on one line.
const SERVICES_SHOWN_MAX: usize = 5;

/// Waits until the guard has ended and says how; 1 when the write is not in place any more.
pub(super) async fn follow(
    connected: &Connected,
    report: &Report<'_>,
    guard: pb::Guard,
    format: Format,
) -> Result<ExitCode, Failure> {
    output::note(&report.problems_text());
    if !is_for_programs(format) {
        output::out(&report.changes_text())?;
        output::out(&began(&guard))?;
    }
    let revision = guard.revision;
    let last = tokio::select! {
        last = wait(connected, guard.clone()) => last?,
        pressed = signal::ctrl_c() => {
            pressed?;
            output::note(&left(&guard));
            return Ok(ExitCode::FAILURE);
        }
    };
    if is_for_programs(format) {
        let mut value = report.json();
        value["guard"] = json(&last);
        format.print(String::new, || value)?;
    } else {
        output::out(&ended(&last))?;
    }
    match last.state() {
        pb::GuardState::Passed => Ok(ExitCode::SUCCESS),
        pb::GuardState::Watching => {
            let message = format!("the guard of revision {revision} did not end in time");
            Err(Failure::say(message).with_hint(format!("outrigger history {revision}")))
        }
        _ => Ok(ExitCode::FAILURE),
    }
}

/// Asks until the guard has ended, or should have long ago.
async fn wait(connected: &Connected, guard: pb::Guard) -> Result<pb::Guard, Failure> {
    let lasts = left_of(&guard) + LATE_MAX;
    let end = time::Instant::now() + lasts;
    let mut last = guard;
    loop {
        time::sleep(LOOK_EVERY).await;
        let request = pb::GetGuardRequest { revision: last.revision };
        match connected.client.config().get_guard(request).await {
            Ok(answer) => last = answer.into_inner(),
            // A control plane that is away for a moment comes back with its guards.
            Err(_) if time::Instant::now() < end => continue,
            Err(status) => return Err(connected.failed(&status)),
        }
        if last.state() != pb::GuardState::Watching || time::Instant::now() >= end {
            return Ok(last);
        }
    }
}

fn left_of(guard: &pb::Guard) -> Duration {
    let ends = words::time(guard.ends_at.as_ref());
    ends.and_then(|ends| ends.duration_since(clock::now()).ok()).unwrap_or_default()
}

fn began(guard: &pb::Guard) -> String {
    let lasts = [&guard.began_at, &guard.ends_at].map(|time| words::time(time.as_ref()));
    let lasts = match lasts {
        [Some(began), Some(ends)] => ends.duration_since(began).unwrap_or_default(),
        _ => Duration::ZERO,
    };
    let calls = match guard.services.as_slice() {
        [] => "all calls".to_owned(),
        some => {
            let shown = some.iter().take(SERVICES_SHOWN_MAX).cloned().collect::<Vec<_>>();
            let more = some.len() - shown.len();
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            format!("calls to {}{more}", printable(&shown.join(", ")))
        }
    };
    format!("guarded by the control plane for {}: {calls}\n", words::age(lasts))
}

/// Said when the command ends before the guard.
fn left(guard: &pb::Guard) -> String {
    let revision = guard.revision;
    let until = guard.ends_at.map(|time| time.to_string()).unwrap_or_default();
    format!(
        "\ninterrupted: the control plane keeps guarding revision {revision} until {until}\n  \
         try: outrigger history {revision}\n"
    )
}

/// Both counts, and the outcome.
pub(super) fn ended(guard: &pb::Guard) -> String {
    let revision = guard.revision;
    let why = printable(&guard.message);
    let outcome = match (guard.state(), guard.rolled_back_by) {
        (pb::GuardState::Watching | pb::GuardState::Unspecified, _) => "still watching".to_owned(),
        (pb::GuardState::Passed, _) => format!("passed: {why}; revision {revision} stays"),
        (pb::GuardState::RolledBack, Some(by)) => {
            format!("rolled back by revision {by}: {why}")
        }
        (pb::GuardState::RolledBack, None) => format!("rolled back: {why}"),
        (pb::GuardState::Failed, _) => {
            format!("not rolled back, though more calls fail: {why}")
        }
    };
    let [before, after] = [&guard.before, &guard.after].map(|it| it.clone().unwrap_or_default());
    format!("before  {}\nafter   {}\n{outcome}\n", calls(&before), calls(&after))
}

/// `412 calls in 5m, 1.46% failed: no_endpoint 6`
fn calls(traffic: &pb::GuardTraffic) -> String {
    let over = words::age(Duration::try_from_secs_f64(traffic.seconds).unwrap_or_default());
    let total = usize::try_from(traffic.total).unwrap_or(usize::MAX);
    let counted = words::count(total, "call");
    let failed: u64 = traffic.failed.values().sum();
    if failed == 0 {
        return format!("{counted} in {over}, none failed");
    }
    let mut reasons: Vec<_> = traffic.failed.iter().filter(|(_, count)| **count > 0).collect();
    reasons.sort_by_key(|(reason, count)| (std::cmp::Reverse(**count), (*reason).clone()));
    let reasons: Vec<_> = reasons
        .into_iter()
        .map(|(reason, count)| format!("{} {count}", printable(reason)))
        .collect();
    // Counts of calls are far below what a share could not hold.
    let basis = failed.saturating_mul(10_000) / traffic.total.max(1);
    let share = format!("{}.{:02}%", basis / 100, basis % 100);
    format!("{counted} in {over}, {share} failed: {}", reasons.join(", "))
}

/// For programs.
pub(super) fn json(guard: &pb::Guard) -> serde_json::Value {
    let traffic = |traffic: &Option<pb::GuardTraffic>| {
        traffic.as_ref().map(|it| {
            serde_json::json!({ "seconds": it.seconds, "total": it.total, "failed": it.failed })
        })
    };
    serde_json::json!({
        "revision": guard.revision,
        "state": match guard.state() {
            pb::GuardState::Unspecified => "Unknown",
            pb::GuardState::Watching => "Watching",
            pb::GuardState::Passed => "Passed",
            pb::GuardState::RolledBack => "RolledBack",
            pb::GuardState::Failed => "Failed",
        },
        "beganAt": words::time_json(guard.began_at.as_ref()),
        "endsAt": words::time_json(guard.ends_at.as_ref()),
        "services": guard.services,
        "before": traffic(&guard.before),
        "after": traffic(&guard.after),
        "rolledBackBy": guard.rolled_back_by,
        "message": guard.message,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::{began, ended, left};
    use crate::resource::pb;

    fn traffic(seconds: f64, total: u64, failed: &[(&str, u64)]) -> Option<pb::GuardTraffic> {
        let failed: HashMap<_, _> =
            failed.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect();
        Some(pb::GuardTraffic { seconds, total, failed })
    }

    fn time(seconds: i64) -> Option<prost_types::Timestamp> {
        Some(prost_types::Timestamp { seconds: 1_795_000_000 + seconds, nanos: 0 })
    }

    #[test]
    fn before_and_after_stand_under_each_other() {
        let guard = pb::Guard {
            revision: 43,
            began_at: time(0),
            ends_at: time(120),
            state: pb::GuardState::RolledBack.into(),
            before: traffic(300.0, 412, &[("no_endpoint", 6)]),
            after: traffic(20.0, 60, &[("denied", 30), ("no_endpoint", 1)]),
            rolled_back_by: Some(44),
            message: "denied 0.00% -> 50.00%".to_owned(),
            services: vec!["canary.shop".to_owned(), "orders.shop".to_owned()],
        };
        assert_eq!(
            began(&guard),
            "guarded by the control plane for 2m: calls to canary.shop, orders.shop\n"
        );
        let expected = "\
before  412 calls in 5m, 1.45% failed: no_endpoint 6
after   60 calls in 20s, 51.66% failed: denied 30, no_endpoint 1
rolled back by revision 44: denied 0.00% -> 50.00%
";
        assert_eq!(ended(&guard), expected);
        let expected = "
interrupted: the control plane keeps guarding revision 43 until 2026-11-18T11:08:40Z
  try: outrigger history 43
";
        assert_eq!(left(&guard), expected);
        let passed = pb::Guard {
            state: pb::GuardState::Passed.into(),
            after: traffic(120.0, 1, &[]),
            message: "no more calls failed than before".to_owned(),
            ..guard
        };
        let text = ended(&passed);
        let expected = "after   1 call in 2m, none failed\n\
                        passed: no more calls failed than before; revision 43 stays\n";
        assert!(text.ends_with(expected), "{text}");
    }
}
