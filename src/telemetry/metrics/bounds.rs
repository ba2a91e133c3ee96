//! Which names become label values: the first so many of each kind; what comes later is `_OTHER`.
//!
//! Without this, whoever may call could fill the table of series with names that he makes up
//! (CVE-2025-43915 in another mesh), and push real ones out.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use rustc_hash::FxHashMap;

use super::store::OTHER;

/// Services that call.
const SOURCES_MAX: usize = 200;
/// Services that are called.
const DESTINATIONS_MAX: usize = 500;
/// Names that are called but that the mesh has not: apart, so that they crowd out no service.
const UNKNOWN_DESTINATIONS_MAX: usize = 50;
/// gRPC methods of one service.
const METHODS_MAX: usize = 100;
/// The longest gRPC method that is a label.
const METHOD_BYTES_MAX: usize = 200;
/// What stands for a name that nobody knows.
const UNKNOWN: &str = "unknown";
/// HTTP methods that are label values (RFC 9110, PATCH and QUERY).
const HTTP_METHODS: [&str; 10] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"];

/// The names seen so far.
#[derive(Debug, Default)]
pub(super) struct Bounds {
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    sources: HashSet<Box<str>>,
    destinations: HashSet<Box<str>>,
    unknown: HashSet<Box<str>>,
    methods: FxHashMap<Box<str>, HashSet<Box<str>>>,
}

/// A request's names as they were said.
pub(super) struct Said<'a> {
    /// Empty: not known.
    pub(super) source: &'a str,
    /// Empty: not known.
    pub(super) destination: &'a str,
    /// Whether the mesh has the destination.
    pub(super) destination_exists: bool,
    /// gRPC `Service/Method`, or the HTTP method.
    pub(super) method: &'a str,
    /// Which of the two it is.
    pub(super) grpc: bool,
    /// Whether the method is there: an application answered otherwise than that it is not.
    pub(super) method_exists: bool,
}

/// The same as label values.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Names<'a> {
    pub(super) source: &'a str,
    pub(super) destination: &'a str,
    pub(super) method: &'a str,
}

impl Bounds {
    /// Bounded label values for what was said.
    pub(super) fn names<'a>(&self, said: &Said<'a>) -> Names<'a> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let source = admit(&mut seen.sources, said.source, SOURCES_MAX);
        let destination = if said.destination_exists {
            admit(&mut seen.destinations, said.destination, DESTINATIONS_MAX)
        } else {
            admit(&mut seen.unknown, said.destination, UNKNOWN_DESTINATIONS_MAX)
        };
        let method = if said.grpc {
            seen.method(destination, said)
        } else if HTTP_METHODS.contains(&said.method) {
            said.method
        } else {
            OTHER
        };
        Names { source, destination, method }
    }

    /// A bounded label value for a service that calls.
    pub(super) fn source<'a>(&self, source: &'a str) -> &'a str {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        admit(&mut seen.sources, source, SOURCES_MAX)
    }

    /// A bounded label value for a service that is called.
    pub(super) fn destination<'a>(&self, destination: &'a str) -> &'a str {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        admit(&mut seen.destinations, destination, DESTINATIONS_MAX)
    }
}

impl Seen {
    fn method<'a>(&mut self, destination: &str, said: &Said<'a>) -> &'a str {
        if said.method.len() > METHOD_BYTES_MAX {
            return OTHER;
        }
        let methods = self.methods.entry(destination.into()).or_default();
        // A method that is not there takes no place from those that are.
        let max = if said.method_exists { METHODS_MAX } else { 0 };
        admit(methods, said.method, max)
    }
}

fn admit<'a>(seen: &mut HashSet<Box<str>>, name: &'a str, max: usize) -> &'a str {
    if name.is_empty() {
        return UNKNOWN;
    }
    if !seen.contains(name) {
        if seen.len() >= max {
            return OTHER;
        }
        seen.insert(name.into());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::{Bounds, Names, Said};

    const ORDERS: Said<'static> = Said {
        source: "front.shop",
        destination: "orders.shop",
        destination_exists: true,
        method: "shop.Orders/Place",
        grpc: true,
        method_exists: true,
    };

    #[test]
    fn names_beyond_the_bounds_become_other() {
        let bounds = Bounds::default();
        let expected =
            Names { source: "front.shop", destination: "orders.shop", method: "shop.Orders/Place" };
        assert_eq!(bounds.names(&ORDERS), expected);
        for i in 0..1000 {
            let name = format!("n{i}");
            let said = Said { source: &name, method: &name, ..ORDERS };
            let names = bounds.names(&said);
            assert_eq!(names.source, if i < 199 { &name } else { "_OTHER" });
            assert_eq!(names.method, if i < 99 { &name } else { "_OTHER" });
            let said = Said { destination: &name, destination_exists: false, ..ORDERS };
            assert_eq!(bounds.names(&said).destination, if i < 50 { &name } else { "_OTHER" });
        }
        assert_eq!(bounds.names(&ORDERS), expected, "what was seen stays");
        let elsewhere = Said { destination: "payments.shop", ..ORDERS };
        assert_eq!(bounds.names(&elsewhere).method, "shop.Orders/Place", "a hundred a service");
    }

    #[test]
    fn only_real_methods_become_labels() {
        let bounds = Bounds::default();
        let long = "m".repeat(201);
        for (method, grpc, method_exists, expected) in [
            ("a.B/C", true, false, "_OTHER"),
            ("a.B/C", true, true, "a.B/C"),
            ("a.B/C", true, false, "a.B/C"),
            (long.as_str(), true, true, "_OTHER"),
            ("GET", false, true, "GET"),
            ("get", false, true, "_OTHER"),
            ("BREW", false, true, "_OTHER"),
            ("", true, true, "unknown"),
        ] {
            let said = Said { method, grpc, method_exists, ..ORDERS };
            assert_eq!(bounds.names(&said).method, expected, "{method} {method_exists}");
        }
    }

    #[test]
    fn nobody_is_unknown() {
        let names = Bounds::default().names(&Said { source: "", destination: "", ..ORDERS });
        assert_eq!((names.source, names.destination), ("unknown", "unknown"));
    }
}
