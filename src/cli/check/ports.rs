//! Whether the sidecars' inbound ports and the control plane's can be reached from here: what a firewall
//! between two machines does to the mesh, and an address that others can not dial.

use std::{net::SocketAddr, time::Duration};

use futures_util::future::join_all;

use super::report::{Line, Report};
use crate::{
    net,
    resource::pb::{self, resource::Spec},
};

/// A port of a mesh answers at once or not at all.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// Ports that are tried; more would be a scan.
const TRIED_MAX: usize = 50;

/// One inbound listener.
struct Inbound {
    /// `orders-1.shop`
    workload: String,
    /// `10.0.0.7:15006`
    address: String,
}

/// Where the control plane listens, which has just answered at `server`, and whether its metrics can
/// be read from here. One that does not say where is older than this.
pub(super) async fn of_control_plane(
    server: &str,
    status: &pb::StatusResponse,
    report: &mut Report,
) {
    if status.listen.is_empty() {
        return;
    }
    let from = |bound: &str, reached: &str| match bound.parse() {
        Ok(bound) if is_loopback(bound) => "for its own machine alone".to_owned(),
        _ => format!("reached at {reached}"),
    };
    let what = format!("API on {}, {}", status.listen, from(&status.listen, server));
    report.add(Line::ok("ports", what));
    // None, or a Unix socket: those who may read it are on its machine.
    let Ok(bound) = status.metrics.parse::<SocketAddr>() else { return };
    let host = server.rsplit_once(':').map_or(server, |(host, _)| host);
    let here = host == "localhost" || server.parse().is_ok_and(is_loopback);
    if is_loopback(bound) && !here {
        let what = format!("metrics on {bound}, for the control plane's own machine alone");
        return report.add(Line::ok("ports", what));
    }
    let to = match bound.ip().is_unspecified() {
        true => format!("{host}:{}", bound.port()),
        false => bound.to_string(),
    };
    report.add(match net::connect_host(&to, CONNECT_MAX).await {
        Ok(_) => Line::ok("ports", format!("metrics on {bound}, {}", from(&status.metrics, &to))),
        Err(error) => {
            let what = format!("metrics on {bound}, not reached from here: {error}");
            Line::warn("ports", what).hint(match error {
                net::ConnectError::Refused { .. } => {
                    "Prometheus has to get there: does something between lead only to the API's port?"
                }
                net::ConnectError::Timeout { .. } => {
                    "Prometheus has to get there: open the port, or move it with --metrics"
                }
                net::ConnectError::Name { .. } => "the context's host has no address here",
            })
        }
    });
}

fn is_loopback(bound: SocketAddr) -> bool {
    bound.ip().to_canonical().is_loopback()
}

pub(super) async fn look(workloads: &[pb::Resource], subject: Option<&str>, report: &mut Report) {
    let inbound: Vec<Inbound> =
        workloads.iter().filter_map(|it| inbound(it, subject)).take(TRIED_MAX).collect();
    if inbound.is_empty() {
        return;
    }
    let tries = inbound.iter().map(|it| net::connect_host(&it.address, CONNECT_MAX));
    let tried = join_all(tries).await;
    let lines: Vec<Line> = inbound
        .iter()
        .zip(tried)
        .filter_map(|(inbound, tried)| Some(line(inbound, &tried.err()?)))
        .collect();
    if lines.is_empty() {
        let what = match inbound.len() {
            1 => "1 inbound port, reached from here".to_owned(),
            many => format!("{many} inbound ports, all reached from here"),
        };
        return report.add(Line::ok("ports", what));
    }
    report.add_all(lines);
}

fn line(inbound: &Inbound, error: &net::ConnectError) -> Line {
    let Inbound { workload, address } = inbound;
    let hint = match error {
        net::ConnectError::Refused { .. } => {
            "nothing listens there: is --advertise the address of that machine?"
        }
        net::ConnectError::Timeout { .. } => {
            "other sidecars have to get there: open the port between their machines"
        }
        net::ConnectError::Name { .. } => "--advertise names a host that has no address here",
    };
    let what = format!("{workload} at {address} is not reached from here: {error}");
    Line::warn("ports", what).hint(hint)
}

fn inbound(workload: &pb::Resource, subject: Option<&str>) -> Option<Inbound> {
    let metadata = workload.metadata.as_ref()?;
    let Some(Spec::Workload(spec)) = &workload.spec else { return None };
    let name = format!("{}.{}", metadata.name, metadata.namespace);
    let service = format!("{}.{}", spec.service, metadata.namespace);
    let asked = subject.is_none_or(|subject| subject == name || subject == service);
    if !asked || spec.inbound == 0 || spec.address.is_empty() {
        return None;
    }
    let host = match spec.address.contains(':') {
        true => format!("[{}]", spec.address),
        false => spec.address.clone(),
    };
    Some(Inbound { workload: name, address: format!("{host}:{}", spec.inbound) })
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::{look, of_control_plane};
    use crate::{
        cli::check::report::Report,
        resource::pb::{self, resource::Spec},
    };

    fn workload(name: &str, inbound: u32) -> pb::Resource {
        let spec = pb::Workload {
            service: "orders".to_owned(),
            address: "127.0.0.1".to_owned(),
            inbound,
            ..Default::default()
        };
        let (name, namespace) = (name.to_owned(), "shop".to_owned());
        pb::Resource {
            metadata: Some(pb::Metadata { name, namespace, ..Default::default() }),
            spec: Some(Spec::Workload(spec)),
            status: None,
        }
    }

    #[tokio::test]
    async fn a_port_that_nobody_reaches_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let open = u32::from(listener.local_addr().expect("bound").port());
        let gone = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let closed = u32::from(gone.local_addr().expect("bound").port());
        drop(gone);
        let workloads = [workload("orders-1", open), workload("orders-2", closed)];
        let mut report = Report::default();
        look(&workloads[..1], None, &mut report).await;
        assert!(report.text(false).contains("ok    ports  1 inbound port, reached"));
        for (subject, said) in
            [(None, true), (Some("orders.shop"), true), (Some("orders-1.shop"), false)]
        {
            let mut report = Report::default();
            look(&workloads, subject, &mut report).await;
            let text = report.text(false);
            assert_eq!(text.contains("warn  ports  orders-2.shop at 127.0.0.1:"), said, "{text}");
        }
    }

    #[tokio::test]
    async fn the_control_plane_s_ports_are_looked_at_as_far_as_they_are_for_others() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let open = listener.local_addr().expect("bound").port();
        let gone = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let closed = gone.local_addr().expect("bound").port();
        drop(gone);
        let loopback = |port: u16| format!("127.0.0.1:{port}");
        let (all, here) = ("0.0.0.0:15010".to_owned(), "127.0.0.1:15010".to_owned());
        for (server, listen, metrics, expected) in [
            ("127.0.0.1:15010", "", loopback(open), "0 checks, all ok".to_owned()),
            (
                "127.0.0.1:15010",
                here.as_str(),
                loopback(open),
                format!(
                    "ok    ports  API on {here}, for its own machine alone\n\
                     ok    ports  metrics on 127.0.0.1:{open}, for its own machine alone\n"
                ),
            ),
            (
                "localhost:15010",
                &all,
                format!("0.0.0.0:{open}"),
                format!(
                    "ok    ports  API on {all}, reached at localhost:15010\n\
                     ok    ports  metrics on 0.0.0.0:{open}, reached at localhost:{open}\n"
                ),
            ),
            (
                "mesh.example:15010",
                &all,
                loopback(closed),
                "metrics on 127.0.0.1:CLOSED, for the control plane's own machine alone\n"
                    .replace("CLOSED", &closed.to_string()),
            ),
            ("127.0.0.1:15010", &here, "unix:/run/m.sock".to_owned(), "\n\n1 check,".to_owned()),
            (
                "127.0.0.1:15010",
                &here,
                loopback(closed),
                format!("warn  ports  metrics on 127.0.0.1:{closed}, not reached from here: "),
            ),
        ] {
            let status = pb::StatusResponse {
                listen: listen.to_owned(),
                metrics,
                ..pb::StatusResponse::default()
            };
            let mut report = Report::default();
            of_control_plane(server, &status, &mut report).await;
            let text = report.text(false);
            assert!(text.contains(&expected), "{text}");
        }
    }
}
