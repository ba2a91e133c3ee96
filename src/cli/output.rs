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

/// Writes to stdout.
pub(super) fn out(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(anyhow::Error::new(error).context("stdout")))
        }
        _ => Ok(()),
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

/// Why a command failed, and with which exit code.
#[derive(Debug)]
pub(super) struct Failure {
    error: anyhow::Error,
    code: u8,
    json: bool,
}

impl Failure {
    /// Refused or failed: exit code 1.
    pub(super) fn new(error: impl Into<anyhow::Error>) -> Self {
        Self { error: error.into(), code: 1, json: false }
    }

    /// With another exit code.
    pub(super) fn with_code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    /// Also prints the failure as JSON to stdout, if the command was asked for JSON.
    pub(super) fn in_format(mut self, format: Format) -> Self {
        self.json = format.is_json();
        self
    }

    /// Says it, and gives the exit code.
    pub(super) fn report(&self) -> ExitCode {
        let message = format!("{:#}", self.error);
        note(&format!("error: {message}\n"));
        if self.json {
            // A failing stdout is not worth a second failure.
            let _unheard = out(&json(&serde_json::json!({ "error": message })));
        }
        ExitCode::from(self.code)
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(error)
    }
}

/// A plain table: columns two spaces apart, headings in capitals, numbers to the right where
/// `right` says so. Never wider than its content and without lines, so that `awk` reads it too.
pub(super) fn table(headings: &[&str], right: &[usize], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([headings[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let headings: Vec<String> = headings.iter().map(|&heading| heading.to_owned()).collect();
    let mut text = String::new();
    for row in std::iter::once(&headings).chain(rows) {
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
    use super::table;

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
