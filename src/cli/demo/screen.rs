//! What the demo prints: one line a claim, as soon as it is known whether it holds.

use std::{
    io::{self, IsTerminal as _},
    time::Duration,
};

use crate::cli::output;

const GREEN: &str = "\x1b[32m";
const RED: &str = "\x1b[31m";
const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

/// Where claims are printed. Colours only on a terminal.
pub(super) struct Screen {
    colours: bool,
}

impl Screen {
    pub(super) fn new() -> Self {
        Self { colours: io::stdout().is_terminal() }
    }

    fn coloured(&self, colour: &str, text: &str) -> String {
        if self.colours { format!("{colour}{text}{PLAIN}") } else { text.to_owned() }
    }

    /// A claim that holds, and by which numbers.
    pub(super) fn holds(&self, claim: &str, evidence: &str) {
        self.print(&format!("{}  {claim:<11} {evidence}\n", self.coloured(GREEN, "ok")));
    }

    /// A claim that does not hold, and why.
    pub(super) fn fails(&self, claim: &str, why: &str) {
        self.print(&format!("{}   {claim:<11} {why}\n", self.coloured(RED, "x")));
    }

    /// More about the claim before.
    pub(super) fn detail(&self, line: &str) {
        self.print(&format!("      {}\n", self.coloured(DIM, line)));
    }

    /// A line of its own.
    pub(super) fn line(&self, line: &str) {
        self.print(&format!("{line}\n"));
    }

    /// The demo goes on without anyone who reads.
    fn print(&self, text: &str) {
        let _unread = output::out(text);
    }
}

/// `14.1ms`, `3ms` for more than 100, `1.2s` for more than a second.
pub(super) fn milliseconds(duration: Duration) -> String {
    let milliseconds = duration.as_secs_f64() * 1000.0;
    if milliseconds >= 1000.0 {
        format!("{:.1}s", milliseconds / 1000.0)
    } else if milliseconds >= 100.0 {
        format!("{milliseconds:.0}ms")
    } else {
        format!("{milliseconds:.1}ms")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::milliseconds;

    #[test]
    fn durations_are_short() {
        for (microseconds, expected) in [
            (0, "0.0ms"),
            (1_140, "1.1ms"),
            (14_100, "14.1ms"),
            (104_000, "104ms"),
            (1_250_000, "1.2s"),
        ] {
            assert_eq!(milliseconds(Duration::from_micros(microseconds)), expected);
        }
    }
}
