//! What is wrong with a resource, where, and how to mend it. One type from the parser to the
//! terminal and over the wire, because a person wants the same words whether a file was refused at
//! home, by the control plane or by a sidecar.

use std::fmt;

use super::{ResourceKey, pb};

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// The resource runs, but probably not as it was meant.
    Warning,
    /// The resource is refused.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// Where in a text a problem is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// The file's name as the user gave it.
    pub file: String,
    /// From 1.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
    /// The line's own text; empty when only the position is known.
    pub snippet: String,
    /// How many characters are meant, at least 1.
    pub width: u32,
}

/// Something wrong with a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Whose; `None` when the text did not get so far.
    pub resource: Option<ResourceKey>,
    /// `spec.retry.on.grpc[1]`; empty for the resource as a whole.
    pub field: String,
    /// What stands there; empty for something that is not there or is no single value.
    pub value: String,
    /// What is wrong with it: `not a gRPC status`.
    pub message: String,
    /// How to mend it; may be empty.
    pub hint: String,
    /// How bad it is.
    pub severity: Severity,
    /// Where in a text, when it came from one.
    pub at: Option<Location>,
}

impl Problem {
    /// An error without a place; fields are set by whoever knows more.
    pub fn error(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            resource: None,
            field: field.into(),
            value: String::new(),
            message: message.into(),
            hint: String::new(),
            severity: Severity::Error,
            at: None,
        }
    }

    /// A warning without a place.
    pub fn warning(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(field, message) }
    }

    /// With what stands there.
    #[must_use]
    pub fn with_value(mut self, value: impl Into<String>) -> Self {
        self.value = value.into();
        self
    }

    /// With how to mend it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// Of this resource.
    #[must_use]
    pub fn of(mut self, resource: &ResourceKey) -> Self {
        self.resource = Some(resource.clone());
        self
    }

    /// Whether the resource is refused for it.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// As it travels: the position without the line's text.
    pub fn to_pb(&self) -> pb::Problem {
        let severity = match self.severity {
            Severity::Warning => pb::Severity::Warning,
            Severity::Error => pb::Severity::Error,
        };
        let (file, line, column) = self
            .at
            .as_ref()
            .map_or_else(Default::default, |at| (at.file.clone(), at.line, at.column));
        pb::Problem {
            resource: self.resource.as_ref().map(ResourceKey::to_pb),
            field: self.field.clone(),
            value: self.value.clone(),
            message: self.message.clone(),
            hint: self.hint.clone(),
            severity: severity.into(),
            file,
            line,
            column,
        }
    }

    /// As it travelled. What does not say that it is a warning is an error.
    pub fn from_pb(problem: &pb::Problem) -> Self {
        let severity = match problem.severity() {
            pb::Severity::Warning => Severity::Warning,
            pb::Severity::Unspecified | pb::Severity::Error => Severity::Error,
        };
        let at = (problem.line > 0).then(|| Location {
            file: problem.file.clone(),
            line: problem.line,
            column: problem.column.max(1),
            snippet: String::new(),
            width: 1,
        });
        Self {
            resource: problem.resource.as_ref().and_then(ResourceKey::from_pb),
            field: problem.field.clone(),
            value: problem.value.clone(),
            message: problem.message.clone(),
            hint: problem.hint.clone(),
            severity,
            at,
        }
    }
}

/// Several lines for a person, the last without a line feed:
///
/// ```text
/// mesh.yaml:23:28: error: TrafficPolicy shop/inventory: spec.retry.on.grpc[1]
///   23 |     on: {grpc: [CANCELLED, UNAVAILBLE]}
///      |                            ^^^^^^^^^^ not a gRPC status
///   mend: UNAVAILABLE
/// ```
///
/// A warning, and whatever has no text, shows its message alone below the first line.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(at) = &self.at {
            write!(f, "{}:{}:{}: ", printable(&at.file), at.line, at.column)?;
        }
        write!(f, "{}", self.severity)?;
        if let Some(resource) = &self.resource {
            write!(f, ": {}", printable(&resource.to_string()))?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", printable(&self.field))?;
        }
        match &self.at {
            Some(at) if self.is_error() && !at.snippet.is_empty() => {
                write_snippet(f, at, &self.message)?;
            }
            _ => write!(f, "\n  {}", printable(&self.message_with_value()))?,
        }
        if !self.hint.is_empty() {
            write!(f, "\n  mend: {}", printable(&self.hint))?;
        }
        Ok(())
    }
}

impl Problem {
    fn message_with_value(&self) -> String {
        if self.value.is_empty() || self.message.contains(&self.value) {
            self.message.clone()
        } else {
            format!("{:?}: {}", self.value, self.message)
        }
    }
}

/// Longer lines are shown from a little before the place.
const SNIPPET_CHARACTERS_MAX: usize = 160;
const SNIPPET_CHARACTERS_BEFORE: usize = 60;

fn write_snippet(f: &mut fmt::Formatter<'_>, at: &Location, message: &str) -> fmt::Result {
    let line = at.line.to_string();
    let gutter = " ".repeat(line.len());
    let before = usize::try_from(at.column.saturating_sub(1)).unwrap_or(0);
    let length = at.snippet.chars().count();
    let cut = if length > SNIPPET_CHARACTERS_MAX {
        before.saturating_sub(SNIPPET_CHARACTERS_BEFORE)
    } else {
        0
    };
    let shown = at.snippet.chars().skip(cut).take(SNIPPET_CHARACTERS_MAX).collect::<String>();
    let width = usize::try_from(at.width.max(1)).unwrap_or(1);
    let room = (length.min(cut + SNIPPET_CHARACTERS_MAX)).saturating_sub(before).max(1);
    let carets = "^".repeat(width.min(room));
    let indent = " ".repeat(before - cut);
    write!(f, "\n  {line} | {}", printable(&shown))?;
    write!(f, "\n  {gutter} | {indent}{carets} {}", printable(message))
}

/// Without control characters, which could otherwise write anywhere on a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::{Location, Problem, Severity};
    use crate::resource::{Kind, ResourceKey};

    fn misspelt() -> Problem {
        let mut problem = Problem::error("spec.retry.on.grpc[1]", "not a gRPC status")
            .with_value("UNAVAILBLE")
            .with_hint("UNAVAILABLE")
            .of(&ResourceKey::new(Kind::TrafficPolicy, "shop", "inventory"));
        problem.at = Some(Location {
            file: "mesh.yaml".to_owned(),
            line: 23,
            column: 28,
            snippet: "    on: {grpc: [CANCELLED, UNAVAILBLE]}".to_owned(),
            width: 10,
        });
        problem
    }

    #[test]
    fn an_error_shows_its_line() {
        let shown = "\
mesh.yaml:23:28: error: TrafficPolicy shop/inventory: spec.retry.on.grpc[1]
  23 |     on: {grpc: [CANCELLED, UNAVAILBLE]}
     |                            ^^^^^^^^^^ not a gRPC status
  mend: UNAVAILABLE";
        assert_eq!(misspelt().to_string(), shown);
    }

    #[test]
    fn a_warning_shows_its_message_alone() {
        let mut problem = misspelt();
        problem.severity = Severity::Warning;
        problem.value = String::new();
        problem.hint = String::new();
        let shown = "\
mesh.yaml:23:28: warning: TrafficPolicy shop/inventory: spec.retry.on.grpc[1]
  not a gRPC status";
        assert_eq!(problem.to_string(), shown);
    }

    #[test]
    fn without_a_text_the_value_stands_in_the_message() {
        let problem = Problem { at: None, ..misspelt() };
        let shown = "\
error: TrafficPolicy shop/inventory: spec.retry.on.grpc[1]
  \"UNAVAILBLE\": not a gRPC status
  mend: UNAVAILABLE";
        assert_eq!(problem.to_string(), shown);
    }

    #[test]
    fn a_long_line_is_cut_around_the_place() {
        let mut problem = misspelt();
        problem.at = problem.at.map(|at| Location {
            snippet: format!("{}wrong{}", "a".repeat(5000), "b".repeat(5000)),
            column: 5001,
            width: 5,
            ..at
        });
        let shown = problem.to_string();
        let lines = shown.lines().collect::<Vec<_>>();
        assert!(lines[1].len() < 200, "{shown}");
        let caret = lines[2].find('^').expect("caret");
        assert_eq!(&lines[1][caret..caret + 5], "wrong");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let problem = Problem::error("a\u{1b}[2J", "b\u{7}").with_hint("c\r");
        assert!(problem.to_string().chars().all(|c| c == '\n' || !c.is_control()));
    }

    #[test]
    fn a_problem_travels_without_its_snippet() {
        let problem = misspelt();
        let travelled = Problem::from_pb(&problem.to_pb());
        let at = problem.at.clone().map(|at| Location { snippet: String::new(), width: 1, ..at });
        assert_eq!(travelled, Problem { at, ..problem });
    }
}
