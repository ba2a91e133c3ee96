//! To the application: which of its ports is meant, whether the caller may, and on what terms. SNI
//! names the port and nothing else; a plaintext caller's authority does.

use std::{rc::Rc, sync::Arc};

use super::{
    connection::{Origin, Side},
    core::{Core, Running},
    plan::Plan,
    route::Route,
};
use crate::{
    authz,
    http::{Head, answer::Rejection},
    reason::Reason,
    routing::Authority,
    snapshot::{InboundPort, Protocol},
    telemetry::{Name, metrics::Decision},
    tls,
};

/// Where a request to the application goes, and the policy that let it pass.
///
/// # Errors
/// Whatever keeps it from going there, with the policy that denied it.
pub(super) fn plan(
    origin: &Origin,
    running: &Arc<Running>,
    head: &Head<'_>,
    grpc: bool,
    policy: &mut Name,
) -> Result<Rc<Plan>, Rejection> {
    let plan = Rc::new(decide(origin, running, head, policy)?);
    if grpc {
        // No rule looks at other fields than the path.
        origin.worker.memory.plans.note(origin, running, head, &plan);
    }
    Ok(plan)
}

/// The same of a connection whose bytes nobody reads. It may go to ports that take bytes, or that do
/// not say what they take.
///
/// # Errors
/// Whatever keeps it from going there, with the policy that denied it.
pub(super) async fn connection(origin: &Origin, policy: &mut Name) -> Result<Route, Rejection> {
    let running = origin.worker.core.first_answer(|running| Ok(Some(Arc::clone(running)))).await?;
    let port = port(&running, &origin.side, None)?;
    if !matches!(port.protocol, Protocol::Opaque | Protocol::Detect) {
        let what = format!("port {} takes HTTP requests and no opaque bytes", port.number);
        return Err(Rejection::unseen(Reason::NoRoute, what));
    }
    let core = &origin.worker.core;
    for decision in authorize(core, &running, &origin.side, None, port, policy)? {
        core.telemetry.metrics().decision(*decision);
    }
    to(origin, &running, port)
}

/// `x-forwarded-client-cert`: who called, for the application.
pub(super) fn client_cert(origin: &Origin) -> Option<&str> {
    let found = || {
        let own = origin.worker.core.identity.as_ref()?.id();
        Some(tls::xfcc(&own, origin.side.peer()?).into())
    };
    origin.once.client_cert.get_or_init(found).as_deref()
}

fn decide(
    origin: &Origin,
    running: &Running,
    head: &Head<'_>,
    policy: &mut Name,
) -> Result<Plan, Rejection> {
    let port = port(running, &origin.side, Some(head))?;
    let core = &origin.worker.core;
    let decisions = authorize(core, running, &origin.side, Some(head), port, policy)?;
    let route = to(origin, running, port)?;
    Ok(Plan { policy: policy.clone(), decisions, ..Plan::new(route, head) })
}

fn to(origin: &Origin, running: &Running, port: &InboundPort) -> Result<Route, Rejection> {
    let none = || Rejection::unseen(Reason::Internal, "a port without an application");
    let entry = Arc::clone(running.table.app(port.number).ok_or_else(none)?);
    let bulkhead = running.snapshot.inbound.caller_bulkhead.as_ref().map(|limits| {
        let found = || running.table.caller(&origin.caller, limits);
        (Arc::clone(origin.once.bulkhead.get_or_init(found)), limits.wait_max)
    });
    Ok(Route {
        entry,
        port: port.number,
        protocol: port.protocol,
        rule: None,
        backend: None,
        bulkhead,
        to_app: true,
        authority: None,
        revision: running.snapshot.revision,
    })
}

fn port<'a>(
    running: &'a Running,
    side: &Side,
    head: Option<&Head<'_>>,
) -> Result<&'a InboundPort, Rejection> {
    let ports = &running.snapshot.inbound.ports;
    let named = match side.sni() {
        Some(sni) => Some(sni.port),
        None => head.and_then(|head| Authority::parse(head.authority).ok()?.port),
    };
    let by_name = ports.iter().find(|port| Some(port.number) == named);
    // A plaintext caller dials the sidecar's own port, which names none of the application's.
    let only = || match ports.as_slice() {
        [only] if side.sni().is_none() => Some(only),
        _ => None,
    };
    by_name.or_else(only).ok_or_else(|| {
        let service = &running.snapshot.node.service;
        let what = match named {
            Some(port) => format!("no application of {service} serves port {port} here"),
            None => format!("no port of {service} was named"),
        };
        Rejection::unseen(Reason::NoRoute, what)
    })
}

fn authorize(
    core: &Core,
    running: &Running,
    side: &Side,
    head: Option<&Head<'_>>,
    port: &InboundPort,
    policy: &mut Name,
) -> Result<&'static [Decision], Rejection> {
    let snapshot = &running.snapshot;
    let peer = side.peer().map(|peer| &peer.id);
    let decision = match head {
        Some(head) => authz::decide(&snapshot.inbound, &snapshot.mesh, peer, head, port),
        None => authz::decide_connection(&snapshot.inbound, &snapshot.mesh, peer, port),
    };
    if let Some(name) = decision.policy {
        // A text of its own, which this worker alone counts the users of.
        *policy = (&**name).into();
    }
    let Some(reason) = decision.reason() else {
        return Ok(if decision.audited {
            &[Decision::Audited, Decision::Allowed]
        } else {
            &[Decision::Allowed]
        });
    };
    let metrics = core.telemetry.metrics();
    if decision.audited {
        metrics.decision(Decision::Audited);
    }
    metrics.decision(Decision::Denied);
    let who = peer.map_or("a caller without an identity", |peer| peer.as_str());
    let by = decision.policy.map_or("the mesh's default", |name| name);
    Err(Rejection::unseen(reason, format!("{who} may not, says {by}")))
}
