//! `outrigger history`: who changed what, when and why; of one revision every field.

use std::{fmt::Write as _, process::ExitCode, time::SystemTime};

use super::{
    guard,
    output::{self, Failure, Format, Output, printable, table},
    remote::{Connected, Remote},
    report, select,
    select::Selection,
    words,
};
use crate::{
    clock,
    resource::{ResourceKey, pb},
};

const EXAMPLES: &str = "\
Examples:
  outrigger history                          the newest changes
  outrigger history 42                       one of them, with every field that it changed
  outrigger history -r gr/orders -n shop     those that touched one resource
  outrigger history --limit 1000 -o json

The log keeps 10,000 revisions and 64 MiB, whichever is less; the oldest go first.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Only this one, with all that it changed
    revision: Option<u64>,
    /// Only those that changed this resource
    #[arg(short, long, value_name = "KIND/NAME", env = "OUTRIGGER_RESOURCE")]
    #[arg(conflicts_with = "revision")]
    resource: Option<String>,
    /// The namespace of --resource [default: the context's]
    #[arg(short, long, value_name = "NAMESPACE", env = "OUTRIGGER_NAMESPACE")]
    namespace: Option<String>,
    /// How many
    #[arg(long, value_name = "NUMBER", default_value = "20", env = "OUTRIGGER_LIMIT")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    #[command(flatten)]
    remote: Remote,
    #[command(flatten)]
    output: Output,
}

/// Revisions in one answer.
const PAGE: u32 = 1000;

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let format = args.output.format;
    history(args).await.map_err(|failure| failure.in_format(format))
}

async fn history(args: Args) -> Result<ExitCode, Failure> {
    let only = args.resource.as_deref().map(|word| select::parse(Some(word), &[])).transpose()?;
    let connected = args.remote.connect()?;
    let namespace = args.namespace.as_deref().unwrap_or(&connected.namespace);
    let only = match only {
        None => None,
        Some(Selection::Named(named)) => {
            let key = named.first().map(|(kind, name)| ResourceKey::new(*kind, namespace, name));
            key.map(|key| key.to_pb())
        }
        Some(Selection::Kinds(_)) => return Err(Failure::usage("--resource KIND/NAME")),
    };
    let format = args.output.format;
    let request =
        pb::HistoryRequest { resource: only, revision: args.revision, ..Default::default() };
    let (revisions, reach) = fetch(&connected, request, args.limit).await?;
    if format == Format::Name {
        let lines = revisions.iter().map(|it| format!("{}\n", it.revision));
        output::out(&lines.collect::<String>())?;
        return Ok(ExitCode::SUCCESS);
    }
    let now = clock::now();
    format.print(
        || match (args.revision, revisions.as_slice()) {
            (Some(_), [one]) => whole(one, now),
            (_, []) => "nothing was changed yet\n".to_owned(),
            (_, some) => lines(some, now, format == Format::Wide),
        },
        || {
            serde_json::json!({
                "oldestReachable": reach,
                "revisions": revisions.iter().map(json).collect::<Vec<_>>(),
            })
        },
    )
}

async fn fetch(
    connected: &Connected,
    mut request: pb::HistoryRequest,
    limit: u32,
) -> Result<(Vec<pb::Revision>, u64), Failure> {
    let most = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut found = Vec::new();
    loop {
        let left = most.saturating_sub(found.len());
        request.page_size = u32::try_from(left).unwrap_or(PAGE).clamp(1, PAGE);
        let answer = connected.client.config().history(request.clone()).await;
        let answer = answer.map_err(|status| connected.failed(&status))?.into_inner();
        found.extend(answer.revisions);
        request.page_token = answer.next_page_token;
        if request.page_token.is_empty() || found.len() >= most {
            return Ok((found, answer.oldest_reachable));
        }
    }
}

fn age(revision: &pb::Revision, now: SystemTime) -> String {
    let at = words::time(revision.changed_at.as_ref());
    let since = at.and_then(|at| now.duration_since(at).ok()).unwrap_or_default();
    words::age(since)
}

/// `2 created, 1 configured`
fn counts(revision: &pb::Revision) -> String {
    let kinds = [pb::ChangeKind::Created, pb::ChangeKind::Configured, pb::ChangeKind::Deleted];
    let count = |kind| revision.changes.iter().filter(|it| it.kind() == kind).count();
    let some = kinds.into_iter().map(|kind| (kind, count(kind))).filter(|(_, count)| *count > 0);
    let some = some.map(|(kind, count)| format!("{count} {}", report::word(kind)));
    some.collect::<Vec<_>>().join(", ")
}

/// What a guard has come to, in a word; empty without one.
fn guarded(revision: &pb::Revision) -> String {
    let Some(guard) = &revision.guard else { return String::new() };
    match (guard.state(), guard.rolled_back_by) {
        (pb::GuardState::RolledBack, Some(by)) => format!("rolled back by {by}"),
        (pb::GuardState::RolledBack, None) => "rolled back".to_owned(),
        (pb::GuardState::Passed, _) => "passed".to_owned(),
        (pb::GuardState::Failed, _) => "failed".to_owned(),
        (pb::GuardState::Watching | pb::GuardState::Unspecified, _) => "watching".to_owned(),
    }
}

fn lines(revisions: &[pb::Revision], now: SystemTime, wide: bool) -> String {
    let has_guards = revisions.iter().any(|revision| revision.guard.is_some());
    let mut headings = vec!["REVISION", "AGE", "BY", "CHANGES"];
    if has_guards {
        headings.push("GUARD");
    }
    if wide {
        headings.push("RESOURCES");
    }
    headings.push("MESSAGE");
    let row = |revision: &pb::Revision| {
        let mut row = vec![
            revision.revision.to_string(),
            age(revision, now),
            words::who(&revision.changed_by).to_owned(),
            counts(revision),
        ];
        if has_guards {
            row.push(guarded(revision));
        }
        if wide {
            let changed = revision.changes.iter().filter_map(|it| it.resource.as_ref());
            row.push(changed.map(report::name).collect::<Vec<_>>().join(", "));
        }
        row.push(revision.message.clone());
        row
    };
    table(&headings, &[0, 1], &revisions.iter().map(row).collect::<Vec<_>>())
}

/// One revision with everything that is known of it.
fn whole(revision: &pb::Revision, now: SystemTime) -> String {
    let at = revision.changed_at.map(|time| time.to_string()).unwrap_or_default();
    let mut text = format!(
        "revision {}, {} ago ({at})\nby       {}\n",
        revision.revision,
        age(revision, now),
        printable(words::who(&revision.changed_by)),
    );
    if !revision.message.is_empty() {
        let _ = writeln!(text, "message  {}", printable(&revision.message));
    }
    if let Some(to) = revision.rollback_to {
        let _ = writeln!(text, "content  that of revision {to}");
    }
    for change in &revision.changes {
        let name = change.resource.as_ref().map_or_else(String::new, report::name);
        let _ = writeln!(text, "{name} {}", report::word(change.kind()));
        for field in &change.fields {
            let _ = writeln!(text, "  {}", printable(field));
        }
    }
    if let Some(guard) = &revision.guard {
        text.push_str("guard\n");
        text.push_str(&guard::ended(guard));
    }
    text
}

fn json(revision: &pb::Revision) -> serde_json::Value {
    let change = |change: &pb::Change| {
        let id = change.resource.clone().unwrap_or_default();
        serde_json::json!({
            "kind": id.kind,
            "namespace": id.namespace,
            "name": id.name,
            "change": report::word(change.kind()),
            "fields": change.fields,
        })
    };
    serde_json::json!({
        "revision": revision.revision,
        "changedAt": words::time_json(revision.changed_at.as_ref()),
        "changedBy": revision.changed_by,
        "message": revision.message,
        "rollbackTo": revision.rollback_to,
        "changes": revision.changes.iter().map(change).collect::<Vec<_>>(),
        "guard": revision.guard.as_ref().map(guard::json),
    })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::{lines, whole};
    use crate::resource::{Kind, ResourceKey, pb};

    fn revision(number: u64, message: &str, kinds: &[pb::ChangeKind]) -> pb::Revision {
        let change = |kind: &pb::ChangeKind| pb::Change {
            resource: Some(ResourceKey::new(Kind::GrpcRoute, "shop", "orders").to_pb()),
            kind: (*kind).into(),
            fields: Vec::new(),
        };
        pb::Revision {
            revision: number,
            changed_at: Some(prost_types::Timestamp { seconds: 1_795_000_000, nanos: 0 }),
            changed_by: "spiffe://mesh.local/credential/ana".to_owned(),
            message: message.to_owned(),
            changes: kinds.iter().map(change).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn the_log_is_a_table_and_one_of_it_is_shown_whole() {
        let now = UNIX_EPOCH + Duration::from_secs(1_795_000_180);
        let (created, configured) = (pb::ChangeKind::Created, pb::ChangeKind::Configured);
        let mut canary = revision(43, "inventory canary", &[configured]);
        canary.changes[0].fields = vec!["spec.rules[0].backendRefs[1].weight".to_owned()];
        let first = revision(42, "", &[created, created, configured]);
        let expected = "\
REVISION  AGE  BY   CHANGES                  MESSAGE
      43   3m  ana  1 configured             inventory canary
      42   3m  ana  2 created, 1 configured
";
        assert_eq!(lines(&[canary.clone(), first.clone()], now, false), expected);
        canary.guard = Some(pb::Guard {
            state: pb::GuardState::RolledBack.into(),
            rolled_back_by: Some(44),
            message: "denied 0.00% -> 50.00%".to_owned(),
            ..Default::default()
        });
        let expected = "\
REVISION  AGE  BY   CHANGES                  GUARD              MESSAGE
      43   3m  ana  1 configured             rolled back by 44  inventory canary
      42   3m  ana  2 created, 1 configured
";
        assert_eq!(lines(&[canary.clone(), first], now, false), expected);
        canary.rollback_to = Some(40);
        let expected = "\
revision 43, 3m ago (2026-11-18T11:06:40Z)
by       ana
message  inventory canary
content  that of revision 40
GRPCRoute shop/orders configured
  spec.rules[0].backendRefs[1].weight
guard
before  0 calls in 0s, none failed
after   0 calls in 0s, none failed
rolled back by revision 44: denied 0.00% -> 50.00%
";
        assert_eq!(whole(&canary, now), expected);
    }
}
