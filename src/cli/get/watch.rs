//! `get -w` and `watch`: what there is, then a line for every change, until the reader goes away. The
//! control plane may come and go.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    process::ExitCode,
    time::{Duration, SystemTime},
};

use tokio::time::sleep;
use tonic::{Code, Status};

use super::{Wanted, columns, document, name_line};
use crate::{
    app::client::is_credential_refused,
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

/// Until the reader goes away; the control plane may come and go.
pub(in crate::cli) async fn watch_on(
    connected: &Connected,
    wanted: &Wanted,
    format: Format,
    from: Option<u64>,
) -> Result<ExitCode, Failure> {
    let mut printer = Printer::new(wanted, format);
    printer.resumes = from.is_some();
    let mut place = Place { revision: from, ..Place::default() };
    let (mut pause, mut told, mut began) = (PAUSE_FIRST, false, false);
    loop {
        let before = place.events;
        let status = match follow(connected, &mut printer, &mut place).await? {
            End::Reader => return Ok(ExitCode::SUCCESS),
            End::Stream(status) => status,
        };
        if place.events > before {
            (pause, told, began) = (PAUSE_FIRST, false, true);
        }
        match status {
            // What was there then is not known any more: all is told, and compared with what was.
            Some(status) if status.code() == Code::OutOfRange && began => {
                output::note("what changed meanwhile is not known any more; all is told again\n");
                place = Place { events: place.events, ..Place::default() };
                printer.begin_anew();
                continue;
            }
            Some(status) if status.code() == Code::OutOfRange => {
                let failure = connected.failed(&status);
                return Err(failure.with_hint("without --from all there is is told first"));
            }
            Some(status) if !(began && is_passing(&status)) => {
                return Err(connected.failed(&status));
            }
            None if !began => return Err(Failure::say("the control plane ended the watch")),
            _ => {}
        }
        if !told {
            told = true;
            let at = place.revision.map_or_else(String::new, |at| format!(" after revision {at}"));
            output::note(&format!("the control plane went away; going on{at} when it is back\n"));
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Whether it may go on when there is a control plane again: one that is there and does not know the
/// credential any more will not.
fn is_passing(status: &Status) -> bool {
    use Code::{Cancelled, Internal, Unavailable, Unknown};
    matches!(status.code(), Unavailable | Cancelled | Unknown | Internal)
        && !is_credential_refused(status)
}

/// Between two tries to find the control plane again.
const PAUSE_FIRST: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Up to where all has been told.
#[derive(Debug, Default)]
struct Place {
    revision: Option<u64>,
    store: String,
    /// How many events have come.
    events: u64,
}

/// Why a stream is over.
enum End {
    /// Nobody reads any more.
    Reader,
    /// It ended by itself, with this if it said anything.
    Stream(Option<Status>),
}

async fn follow(
    connected: &Connected,
    printer: &mut Printer<'_>,
    place: &mut Place,
) -> Result<End, Failure> {
    let kinds = printer.kinds();
    // One namespace at the other end would leave out kinds that have none.
    let namespaced = kinds.iter().all(|kind| kind.namespaced());
    let wanted = printer.wanted;
    let request = pb::WatchRequest {
        kinds: kinds.iter().map(|kind| kind.name().to_owned()).collect(),
        namespace: wanted.namespace.clone().filter(|_| namespaced).unwrap_or_default(),
        selector: wanted.selector.clone(),
        from_revision: place.revision,
        store: place.store.clone(),
    };
    let mut events = match connected.client.config().watch(request).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => return Ok(End::Stream(Some(status))),
    };
    let mut synced = false;
    loop {
        let event = match events.message().await {
            Ok(Some(event)) => event,
            Ok(None) => return Ok(End::Stream(None)),
            Err(status) => return Ok(End::Stream(Some(status))),
        };
        place.events += 1;
        let text = match event.event {
            Some(Event::Changed(resource)) => printer.changed(resource, clock::now()),
            Some(Event::Removed(id)) => printer.removed(&id, clock::now()),
            Some(Event::Synced(_)) => {
                synced = true;
                printer.synced(clock::now())
            }
            None => String::new(),
        };
        if synced {
            // The last that was told in whole: an event of a newer one may have others behind it.
            let whole = matches!(place.revision, Some(at) if at < event.revision);
            let at = if whole { event.revision.saturating_sub(1) } else { event.revision };
            place.revision = Some(place.revision.unwrap_or_default().max(at));
            place.store = event.store;
        }
        if !text.is_empty() && !output::out_to_reader(&text)? {
            return Ok(End::Reader);
        }
    }
}

/// What was seen, and how it is printed.
struct Printer<'a> {
    wanted: &'a Wanted,
    format: Format,
    /// What exists, so that one that goes can still be shown.
    known: BTreeMap<ResourceKey, pb::Resource>,
    /// Whether it begins with what changed, so that what is not known may have been there before.
    resumes: bool,
    /// What was there before all was told again, and was not told yet.
    stale: Option<BTreeSet<ResourceKey>>,
    /// How wide each column of a kind's table has been.
    widths: BTreeMap<Kind, Vec<usize>>,
}

impl<'a> Printer<'a> {
    fn new(wanted: &'a Wanted, format: Format) -> Self {
        Self {
            wanted,
            format,
            known: BTreeMap::new(),
            resumes: false,
            stale: None,
            widths: BTreeMap::new(),
        }
    }

    /// All is told again: what is the same is not printed, and what does not come is gone.
    fn begin_anew(&mut self) {
        self.stale = Some(self.known.keys().cloned().collect());
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
        if let Some(stale) = &mut self.stale {
            stale.remove(&key);
        }
        let version = |it: &pb::Resource| it.metadata.clone().unwrap_or_default().resource_version;
        let change = match self.known.get(&key) {
            // Told again, by a watch that begins anew or goes on.
            Some(known) if version(known) == version(&resource) => return String::new(),
            Some(_) => Change::Modified,
            None if self.resumes => Change::Modified,
            None => Change::Added,
        };
        let text = self.line(change, &resource, now);
        self.known.insert(key, resource);
        text
    }

    fn removed(&mut self, id: &pb::ResourceId, now: SystemTime) -> String {
        let Some(key) = ResourceKey::from_pb(id).filter(|key| self.is_wanted(key)) else {
            return String::new();
        };
        match self.known.remove(&key) {
            Some(resource) => self.line(Change::Deleted, &resource, now),
            None if self.resumes => self.unknown_deleted(&key),
            None => String::new(),
        }
    }

    /// Of what went before it was ever seen there is but the name.
    fn unknown_deleted(&self, key: &ResourceKey) -> String {
        let change = Change::Deleted.name();
        match self.format {
            Format::Json => {
                let mut metadata = serde_json::json!({ "name": key.name });
                if !key.namespace.is_empty() {
                    metadata["namespace"] = key.namespace.as_str().into();
                }
                let object = serde_json::json!({ "kind": key.kind, "metadata": metadata });
                format!("{}\n", serde_json::json!({ "type": change, "object": object }))
            }
            Format::Yaml => format!("---\n# {change}\n# {key}\n"),
            Format::Name => format!("{}/{}\n", key.kind.to_lowercase(), key.name),
            Format::Table | Format::Wide => format!("{change:8}  {key}\n"),
        }
    }

    fn synced(&mut self, now: SystemTime) -> String {
        let gone = self.stale.take().unwrap_or_default();
        let gone = gone.iter().map(|key| self.removed(&key.to_pb(), now));
        let text: String = gone.collect();
        // From now on it knows what is there, but for what it began without.
        if self.known.is_empty() && matches!(self.format, Format::Table | Format::Wide) {
            output::note("nothing yet; waiting for changes\n");
        }
        text
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
        let mut resource = unversioned(name, port);
        resource.metadata.as_mut().expect("set").resource_version = port.to_string();
        resource
    }

    fn unversioned(name: &str, port: u16) -> pb::Resource {
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
        text.push_str(&printer.synced(UNIX_EPOCH));
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

    #[test]
    fn what_is_told_again_is_printed_only_when_it_is_something_else() {
        let wanted = wanted(Selection::Kinds(vec![Kind::Service]));
        let mut printer = Printer::new(&wanted, Format::Name);
        for name in ["a", "b", "c"] {
            printer.changed(service(name, 1), UNIX_EPOCH);
        }
        printer.synced(UNIX_EPOCH);
        printer.begin_anew();
        assert_eq!(printer.changed(service("a", 1), UNIX_EPOCH), "");
        assert_eq!(printer.changed(service("b", 2), UNIX_EPOCH), "service/b\n");
        assert_eq!(printer.synced(UNIX_EPOCH), "service/c\n", "gone meanwhile");
        assert_eq!(printer.synced(UNIX_EPOCH), "");
    }

    #[test]
    fn of_what_went_since_a_revision_the_name_is_known() {
        let wanted = wanted(Selection::Kinds(vec![Kind::Service]));
        let id = pb::ResourceId {
            kind: "Service".to_owned(),
            namespace: "shop".to_owned(),
            name: "orders".to_owned(),
        };
        for (format, expected) in [
            (Format::Table, "DELETED   Service shop/orders\n"),
            (
                Format::Json,
                "{\"object\":{\"kind\":\"Service\",\"metadata\":{\"name\":\"orders\",\
                 \"namespace\":\"shop\"}},\"type\":\"DELETED\"}\n",
            ),
        ] {
            let mut printer = Printer::new(&wanted, format);
            assert_eq!(printer.removed(&id, UNIX_EPOCH), "");
            printer.resumes = true;
            assert_eq!(printer.removed(&id, UNIX_EPOCH), expected);
        }
    }
}
