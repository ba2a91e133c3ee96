//! Integration tests: they start the built program as users start it, and look at it from outside
//! (commands, ports, files, logs). One binary, one file per subject; what they share is in
//! [`harness`].
//!
//! Ports come from the system, files live in a temporary directory, nothing waits for a time but
//! only, with a bound, for a value. A test that needs a program or a language that is not there
//! prints `skipped: …` and what would bring it.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::panic,
    clippy::unwrap_used,
    reason = "these tests are programs of their own: they spawn, read the environment and print"
)]

mod calls;
mod change;
mod clients;
mod commands;
mod control_api;
mod dev;
mod first_minutes;
mod fleet;
mod h2spec;
mod harness;
mod history;
mod hostile;
mod interop;
mod jaeger;
mod live;
mod nghttp2;
mod opaque;
mod partition;
mod printed;
mod readiness;
mod root;
mod run;
mod secrets;
mod static_mode;
mod systemd;
mod usage;
mod version;
mod wrong;
