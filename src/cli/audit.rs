//! `outrigger audit`: who changed what, and when.

use std::process::ExitCode;

use super::{
    output::{self, Failure, Output},
    remote::Remote,
    words,
};
use crate::{clock, resource::pb};

const EXAMPLES: &str = "\
Examples:
  outrigger audit                     the last hundred calls that were to change something
  outrigger audit --limit 1000 -o json

The control plane keeps it in audit.jsonl of its data directory, one JSON object a line, 8 MiB and the \
8 MiB before. What exactly a write changed is in the log of revisions.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// How many entries, the newest first
    #[arg(long, value_name = "NUMBER", default_value_t = 100, env = "OUTRIGGER_LIMIT")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    #[command(flatten)]
    remote: Remote,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let format = args.output.format;
    show(args).await.map_err(|failure| failure.in_format(format))
}

async fn show(args: Args) -> Result<ExitCode, Failure> {
    let connected = args.remote.connect()?;
    let request = pb::ListAuditRequest { limit: args.limit };
    let answer = connected.client.admin().list_audit(request).await;
    let entries = answer.map_err(|status| connected.failed(&status))?.into_inner().entries;
    args.output.format.print(
        || table(&entries),
        || serde_json::json!({ "entries": entries.iter().map(json).collect::<Vec<_>>() }),
    )
}

fn table(entries: &[pb::AuditEntry]) -> String {
    let row = |entry: &pb::AuditEntry| {
        let age = words::time(entry.time.as_ref())
            .and_then(|time| clock::now().duration_since(time).ok())
            .map_or_else(|| "-".to_owned(), words::age);
        let (before, after) = (entry.revision_before, entry.revision_after);
        let revision =
            if before == after { after.to_string() } else { format!("{before}-{after}") };
        vec![
            age,
            words::who(&entry.who).to_owned(),
            entry.method.rsplit('/').next().unwrap_or_default().to_owned(),
            revision,
            entry.what.clone(),
            entry.outcome.clone(),
        ]
    };
    let rows: Vec<_> = entries.iter().map(row).collect();
    output::table(&["AGE", "WHO", "CALL", "REV", "WHAT", "OUTCOME"], &[], &rows)
}

fn json(entry: &pb::AuditEntry) -> serde_json::Value {
    serde_json::json!({
        "time": words::time_json(entry.time.as_ref()),
        "who": entry.who,
        "role": entry.role,
        "address": entry.address,
        "method": entry.method,
        "what": entry.what,
        "revisionBefore": entry.revision_before,
        "revisionAfter": entry.revision_after,
        "outcome": entry.outcome,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::table;
    use crate::{clock, resource::pb};

    #[test]
    fn an_entry_is_a_line() {
        let entry = |method: &str, what: &str, outcome: &str, after| pb::AuditEntry {
            time: Some((clock::now() - Duration::from_secs(240)).into()),
            who: "spiffe://mesh.local/credential/ana".to_owned(),
            method: method.to_owned(),
            what: what.to_owned(),
            revision_before: 41,
            revision_after: after,
            outcome: outcome.to_owned(),
            ..Default::default()
        };
        let entries = [
            entry("AdminService/CreateToken", "token a1b2 for orders.shop", "OK", 41),
            entry("ConfigService/Apply", "", "OK", 42),
        ];
        let expected = "\
AGE  WHO  CALL         REV    WHAT                        OUTCOME
4m   ana  CreateToken  41     token a1b2 for orders.shop  OK
4m   ana  Apply        41-42                              OK
";
        assert_eq!(table(&entries), expected);
    }
}
