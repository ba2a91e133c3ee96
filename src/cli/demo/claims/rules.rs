//! Who may call whom, and what still holds when nobody is there to ask.

use std::{sync::atomic::AtomicUsize, time::Duration};

use tonic::{Code, Request};

use crate::{
    cli::demo::{
        call,
        load::{self, Load},
        metrics,
        running::{Shop, unlike, until},
    },
    telemetry::{SpanContext, trace},
};

/// How long a line of a log may take to be there.
const LOGGED_WITHIN: Duration = Duration::from_secs(10);

/// The catalog may not charge anybody, and the log says which policy refused it.
pub(super) async fn denied(shop: &Shop) -> anyhow::Result<String> {
    let caller = shop.first("catalog").await?;
    let refuser = shop.first("payments").await?;
    let context =
        SpanContext { trace_id: fastrand::u128(1..), span_id: fastrand::u64(1..), sampled: true };
    let mut request = Request::new(());
    let parent = trace::format(&context);
    request.metadata_mut().insert("traceparent", parent.as_str().parse()?);
    let called = caller.calls("payments")?.charge_in(request).await;
    match called.result {
        Err(status)
            if status.code() == Code::PermissionDenied && call::reason(&status) == "denied" => {}
        Err(status) => return Err(unlike("PERMISSION_DENIED (denied)", call::say(&status))),
        Ok(()) => return Err(unlike("PERMISSION_DENIED (denied)", "a receipt")),
    }
    let trace = format!("{:032x}", { context.trace_id });
    let log = shop.instance(&refuser.name)?.log();
    let policy = until(LOGGED_WITHIN, "the refusal in the log of payments", async || {
        let text = log.and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
        refusal(&text, &trace).ok_or_else(|| format!("no line with trace {trace}"))
    })
    .await?;
    if policy != "payments" {
        return Err(unlike("policy payments", policy));
    }
    Ok(format!("catalog -> payments: PERMISSION_DENIED, reason denied, logged by policy {policy}"))
}

/// The policy in the log line of a refused request of that trace, without its namespace.
fn refusal(log: &str, trace: &str) -> Option<String> {
    log.lines().filter(|line| line.contains(trace)).find_map(|line| {
        let line: serde_json::Value = serde_json::from_str(line.get(line.find('{')?..)?).ok()?;
        let text = |name: &str| line.get(name)?.as_str();
        if text("direction") != Some("inbound") || text("reason") != Some("denied") {
            return None;
        }
        let policy = text("policy")?;
        Some(policy.rsplit('/').next().unwrap_or(policy).to_owned())
    })
}

/// Orders while there is no control plane.
const ORDERS: usize = 300;
/// So long.
const STOPPED: Duration = Duration::from_secs(3);
/// How long sidecars may take to find the control plane again.
const BACK_WITHIN: Duration = Duration::from_secs(30);

/// Orders go on without a control plane, and a sidecar that is started without one serves from what
/// it has on disk.
pub(super) async fn no_control(shop: &Shop) -> anyhow::Result<String> {
    let control_plane = shop.mesh.control_plane();
    control_plane.stop().await;
    let outcome = without_control(shop).await;
    control_plane.start_again().await.map_err(|why| unlike("the control plane again", why))?;
    outcome?;
    // The pauses of the others are random up to 5 s; that they come back too is not the claim.
    until(BACK_WITHIN, "a sidecar connected again", async || {
        for member in shop.members().await.map_err(|error| format!("{error:#}"))? {
            let page = member.scrape().await.map_err(|error| format!("{error:#}"))?;
            if metrics::sum(&page, "outrigger_control_connected", &[]) > 0.0 {
                return Ok(());
            }
        }
        Err("none".to_owned())
    })
    .await?;
    let seconds = STOPPED.as_secs();
    Ok(format!(
        "control plane stopped {seconds}s: 0 failed of {ORDERS}; sidecar restarted from disk"
    ))
}

async fn without_control(shop: &Shop) -> anyhow::Result<()> {
    let load = Load { over: Some(STOPPED), ..Load::of(ORDERS) };
    let orders = load.place(shop.door().await?, &AtomicUsize::new(0)).await;
    if let Some(failure) = load::first_failure(&orders) {
        return Err(unlike(format!("{ORDERS} orders without a control plane"), failure));
    }
    // The last of them takes one order of ten; all its own calls go to others.
    let orders = shop.members_of("orders").await?;
    let name = orders.last().map(|member| member.name.clone()).unwrap_or_default();
    let instance = shop.instance(&name)?;
    instance.stop().await;
    instance
        .start_again()
        .await
        .map_err(|why| unlike(format!("{name} again, from its disk"), why))?;

    let orders = shop.members_of("orders").await?;
    let Some(again) = orders.into_iter().find(|member| member.name == name) else {
        return Err(unlike(format!("{name} again"), "nothing"));
    };
    let page = again.scrape().await?;
    if metrics::sum(&page, "outrigger_control_connected", &[]) > 0.0 {
        return Err(unlike("no control plane", "a connection to one"));
    }
    let called = [
        ("catalog", again.calls("catalog")?.get().await),
        ("inventory", again.calls("inventory")?.reserve().await),
        ("payments", again.calls("payments")?.charge().await),
    ];
    for (service, called) in called {
        called.result.map_err(|status| {
            unlike(format!("{name} to reach {service} from its disk"), call::say(&status))
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::refusal;

    #[test]
    fn the_policy_is_read_from_the_line_of_that_trace() {
        let line = |direction: &str, trace: &str, reason: &str, policy: &str| {
            format!(
                r#"payments-1 | {{"direction":"{direction}","trace_id":"{trace}","reason":"{reason}","policy":"{policy}"}}"#
            )
        };
        let log = [
            line("inbound", "1", "denied", "shop/other"),
            line("outbound", "2", "denied", "shop/other"),
            line("inbound", "2", "", "shop/other"),
            "a line that tells of 2 {".to_owned(),
            line("inbound", "2", "denied", "shop/payments"),
        ]
        .join("\n");
        assert_eq!(refusal(&log, "2").as_deref(), Some("payments"));
        assert_eq!(refusal(&log, "3"), None);
    }
}
