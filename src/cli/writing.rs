//! What every command that writes has in common: its flags, and how it ends.

use std::{process::ExitCode, time::Duration};

use super::{
    guard,
    output::{self, Failure, Format},
    remote::Connected,
    report::Report,
    settle::settle,
    words,
};
use crate::resource::{ResourceKey, pb};

/// How a write is made, and waited for.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Writing {
    /// Say what would change, and for whom, and write nothing
    #[arg(long, env = "OUTRIGGER_DRY_RUN")]
    pub(super) dry_run: bool,
    /// Refuse unless this is the newest revision
    #[arg(long, value_name = "REVISION", env = "OUTRIGGER_EXPECT_REVISION")]
    pub(super) expect_revision: Option<u64>,
    /// Why; kept with the revision and shown by status
    #[arg(short, long, value_name = "TEXT", env = "OUTRIGGER_MESSAGE")]
    pub(super) message: Option<String>,
    /// Wait until every sidecar concerned runs it
    #[arg(long, env = "OUTRIGGER_WAIT")]
    wait: bool,
    /// How long --wait waits
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = words::duration)]
    #[arg(env = "OUTRIGGER_TIMEOUT")]
    timeout: Duration,
}

/// A write that is undone by itself.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Guarding {
    /// Roll back by itself when more calls fail than before; shows both, for this long (10s to 1h)
    #[arg(long, value_name = "DURATION", value_parser = words::within("10s", "1h"))]
    #[arg(env = "OUTRIGGER_GUARD", conflicts_with_all = ["dry_run", "wait"])]
    guard: Option<Duration>,
}

impl Guarding {
    /// As it travels.
    pub(super) fn to_pb(&self) -> Result<Option<prost_types::Duration>, Failure> {
        let Some(asked) = self.guard else { return Ok(None) };
        let guard = prost_types::Duration::try_from(asked);
        guard.map(Some).map_err(|_| Failure::usage("--guard: too long"))
    }
}

/// What a write came to.
#[derive(Debug)]
pub(super) struct Ending<'a> {
    pub(super) report: Report<'a>,
    /// The guard that watches it.
    pub(super) guard: Option<pb::Guard>,
    /// What was written.
    pub(super) keys: Vec<ResourceKey>,
}

impl Writing {
    /// Says how a write ended, after what it was asked to wait for.
    pub(super) async fn end(
        &self,
        connected: &Connected,
        ending: Ending<'_>,
        format: Format,
    ) -> Result<ExitCode, Failure> {
        let Ending { report, guard, keys } = ending;
        if report.is_refused() {
            return finish(&Report { changes: &[], ..report }, format);
        }
        if let Some(guard) = guard {
            return guard::follow(connected, &report, guard, format).await;
        }
        if !self.wait || self.dry_run {
            return finish(&report, format);
        }
        settled(connected, &keys, &report, self.timeout, format).await
    }
}

/// Says how a write ended, and waits until every sidecar runs it.
async fn settled(
    connected: &Connected,
    keys: &[ResourceKey],
    report: &Report<'_>,
    timeout: Duration,
    format: Format,
) -> Result<ExitCode, Failure> {
    let revision = report.revision.unwrap_or_default();
    if !is_for_programs(format) {
        finish(report, format)?;
    }
    let settled = settle(connected, revision, keys, timeout).await?;
    if is_for_programs(format) {
        output::note(&report.problems_text());
        let mut value = report.json();
        value["settled"] = settled.json();
        format.print(String::new, || value)?;
    } else if settled.is_done() {
        output::out(&settled.text(revision))?;
    }
    if settled.is_done() {
        return Ok(ExitCode::SUCCESS);
    }
    output::note(&format!("error: {}\n  try: outrigger check\n", settled.text(revision)));
    Ok(ExitCode::FAILURE)
}

pub(super) fn is_for_programs(format: Format) -> bool {
    matches!(format, Format::Json | Format::Yaml)
}

/// Says how a write ended.
pub(super) fn finish(report: &Report<'_>, format: Format) -> Result<ExitCode, Failure> {
    output::note(&report.problems_text());
    let refused = report.is_refused();
    if is_for_programs(format) {
        format.print(String::new, || report.json())?;
    } else if !refused {
        output::out(&report.changes_text())?;
    }
    Ok(if refused { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
