//! HTTP/2 without I/O (RFC 9113): bytes in, events and bytes out, and the time is an argument.

pub mod hpack;
