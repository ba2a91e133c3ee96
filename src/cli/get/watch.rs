//! `get -w`: what there is, then a line for every change, until the reader or the control plane
//! goes away.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    process::ExitCode,
    time::SystemTime,
};

use super::{Wanted, columns, document, name_line};
use crate::{
    cli::{
        output::{self, Failure, Format},
        remote::Connected,
        select::Selection,
    },
    clock,
    resource::{
        self, Kind, ResourceKey,
        pb::{self, watch_response::Event},
    },
};

/// One change, as a program reads it too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Added,
    Modified,
    Deleted,
}

impl Change {
    /// As kubectl's `--output-watch-events` says it.
    fn name(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

pub(super) async fn watch(
    connected: &Connected,
    wanted: &Wanted,
    format: Format,
) -> Result<ExitCode, Failure> {
    let mut printer = Printer::new(wanted, format);
    let kinds = printer.kinds();
    // One namespace at the other end would leave out kinds that have none.
    let namespaced = kinds.iter().all(|kind| kind.namespaced());
    let request = pb::WatchRequest {
        kinds: kinds.iter().map(|kind| kind.name().to_owned()).collect(),
        namespace: wanted.namespace.clone().filter(|_| namespaced).unwrap_or_default(),
        selector: wanted.selector.clone(),
        ..Default::default()
    };
    let answer = connected.client.config().watch(request).await;
    let mut events = answer.map_err(|status| connected.failed(&status))?.into_inner();
    loop {
        let event = events.message().await.map_err(|status| connected.failed(&status))?;
        let Some(event) = event else {
            return Err(Failure::say("the control plane ended the watch"));
        };
        let text = match event.event {
            Some(Event::Changed(resource)) => printer.changed(resource, clock::now()),
            Some(Event::Removed(id)) => printer.removed(&id, clock::now()),
            Some(Event::Synced(_)) => printer.synced(),
            None => String::new(),
        };
        if !text.is_empty() && !output::out_to_reader(&text)? {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// What was seen, and how it is printed.
struct Printer<'a> {
    wanted: &'a Wanted,
    format: Format,
    /// What exists, so that one that goes can still be shown.
    known: BTreeMap<ResourceKey, pb::Resource>,
    /// Whether all that there was at the start has come.
    is_synced: bool,
    /// How wide each column of a kind's table has been.
    widths: BTreeMap<Kind, Vec<usize>>,
}

impl<'a> Printer<'a> {
    fn new(wanted: &'a Wanted, format: Format) -> Self {
        Self { wanted, format, known: BTreeMap::new(), is_synced: false, widths: BTreeMap::new() }
    }

    fn kinds(&self) -> Vec<Kind> {
        match &self.wanted.selection {
            Selection::Kinds(kinds) => kinds.clone(),
            Selection::Named(named) => {
                let mut kinds: Vec<_> = named.iter().map(|(kind, _)| *kind).collect();
                kinds.sort();
                kinds.dedup();
                kinds
            }
        }
    }

    fn is_wanted(&self, key: &ResourceKey) -> bool {
        let here = |namespace: &String| key.namespace.is_empty() || key.namespace == *namespace;
        if !self.wanted.namespace.as_ref().is_none_or(here) {
            return false;
        }
        match &self.wanted.selection {
            Selection::Kinds(_) => true,
            Selection::Named(named) => {
                named.iter().any(|(kind, name)| kind.name() == key.kind && *name == key.name)
            }
        }
    }

    fn changed(&mut self, resource: pb::Resource, now: SystemTime) -> String {
        let Some(key) = resource::key(&resource).filter(|key| self.is_wanted(key)) else {
            return String::new();
        };
        let change = if self.known.contains_key(&key) { Change::Modified } else { Change::Added };
        let text = self.line(change, &resource, now);
        self.known.insert(key, resource);
        text
    }

    fn removed(&mut self, id: &pb::ResourceId, now: SystemTime) -> String {
        let known = ResourceKey::from_pb(id).and_then(|key| self.known.remove(&key));
        known.map_or_else(String::new, |resource| self.line(Change::Deleted, &resource, now))
    }

    fn synced(&mut self) -> String {
        self.is_synced = true;
        if self.known.is_empty() && matches!(self.format, Format::Table | Format::Wide) {
            output::note("nothing yet; waiting for changes\n");
        }
        String::new()
    }

    fn line(&mut self, change: Change, resource: &pb::Resource, now: SystemTime) -> String {
        match self.format {
            Format::Json => {
                let object = resource::to_json(resource);
                format!("{}\n", serde_json::json!({ "type": change.name(), "object": object }))
            }
            Format::Yaml => {
                format!("---\n# {}\n{}", change.name(), document(resource, self.format))
            }
            Format::Name => name_line(resource).unwrap_or_default(),
            Format::Table | Format::Wide => self.table_line(change, resource, now),
        }
    }

    /// A row under the kind's headings, which come before its first row.
    fn table_line(&mut self, change: Change, resource: &pb::Resource, now: SystemTime) -> String {
        let Some(kind) = Kind::of(resource) else { return String::new() };
        let view = columns::View {
            namespaces: self.wanted.namespace.is_none(),
            kinds: self.kinds().len() > 1,
            wide: self.format == Format::Wide,
            now,
        };
        let mut cells = vec![change.name().to_owned()];
        cells.extend(columns::row(kind, resource, view));
        let mut text = String::new();
        let widths = match self.widths.entry(kind) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(first) => {
                let headings = columns::heading_row(kind, view);
                let headings = std::iter::once("EVENT").chain(headings).map(str::to_owned);
                let headings: Vec<_> = headings.collect();
                let length = |(a, b): (&String, &String)| a.chars().count().max(b.chars().count());
                let lengths = headings.iter().zip(&cells).map(length).collect::<Vec<_>>();
                let widths = first.insert(lengths);
                // The longest word of the first column is known before it comes.
                widths[0] = Change::Modified.name().len();
                text.push_str(&padded(&headings, widths));
                widths
            }
        };
        for (width, cell) in widths.iter_mut().zip(&cells) {
            *width = (*width).max(cell.chars().count());
        }
        text.push_str(&padded(&cells, widths));
        text
    }
}

fn padded(cells: &[String], widths: &[usize]) -> String {
    let pad = |(cell, width): (&String, &usize)| {
        let cell = output::printable(cell);
        format!("{cell:<width$}")
    };
    let line = cells.iter().zip(widths).map(pad).collect::<Vec<_>>().join("  ");
    format!("{}\n", line.trim_end())
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::{super::Wanted, Printer};
    use crate::{
        cli::{output::Format, select::Selection},
        resource::{Kind, pb, yaml},
    };

    fn service(name: &str, port: u16) -> pb::Resource {
        let text = format!(
            "{{apiVersion: outrigger.dev/v1, kind: Service, metadata: {{name: {name}, \
             namespace: shop}}, spec: {{ports: [{{port: {port}}}]}}}}"
        );
        yaml::parse(&text, "x").0.remove(0).resource
    }

    fn wanted(selection: Selection) -> Wanted {
        Wanted { selection, namespace: Some("shop".to_owned()), selector: String::new() }
    }

    #[test]
    fn every_change_is_a_line_below_the_headings() {
        let wanted = wanted(Selection::Kinds(vec![Kind::Service]));
        let mut printer = Printer::new(&wanted, Format::Table);
        let mut text = printer.changed(service("orders", 9090), UNIX_EPOCH);
        text.push_str(&printer.synced());
        text.push_str(&printer.changed(service("orders", 9091), UNIX_EPOCH));
        let id = pb::ResourceId {
            kind: "Service".to_owned(),
            namespace: "shop".to_owned(),
            name: "orders".to_owned(),
        };
        text.push_str(&printer.removed(&id, UNIX_EPOCH));
        text.push_str(&printer.removed(&id, UNIX_EPOCH));
        let expected = "\
EVENT     NAME    PORTS  AGE
ADDED     orders  9090   -
MODIFIED  orders  9091   -
DELETED   orders  9091   -
";
        assert_eq!(text, expected);
    }

    #[test]
    fn programs_get_one_event_a_line_and_only_of_what_they_asked_for() {
        let wanted = wanted(Selection::Named(vec![(Kind::Service, "orders".to_owned())]));
        let mut printer = Printer::new(&wanted, Format::Json);
        assert_eq!(printer.changed(service("web", 80), UNIX_EPOCH), "");
        let line = printer.changed(service("orders", 9090), UNIX_EPOCH);
        assert_eq!(line.lines().count(), 1);
        let event: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(event["type"], "ADDED");
        assert_eq!(event["object"]["spec"]["ports"][0]["port"], 9090);
    }
}
