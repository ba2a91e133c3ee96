//! The part of a check that asks a sidecar on this machine, where there may be no credential for the
//! control plane: is it there, is it ready, is its application well, does it reach the control plane,
//! how long does its certificate last, who can read its key, what does it refuse, and whom does it leave alone?

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use serde_json::Value;

use super::{
    files,
    report::{Line, Report},
};
use crate::{
    app::admin::Address,
    cli::{healthcheck, words},
    net,
};

/// A control plane that takes longer is as good as none.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// The configuration of a sidecar that uses a thousand services.
const PAGE_BYTES_MAX: usize = 64 << 20;
/// A certificate is renewed from half of its life on; with so little left of it, that has failed.
const LEFT_MIN: f64 = 0.25;

/// Asks its admin listener.
pub(super) async fn look(admin: &Address, now: SystemTime, report: &mut Report) {
    let config = match page(admin, "/config").await {
        Ok(config) => config,
        Err(why) => {
            let line = Line::fail("sidecar", format!("{admin}: {why}"));
            return report
                .add(line.hint("is it running here? --sidecar names its --admin address"));
        }
    };
    let text = |name: &str| config[name].as_str().unwrap_or("-").to_owned();
    let what = format!("{} {}, at {admin}", text("service"), text("workload"));
    report.add(Line::ok("sidecar", what));
    report.add(version(&text("version")));
    report.add(phase(&config));
    if let Some(line) = control_plane(&config).await {
        report.add(line);
    }
    match page(admin, "/certificates").await {
        Ok(shown) => report.add(certificate(&shown, now)),
        Err(why) => report.add(Line::fail("certificate", why)),
    }
    files::look(&private_files(&config), report);
    report.add_all(refused(&config));
    match page(admin, "/endpoints").await {
        Ok(endpoints) => report.add_all(left_alone(&endpoints)),
        Err(why) => report.add(Line::fail("endpoints", why)),
    }
}

async fn page(admin: &Address, path: &'static str) -> Result<Value, String> {
    match healthcheck::ask_at(admin, path, PAGE_BYTES_MAX).await {
        Ok((true, text)) => serde_json::from_str(&text).map_err(|error| error.to_string()),
        Ok((false, text)) => Err(text.trim().to_owned()),
        Err(error) => Err(format!("{error:#}")),
    }
}

fn version(theirs: &str) -> Line {
    let own = env!("CARGO_PKG_VERSION");
    if theirs == own {
        return Line::ok("version", own);
    }
    Line::warn("version", format!("this program is {own}, the sidecar {theirs}"))
        .hint("start the sidecar again with the newer program")
}

fn phase(config: &Value) -> Line {
    let phase = config["phase"].as_str().unwrap_or("unknown");
    match (phase, config["application"].as_str()) {
        ("ready", _) => Line::ok("ready", "it takes requests"),
        (phase, Some(why)) => Line::warn("ready", format!("{phase}: the application at {why}"))
            .hint("is it running? --app names its address, --app-check what it is asked"),
        ("draining", None) => Line::warn("ready", "draining").hint("start it again"),
        (phase, None) => {
            Line::warn("ready", phase).hint("its log says what it waits for; so does /ready")
        }
    }
}

async fn control_plane(config: &Value) -> Option<Line> {
    let known = config.get("controlPlane")?;
    let server = known["server"].as_str()?;
    let revision = &config["revision"];
    if known["connected"] == true {
        let what = format!("connected to {server}, revision {revision}");
        return Some(Line::ok("control plane", what));
    }
    let error = known["error"].as_str().unwrap_or("no answer yet");
    let line = Line::fail("control plane", format!("{server}: {error}"));
    Some(line.hint(match net::connect_host(server, CONNECT_MAX).await {
        Ok(_) => "its port is reached from here: the control plane's log says why it refuses",
        Err(net::ConnectError::Refused { .. }) => {
            "nothing listens there: is it running, and on an address that others reach (--listen)?"
        }
        Err(net::ConnectError::Timeout { .. }) => "is there a firewall between?",
        Err(net::ConnectError::Name { .. }) => "--control-plane names a host without an address",
    }))
}

fn certificate(shown: &Value, now: SystemTime) -> Line {
    let id = shown["id"].as_str().unwrap_or("-");
    let time = |name: &str| {
        let time = shown[name].as_str()?.parse::<prost_types::Timestamp>().ok()?;
        words::time(Some(&time))
    };
    let (Some(begins), Some(ends)) = (time("notBefore"), time("notAfter")) else {
        return Line::warn("certificate", "it has none yet")
            .hint("is the token used up? outrigger token list");
    };
    let life = ends.duration_since(begins).unwrap_or_default();
    match ends.duration_since(now) {
        _ if now < begins => Line::fail("certificate", format!("{id} is not valid yet"))
            .hint("set this machine's clock"),
        Err(_) => Line::fail("certificate", format!("{id} has expired"))
            .hint("the sidecar's log says why it does not renew it; it may join again by a token"),
        Ok(left) if left.as_secs_f64() < life.as_secs_f64() * LEFT_MIN => {
            let what = format!("{id} ends in {}, and was not renewed", words::age(left));
            Line::warn("certificate", what).hint("is the control plane reached? its log says more")
        }
        Ok(left) => Line::ok("certificate", format!("{id}, for {}", words::age(left))),
    }
}

/// What it keeps for itself. It is on this machine, as its admin listener is.
fn private_files(config: &Value) -> Vec<PathBuf> {
    let named = config["privateFiles"].as_array().map_or(&[][..], Vec::as_slice);
    named.iter().filter_map(Value::as_str).map(PathBuf::from).collect()
}

fn refused(config: &Value) -> Vec<Line> {
    let refused = config["refused"].as_array().map_or(&[][..], Vec::as_slice);
    let line = |it: &Value| {
        let problems = it["problems"].as_array().map_or(&[][..], Vec::as_slice);
        let why = problems.first().and_then(Value::as_str).unwrap_or("no reason given");
        let name = it["resource"].as_str().unwrap_or("-");
        Line::fail("resources", format!("{name} is refused: {why}"))
            .hint("mend and apply it again; the last good version is used meanwhile")
    };
    refused.iter().map(line).collect()
}

/// Endpoints that this sidecar sends nothing to.
fn left_alone(endpoints: &Value) -> Vec<Line> {
    let all = endpoints.as_array().map_or(&[][..], Vec::as_slice);
    let line = |it: &Value| {
        let text = |name: &str| it[name].as_str().unwrap_or("-");
        let state = text("state");
        let ejection = &it["ejection"];
        let why = match ejection["cause"].as_str() {
            Some(cause) => {
                let left = ejection["secondsLeft"].as_f64().unwrap_or_default();
                format!(" after {}x {cause}, for {left:.0}s more", ejection["failures"])
            }
            None if matches!(state, "ready" | "weightless") => return None,
            None => String::new(),
        };
        let what = format!("{} of {} is {state}{why}", text("endpoint"), text("destination"));
        Some(Line::warn("endpoints", what).hint("its own sidecar's log and check say why"))
    };
    let lines: Vec<_> = all.iter().filter_map(line).collect();
    match (lines.is_empty(), all.len()) {
        (true, 0) => Vec::new(),
        (true, count) => {
            let what = format!("{} in use, none left alone", words::count(count, "endpoint"));
            vec![Line::ok("endpoints", what)]
        }
        (false, _) => lines,
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use serde_json::json;

    use super::{certificate, left_alone, look, phase, refused};
    use crate::cli::check::report::{Line, Report};

    fn said(lines: Vec<Line>) -> String {
        let mut report = Report::default();
        report.add_all(lines);
        report.text(false)
    }

    #[test]
    fn what_a_sidecar_shows_becomes_lines_that_say_what_to_do() {
        let config = json!({
            "phase": "not ready",
            "application": "127.0.0.1:9090: connection refused",
            "refused": [{"resource": "GRPCRoute shop/r", "problems": ["spec.rules[0]: no"]}],
        });
        let certificates = json!({
            "id": "spiffe://mesh.local/ns/shop/svc/orders",
            "notBefore": "1970-01-01T00:00:00Z",
            "notAfter": "1970-01-01T02:00:00Z",
        });
        let endpoints = json!([
            {"destination": "catalog.shop", "endpoint": "catalog-1", "state": "ready"},
            {"destination": "catalog.shop", "endpoint": "catalog-2", "state": "ejected",
             "ejection": {"failures": 5, "cause": "grpc_UNAVAILABLE", "secondsLeft": 12.4}},
        ]);
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let mut lines = vec![phase(&config), certificate(&certificates, at(60))];
        lines.push(certificate(&certificates, at(6000)));
        lines.push(certificate(&certificates, at(7201)));
        lines.extend(refused(&config));
        lines.extend(left_alone(&endpoints));
        let expected = "\
warn  ready        not ready: the application at 127.0.0.1:9090: connection refused
                   try: is it running? --app names its address, --app-check what it is asked
ok    certificate  spiffe://mesh.local/ns/shop/svc/orders, for 119m
warn  certificate  spiffe://mesh.local/ns/shop/svc/orders ends in 20m, and was not renewed
                   try: is the control plane reached? its log says more
fail  certificate  spiffe://mesh.local/ns/shop/svc/orders has expired
                   try: the sidecar's log says why it does not renew it; it may join again by a token
fail  resources    GRPCRoute shop/r is refused: spec.rules[0]: no
                   try: mend and apply it again; the last good version is used meanwhile
warn  endpoints    catalog-2 of catalog.shop is ejected after 5x grpc_UNAVAILABLE, for 12s more
                   try: its own sidecar's log and check say why

6 checks: 2 failures, 3 warnings
";
        assert_eq!(said(lines), expected);
    }

    #[tokio::test]
    async fn a_sidecar_that_is_not_there_is_a_failure() {
        let gone = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = gone.local_addr().expect("bound").to_string();
        drop(gone);
        let mut report = Report::default();
        look(&address.parse().expect("an address"), UNIX_EPOCH, &mut report).await;
        assert!(report.is_failed());
        assert!(report.text(false).contains("--sidecar names its --admin address"));
    }
}
