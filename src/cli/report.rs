//! What a write says when it is over: the problems with their places, what changed, and which
//! revision the mesh has; for people and for programs.

use std::fmt::Write as _;

use super::{output::printable, words};
use crate::resource::{Problem, ResourceKey, Severity, pb};

/// The outcome of an `apply` or `delete`.
#[derive(Debug)]
pub(super) struct Report<'a> {
    pub(super) problems: &'a [Problem],
    /// How many resources were asked about.
    pub(super) resources: usize,
    pub(super) changes: &'a [pb::Change],
    /// The newest revision after the call; `None` when nobody could say it.
    pub(super) revision: Option<u64>,
    pub(super) dry_run: bool,
    /// Whom a dry run would concern.
    pub(super) concerned: Concerned<'a>,
}

/// The connected sidecars that a write would be told to.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Concerned<'a> {
    /// Not all of very many.
    pub(super) named: &'a [pb::Concerned],
    pub(super) total: u32,
}

/// Sidecars that are named on the line for people.
const NAMED_MAX: usize = 10;

impl Concerned<'_> {
    /// `would be told to 2 sidecars: orders-1.shop, web-1.shop`
    fn text(self) -> String {
        let total = usize::try_from(self.total).unwrap_or(usize::MAX);
        if total == 0 {
            return "would be told to no sidecar that is connected now\n".to_owned();
        }
        let named = self.named.iter().take(NAMED_MAX);
        let names: Vec<_> = named.map(|it| format!("{}.{}", it.workload, it.namespace)).collect();
        let names = printable(&names.join(", "));
        let more = match total.saturating_sub(self.named.len().min(NAMED_MAX)) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        format!("would be told to {}: {names}{more}\n", words::count(total, "sidecar"))
    }

    fn json(self) -> serde_json::Value {
        let one = |it: &pb::Concerned| {
            serde_json::json!({
                "workload": it.workload,
                "service": it.service,
                "namespace": it.namespace,
            })
        };
        serde_json::json!({
            "total": self.total,
            "named": self.named.iter().map(one).collect::<Vec<_>>(),
        })
    }
}

impl Report<'_> {
    pub(super) fn is_refused(&self) -> bool {
        self.problems.iter().any(Problem::is_error)
    }

    /// The problems, and after an error that nothing was done; empty without problems.
    pub(super) fn problems_text(&self) -> String {
        let mut text: String = self.problems.iter().map(|problem| format!("{problem}\n")).collect();
        if self.is_refused() {
            text.push('\n');
            text.push_str(&self.refused_line());
        }
        text
    }

    /// `refused: 1 error, 1 warning, 4 resources. Nothing changed; revision is 41.`
    fn refused_line(&self) -> String {
        let of = |severity| self.problems.iter().filter(|it| it.severity == severity).count();
        let mut counts = vec![words::count(of(Severity::Error), "error")];
        match of(Severity::Warning) {
            0 => {}
            warnings => counts.push(words::count(warnings, "warning")),
        }
        counts.push(words::count(self.resources, "resource"));
        let revision =
            self.revision.map_or_else(String::new, |revision| format!("; revision is {revision}"));
        format!("refused: {}. Nothing changed{revision}.\n", counts.join(", "))
    }

    /// What changed, a line each, and the revision.
    pub(super) fn changes_text(&self) -> String {
        let mut text = String::new();
        let suffix = if self.dry_run { " (dry run)" } else { "" };
        for change in self.changes {
            let name = change.resource.as_ref().map_or_else(String::new, name);
            let _ = writeln!(text, "{name} {}{suffix}", word(change.kind()));
            for field in change.fields.iter().filter(|_| self.dry_run) {
                let _ = writeln!(text, "  {}", printable(field));
            }
        }
        let revision = self.revision.unwrap_or_default();
        let unchanged =
            self.changes.iter().all(|change| change.kind() == pb::ChangeKind::Unchanged);
        if self.dry_run && !unchanged {
            text.push_str(&self.concerned.text());
        }
        text.push_str(&match (self.dry_run, unchanged) {
            (true, _) => format!("dry run: nothing was written; revision is {revision}\n"),
            (false, true) => format!("nothing changed; revision is {revision}\n"),
            (false, false) => format!("revision {revision}\n"),
        });
        text
    }

    pub(super) fn json(&self) -> serde_json::Value {
        let change = |change: &pb::Change| {
            let id = change.resource.clone().unwrap_or_default();
            serde_json::json!({
                "kind": id.kind,
                "namespace": id.namespace,
                "name": id.name,
                "change": word(change.kind()),
                "fields": change.fields,
            })
        };
        let mut value = serde_json::json!({
            "refused": self.is_refused(),
            "dryRun": self.dry_run,
            "revision": self.revision,
            "changes": self.changes.iter().map(change).collect::<Vec<_>>(),
            "problems": self.problems.iter().map(problem_json).collect::<Vec<_>>(),
        });
        if self.dry_run {
            value["sidecars"] = self.concerned.json();
        }
        value
    }
}

/// As everywhere: `GRPCRoute shop/orders`.
pub(super) fn name(id: &pb::ResourceId) -> String {
    ResourceKey::from_pb(id).map_or_else(
        || printable(&format!("{} {}/{}", id.kind, id.namespace, id.name)),
        |key| key.to_string(),
    )
}

pub(super) fn word(kind: pb::ChangeKind) -> &'static str {
    match kind {
        pb::ChangeKind::Unspecified => "touched",
        pb::ChangeKind::Created => "created",
        pb::ChangeKind::Configured => "configured",
        pb::ChangeKind::Unchanged => "unchanged",
        pb::ChangeKind::Deleted => "deleted",
    }
}

/// A problem with its fields apart.
pub(super) fn problem_json(problem: &Problem) -> serde_json::Value {
    serde_json::json!({
        "severity": match problem.severity {
            Severity::Error => "Error",
            Severity::Warning => "Warning",
        },
        "kind": problem.resource.as_ref().map(|key| key.kind),
        "namespace": problem.resource.as_ref().map(|key| &key.namespace),
        "name": problem.resource.as_ref().map(|key| &key.name),
        "field": problem.field,
        "value": problem.value,
        "message": problem.message,
        "hint": problem.hint,
        "file": problem.at.as_ref().map(|at| &at.file),
        "line": problem.at.as_ref().map(|at| at.line),
        "column": problem.at.as_ref().map(|at| at.column),
    })
}

#[cfg(test)]
mod tests {
    use super::{Concerned, Report};
    use crate::resource::{Kind, Problem, ResourceKey, pb};

    fn change(name: &str, kind: pb::ChangeKind) -> pb::Change {
        let key = ResourceKey::new(Kind::GrpcRoute, "shop", name);
        pb::Change { resource: Some(key.to_pb()), kind: kind.into(), fields: Vec::new() }
    }

    fn report<'a>(problems: &'a [Problem], changes: &'a [pb::Change]) -> Report<'a> {
        let concerned = Concerned::default();
        Report { problems, resources: 4, changes, revision: Some(41), dry_run: false, concerned }
    }

    #[test]
    fn a_refusal_counts_what_was_found_and_says_that_nothing_changed() {
        let problems = [
            Problem::error("spec", "is missing"),
            Problem::warning("spec.rules[2]", "never matches: rules[1] takes everything it would"),
        ];
        let expected = "\
error: spec
  is missing
warning: spec.rules[2]
  never matches: rules[1] takes everything it would

refused: 1 error, 1 warning, 4 resources. Nothing changed; revision is 41.
";
        assert_eq!(report(&problems, &[]).problems_text(), expected);
        let unknown = Report { revision: None, ..report(&problems[..1], &[]) };
        let text = unknown.problems_text();
        assert!(text.ends_with("refused: 1 error, 4 resources. Nothing changed.\n"), "{text}");
        assert!(!report(&problems[1..], &[]).is_refused());
        assert_eq!(report(&[], &[]).problems_text(), "");
    }

    #[test]
    fn changes_are_listed_with_the_revision_they_made() {
        let changes = [
            change("a", pb::ChangeKind::Created),
            change("b", pb::ChangeKind::Configured),
            change("c", pb::ChangeKind::Unchanged),
        ];
        let expected = "\
GRPCRoute shop/a created
GRPCRoute shop/b configured
GRPCRoute shop/c unchanged
revision 41
";
        assert_eq!(report(&[], &changes).changes_text(), expected);
        let none = report(&[], &changes[2..]).changes_text();
        assert_eq!(none, "GRPCRoute shop/c unchanged\nnothing changed; revision is 41\n");
        let named = ["orders-1", "web-1"].map(|workload| pb::Concerned {
            workload: workload.to_owned(),
            namespace: "shop".to_owned(),
            ..Default::default()
        });
        let mut configured = change("b", pb::ChangeKind::Configured);
        configured.fields = vec!["spec.rules[0].backendRefs[1].weight".to_owned()];
        let dry = Report {
            dry_run: true,
            concerned: Concerned { named: &named, total: 12 },
            ..report(&[], std::slice::from_ref(&configured))
        };
        let expected = "\
GRPCRoute shop/b configured (dry run)
  spec.rules[0].backendRefs[1].weight
would be told to 12 sidecars: orders-1.shop, web-1.shop and 10 more
dry run: nothing was written; revision is 41
";
        assert_eq!(dry.changes_text(), expected);
        let nobody = Report { concerned: Concerned::default(), ..dry };
        let text = nobody.changes_text();
        assert!(text.contains("\nwould be told to no sidecar that is connected now\n"), "{text}");
    }

    #[test]
    fn programs_get_the_same_with_fields_apart() {
        let problems = [Problem::error("spec", "is missing")];
        let json = report(&problems, &[change("a", pb::ChangeKind::Created)]).json();
        assert_eq!(json["refused"], true);
        assert_eq!(json["changes"][0]["change"], "created");
        assert_eq!(json["problems"][0]["severity"], "Error");
        assert_eq!(json["problems"][0]["file"], serde_json::Value::Null);
    }
}
