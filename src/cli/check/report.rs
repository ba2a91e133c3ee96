//! What a check found, line by line.

use crate::cli::{
    output::{Failure, printable},
    words,
};

/// Lines of one subject; the rest is counted.
const LINES_MAX: usize = 20;

/// How one thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Ok,
    Warn,
    Fail,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) verdict: Verdict,
    /// `context`, `sidecars`
    pub(super) subject: &'static str,
    pub(super) what: String,
    /// What to do about it.
    pub(super) hint: Option<String>,
}

impl Line {
    pub(super) fn ok(subject: &'static str, what: impl Into<String>) -> Self {
        Self { verdict: Verdict::Ok, subject, what: what.into(), hint: None }
    }

    pub(super) fn warn(subject: &'static str, what: impl Into<String>) -> Self {
        Self { verdict: Verdict::Warn, ..Self::ok(subject, what) }
    }

    pub(super) fn fail(subject: &'static str, what: impl Into<String>) -> Self {
        Self { verdict: Verdict::Fail, ..Self::ok(subject, what) }
    }

    /// With what to do about it.
    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// A call that failed.
    pub(super) fn failure(subject: &'static str, failure: &Failure) -> Self {
        let line = Self::fail(subject, failure.message());
        Self { hint: failure.hint().map(str::to_owned), ..line }
    }
}

/// Everything that was looked at.
#[derive(Debug, Default)]
pub(super) struct Report {
    lines: Vec<Line>,
}

impl Report {
    pub(super) fn add(&mut self, line: Line) {
        self.lines.push(line);
    }

    /// All of them up to a bound, then how many more there are.
    pub(super) fn add_all(&mut self, lines: Vec<Line>) {
        let more = lines.len().saturating_sub(LINES_MAX);
        let last = lines.last().map(|line| (line.subject, line.verdict));
        self.lines.extend(lines.into_iter().take(LINES_MAX));
        if let Some((subject, verdict)) = last.filter(|_| more > 0) {
            let what = format!("and {more} more");
            self.lines.push(Line { verdict, subject, what, hint: None });
        }
    }

    pub(super) fn is_failed(&self) -> bool {
        self.count(Verdict::Fail) > 0
    }

    fn count(&self, verdict: Verdict) -> usize {
        self.lines.iter().filter(|line| line.verdict == verdict).count()
    }

    pub(super) fn text(&self, coloured: bool) -> String {
        let width = self.lines.iter().map(|line| line.subject.len()).max().unwrap_or(0);
        let mut text = String::new();
        for Line { verdict, subject, what, hint } in &self.lines {
            let word = format!("{:<4}", verdict.word());
            let word = match verdict {
                _ if !coloured => word,
                Verdict::Ok => format!("\x1b[32m{word}\x1b[0m"),
                Verdict::Warn => format!("\x1b[33m{word}\x1b[0m"),
                Verdict::Fail => format!("\x1b[31m{word}\x1b[0m"),
            };
            text.push_str(&format!("{word}  {subject:<width$}  {}\n", printable(what)));
            if let Some(hint) = hint {
                text.push_str(&format!(
                    "{:width$}  try: {}\n",
                    "",
                    printable(hint),
                    width = width + 6
                ));
            }
        }
        let (warnings, failures) = (self.count(Verdict::Warn), self.count(Verdict::Fail));
        text.push_str(&match (warnings, failures) {
            (0, 0) => format!("\n{}, all ok\n", words::count(self.lines.len(), "check")),
            _ => format!(
                "\n{}: {}, {}\n",
                words::count(self.lines.len(), "check"),
                words::count(failures, "failure"),
                words::count(warnings, "warning"),
            ),
        });
        text
    }

    pub(super) fn json(&self) -> serde_json::Value {
        let line = |line: &Line| {
            serde_json::json!({
                "verdict": line.verdict.word(),
                "subject": line.subject,
                "what": line.what,
                "try": line.hint,
            })
        };
        serde_json::json!({
            "ok": !self.is_failed(),
            "checks": self.lines.iter().map(line).collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Line, Report};

    #[test]
    fn lines_are_aligned_and_say_what_to_do() {
        let mut report = Report::default();
        report.add(Line::ok("context", "local"));
        report.add(Line::warn("api", "slow").hint("wait"));
        assert!(!report.is_failed());
        report.add(Line::fail("sidecars", "none"));
        assert!(report.is_failed());
        let expected = "\
ok    context   local
warn  api       slow
                try: wait
fail  sidecars  none

3 checks: 1 failure, 1 warning
";
        assert_eq!(report.text(false), expected);
        assert_eq!(report.json()["checks"][1]["try"], "wait");
    }

    #[test]
    fn many_lines_of_one_subject_are_counted() {
        let mut report = Report::default();
        report.add_all(vec![Line::warn("resources", "x"); 25]);
        assert_eq!(report.lines.len(), 21);
        assert_eq!(report.lines[20].what, "and 5 more");
    }
}
