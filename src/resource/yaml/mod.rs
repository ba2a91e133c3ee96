//! YAML and JSON as users write them: several documents in one text, read into messages by their
//! descriptors, with the place of every field kept for the problems that are found later.

mod decode;
mod document;
mod source;
mod tree;

use std::{collections::HashMap, sync::Arc};

pub(super) use decode::enum_words;
pub(super) use document::resource_descriptor;
pub use source::Source;

use super::{Problem, ResourceKey, pb};

/// A resource that was read, and where.
#[derive(Debug, Clone)]
pub struct Parsed {
    /// What it says.
    pub resource: pb::Resource,
    /// Where it says it.
    pub source: Source,
}

/// Reads every document of a text, which calls itself `file_name` in problems. A document with an
/// error is not among the results, and every error of it is among the problems, those of
/// [`check`](super::check()) too. What is wrong with the others is for `check` to say.
pub fn parse(text: &str, file_name: &str) -> (Vec<Parsed>, Vec<Problem>) {
    let file = Arc::new(source::File::new(file_name, text));
    let (mut parsed, mut problems) = (Vec::new(), Vec::new());
    for document in tree::parse(text) {
        match document {
            Ok(node) => {
                let (some, found) = document::read(&file, node);
                parsed.extend(some);
                problems.extend(found);
            }
            Err(error) => problems.push(file.syntax_problem(&error)),
        }
    }
    (parsed, problems)
}

/// What is wrong with resources that were read, each alone, and with their names together: one that
/// stands twice would win by the order of files. Every problem has its place.
pub fn check(parsed: &[Parsed]) -> Vec<Problem> {
    let mut first: HashMap<ResourceKey, &Source> = HashMap::new();
    let mut problems = Vec::new();
    for one in parsed {
        let found = super::check(&one.resource);
        problems.extend(found.into_iter().map(|problem| one.source.locate(problem)));
        let Some(key) = super::key(&one.resource) else { continue };
        if let Some(other) = first.get(&key) {
            let at = other.location("metadata.name");
            let hint = format!("the first is at {}:{}:{}", at.file, at.line, at.column);
            let problem = Problem::error("metadata.name", "stands twice").with_hint(hint).of(&key);
            problems.push(one.source.locate(problem.with_value(&*key.name)));
        } else {
            first.insert(key, &one.source);
        }
    }
    problems
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod wrong_specs;
