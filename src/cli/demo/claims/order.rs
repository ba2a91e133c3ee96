//! Who is who, one order, and the trace that it left.

use std::time::Duration;

use crate::{
    cli::demo::{
        claims::Evidence,
        client::{self, Connection},
        load,
        running::{Shop, unlike, until},
        screen::milliseconds,
    },
    resource::pb::WorkloadPhase,
};

/// How long sidecars may take to be in step after the last of them is ready.
const IN_STEP_WITHIN: Duration = Duration::from_secs(30);
/// How long an order may need to get through a mesh that has just begun.
const FIRST_ORDER_WITHIN: Duration = Duration::from_secs(30);
/// How long spans may take: sidecars send them in batches.
const SPANS_WITHIN: Duration = Duration::from_secs(30);
/// The door's server span, and for each of four calls the caller's span, its one attempt and the
/// called side's.
const SPANS: usize = 1 + 4 * 3;
/// Who calls whom for one order.
const CALLS: [&str; 4] =
    ["front -> orders", "orders -> catalog", "orders -> inventory", "orders -> payments"];

/// Every sidecar has the SVID of its service, and the control plane knows it as ready and in step.
pub(super) async fn identity(shop: &Shop) -> anyhow::Result<String> {
    let members = shop.members().await?;
    until(IN_STEP_WITHIN, "every sidecar is ready and in step", async || {
        let status = shop.status().await.map_err(|error| format!("{error:#}"))?;
        let in_step = |sidecar: &&crate::resource::pb::SidecarStatus| {
            sidecar.phase() == WorkloadPhase::Ready && sidecar.in_sync
        };
        match status.sidecars.iter().filter(in_step).count() {
            count if count == members.len() => Ok(()),
            count => Err(format!("{count} of {} sidecars", members.len())),
        }
    })
    .await?;

    let mut services: Vec<&str> = Vec::new();
    for member in &members {
        let expected = format!("spiffe://mesh.local/ns/shop/svc/{}", member.service);
        let page = client::get(member.admin, "/certificates").await?;
        let page: serde_json::Value = serde_json::from_str(&page)?;
        let seen = identities(&page);
        if seen != [expected.as_str()] {
            let name = &member.name;
            return Err(unlike(format!("{name} to be {expected}"), format!("{seen:?}")));
        }
        if !services.contains(&member.service.as_str()) {
            services.push(&member.service);
        }
    }
    let (count, services) = (members.len(), services.join(","));
    Ok(format!("{count} of {count}  spiffe://mesh.local/ns/shop/svc/{{{services}}}"))
}

/// Every SPIFFE ID of a workload that stands in a page of the admin surface, each once.
fn identities(page: &serde_json::Value) -> Vec<&str> {
    let mut found = Vec::new();
    let mut left = vec![page];
    while let Some(value) = left.pop() {
        match value {
            serde_json::Value::String(text)
                if text.contains("/svc/") && !found.contains(&text.as_str()) =>
            {
                found.push(text.as_str());
            }
            serde_json::Value::Array(values) => left.extend(values),
            serde_json::Value::Object(fields) => left.extend(fields.values()),
            _ => {}
        }
    }
    found
}

/// An order placed at the door is answered with its number and price.
pub(super) async fn order(shop: &mut Shop) -> anyhow::Result<String> {
    let mut door = Connection::new(shop.door().await?);
    // The first one that each version of orders takes opens connections and asks the control plane;
    // what is shown is an order as any other.
    let mut versions = Vec::new();
    let order = until(FIRST_ORDER_WITHIN, "an order", async || {
        let order = load::place(&mut door).await;
        match &order.result {
            Ok(placed) if versions.contains(&placed.version) => Ok(order),
            Ok(placed) => {
                versions.push(placed.version.clone());
                Err("only first orders".to_owned())
            }
            Err(seen) => Err(seen.clone()),
        }
    })
    .await?;
    let took = order.ended - order.began;
    let placed = order.result.map_err(|seen| unlike("201 and an order", seen))?;
    if placed.total != "EUR 42.00" {
        return Err(unlike("two paddles for EUR 42.00", &placed.total));
    }
    let trace = u128::from_str_radix(&placed.trace, 16);
    shop.order =
        trace.map_err(|_| unlike("a trace in `trace-id`", format!("{:?}", placed.trace)))?;
    let (number, total) = (placed.order, &placed.total);
    Ok(format!("POST /orders -> 201, order {number}, {total}, {}", milliseconds(took)))
}

/// The trace of that order has every hop, with client, attempt and server nested, and no orphan.
pub(super) async fn trace(shop: &Shop) -> anyhow::Result<Evidence> {
    let id = shop.order;
    anyhow::ensure!(id != 0, "no order was placed whose trace could be looked at");
    let enough = |trace: &super::super::trace::Trace| trace.spans().len() >= SPANS;
    let trace = shop.collector.wait(id, SPANS_WITHIN, enough).await;
    let (spans, orphans) = (trace.spans().len(), trace.orphans().len());
    if (spans, orphans, trace.roots().len()) != (SPANS, 0, 1) {
        let roots = trace.roots().len();
        let list = trace.list().join("\n        ");
        let seen = format!("{spans} spans, {orphans} orphans, {roots} roots:\n        {list}");
        return Err(unlike(format!("{SPANS} spans below one root in trace {id:032x}"), seen));
    }
    if trace.calls() != CALLS {
        return Err(unlike(CALLS.join(", "), trace.calls().join(", ")));
    }
    let line = format!("{id:032x}, {spans} spans, {orphans} orphans");
    Ok(Evidence { line, details: trace.tree() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::identities;

    #[test]
    fn an_identity_is_found_wherever_it_stands_and_told_once() {
        let id = "spiffe://mesh.local/ns/shop/svc/orders";
        let page = json!({"svid": {"id": id, "uris": [id]}, "roots": ["spiffe://mesh.local"]});
        assert_eq!(identities(&page), [id]);
        assert!(identities(&json!({"svid": null})).is_empty());
    }
}
