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
        out(&self.text(text, value)?)?;
        Ok(ExitCode::SUCCESS)
    }

    /// The same, to be printed by the caller.
    pub(super) fn text(
        self,
        text: impl FnOnce() -> String,
        value: impl FnOnce() -> serde_json::Value,
    ) -> Result<String, Failure> {
        match self {
            Self::Table | Self::Wide | Self::Name => Ok(text()),
            Self::Json => Ok(json(&value())),
            Self::Yaml => yaml(&value()),
        }
    }
}

/// Whether a command line asks for JSON, though it may be wrong otherwise.
pub(super) fn asks_for_json(words: &[String], variable: Option<&str>) -> bool {
    let own = words.iter().take_while(|word| *word != "--").collect::<Vec<_>>();
    let asked = own.iter().enumerate().rev().find_map(|(i, word)| {
        let next = || own.get(i + 1).map_or("", |next| next.as_str());
        match word.as_str() {
            "-o" | "--output" => Some(next()),
            word => word.strip_prefix("--output=").or_else(|| {
                let value = word.strip_prefix("-o")?;
                Some(value.strip_prefix('=').unwrap_or(value))
            }),
        }
    });
    asked.or(variable) == Some("json")
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
    is_coloured(&io::stdout())
}

/// The same of another stream.
pub(super) fn is_coloured(stream: &impl io::IsTerminal) -> bool {
    stream.is_terminal() && crate::app::bootstrap::variable("NO_COLOR").is_none()
}

/// Whether a person looks at stdout.
pub(super) fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// How wide the terminal is; `None` where stdout is none, and nothing has to fit.
fn terminal_width() -> Option<usize> {
    terminal_size::terminal_size_of(io::stdout()).map(|(width, _)| usize::from(width.0))
}

/// `-o`, as every command that prints something takes it.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct Output {
    /// How to print it: table, wide, name, json or yaml
    #[arg(short = 'o', long = "output", value_name = "FORMAT", default_value = "table")]
    #[arg(env = "OUTRIGGER_OUTPUT", hide_possible_values = true)]
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
    lines: bool,
}

impl Failure {
    /// Refused or failed: exit code 1.
    pub(super) fn new(error: impl Into<anyhow::Error>) -> Self {
        Self { error: error.into(), hint: None, code: 1, json: false, lines: false }
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

    /// Said in several lines if it has them: where all of the text is this user's own.
    pub(super) fn in_lines(mut self) -> Self {
        self.lines = true;
        self
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

    /// Whether the system refused something so.
    pub(super) fn is(&self, kind: io::ErrorKind) -> bool {
        let refused = |cause: &(dyn std::error::Error + 'static)| {
            cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == kind)
        };
        self.error.chain().any(refused)
    }

    /// What is said.
    pub(super) fn message(&self) -> String {
        let mut text = self.error.to_string();
        for cause in self.error.chain().skip(1).map(ToString::to_string) {
            // Some errors say their cause themselves.
            if !text.ends_with(&cause) {
                text.push_str(": ");
                text.push_str(&cause);
            }
        }
        if self.lines {
            return text.lines().map(printable).collect::<Vec<_>>().join("\n");
        }
        printable(&text)
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
/// `right` says so. Never wider than its content and without lines, so that `awk` reads it too. On a
/// terminal it is not wider than that either: the widest columns of words give way.
pub(super) fn table(headings: &[&str], right: &[usize], rows: &[Vec<String>]) -> String {
    table_within(headings, right, rows, terminal_width())
}

/// A column of words that gives way keeps so many characters.
const COLUMN_MIN: usize = 12;

/// Takes from the widest columns that are no numbers until all fit, if they can.
fn fit(widths: &mut [usize], right: &[usize], most: usize) {
    let gaps = 2 * widths.len().saturating_sub(1);
    while widths.iter().sum::<usize>() + gaps > most {
        let words = widths.iter_mut().enumerate().filter(|(column, _)| !right.contains(column));
        match words.map(|(_, width)| width).max().filter(|width| **width > COLUMN_MIN) {
            Some(widest) => *widest -= 1,
            None => return,
        }
    }
}

/// What does not fit ends with an ellipsis.
fn cut(cell: &str, width: usize) -> String {
    if cell.chars().count() <= width {
        return cell.to_owned();
    }
    let kept: String = cell.chars().take(width.saturating_sub(1)).collect();
    format!("{kept}…")
}

fn table_within(
    headings: &[&str],
    right: &[usize],
    rows: &[Vec<String>],
    most: Option<usize>,
) -> String {
    let clean = |row: &Vec<String>| row.iter().map(|cell| printable(cell)).collect::<Vec<_>>();
    let rows: Vec<Vec<String>> = rows.iter().map(clean).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([headings[column].chars().count()]).max().unwrap_or(0)
    };
    let mut widths: Vec<usize> = (0..headings.len()).map(width).collect();
    if let Some(most) = most {
        fit(&mut widths, right, most);
    }
    let headings: Vec<String> = headings.iter().map(|&heading| heading.to_owned()).collect();
    let mut text = String::new();
    for row in std::iter::once(&headings).chain(&rows) {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let cell = &cut(cell, *width);
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
    use super::{asks_for_json, printable, table, table_within};

    #[test]
    fn a_table_gives_way_to_a_narrow_terminal_and_keeps_its_numbers() {
        let rows = [vec![
            "inventory-with-a-long-name.shop".to_owned(),
            "12345".to_owned(),
            "no_endpoint 61, grpc_UNAVAILABLE 7".to_owned(),
        ]];
        let table = |width| table_within(&["SERVICE", "N", "REASONS"], &[1], &rows, width);
        assert!(table(Some(200)) == table(None));
        for width in [79, 60, 40] {
            let text = table(Some(width));
            let widest = text.lines().map(|line| line.chars().count()).max();
            assert!(widest.is_some_and(|widest| widest <= width), "{width}\n{text}");
            assert!(text.contains("12345"), "{text}");
        }
        assert!(table(Some(40)).contains('…'));
        assert_eq!(table(Some(1)).lines().count(), 2, "what can not fit is printed all the same");
    }

    #[test]
    fn json_is_asked_for_in_every_way_that_the_parser_takes() {
        for (line, variable, expected) in [
            ("get -o json svc", None, true),
            ("get -ojson", None, true),
            ("get -o=json", None, true),
            ("get --output json", None, true),
            ("get --output=json", None, true),
            ("get --output=json -o yaml", None, false),
            ("get svc", Some("json"), true),
            ("get svc -o table", Some("json"), false),
            ("get svc -o", None, false),
            ("run web -- cat -o json", None, false),
        ] {
            let words: Vec<_> = line.split(' ').map(str::to_owned).collect();
            assert_eq!(asks_for_json(&words, variable), expected, "{line}");
        }
    }

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
