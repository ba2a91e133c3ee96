//! `outrigger version`: of this program and of the control plane.

use std::{process::ExitCode, time::Duration};

use tokio::time::timeout;

use super::{
    output::{self, Failure, Output},
    remote::{Connected, Remote},
};
use crate::resource::pb;

const EXAMPLES: &str = "\
Examples:
  outrigger version
  outrigger version --client -o json     only of this program, without asking anybody";

/// Nobody waits longer for a version.
const ANSWER_MAX: Duration = Duration::from_secs(3);

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Only of this program
    #[arg(long, env = "OUTRIGGER_CLIENT")]
    client: bool,
    #[command(flatten)]
    remote: Remote,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let format = args.output.format;
    version(args).await.map_err(|failure| failure.in_format(format))
}

async fn version(args: Args) -> Result<ExitCode, Failure> {
    let own = env!("CARGO_PKG_VERSION");
    // Without a context there is nobody to ask.
    let connected = if args.client { None } else { args.remote.connect().ok() };
    let theirs = match &connected {
        Some(connected) => Some((connected.server.clone(), ask(connected).await)),
        None => None,
    };
    let answered = theirs.as_ref().and_then(|(server, it)| Some((&**server, &**it.as_ref().ok()?)));
    let text = || text(own, answered);
    let value = || {
        let mut value = serde_json::json!({ "version": own });
        if let Some((server, version)) = &theirs {
            value["controlPlane"] = serde_json::json!({
                "server": server,
                "version": version.as_ref().ok(),
                "error": version.as_ref().err().map(Failure::message),
            });
        }
        value
    };
    args.output.format.print(text, value)?;
    match theirs {
        Some((_, Err(failure))) => Ok(failure.report()),
        Some((_, Ok(_))) | None => Ok(ExitCode::SUCCESS),
    }
}

/// Both versions, or the own one where there is no other.
fn text(own: &str, theirs: Option<(&str, &str)>) -> String {
    let theirs = theirs.map(|(server, version)| {
        format!("control plane {server} {}\n", output::printable(version))
    });
    format!("outrigger {own}\n{}", theirs.unwrap_or_default())
}

async fn ask(connected: &Connected) -> Result<String, Failure> {
    let mut client = connected.client.config();
    let answer = timeout(ANSWER_MAX, client.status(pb::StatusRequest::default())).await;
    let late = |_| {
        let seconds = ANSWER_MAX.as_secs();
        Failure::say(format!("no answer from {} within {seconds}s", connected.server))
            .with_hint("outrigger check")
    };
    let status = answer.map_err(late)?.map_err(|status| connected.failed(&status))?;
    Ok(status.into_inner().version)
}

#[cfg(test)]
mod tests {
    use super::text;

    #[test]
    fn both_versions_are_shown_where_both_are_known() {
        assert_eq!(text("0.1.0", None), "outrigger 0.1.0\n");
        let both = "outrigger 0.1.0\ncontrol plane mesh:15010 0.2.0\n";
        assert_eq!(text("0.1.0", Some(("mesh:15010", "0.2.0"))), both);
    }
}
