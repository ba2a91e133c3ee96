//! The command line: one command per file.

use std::process::ExitCode;

/// Parses the command line, runs the command and turns its outcome into an exit code: 0 done, 1
/// refused or failed, 2 wrong usage.
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
