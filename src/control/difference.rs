//! Which fields of two forms of a resource differ, by their paths as problems name them. What only
//! the mesh writes does not count, save the time of creation, by which conflicts are decided.

use serde_json::{Map, Value};

use crate::resource::{self, pb};

/// Paths of one resource that are told.
const FIELDS_MAX: usize = 32;
/// Stands for those left out.
const MORE: &str = "…";

/// The paths, in the order of the alphabet; empty when nothing differs.
pub(crate) fn fields(before: &pb::Resource, after: &pb::Resource) -> Vec<String> {
    let [before, after] = [before, after].map(|it| resource::to_json(&shown(it)));
    let mut found = Vec::new();
    differ(&before, &after, &mut String::new(), &mut found);
    if found.len() > FIELDS_MAX {
        found.truncate(FIELDS_MAX - 1);
        found.push(MORE.to_owned());
    }
    found
}

/// A resource without what changes with every write, as diffs show it.
pub(crate) fn shown(resource: &pb::Resource) -> pb::Resource {
    let mut shown = pb::Resource { status: None, ..resource.clone() };
    if let Some(metadata) = &mut shown.metadata {
        metadata.resource_version.clear();
    }
    shown
}

fn differ(before: &Value, after: &Value, path: &mut String, found: &mut Vec<String>) {
    // One more than is told, so that it is known that there are more.
    if before == after || found.len() > FIELDS_MAX {
        return;
    }
    let length = path.len();
    match (before, after) {
        (Value::Object(one), Value::Object(other)) => {
            let mut names: Vec<_> = one.keys().chain(other.keys()).collect();
            names.sort();
            names.dedup();
            for name in names {
                add_name(path, name);
                let of = |map: &Map<String, Value>| map.get(name).cloned().unwrap_or(Value::Null);
                differ(&of(one), &of(other), path, found);
                path.truncate(length);
            }
        }
        (Value::Array(one), Value::Array(other)) => {
            for i in 0..one.len().max(other.len()) {
                path.push_str(&format!("[{i}]"));
                let at = |list: &[Value]| list.get(i).cloned().unwrap_or(Value::Null);
                differ(&at(one), &at(other), path, found);
                path.truncate(length);
            }
        }
        _ => found.push(path.clone()),
    }
}

/// As problems write it: `spec.rules[0]`, and names that are no words in brackets.
fn add_name(path: &mut String, name: &str) {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if !name.chars().all(is_word) {
        path.push_str(&format!("[{name:?}]"));
        return;
    }
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(name);
}

#[cfg(test)]
mod tests {
    use super::{FIELDS_MAX, fields};
    use crate::control::sample::{labels, route, service};

    #[test]
    fn paths_name_what_differs_and_nothing_else() {
        let before = route("shop/r", "orders", &["a", "b"]);
        let mut after = route("shop/r", "orders", &["a", "c", "d"]);
        assert_eq!(fields(&before, &before), Vec::<String>::new());
        let metadata = after.metadata.as_mut().expect("set");
        metadata.labels = labels("app=x,example.org/a=b");
        metadata.resource_version = "7".to_owned();
        let expected = [
            "metadata.labels",
            "spec.rules[0].backendRefs[1].name",
            "spec.rules[0].backendRefs[2]",
        ];
        assert_eq!(fields(&before, &after), expected);
        let mut other = after.clone();
        other.metadata.as_mut().expect("set").labels = labels("app=y,example.org/a=c");
        let expected = ["metadata.labels.app", "metadata.labels[\"example.org/a\"]"];
        assert_eq!(fields(&after, &other), expected);
    }

    #[test]
    fn very_many_differences_are_cut_short() {
        let selector = |value: &str| {
            let pairs: Vec<_> = (0..100).map(|i| format!("l{i:03}={value}")).collect();
            service("shop/orders", &pairs.join(","))
        };
        let found = fields(&selector("a"), &selector("b"));
        assert_eq!((found.len(), found.last().map(String::as_str)), (FIELDS_MAX, Some("…")));
        assert_eq!(found[0], "spec.selector.l000");
    }
}
