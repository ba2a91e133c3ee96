//! The architecture, checked by reading the source: which module may import which, that every file
//! says what it is and stays short, and that what users depend on is documented. It uses only the
//! standard library and takes well under a second, so nobody is tempted to skip it. Its table is
//! that of the crate documentation; change both together, and argue for it in the commit.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Product lines (those before a file's first `#[cfg(test)]`) that one file may have.
const LINES_MAX: usize = 500;

const WORDS: &[&str] = &["units", "clock", "spiffe", "reason"];
const MEANING: &[&str] = &["resource", "snapshot"];
const DECISIONS: &[&str] = &["routing", "authz", "balance", "resilience", "limit", "filter"];
const MECHANISMS: &[&str] = &["net", "tls", "http", "http1", "http2", "task", "telemetry"];

/// What a module may import; `None` for a module that the table does not know.
fn may_import(module: &str) -> Option<BTreeSet<&'static str>> {
    let layers: &[&[&str]] = match module {
        _ if WORDS.contains(&module) => &[WORDS],
        "resource" => &[WORDS, &["resource"]],
        // `http` for the head that a route's matchers read, a slice of what came.
        "snapshot" => &[WORDS, MEANING, &["http"]],
        _ if DECISIONS.contains(&module) => &[WORDS, MEANING, DECISIONS, &["http"]],
        _ if MECHANISMS.contains(&module) => &[WORDS, MEANING, MECHANISMS],
        "identity" => &[WORDS, MEANING, MECHANISMS, &["identity"]],
        "proxy" => &[WORDS, MEANING, DECISIONS, MECHANISMS, &["proxy"]],
        "control" => &[WORDS, MEANING, DECISIONS, MECHANISMS, &["identity", "control"]],
        "adapter" => &[WORDS, MEANING, DECISIONS, MECHANISMS, &["identity", "adapter"]],
        "app" => &[
            WORDS,
            MEANING,
            DECISIONS,
            MECHANISMS,
            &["identity", "proxy", "control", "adapter", "app"],
        ],
        "cli" => &[
            WORDS,
            MEANING,
            DECISIONS,
            MECHANISMS,
            &["identity", "proxy", "control", "app", "cli"],
        ],
        _ => return None,
    };
    Some(layers.iter().flat_map(|layer| layer.iter().copied()).collect())
}

/// One source file, by its path from the root of the package.
struct Source {
    path: String,
    text: String,
}

impl Source {
    /// The part that is compiled into the program: up to the first `#[cfg(test)]`.
    fn product(&self) -> &str {
        if self.path.contains("/tests/") || self.path.ends_with("/tests.rs") {
            return "";
        }
        let end = self.text.find("\n#[cfg(test)]").unwrap_or(self.text.len());
        &self.text[..end]
    }

    /// The product's code without line comments, in which documentation may link anywhere.
    fn code(&self) -> String {
        let without = |line: &str| match line.find("//") {
            // Not the `//` of an address inside a text.
            Some(at) if !line[..at].ends_with(':') => line[..at].to_owned(),
            _ => line.to_owned(),
        };
        self.product().lines().map(without).collect::<Vec<_>>().join("\n")
    }

    /// The crate's module that this file belongs to; `None` for `lib.rs` and `main.rs`.
    fn module(&self) -> Option<&str> {
        let inner = self.path.strip_prefix("src/")?;
        let (first, _) = inner.split_once('/').unwrap_or((inner, ""));
        let module = first.strip_suffix(".rs").unwrap_or(first);
        (!matches!(module, "lib" | "main")).then_some(module)
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file under these folders.
fn sources(folders: &[&str]) -> Vec<Source> {
    let mut found = Vec::new();
    let mut left: Vec<PathBuf> = folders.iter().map(|folder| root().join(folder)).collect();
    while let Some(path) = left.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path).expect("a readable folder");
            left.extend(entries.map(|entry| entry.expect("a readable entry").path()));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            let name = path.strip_prefix(root()).expect("under the root").display().to_string();
            found.push(Source { path: name, text: fs::read_to_string(&path).expect("UTF-8") });
        }
    }
    found.sort_by(|one, other| one.path.cmp(&other.path));
    found
}

/// The modules of the crate that `code` names after `crate::`, also inside one `crate::{…}`.
fn imports(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, matched) in code.match_indices("crate::") {
        if code[..at].ends_with('$') {
            continue;
        }
        let rest = &code[at + matched.len()..];
        match rest.strip_prefix('{') {
            Some(group) => found.extend(group_heads(group)),
            None => found.extend(identifier(rest)),
        }
    }
    found
}

/// The first name of every member of a `use` group, whose opening brace is already read.
fn group_heads(group: &str) -> Vec<String> {
    let (mut depth, mut heads, mut fresh) = (0, Vec::new(), true);
    for (at, character) in group.char_indices() {
        match character {
            '}' if depth == 0 => break,
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => fresh = true,
            _ if fresh && !character.is_whitespace() => {
                heads.extend(identifier(&group[at..]));
                fresh = false;
            }
            _ => {}
        }
    }
    heads
}

fn identifier(text: &str) -> Option<String> {
    let end = text.find(|character: char| !character.is_ascii_alphanumeric() && character != '_');
    let name = &text[..end.unwrap_or(text.len())];
    (!name.is_empty()).then(|| name.to_owned())
}

fn refuse(problems: &[String], what: &str) {
    assert!(problems.is_empty(), "{what}:\n  {}", problems.join("\n  "));
}

#[test]
fn imports_are_found_in_every_form() {
    let code = "use crate::clock;\nuse crate::{\n  reason::{A, B},\n  snapshot::{self, c::D},\n  tls,\n};\n\
                fn f() { crate::net::dial(); }";
    let expected = ["clock", "net", "reason", "snapshot", "tls"].map(str::to_owned);
    assert_eq!(imports(code), BTreeSet::from(expected));
}

#[test]
fn imports_point_down() {
    let mut problems = Vec::new();
    for source in sources(&["src"]) {
        let Some(module) = source.module() else { continue };
        let Some(permitted) = may_import(module) else {
            problems.push(format!("{}: the table knows no module `{module}`", source.path));
            continue;
        };
        for import in imports(&source.code()) {
            // Only what the table knows is a module; the rest are items of the crate's root.
            if may_import(&import).is_some() && !permitted.contains(import.as_str()) {
                problems.push(format!("{}: `{module}` may not import `{import}`", source.path));
            }
        }
    }
    refuse(&problems, "imports point down (crate documentation, \"The map\")");
}

#[test]
fn every_module_of_the_crate_is_on_the_map() {
    let documentation = fs::read_to_string(root().join("src/lib.rs")).expect("src/lib.rs");
    let missing: Vec<String> = sources(&["src"])
        .iter()
        .filter_map(Source::module)
        .collect::<BTreeSet<_>>()
        .into_iter()
        .filter(|module| !documentation.contains(&format!("[`{module}`]")))
        .map(str::to_owned)
        .collect();
    refuse(&missing, "modules that the map in src/lib.rs leaves out");
}

#[test]
fn the_shop_knows_nothing_of_the_mesh() {
    let problems: Vec<String> = sources(&["examples/shop"])
        .iter()
        .flat_map(|source| {
            let imports = imports(&source.code());
            imports.into_iter().map(|import| format!("{}: crate::{import}", source.path))
        })
        .collect();
    refuse(&problems, "applications that import the mesh");
}

#[test]
fn every_file_says_what_it_is() {
    let mut all = sources(&["src", "tests", "examples"]);
    all.push(Source {
        path: "build.rs".into(),
        text: fs::read_to_string(root().join("build.rs")).expect("build.rs"),
    });
    let silent: Vec<String> = all
        .iter()
        .filter(|source| !source.text.trim_start().starts_with("//!"))
        .map(|source| source.path.clone())
        .collect();
    refuse(&silent, "files that do not begin with `//!`");
}

#[test]
fn files_stay_short() {
    let long: Vec<String> = sources(&["src", "examples"])
        .iter()
        .map(|source| (source.path.clone(), source.product().lines().count()))
        .filter(|(_, lines)| *lines > LINES_MAX)
        .map(|(path, lines)| format!("{path}: {lines} product lines"))
        .collect();
    refuse(&long, &format!("files over {LINES_MAX} product lines; split them by concept"));
}

/// Reasons are listed in `src/reason.rs` one a line as `Variant = "name", 404, …`.
#[test]
fn every_reason_is_documented() {
    let table = fs::read_to_string(root().join("src/reason.rs")).expect("src/reason.rs");
    let names: Vec<&str> = table
        .lines()
        .filter_map(|line| line.trim().split_once(" = \""))
        .filter_map(|(variant, rest)| {
            let (name, after) = rest.split_once('"')?;
            let is_row = after.starts_with(", ") && identifier(variant).as_deref() == Some(variant);
            is_row.then_some(name)
        })
        .collect();
    assert!(names.len() > 30, "the table of reasons is not read as it is written: {names:?}");

    let documents = documents();
    let missing: Vec<String> = names
        .iter()
        .filter(|name| !documents.contains(&format!("`{name}`")))
        .map(|name| (*name).to_owned())
        .collect();
    refuse(&missing, "reasons that README.md leaves out");
}

/// Metrics are written in full where they are registered, so that a search for one finds it.
#[test]
fn every_metric_is_documented() {
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    for source in sources(&["src"]) {
        let code = source.code();
        for (at, _) in code.match_indices("\"outrigger_") {
            let literal = &code[at + 1..];
            let end = literal.find('"').unwrap_or(literal.len());
            if identifier(&literal[..end]).as_deref() == Some(&literal[..end]) {
                names.insert(literal[..end].to_owned(), source.path.clone());
            }
        }
    }
    let documents = documents();
    let missing: Vec<String> = names
        .iter()
        .filter(|(name, _)| !documents.contains(name.as_str()))
        .map(|(name, path)| format!("{name} ({path})"))
        .collect();
    refuse(&missing, "metrics that README.md leaves out");
}

fn documents() -> String {
    fs::read_to_string(root().join("README.md")).expect("README.md")
}

/// Oldest versions without a known hole, for what meets strangers first. `.ci/run` asks for all
/// advisories where their data can be had; this holds without.
const SAFE_SINCE: &[(&str, [u32; 3])] =
    &[("h2", [0, 4, 20]), ("rustls", [0, 23, 46]), ("rustls-webpki", [0, 103, 13])];

#[test]
fn what_is_locked_has_no_hole_that_we_know_of() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).expect("Cargo.lock");
    let mut locked: BTreeMap<&str, Vec<[u32; 3]>> = BTreeMap::new();
    let mut name = "";
    for line in lock.lines() {
        let value = |key: &str| line.strip_prefix(key)?.strip_prefix(" = \"")?.strip_suffix('"');
        name = value("name").unwrap_or(name);
        if let Some(version) = value("version") {
            locked.entry(name).or_default().push(parse_version(version));
        }
    }
    let mut problems = Vec::new();
    for (name, since) in SAFE_SINCE {
        let versions = locked.get(name).unwrap_or_else(|| panic!("{name} is not locked"));
        let old = versions.iter().filter(|version| *version < since);
        problems.extend(old.map(|version| format!("{name} {version:?} is older than {since:?}")));
    }
    refuse(&problems, "dependencies in Cargo.lock");
}

fn parse_version(text: &str) -> [u32; 3] {
    let release = text.split(['-', '+']).next().unwrap_or_default();
    let mut numbers = release.split('.').map(|number| number.parse().unwrap_or(0));
    [(); 3].map(|()| numbers.next().unwrap_or(0))
}
