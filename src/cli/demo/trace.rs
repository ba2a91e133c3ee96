//! One trace: whether its spans hang together, and how it looks as a tree.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// On which side of a call a span stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The called side.
    Server,
    /// The calling side, or one attempt of it.
    Client,
    /// Neither.
    Internal,
}

/// One span, as far as the demo looks at it.
#[derive(Debug, Clone)]
pub(super) struct Span {
    pub(super) trace: u128,
    pub(super) id: u128,
    /// `None`: the trace begins here.
    pub(super) parent: Option<u128>,
    /// `service.name`
    pub(super) service: String,
    pub(super) name: String,
    pub(super) kind: Kind,
    /// Whether it is one attempt of a call.
    pub(super) attempt: bool,
    /// Since the Unix epoch.
    pub(super) started: Duration,
    pub(super) ended: Duration,
}

/// The spans of one trace, by their start.
#[derive(Debug, Default)]
pub(super) struct Trace {
    spans: Vec<Span>,
}

impl Trace {
    pub(super) fn new(mut spans: Vec<Span>) -> Self {
        spans.sort_by_key(|span| (span.started, span.id));
        Self { spans }
    }

    pub(super) fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// Spans whose parent is not in the trace.
    pub(super) fn orphans(&self) -> Vec<&Span> {
        let known: BTreeSet<u128> = self.spans.iter().map(|span| span.id).collect();
        let lost = |span: &&Span| span.parent.is_some_and(|parent| !known.contains(&parent));
        self.spans.iter().filter(lost).collect()
    }

    /// Spans without a parent.
    pub(super) fn roots(&self) -> Vec<&Span> {
        self.spans.iter().filter(|span| span.parent.is_none()).collect()
    }

    fn parent(&self, span: &Span) -> Option<&Span> {
        let parent = span.parent?;
        self.spans.iter().find(|other| other.id == parent)
    }

    /// The nearest server span above this one: the request for which the call was made.
    fn made_for(&self, span: &Span) -> Option<&Span> {
        let mut above = self.parent(span);
        // A chain can not be longer than the trace, be it as broken as it may.
        for _ in 0..self.spans.len() {
            match above {
                Some(found) if found.kind == Kind::Server => return Some(found),
                Some(found) => above = self.parent(found),
                None => break,
            }
        }
        None
    }

    fn hops(&self) -> impl Iterator<Item = &Span> {
        self.spans.iter().filter(|span| span.kind == Kind::Server)
    }

    /// Every call as `caller -> called`, for comparing with what should have been called. A call
    /// counts only when it is nested as it should be: the server's span in an attempt's, that in
    /// the client's, and that in the span of the request that it was made for.
    pub(super) fn calls(&self) -> Vec<String> {
        let mut calls: Vec<String> = self
            .hops()
            .filter_map(|server| {
                let attempt = self.parent(server).filter(|span| span.attempt)?;
                let client = self.parent(attempt).filter(|span| span.kind == Kind::Client)?;
                let request = self.parent(client).filter(|span| span.kind == Kind::Server)?;
                let own = attempt.service == request.service && client.service == request.service;
                own.then(|| format!("{} -> {}", request.service, server.service))
            })
            .collect();
        calls.sort_unstable();
        calls
    }

    /// Every span with what it hangs on, for looking into a broken trace.
    pub(super) fn list(&self) -> Vec<String> {
        let one = |span: &Span| {
            let kind = match (span.kind, span.attempt) {
                (Kind::Server, _) => "server",
                (_, true) => "attempt",
                (Kind::Client, _) => "client",
                (Kind::Internal, _) => "internal",
            };
            let parent = span.parent.map_or_else(|| "none".to_owned(), |id| format!("{id:016x}"));
            format!("{:016x} below {parent}: {} {kind} {}", span.id, span.service, span.name)
        };
        self.spans.iter().map(one).collect()
    }

    /// The requests as a tree, one line each, with how long they took.
    pub(super) fn tree(&self) -> Vec<String> {
        let mut below: BTreeMap<Option<u128>, Vec<&Span>> = BTreeMap::new();
        for hop in self.hops() {
            below.entry(self.made_for(hop).map(|above| above.id)).or_default().push(hop);
        }
        let mut lines = Vec::new();
        for root in below.get(&None).into_iter().flatten() {
            lines.push((label(root), duration(root)));
            branch(&below, root.id, "", &mut lines);
        }
        let width = lines.iter().map(|(label, _)| label.chars().count()).max().unwrap_or(0);
        lines
            .into_iter()
            .map(|(label, took)| {
                let padding = " ".repeat(width - label.chars().count());
                format!("{label}{padding} {took:>9}")
            })
            .collect()
    }
}

fn branch(
    below: &BTreeMap<Option<u128>, Vec<&Span>>,
    of: u128,
    indent: &str,
    lines: &mut Vec<(String, String)>,
) {
    let Some(children) = below.get(&Some(of)) else { return };
    for (number, child) in children.iter().enumerate() {
        let (turn, further) =
            if number + 1 == children.len() { ("└ ", "  ") } else { ("├ ", "│ ") };
        lines.push((format!("{indent}{turn}{}", label(child)), duration(child)));
        branch(below, child.id, &format!("{indent}{further}"), lines);
    }
}

fn label(span: &Span) -> String {
    format!("{} {}", span.service, span.name)
}

fn duration(span: &Span) -> String {
    super::screen::milliseconds(span.ended.saturating_sub(span.started))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Kind, Span, Trace};

    fn span(id: u128, parent: u128, service: &str, kind: Kind, attempt: bool) -> Span {
        Span {
            trace: 1,
            id,
            parent: Some(parent).filter(|parent| *parent != 0),
            service: service.into(),
            name: format!("call{id}"),
            kind,
            attempt,
            started: Duration::from_millis(u64::try_from(id).expect("small")),
            ended: Duration::from_millis(u64::try_from(id).expect("small") + 5),
        }
    }

    fn call(trace: &mut Vec<Span>, from: (&str, u128), id: u128, to: &str) -> u128 {
        trace.push(span(id, from.1, from.0, Kind::Client, false));
        trace.push(span(id + 1, id, from.0, Kind::Client, true));
        trace.push(span(id + 2, id + 1, to, Kind::Server, false));
        id + 2
    }

    fn order() -> Vec<Span> {
        let mut spans = vec![span(1, 0, "front", Kind::Server, false)];
        let orders = call(&mut spans, ("front", 1), 2, "orders");
        call(&mut spans, ("orders", orders), 5, "catalog");
        let inventory = call(&mut spans, ("orders", orders), 8, "inventory");
        call(&mut spans, ("inventory", inventory), 11, "shelf");
        call(&mut spans, ("orders", orders), 14, "payments");
        spans
    }

    #[test]
    fn a_whole_trace_has_every_call_and_no_orphan() {
        let trace = Trace::new(order());
        assert!(trace.orphans().is_empty());
        assert_eq!(trace.roots().len(), 1);
        let expected = [
            "front -> orders",
            "inventory -> shelf",
            "orders -> catalog",
            "orders -> inventory",
            "orders -> payments",
        ];
        assert_eq!(trace.calls(), expected);
    }

    #[test]
    fn a_missing_attempt_shows_as_an_orphan_and_a_missing_call() {
        let spans = order().into_iter().filter(|span| span.id != 6).collect();
        let trace = Trace::new(spans);
        assert_eq!(trace.orphans().iter().map(|span| span.id).collect::<Vec<_>>(), [7]);
        assert!(!trace.calls().contains(&"orders -> catalog".to_owned()));
    }

    #[test]
    fn a_call_from_the_wrong_service_does_not_count() {
        let mut spans = order();
        spans.iter_mut().filter(|span| span.id == 6).for_each(|span| span.service = "x".into());
        assert!(!Trace::new(spans).calls().contains(&"orders -> catalog".to_owned()));
    }

    #[test]
    fn the_tree_shows_who_called_whom() {
        let expected = [
            "front call1              5.0ms",
            "└ orders call4           5.0ms",
            "  ├ catalog call7        5.0ms",
            "  ├ inventory call10     5.0ms",
            "  │ └ shelf call13       5.0ms",
            "  └ payments call16      5.0ms",
        ];
        assert_eq!(Trace::new(order()).tree(), expected);
    }

    #[test]
    fn spans_that_are_each_others_parents_end_the_tree() {
        let spans = vec![
            span(1, 2, "a", Kind::Client, false),
            span(2, 1, "a", Kind::Client, false),
            span(3, 1, "b", Kind::Server, false),
        ];
        assert_eq!(Trace::new(spans).tree().len(), 1);
    }
}
