//! What commands print: tables for people, JSON and YAML for programs, and failures. A reader that
//! goes away (`outrigger get svc | head`) ends a command quietly.

use std::{
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
};

use clap::ValueEnum;

/// How to print what was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people
    Table,
    /// For people, with more columns
    Wide,
    /// One `kind/name` a line
    Name,
    /// For programs
    Json,
    /// As it would be written in a file
    Yaml,
}

impl Format {
    /// Whether stdout has to be JSON in every case.
    pub(super) fn is_json(self) -> bool {
        self == Self::Json
    }

    /// Prints what has one form for people and one for programs.
    pub(super) fn print(
        self,
        text: impl FnOnce() -> String,
        value: impl FnOnce() -> serde_json::Value,
    ) -> Result<ExitCode, Failure> {
        match self {
            Self::Table | Self::Wide | Self::Name => out(&text())?,
            Self::Json => out(&json(&value()))?,
            Self::Yaml => out(&yaml(&value())?)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Pretty JSON with a line end.
pub(super) fn json(value: &serde_json::Value) -> String {
    format!("{value:#}\n")
}

/// YAML of the same value.
pub(super) fn yaml(value: &serde_json::Value) -> Result<String, Failure> {
    serde_saphyr::to_string(value).map_err(|error| Failure::new(anyhow::anyhow!("YAML: {error}")))
}

/// Writes to stdout; a reader that is gone is no failure.
pub(super) fn out(text: &str) -> Result<(), Failure> {
    out_to_reader(text).map(|_| ())
}

/// Writes to stdout and says whether anybody still reads it.
pub(super) fn out_to_reader(text: &str) -> Result<bool, Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::new(anyhow::Error::new(error).context("stdout"))),
    }
}

/// Writes to stderr; when that is gone there is nobody left to tell.
pub(super) fn note(text: &str) {
    let _gone = io::stderr().lock().write_all(text.as_bytes());
}

/// Whether to colour what goes to stdout: only on a terminal, and not against `NO_COLOR`.
pub(super) fn coloured() -> bool {
    let refused = crate::app::bootstrap::variable("NO_COLOR").is_some();
    io::stdout().is_terminal() && !refused
}

/// `-o`, as every command that prints something takes it.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct Output {
    /// How to print it
    #[arg(short = 'o', long = "output", value_name = "FORMAT", default_value = "table")]
    #[arg(env = "OUTRIGGER_OUTPUT")]
    pub(super) format: Format,
}

/// Why a command failed, and with which exit code.
#[derive(Debug)]
pub(super) struct Failure {
    error: anyhow::Error,
    /// What to do about it.
    hint: Option<String>,
    code: u8,
    json: bool,
}

impl Failure {
    /// Refused or failed: exit code 1.
    pub(super) fn new(error: impl Into<anyhow::Error>) -> Self {
        Self { error: error.into(), hint: None, code: 1, json: false }
    }

    /// Refused or failed, in words of our own.
    pub(super) fn say(message: impl Into<String>) -> Self {
        Self::new(anyhow::Error::msg(message.into()))
    }

    /// The command line asks for what there is not: exit code 2.
    pub(super) fn usage(message: impl Into<String>) -> Self {
        Self { code: 2, ..Self::say(message) }
    }

    /// With what to do about it.
    pub(super) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Also prints the failure as JSON to stdout, if the command was asked for JSON.
    pub(super) fn in_format(mut self, format: Format) -> Self {
        self.json = format.is_json();
        self
    }

    /// What is said.
    pub(super) fn message(&self) -> String {
        printable(&format!("{:#}", self.error))
    }

    /// What to do about it.
    pub(super) fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Says it, and gives the exit code.
    pub(super) fn report(&self) -> ExitCode {
        let message = self.message();
        note(&format!("error: {message}\n"));
        if let Some(hint) = &self.hint {
            note(&format!("  try: {}\n", printable(hint)));
        }
        if self.json {
            let mut value = serde_json::json!({ "error": message });
            if let Some(hint) = &self.hint {
                value["try"] = hint.as_str().into();
            }
            // A failing stdout is not worth a second failure.
            let _unheard = out(&json(&value));
        }
        ExitCode::from(self.code)
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(error)
    }
}

/// Without control characters: what others wrote must not steer a terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A plain table: columns two spaces apart, headings in capitals, numbers to the right where
/// `right` says so. Never wider than its content and without lines, so that `awk` reads it too.
pub(super) fn table(headings: &[&str], right: &[usize], rows: &[Vec<String>]) -> String {
    let clean = |row: &Vec<String>| row.iter().map(|cell| printable(cell)).collect::<Vec<_>>();
    let rows: Vec<Vec<String>> = rows.iter().map(clean).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([headings[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let headings: Vec<String> = headings.iter().map(|&heading| heading.to_owned()).collect();
    let mut text = String::new();
    for row in std::iter::once(&headings).chain(&rows) {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let padding = " ".repeat(width.saturating_sub(cell.chars().count()));
            if column > 0 {
                line.push_str("  ");
            }
            if right.contains(&column) {
                line.push_str(&padding);
                line.push_str(cell);
            } else {
                line.push_str(cell);
                line.push_str(&padding);
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{printable, table};

    #[test]
    fn what_others_wrote_does_not_steer_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\n"), "a [2Jb ");
        assert_eq!(table(&["A"], &[], &[vec!["x\ry".to_owned()]]), "A\nx y\n");
    }

    #[test]
    fn a_table_is_aligned_without_trailing_blanks() {
        let rows = [
            vec!["orders".to_owned(), "9".to_owned(), "é".to_owned()],
            vec!["a".to_owned(), "12".to_owned(), String::new()],
        ];
        let expected = "NAME     N  X\norders   9  é\na       12\n";
        assert_eq!(table(&["NAME", "N", "X"], &[1], &rows), expected);
    }
}
