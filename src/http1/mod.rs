//! HTTP/1.1 without I/O (RFC 9112): bytes in, events and bytes out, and the time is an argument.
