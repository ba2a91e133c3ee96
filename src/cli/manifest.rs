//! The resources that a command is given with `-f`: files, directories, stdin. What is wrong with
//! them is collected over all of them, and what a control plane finds later is put back to the
//! place where it was written.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use super::output::Failure;
use crate::resource::{
    self, Kind, Problem, ResourceKey, pb,
    yaml::{self, Parsed},
};

/// What the parser refuses as too long need not be read to its end.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// Files of one directory.
const FILES_MAX: usize = 10_000;
/// What one write takes; more is refused before it is read.
const RESOURCES_MAX: usize = 10_000;
/// What stdin is called in problems.
const STDIN: &str = "stdin";

/// Which namespace a resource is in that names none.
#[derive(Debug, Clone, Copy)]
pub(super) enum Namespace<'a> {
    /// Asked for: a resource that names another one is refused.
    Asked(&'a str),
    /// The context's.
    Context(&'a str),
}

/// Everything that was read, with everything that is wrong with it.
#[derive(Debug, Default)]
pub(super) struct Manifest {
    parsed: Vec<Parsed>,
    problems: Vec<Problem>,
    /// Files in the order in which they were read.
    files: Vec<String>,
}

impl Manifest {
    /// Reads what `-f` names: files, the `*.yaml`, `*.yml` and `*.json` of directories in the order
    /// of their names, and stdin for `-`.
    pub(super) fn read(paths: &[PathBuf], namespace: Namespace<'_>) -> Result<Self, Failure> {
        let mut manifest = Self::default();
        for path in paths {
            if path.as_os_str() == "-" {
                manifest.add(STDIN, &read_text(io::stdin().lock(), STDIN)?)?;
                continue;
            }
            for file in files(path)? {
                let name = file.display().to_string();
                let open = fs::File::open(&file).map_err(|error| failed(&name, &error))?;
                manifest.add(&name, &read_text(open, &name)?)?;
            }
        }
        if manifest.parsed.is_empty() && manifest.problems.is_empty() {
            let names: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
            return Err(Failure::say(format!("no resources in {}", names.join(", "))));
        }
        manifest.place(namespace);
        let found = yaml::check(&manifest.parsed);
        manifest.problems.extend(found);
        manifest.sort();
        Ok(manifest)
    }

    fn add(&mut self, name: &str, text: &str) -> Result<(), Failure> {
        let count = self.parsed.len() + documents(text);
        if count > RESOURCES_MAX {
            let message =
                format!("{name}: {count} resources are more than {RESOURCES_MAX} at once");
            return Err(Failure::say(message).with_hint("several files, one after the other"));
        }
        let (parsed, problems) = yaml::parse(text, name);
        self.parsed.extend(parsed);
        self.problems.extend(problems);
        self.files.push(name.to_owned());
        Ok(())
    }

    fn place(&mut self, namespace: Namespace<'_>) {
        for one in &mut self.parsed {
            if !Kind::of(&one.resource).is_some_and(Kind::namespaced) {
                continue;
            }
            let metadata = one.resource.metadata.get_or_insert_default();
            match namespace {
                Namespace::Asked(asked) | Namespace::Context(asked)
                    if metadata.namespace.is_empty() =>
                {
                    metadata.namespace = asked.to_owned();
                }
                Namespace::Asked(asked) if metadata.namespace != asked => {
                    let other = metadata.namespace.clone();
                    let message = format!("not the namespace that was asked for, {asked}");
                    let problem = Problem::error("metadata.namespace", message).with_value(other);
                    let problem = problem.with_hint("leave out --namespace");
                    let key = resource::key(&one.resource);
                    let problem = Problem { resource: key, ..problem };
                    self.problems.push(one.source.locate(problem));
                }
                Namespace::Asked(_) | Namespace::Context(_) => {}
            }
        }
    }

    /// What can be sent.
    pub(super) fn resources(&self) -> Vec<pb::Resource> {
        self.parsed.iter().map(|parsed| parsed.resource.clone()).collect()
    }

    /// Names of what can be sent, each once.
    pub(super) fn keys(&self) -> Vec<ResourceKey> {
        let mut seen = BTreeSet::new();
        let keys = self.parsed.iter().filter_map(|parsed| resource::key(&parsed.resource));
        keys.filter(|key| seen.insert(key.clone())).collect()
    }

    /// Everything found, in the order of the text; what has no place in it comes last.
    pub(super) fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Whether any of it is an error.
    pub(super) fn is_refused(&self) -> bool {
        self.problems.iter().any(Problem::is_error)
    }

    /// How many resources were written down, those that could not be read among them.
    pub(super) fn count(&self) -> usize {
        let read: BTreeSet<_> = self.keys().into_iter().collect();
        let unread = self.problems.iter().filter_map(|problem| match &problem.resource {
            Some(key) if read.contains(key) => None,
            Some(key) => Some((Some(key), 0)),
            // Without a name its place tells it from others.
            None => problem.at.as_ref().map(|at| (None, at.line)),
        });
        self.parsed.len() + unread.collect::<BTreeSet<_>>().len()
    }

    /// Adds what the control plane found, each in its place, unless it was found here already.
    pub(super) fn take(&mut self, found: &[pb::Problem]) {
        let sources: HashMap<_, _> = self
            .parsed
            .iter()
            .filter_map(|one| Some((resource::key(&one.resource)?, &one.source)))
            .collect();
        let located = found.iter().map(|problem| {
            let problem = Problem::from_pb(problem);
            match problem.resource.as_ref().and_then(|key| sources.get(key)) {
                Some(source) => source.locate(Problem { at: None, ..problem }),
                None => problem,
            }
        });
        let same = |a: &Problem, b: &Problem| {
            (&a.resource, &a.field, &a.message) == (&b.resource, &b.field, &b.message)
        };
        let located: Vec<_> = located.collect();
        for problem in located {
            if !self.problems.iter().any(|known| same(known, &problem)) {
                self.problems.push(problem);
            }
        }
        self.sort();
    }

    fn sort(&mut self) {
        let files = &self.files;
        self.problems.sort_by_key(|problem| match &problem.at {
            Some(at) => {
                let file = files.iter().position(|name| *name == at.file);
                (file.unwrap_or(usize::MAX), at.line, at.column)
            }
            None => (usize::MAX, u32::MAX, u32::MAX),
        });
    }
}

/// The file itself, or what a directory has of them.
fn files(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    let name = path.display().to_string();
    let about = fs::metadata(path).map_err(|error| failed(&name, &error))?;
    if !about.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(path).map_err(|error| failed(&name, &error))? {
        let file = entry.map_err(|error| failed(&name, &error))?.path();
        let ending = file.extension().and_then(|ending| ending.to_str());
        let hidden =
            file.file_name().is_some_and(|name| name.as_encoded_bytes().first() == Some(&b'.'));
        if matches!(ending, Some("yaml" | "yml" | "json")) && !hidden && !file.is_dir() {
            found.push(file);
        }
    }
    found.sort();
    match found.len() {
        0 => Err(Failure::say(format!("{name}: no *.yaml, *.yml or *.json in this directory"))),
        number if number > FILES_MAX => {
            Err(Failure::say(format!("{name}: more than {FILES_MAX} files")))
        }
        _ => Ok(found),
    }
}

/// Documents of a text that say anything, without reading what.
fn documents(text: &str) -> usize {
    let (mut count, mut counted) = (0, false);
    for line in text.lines() {
        let line = line.strip_prefix("---").map_or(line, |rest| {
            counted = false;
            rest
        });
        let says = !line.trim().is_empty() && !line.trim_start().starts_with('#');
        count += usize::from(says && !counted);
        counted |= says;
    }
    count
}

fn read_text(reader: impl io::Read, name: &str) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    reader.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(|error| failed(name, &error))?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Failure::say(format!("{name}: no UTF-8 text from byte {at} on"))
    })
}

fn failed(name: &str, error: &io::Error) -> Failure {
    Failure::say(format!("{name}: {error}"))
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use super::{Manifest, Namespace};
    use crate::resource::{Kind, Problem, ResourceKey};

    #[test]
    fn documents_are_counted_before_they_are_read() {
        for (text, expected) in [
            ("", 0),
            ("# only\n---\n# comments\n", 0),
            ("a: 1", 1),
            ("---\na: 1\n---\n---\nb: 2\n---\n", 2),
            ("--- {a: 1}\n--- {b: 2}\nc", 2),
        ] {
            assert_eq!(super::documents(text), expected, "{text:?}");
        }
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("many.yaml");
        fs::write(&file, "a: {\n---\n".repeat(10_001)).expect("written");
        let refused = Manifest::read(&[file], Namespace::Context("shop")).expect_err("refused");
        assert!(refused.message().contains("10001 resources are more than 10000"), "{refused:?}");
    }

    const POLICY: &str = "\
apiVersion: outrigger.dev/v1
kind: TrafficPolicy
metadata: {name: inventory, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: inventory}]
  retry:
    on: {grpc: [CANCELLED, UNAVAILBLE]}
";
    const SERVICE: &str = "\
apiVersion: outrigger.dev/v1
kind: Service
metadata: {name: orders}
spec: {ports: [{port: 9090}]}
";

    fn written(files: &[(&str, &str)]) -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().expect("a temporary directory");
        for (name, text) in files {
            fs::write(root.path().join(name), text).expect("written");
        }
        let path = root.path().to_owned();
        (root, path)
    }

    fn read(path: PathBuf, namespace: Namespace<'_>) -> Manifest {
        Manifest::read(&[path], namespace).expect("readable")
    }

    #[test]
    fn a_directory_is_read_in_the_order_of_its_names() {
        let text = |name| SERVICE.replace("orders", name);
        let (_root, path) = written(&[
            (
                "c.json",
                "{\"apiVersion\": \"outrigger.dev/v1\", \"kind\": \"Service\", \
                       \"metadata\": {\"name\": \"third\"}, \"spec\": {}}",
            ),
            ("b.yml", &text("second")),
            ("a.yaml", &text("first")),
            (".hidden.yaml", "]"),
            ("readme.md", "]"),
        ]);
        let manifest = read(path, Namespace::Context("shop"));
        assert_eq!(manifest.problems(), &[]);
        let names: Vec<_> = manifest.keys().iter().map(ToString::to_string).collect();
        assert_eq!(names, ["Service shop/first", "Service shop/second", "Service shop/third"]);
    }

    #[test]
    fn what_the_control_plane_found_is_put_in_its_place_and_said_once() {
        let (_root, path) = written(&[("mesh.yaml", &format!("{SERVICE}---\n{POLICY}"))]);
        let mut manifest = read(path, Namespace::Context("default"));
        assert!(manifest.is_refused());
        let known = manifest.problems()[0].clone();
        assert_eq!(known.at.as_ref().map(|at| (at.line, at.column)), Some((12, 28)), "{known}");
        let mut again = known.to_pb();
        (again.line, again.column, again.file) = (0, 0, String::new());
        let orders = ResourceKey::new(Kind::Service, "", "orders");
        let port = Problem::error("spec.ports[0].port", "is taken").of(&orders);
        let elsewhere = Problem::error("", "the mesh is full");
        manifest.take(&[elsewhere.to_pb(), again, port.to_pb()]);
        let places: Vec<_> = manifest
            .problems()
            .iter()
            .map(|it| (it.message.as_str(), it.at.as_ref().map(|at| (at.line, at.column))))
            .collect();
        let expected = [
            ("is taken", Some((4, 23))),
            (known.message.as_str(), Some((12, 28))),
            ("the mesh is full", None),
        ];
        assert_eq!(places, expected);
        assert_eq!(manifest.count(), 2);
    }

    #[test]
    fn a_namespace_that_is_asked_for_is_kept_to() {
        let (_root, path) = written(&[(
            "a.yaml",
            &format!("{SERVICE}---\n{}", POLICY.replace("UNAVAILBLE", "ABORTED")),
        )]);
        let manifest = read(path.clone(), Namespace::Asked("billing"));
        let shown: Vec<_> = manifest.problems().iter().map(ToString::to_string).collect();
        assert_eq!(shown.len(), 1, "{shown:?}");
        assert!(shown[0].contains("not the namespace that was asked for, billing"), "{shown:?}");
        assert_eq!(manifest.keys()[0].namespace, "billing");
        let manifest = read(path, Namespace::Asked("shop"));
        assert!(!manifest.is_refused());
    }

    #[test]
    fn nothing_to_read_is_a_failure() {
        let (_root, path) =
            written(&[("readme.md", ""), ("empty.yaml", "---\n"), ("latin.yaml", "")]);
        let missing = path.join("missing.yaml");
        for path in [missing, path.join("empty.yaml")] {
            assert!(Manifest::read(&[path], Namespace::Context("default")).is_err());
        }
        fs::write(path.join("latin.yaml"), b"a: \xe9\n").expect("written");
        assert!(Manifest::read(&[path], Namespace::Context("default")).is_err());
    }
}
