//! Where in a text a field of a resource stands.

use std::sync::Arc;

use super::tree::{Content, Mark, Node, SyntaxError};
use crate::resource::{Location, Problem};

/// A text with its name, shared by all resources in it.
#[derive(Debug)]
pub(super) struct File {
    name: String,
    text: String,
    /// Where each line begins, in bytes.
    lines: Vec<usize>,
}

impl File {
    pub(super) fn new(name: &str, text: &str) -> Self {
        // Text that is too long is not kept: nothing in it is read.
        let text = if text.len() > super::tree::TEXT_BYTES_MAX { "" } else { text };
        let breaks = text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(i, _)| i + 1);
        let lines = std::iter::once(0).chain(breaks).collect();
        Self { name: name.to_owned(), text: text.to_owned(), lines }
    }

    pub(super) fn location(&self, mark: Mark) -> Location {
        let index = usize::try_from(mark.line.saturating_sub(1)).unwrap_or(usize::MAX);
        let line = self.lines.get(index).and_then(|start| self.text[*start..].lines().next());
        Location {
            file: self.name.clone(),
            line: mark.line,
            column: mark.column,
            snippet: line.unwrap_or_default().trim_end_matches('\r').to_owned(),
            width: mark.width,
        }
    }

    pub(super) fn syntax_problem(&self, error: &SyntaxError) -> Problem {
        let mut problem = Problem::error("", &*error.message);
        problem.at = Some(self.location(error.mark));
        problem
    }
}

/// The text of one resource: finds the place of a field by its path.
#[derive(Debug, Clone)]
pub struct Source {
    file: Arc<File>,
    document: Arc<Node>,
}

impl Source {
    pub(super) fn new(file: &Arc<File>, document: Node) -> Self {
        Self { file: Arc::clone(file), document: Arc::new(document) }
    }

    /// The file's name as it was given.
    pub fn file_name(&self) -> &str {
        &self.file.name
    }

    /// Where a field stands (`spec.retry.on.grpc[1]`). For a field that was left out it is the
    /// nearest one around it that was not.
    pub fn location(&self, field: &str) -> Location {
        self.file.location(self.mark(field))
    }

    /// Puts a problem in its place, unless it has one.
    #[must_use]
    pub fn locate(&self, problem: Problem) -> Problem {
        match problem.at {
            Some(_) => problem,
            None => Problem { at: Some(self.location(&problem.field)), ..problem },
        }
    }

    fn mark(&self, field: &str) -> Mark {
        let (mut node, mut mark) = (&*self.document, self.document.mark);
        let mut rest = field;
        while let Some((segment, tail)) = next_segment(rest) {
            let found = match (&node.content, &segment) {
                (Content::Map(_), Segment::Key(key)) => node.entry(key).map(|(key, value)| {
                    // A block or nothing is shown by its key, a value by itself.
                    let block = value.mark.line > key.mark.line || value.is_null();
                    (value, if block { key.mark } else { value.mark })
                }),
                (Content::List(items), Segment::Index(i)) => {
                    items.get(*i).map(|item| (item, item.mark))
                }
                _ => None,
            };
            let Some((value, place)) = found else { break };
            (node, mark, rest) = (value, place, tail);
        }
        mark
    }
}

enum Segment {
    Key(String),
    Index(usize),
}

/// The first step of a path, and what follows it.
fn next_segment(path: &str) -> Option<(Segment, &str)> {
    let path = path.strip_prefix('.').unwrap_or(path);
    if let Some(rest) = path.strip_prefix("[\"") {
        // A key as `{:?}` wrote it: up to the first quote that is not escaped.
        let mut escaped = false;
        let end = rest.find(|c: char| {
            let end = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            end
        })?;
        let key = rest[..end].replace("\\\"", "\"").replace("\\\\", "\\");
        return Some((Segment::Key(key), rest[end + 1..].strip_prefix(']')?));
    }
    if let Some(rest) = path.strip_prefix('[') {
        let (index, tail) = rest.split_once(']')?;
        return Some((Segment::Index(index.parse().ok()?), tail));
    }
    let end = path.find(['.', '[']).unwrap_or(path.len());
    (end > 0).then(|| (Segment::Key(path[..end].to_owned()), &path[end..]))
}
