//! Collects the problems of one resource while it is read: the reader says where it is, so that no
//! check has to put a field path together, and goes on after a problem, so that a person sees all
//! of them at once.

use std::fmt::{Display, Write as _};

use super::{Problem, nearest::nearest};
use crate::units::{NameError, UnitError};

/// Where the reader is, and what it found.
#[derive(Debug, Default)]
pub(super) struct Report {
    problems: Vec<Problem>,
    path: String,
}

impl Report {
    /// Reads `spec`; a result with errors among the problems must not be used, and is not given.
    pub(super) fn read<T>(
        from: &str,
        read: impl FnOnce(&mut Self) -> T,
    ) -> (Option<T>, Vec<Problem>) {
        let (parsed, problems) = Self::collect(from, read);
        let refused = problems.iter().any(Problem::is_error);
        ((!refused).then_some(parsed), problems)
    }

    /// Reads whatever stands at `from`.
    pub(super) fn collect<T>(from: &str, read: impl FnOnce(&mut Self) -> T) -> (T, Vec<Problem>) {
        let mut report = Self { problems: Vec::new(), path: from.to_owned() };
        (read(&mut report), report.problems)
    }

    /// Reads a field.
    pub(super) fn field<T>(&mut self, name: &str, read: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.path.len();
        if length > 0 {
            self.path.push('.');
        }
        self.path.push_str(name);
        let parsed = read(self);
        self.path.truncate(length);
        parsed
    }

    /// Reads the entry of a map.
    pub(super) fn entry<T>(&mut self, key: &str, read: impl FnOnce(&mut Self) -> T) -> T {
        self.within(format_args!("{}", entry_segment(key)), read)
    }

    /// Reads every item of a list that is a field.
    pub(super) fn each<'a, I, T>(
        &mut self,
        name: &str,
        items: &'a [I],
        mut read: impl FnMut(&mut Self, &'a I) -> T,
    ) -> Vec<T> {
        self.field(name, |report| {
            let item =
                |(i, item)| report.within(format_args!("[{i}]"), |report| read(report, item));
            items.iter().enumerate().map(item).collect()
        })
    }

    fn within<T>(&mut self, segment: impl Display, read: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.path.len();
        write!(self.path, "{segment}").expect("a String takes everything");
        let parsed = read(self);
        self.path.truncate(length);
        parsed
    }

    /// The place is wrong as a whole.
    pub(super) fn error(&mut self, message: impl Into<String>, hint: impl Into<String>) {
        self.problems.push(Problem::error(&*self.path, message).with_hint(hint));
    }

    /// What stands here is wrong.
    pub(super) fn wrong(
        &mut self,
        value: impl Display,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        let problem = Problem::error(&*self.path, message).with_value(value.to_string());
        self.problems.push(problem.with_hint(hint));
    }

    /// What stands here is probably not what was meant.
    pub(super) fn warn(
        &mut self,
        value: impl Display,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        let problem = Problem::warning(&*self.path, message).with_value(value.to_string());
        self.problems.push(problem.with_hint(hint));
    }

    /// What stands here is known, but does nothing in this version. It is refused, because dropping
    /// it would run something else than what was written.
    pub(super) fn not_run(&mut self, what: &str) {
        self.error(format!("not run by this version: {what}"), "leave it out");
    }

    /// Reads a quantity; an empty text is one that was left out.
    pub(super) fn unit<T>(
        &mut self,
        text: &str,
        parse: impl FnOnce(&str) -> Result<T, UnitError>,
    ) -> Option<T> {
        if text.is_empty() {
            return None;
        }
        let refused = |error: UnitError| self.wrong(text, error.message, error.expected);
        parse(text).map_err(refused).ok()
    }

    /// A number within bounds.
    pub(super) fn range(&mut self, number: u32, least: u32, most: u32) {
        if !(least..=most).contains(&number) {
            self.wrong(number, format!("not in {least} to {most}"), "");
        }
    }

    /// A port, 1 to 65535.
    pub(super) fn port(&mut self, number: u32) -> u16 {
        let port = u16::try_from(number).unwrap_or(0);
        if port == 0 {
            self.wrong(number, "not a port", "1 to 65535");
        }
        port
    }

    /// An enumerator as it travels. One that this version does not know is refused: whoever wrote
    /// it meant something else than the default, maybe its opposite.
    pub(super) fn enumerator<T: TryFrom<i32> + Default>(&mut self, name: &str, number: i32) -> T {
        T::try_from(number).unwrap_or_else(|_| {
            let message = "not a value that this version knows";
            self.field(name, |report| report.wrong(number, message, "a newer version"));
            T::default()
        })
    }

    /// A DNS label.
    pub(super) fn label(&mut self, text: &str) {
        self.name(text, crate::units::name::check_label(text));
    }

    /// A name that was read; `None` when it is none.
    pub(super) fn name<T>(&mut self, text: &str, parsed: Result<T, NameError>) -> Option<T> {
        let refused = |error: NameError| {
            self.wrong(text, format!("not a name: {error}"), "1 to 63 of a-z, 0-9 and -");
        };
        parsed.map_err(refused).ok()
    }

    /// One of several words; the hint is the one that was meant, or all of them.
    pub(super) fn word<T: Copy>(
        &mut self,
        text: &str,
        message: &str,
        words: &[(&'static str, T)],
    ) -> Option<T> {
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, meant)| *meant);
        if found.is_none() {
            self.wrong(text, message, meant(text, words.iter().map(|(word, _)| *word)));
        }
        found
    }
}

/// The known word nearest to a wrong one, or all of them.
pub(super) fn meant<'a>(text: &str, words: impl Iterator<Item = &'a str> + Clone) -> String {
    nearest(text, words.clone()).map_or_else(|| words.collect::<Vec<_>>().join(", "), str::to_owned)
}

/// `.name` for a plain key, `["a.b/c"]` for another.
pub(super) fn entry_segment(key: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if !key.is_empty() && key.chars().all(plain) { format!(".{key}") } else { format!("[{key:?}]") }
}
