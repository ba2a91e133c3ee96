//! The part of a check that looks from this machine: does a call get to the control plane, and what
//! stops it.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use super::report::{Line, Report, Verdict};
use crate::{
    app::{
        client::{self, ConnectError, Credential, CredentialError, connect_error},
        context::Context,
    },
    cli::{
        remote::{Connected, Remote},
        words,
    },
    clock,
    identity::{BACKDATE, disk::DiskError},
    net,
    resource::pb,
    spiffe,
};

/// A control plane that takes longer is as good as none.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// A credential with less left than this is to be renewed by a person.
const CREDENTIAL_LEFT_MIN: Duration = Duration::from_hours(24 * 14);
/// The control plane renews its own certificate by itself long before.
const SERVER_LEFT_MIN: Duration = Duration::from_hours(1);
/// Clocks further apart than this are worth a word.
const SKEW_MAX: Duration = Duration::from_secs(5);

/// Which control plane is meant, and the file that says so.
pub(super) fn context(remote: &Remote, report: &mut Report) -> Option<(Context, PathBuf)> {
    match remote.choose() {
        Ok((named, path)) => {
            let what = format!("{}: {}, from {}", named.name, named.context.server, path.display());
            report.add(Line::ok("context", what));
            Some((named.context, path))
        }
        Err(failure) => {
            report.add(Line::failure("context", &failure));
            None
        }
    }
}

/// Who calls.
pub(super) fn credential(
    context: &Context,
    now: SystemTime,
    report: &mut Report,
) -> Option<Credential> {
    const AGAIN: &str = "start the control plane again, which lays a new one in its data directory";
    let credential = match Credential::load(context) {
        Ok(credential) => credential,
        // Among the files it was said.
        Err(CredentialError::Key(DiskError::Readable { .. })) => return None,
        Err(error) => {
            let hint = "outrigger context add with the control plane's root.pem, admin.pem and \
                        admin-key.pem";
            report.add(Line::fail("credential", error.to_string()).hint(hint));
            return None;
        }
    };
    let (id, ends) = (credential.svid.id(), credential.svid.not_after());
    report.add(match (ends.duration_since(now), now < credential.svid.not_before()) {
        (Err(_), _) => Line::fail("credential", format!("{id} has expired")).hint(AGAIN),
        (_, true) => Line::fail("credential", format!("{id} is not valid yet"))
            .hint("set this machine's clock"),
        (Ok(left), _) if left < CREDENTIAL_LEFT_MIN => {
            let what = format!("{id} expires in {}", words::age(left));
            Line::warn("credential", what).hint(AGAIN)
        }
        (Ok(left), _) => Line::ok("credential", format!("{id}, for {}", words::age(left))),
    });
    Some(credential)
}

/// Whether anything listens there.
pub(super) async fn reach(server: &str, report: &mut Report) -> bool {
    let began = Instant::now();
    let line = match net::connect_host(server, CONNECT_MAX).await {
        Ok(_) => Line::ok("reach", format!("{server} in {}", since(began))),
        Err(error) => {
            let cause = match &error {
                net::ConnectError::Refused { source, .. }
                | net::ConnectError::Name { source, .. } => {
                    format!("{error}: {source}")
                }
                net::ConnectError::Timeout { .. } => error.to_string(),
            };
            let hint = match error {
                net::ConnectError::Refused { .. } => {
                    "outrigger control-plane starts one; on another machine it needs --listen"
                }
                net::ConnectError::Timeout { .. } => "is there a firewall between?",
                net::ConnectError::Name { .. } => {
                    "outrigger context add with an address that exists"
                }
            };
            Line::fail("reach", cause).hint(hint)
        }
    };
    let reached = line.verdict == Verdict::Ok;
    report.add(line);
    reached
}

/// Whether what listens there is the control plane of this credential.
pub(super) async fn tls(
    server: &str,
    credential: &Credential,
    now: SystemTime,
    report: &mut Report,
) {
    let stream = match client::connect(server, credential.tls()()).await {
        Ok(stream) => stream,
        Err(error) => {
            let hint = match &error {
                ConnectError::Tls { source, .. } if is_about_time(source) => {
                    "compare this machine's clock with the control plane's"
                }
                _ => "the context's files belong to another control plane: outrigger context list",
            };
            return report.add(Line::fail("tls", error.to_string()).hint(hint));
        }
    };
    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let left = shown
        .and_then(|der| spiffe::not_after(der).ok())
        .map(|ends| ends.duration_since(now).unwrap_or_default());
    report.add(match left {
        Some(left) if left < SERVER_LEFT_MIN => {
            let what = format!("the control plane's certificate expires in {}", words::age(left));
            Line::warn("tls", what).hint("its log says why it does not renew it")
        }
        Some(left) => {
            Line::ok("tls", format!("the control plane's certificate lasts {}", words::age(left)))
        }
        None => Line::ok("tls", "the control plane has shown who it is"),
    });
}

fn is_about_time(error: &std::io::Error) -> bool {
    use rustls::CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(
        inner,
        Some(rustls::Error::InvalidCertificate(
            Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. }
        ))
    )
}

/// Whether it answers and takes the credential; and whether its clock is ours.
pub(super) async fn api(connected: &Connected, report: &mut Report) -> Option<pb::StatusResponse> {
    let began = Instant::now();
    let asked = clock::now();
    let answer = connected.client.config().status(pb::StatusRequest::default()).await;
    let status = match answer {
        Ok(answer) => answer.into_inner(),
        Err(status) => {
            let line = Line::failure("api", &connected.failed(&status));
            report.add(match connect_error(&status) {
                // This is the check that others point to.
                None if line
                    .hint
                    .as_deref()
                    .is_some_and(|it| it.starts_with("outrigger check")) =>
                {
                    line.hint(
                        "is the context's certificate of this mesh? outrigger context list; the \
                     control plane's log says why it refuses",
                    )
                }
                _ => line,
            });
            return None;
        }
    };
    let what = format!("answers in {}, revision {}", since(began), status.revision);
    report.add(Line::ok("api", what));
    // Its clock was read somewhere between the question and the answer.
    let took = began.elapsed();
    if let Some(theirs) = words::time(status.now.as_ref()) {
        report.add(skew(asked, took, theirs));
    }
    Some(status)
}

/// What the credential may do. A control plane that does not say so is older than this.
pub(super) fn permissions(status: &pb::StatusResponse, report: &mut Report) {
    let Some(caller) = &status.caller else { return };
    let role = match caller.role() {
        pb::CredentialRole::Admin => "admin: may do everything".to_owned(),
        pb::CredentialRole::Editor if caller.namespaces.is_empty() => {
            "editor: reads everything, and writes everywhere but to the Mesh".to_owned()
        }
        pb::CredentialRole::Editor => {
            format!("editor: reads everything, and writes in {}", caller.namespaces.join(", "))
        }
        pb::CredentialRole::Viewer => "viewer: reads everything, and changes nothing".to_owned(),
        pb::CredentialRole::Unspecified => return,
    };
    report.add(Line::ok("permissions", role));
}

fn skew(asked: SystemTime, took: Duration, theirs: SystemTime) -> Line {
    let (apart, direction) = match theirs.duration_since(asked) {
        Ok(ahead) => (ahead.saturating_sub(took), "behind"),
        Err(behind) => (behind.duration(), "ahead of"),
    };
    let what =
        format!("this machine's clock is {} {direction} the control plane's", words::age(apart));
    let hint = "synchronise both, with NTP for instance; certificates bear a minute";
    match apart {
        apart if apart >= BACKDATE => Line::fail("clock", what).hint(hint),
        apart if apart >= SKEW_MAX => Line::warn("clock", what).hint(hint),
        _ => Line::ok("clock", "agrees with the control plane's"),
    }
}

fn since(began: Instant) -> String {
    words::latency(began.elapsed().as_secs_f64() * 1000.0)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::{super::report::Verdict, skew};

    #[test]
    fn clocks_apart_by_more_than_certificates_bear_are_a_failure() {
        let asked = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let took = Duration::from_secs(1);
        for (theirs, verdict, what) in [
            (1_000_001, Verdict::Ok, "agrees"),
            (1_000_000, Verdict::Ok, "agrees"),
            (1_000_008, Verdict::Warn, "is 7s behind"),
            (999_990, Verdict::Warn, "is 10s ahead of"),
            (1_000_061, Verdict::Fail, "is 60s behind"),
            (990_000, Verdict::Fail, "is 2h ahead of"),
        ] {
            let line = skew(asked, took, UNIX_EPOCH + Duration::from_secs(theirs));
            assert_eq!(line.verdict, verdict, "{theirs}: {line:?}");
            assert!(line.what.contains(what), "{line:?}");
        }
    }
}
