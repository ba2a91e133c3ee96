//! `outrigger ca`: the mesh's certificate authority, and the exchange of its root.

use std::{fmt::Write as _, path::PathBuf, process::ExitCode, time::Duration};

use clap::Subcommand;
use tokio::time::{self, Instant};
use tonic::Status;

use super::{
    output::{self, Failure, Output},
    remote::{Connected, Remote},
    words,
};
use crate::{
    clock,
    identity::disk,
    resource::pb::{self, RotationPhase},
    spiffe::certificate_pem,
};

const ROTATE_EXAMPLES: &str = "\
Examples:
  outrigger ca rotate                              to a new root that the control plane makes
  outrigger ca rotate --root-cert ca.pem --root-key ca-key.pem
                                                   to one of your own, or a CA below it
  outrigger ca rotate --timeout 1m --force         leave behind who does not follow in a minute

Three phases: trust both roots, issue from the new one, drop the old one. Each ends when every \
connected sidecar has followed, so that no call fails. The control plane goes on by itself, also \
after a restart; Ctrl-C ends only the waiting, and the same command again goes on with it. Until the \
old root is being dropped, `outrigger ca abort` takes all of it back.";

/// Between two looks at how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long the control plane may be away meanwhile.
const AWAY_MAX: Duration = Duration::from_secs(60);
/// Sidecars that one message names.
const SHOWN_MAX: usize = 5;
/// The largest PEM file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the roots that are trusted, what issues, when they end, and an exchange under way
    #[command(after_help = "Example:\n  outrigger ca status -o json")]
    Status(StatusArgs),
    /// Print the roots that are trusted, as PEM
    #[command(after_help = "Example:\n  outrigger ca show > root.pem")]
    Show(StatusArgs),
    /// Exchange the root, in three phases that every sidecar follows; shows how far it is
    Rotate(RotateArgs),
    /// Take an exchange of the root back
    #[command(after_help = "Example:\n  outrigger ca abort")]
    Abort(StatusArgs),
}

#[derive(Debug, clap::Args)]
struct StatusArgs {
    #[command(flatten)]
    remote: Remote,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, clap::Args)]
#[command(after_help = ROTATE_EXAMPLES)]
struct RotateArgs {
    /// PEM file with the CA certificate to sign with, and those above it up to the new root
    #[arg(long, value_name = "FILE", requires = "root_key", env = "OUTRIGGER_ROOT_CERT")]
    root_cert: Option<PathBuf>,
    /// PEM file with its key, which is sent to the control plane
    #[arg(long, value_name = "FILE", requires = "root_cert", env = "OUTRIGGER_ROOT_KEY")]
    root_key: Option<PathBuf>,
    /// How long each phase waits for sidecars that do not follow
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = words::duration)]
    #[arg(env = "OUTRIGGER_TIMEOUT")]
    timeout: Duration,
    /// Go on without them then; they may have to join again
    #[arg(long, env = "OUTRIGGER_FORCE")]
    force: bool,
    /// Only begin; `outrigger ca status` shows how far it is
    #[arg(long, conflicts_with = "force", env = "OUTRIGGER_NO_WAIT")]
    no_wait: bool,
    #[command(flatten)]
    remote: Remote,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let (format, done) = match args.command {
        Command::Status(args) => (args.output.format, status(&args).await),
        Command::Show(args) => (args.output.format, show(&args).await),
        Command::Rotate(args) => (args.output.format, rotate(&args).await),
        Command::Abort(args) => (args.output.format, abort(&args).await),
    };
    done.map_err(|failure| failure.in_format(format))
}

async fn authority(connected: &Connected) -> Result<pb::Authority, Status> {
    let answer = connected.client.admin().get_authority(pb::GetAuthorityRequest {}).await;
    Ok(answer?.into_inner())
}

async fn status(args: &StatusArgs) -> Result<ExitCode, Failure> {
    let connected = args.remote.connect()?;
    let authority = authority(&connected).await.map_err(|status| connected.failed(&status))?;
    args.output.format.print(|| text(&authority), || json(&authority))
}

async fn show(args: &StatusArgs) -> Result<ExitCode, Failure> {
    let connected = args.remote.connect()?;
    let authority = authority(&connected).await.map_err(|status| connected.failed(&status))?;
    args.output.format.print(|| pem(&authority.roots), || json(&authority))
}

async fn abort(args: &StatusArgs) -> Result<ExitCode, Failure> {
    let connected = args.remote.connect()?;
    let answer = connected.client.admin().abort_rotation(pb::AbortRotationRequest {}).await;
    let authority = answer.map_err(|status| connected.failed(&status))?.into_inner();
    match &authority.rotation {
        None => output::note("the exchange of the root is taken back\n"),
        Some(_) => output::note(
            "the new root has issued already: its certificates are exchanged for those of the old \
             one now; outrigger ca rotate shows how far that is\n",
        ),
    }
    args.output.format.print(|| text(&authority), || json(&authority))
}

async fn rotate(args: &RotateArgs) -> Result<ExitCode, Failure> {
    let mut connected = args.remote.connect()?;
    let mut now = begin(args, &connected).await?;
    let format = args.output.format;
    if args.no_wait {
        return format.print(|| text(&now), || json(&now));
    }
    let began = Instant::now();
    let mut waiting = None;
    while let Some(rotation) = now.rotation.clone() {
        let since = match waiting {
            Some((phase, since)) if phase == rotation.phase() => since,
            _ => {
                if let Some(line) = begun(&rotation) {
                    output::note(&line);
                }
                waiting = Some((rotation.phase(), Instant::now()));
                Instant::now()
            }
        };
        if since.elapsed() >= args.timeout && !rotation.lagging.is_empty() {
            if !args.force {
                return Err(lagging(&rotation, args.timeout));
            }
            output::note(&format!("going on without {}\n", names(&rotation.lagging)));
            let request = pb::AdvanceRotationRequest { phase: rotation.phase };
            let advanced = connected.client.admin().advance_rotation(request).await;
            if let Err(status) = advanced.as_ref().map(|_| ())
                && status.code() != tonic::Code::Aborted
            {
                return Err(connected.failed(status));
            }
        }
        time::sleep(LOOK_EVERY).await;
        now = look(args, &mut connected).await?;
    }
    // Between two looks more than one phase may have ended.
    if waiting.is_some_and(|(phase, _)| phase != RotationPhase::Drop) {
        output::note("3/3 drop the old root\n");
    }
    let took = words::latency(began.elapsed().as_secs_f64() * 1000.0);
    output::note(&format!("done in {took}\n"));
    format.print(|| text(&now), || json(&now))
}

/// Begins an exchange, or joins the one that is under way.
async fn begin(args: &RotateArgs, connected: &Connected) -> Result<pb::Authority, Failure> {
    let failed = |status: Status| connected.failed(&status);
    let now = authority(connected).await.map_err(failed)?;
    if let Some(rotation) = &now.rotation {
        if args.root_cert.is_some() {
            let message = "an exchange of the root is under way already";
            return Err(Failure::say(message).with_hint("outrigger ca rotate waits for its end"));
        }
        output::note(&format!("going on with the exchange {}\n", between(rotation)));
        return Ok(now);
    }
    let mut request = pb::RotateRootRequest::default();
    if let (Some(certificate), Some(key)) = (&args.root_cert, &args.root_key) {
        let missing = |path: &PathBuf| Failure::say(format!("there is no file {}", path.display()));
        request.certificates =
            disk::read(certificate, FILE_BYTES_MAX)?.ok_or_else(|| missing(certificate))?;
        request.key = disk::read_private(key, FILE_BYTES_MAX)?.ok_or_else(|| missing(key))?;
    }
    let begun = connected.client.admin().rotate_root(request).await.map_err(failed)?.into_inner();
    if let Some(rotation) = &begun.rotation {
        output::note(&format!(
            "exchanging the root of {} {}\n",
            begun.trust_domain,
            between(rotation)
        ));
    }
    Ok(begun)
}

/// Looks how far it is. The control plane may restart meanwhile, and the files of the credential may
/// be exchanged with the root.
async fn look(args: &RotateArgs, connected: &mut Connected) -> Result<pb::Authority, Failure> {
    let end = Instant::now() + AWAY_MAX;
    loop {
        let failed = match authority(connected).await {
            Ok(now) => return Ok(now),
            Err(status) => connected.failed(&status),
        };
        if Instant::now() >= end {
            return Err(failed.with_hint("outrigger ca status shows how far it is"));
        }
        time::sleep(LOOK_EVERY).await;
        if let Ok(again) = args.remote.connect() {
            *connected = again;
        }
    }
}

/// `from 0ab1c2d3 to 9f8e7d6c`
fn between(rotation: &pb::Rotation) -> String {
    let back = if rotation.aborting { " (taking one back)" } else { "" };
    format!("from {} to {}{back}", short(&rotation.from_root), short(&rotation.to_root))
}

/// What is said when a phase begins; `None` where people need not know that there are two.
fn begun(rotation: &pb::Rotation) -> Option<String> {
    let line = match rotation.phase() {
        RotationPhase::Unspecified => return None,
        RotationPhase::Trust => "1/3 trust both roots",
        RotationPhase::Issue => "2/3 issue from the new root",
        RotationPhase::Retire => "3/3 end connections of the old root",
        RotationPhase::Drop => "3/3 drop the old root",
    };
    Some(format!("{line}\n"))
}

fn lagging(rotation: &pb::Rotation, timeout: Duration) -> Failure {
    let message = format!(
        "after {} {} of {} have followed; waiting for {}",
        words::age(timeout),
        rotation.followed,
        words::count(usize::try_from(rotation.total).unwrap_or_default(), "sidecar"),
        names(&rotation.lagging)
    );
    Failure::say(message).with_hint(
        "outrigger ca rotate goes on waiting, with --force it goes on without them; outrigger ca \
         abort takes it back",
    )
}

fn names(lagging: &[pb::Laggard]) -> String {
    let name = |it: &pb::Laggard| format!("{}.{} ({})", it.workload, it.namespace, it.reason);
    let mut text = lagging.iter().take(SHOWN_MAX).map(name).collect::<Vec<_>>().join(", ");
    if let Some(more) = lagging.len().checked_sub(SHOWN_MAX).filter(|more| *more > 0) {
        write!(text, " and {more} more").expect("a String takes everything");
    }
    text
}

/// Enough of a hash for people.
fn short(hash: &str) -> &str {
    hash.get(..8).unwrap_or(hash)
}

fn text(authority: &pb::Authority) -> String {
    let row = |what: &str, certificate: &pb::CaCertificate| {
        vec![
            what.to_owned(),
            certificate.subject.clone(),
            short(&certificate.sha256).to_owned(),
            left(certificate),
        ]
    };
    let mut rows: Vec<_> =
        authority.roots.iter().map(|certificate| row("root", certificate)).collect();
    let below = authority.issuing.len().saturating_sub(1);
    rows.extend(authority.issuing[..below].iter().map(|certificate| row("issuing", certificate)));
    let mut text = output::table(&["KIND", "SUBJECT", "SHA256", "LEFT"], &[3], &rows);
    let mut line = |line: String| text.push_str(&line);
    if let Some(ttl) = authority.leaf_ttl.and_then(|ttl| Duration::try_from(ttl).ok()) {
        line(format!("certificates last {}\n", words::age(ttl)));
    }
    if !authority.root_key_online {
        line("the root's key is off line: what issues is not renewed by itself\n".to_owned());
    }
    if let Some(rotation) = &authority.rotation {
        let phase = begun(rotation).unwrap_or_default();
        line(format!("exchange of the root {}: {}", between(rotation), phase));
        line(format!("  {} of {} have followed\n", rotation.followed, rotation.total));
        for it in &rotation.lagging {
            line(format!("  {}.{}: {}\n", it.workload, it.namespace, it.reason));
        }
    }
    text
}

fn left(certificate: &pb::CaCertificate) -> String {
    let end = words::time(certificate.not_after.as_ref());
    let left = end.and_then(|end| end.duration_since(clock::now()).ok());
    left.map_or_else(|| "expired".to_owned(), words::age)
}

fn pem(certificates: &[pb::CaCertificate]) -> String {
    certificates.iter().map(|it| certificate_pem(&it.der.clone().into())).collect()
}

fn json(authority: &pb::Authority) -> serde_json::Value {
    let certificate = |it: &pb::CaCertificate| {
        serde_json::json!({
            "subject": it.subject,
            "sha256": it.sha256,
            "notBefore": words::time_json(it.not_before.as_ref()),
            "notAfter": words::time_json(it.not_after.as_ref()),
            "pem": pem(std::slice::from_ref(it)),
        })
    };
    let all = |certificates: &[pb::CaCertificate]| {
        certificates.iter().map(certificate).collect::<Vec<_>>()
    };
    let rotation = authority.rotation.as_ref().map(|rotation| {
        let laggard = |it: &pb::Laggard| {
            serde_json::json!({
                "workload": it.workload,
                "service": it.service,
                "namespace": it.namespace,
                "reason": it.reason,
            })
        };
        serde_json::json!({
            "phase": rotation.phase().as_str_name().trim_start_matches("ROTATION_PHASE_").to_lowercase(),
            "fromRoot": rotation.from_root,
            "toRoot": rotation.to_root,
            "aborting": rotation.aborting,
            "beganAt": words::time_json(rotation.began_at.as_ref()),
            "phaseBeganAt": words::time_json(rotation.phase_began_at.as_ref()),
            "beganBy": rotation.began_by,
            "followed": rotation.followed,
            "total": rotation.total,
            "lagging": rotation.lagging.iter().map(laggard).collect::<Vec<_>>(),
        })
    });
    serde_json::json!({
        "trustDomain": authority.trust_domain,
        "roots": all(&authority.roots),
        "issuing": all(&authority.issuing),
        "rootKeyOnline": authority.root_key_online,
        "rotation": rotation,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{lagging, text};
    use crate::{
        clock,
        resource::pb::{self, RotationPhase},
    };

    fn certificate(subject: &str, sha256: &str, days: u64) -> pb::CaCertificate {
        let end = clock::now() + Duration::from_hours(24 * days + 1);
        pb::CaCertificate {
            subject: subject.to_owned(),
            sha256: sha256.to_owned(),
            not_after: Some(prost_types::Timestamp::from(end)),
            ..Default::default()
        }
    }

    fn rotation() -> pb::Rotation {
        pb::Rotation {
            phase: RotationPhase::Issue.into(),
            from_root: "0ab1c2d3e4".to_owned(),
            to_root: "9f8e7d6c5b".to_owned(),
            followed: 2,
            total: 3,
            lagging: vec![pb::Laggard {
                workload: "web-1".to_owned(),
                service: "web".to_owned(),
                namespace: "shop".to_owned(),
                reason: "has not renewed its certificate yet".to_owned(),
            }],
            ..Default::default()
        }
    }

    #[test]
    fn the_status_shows_what_ends_and_who_lags() {
        let root = certificate("O=Outrigger, CN=mesh root 0ab1", "0ab1c2d3e4", 3650);
        let issuing = certificate("O=Outrigger, CN=mesh issuing CA 77", "7766554433", 300);
        let mut authority = pb::Authority {
            trust_domain: "mesh.local".to_owned(),
            roots: vec![root.clone()],
            issuing: vec![issuing, root],
            leaf_ttl: Some(prost_types::Duration { seconds: 86_400, nanos: 0 }),
            root_key_online: true,
            rotation: None,
        };
        let expected = "\
KIND     SUBJECT                             SHA256    LEFT
root     O=Outrigger, CN=mesh root 0ab1      0ab1c2d3   10y
issuing  O=Outrigger, CN=mesh issuing CA 77  77665544  300d
certificates last 24h
";
        assert_eq!(text(&authority), expected);
        authority.rotation = Some(rotation());
        authority.root_key_online = false;
        let more = "\
the root's key is off line: what issues is not renewed by itself
exchange of the root from 0ab1c2d3 to 9f8e7d6c: 2/3 issue from the new root
  2 of 3 have followed
  web-1.shop: has not renewed its certificate yet
";
        assert_eq!(text(&authority), format!("{expected}{more}"));
    }

    #[test]
    fn who_lags_is_named_with_what_to_do() {
        let failure = lagging(&rotation(), Duration::from_secs(300));
        assert_eq!(
            failure.message(),
            "after 5m 2 of 3 sidecars have followed; waiting for web-1.shop (has not renewed its \
             certificate yet)"
        );
        assert!(failure.hint().is_some_and(|hint| hint.contains("--force")));
    }
}
