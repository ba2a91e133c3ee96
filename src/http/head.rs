//! A request's head as decisions read it: slices of whatever holds it, so that the engine below them can
//! change without them.

/// A request's head. Borrowed for the length of one decision.
#[derive(Clone, Copy)]
pub struct Head<'a> {
    /// `GET`, `POST`, `CONNECT` …
    pub method: &'a str,
    /// Host and optional port, as the caller wrote it.
    pub authority: &'a str,
    /// The path without its query; always begins with `/`.
    pub path: &'a str,
    /// What follows `?`, without it; empty when there is none.
    pub query: &'a str,
    /// The header fields.
    pub fields: &'a dyn Fields,
}

impl<'a> Head<'a> {
    /// Whether it is a gRPC call: a POST whose content type is `application/grpc`, alone or followed
    /// by `+` or `;` (gRPC over HTTP/2, "Requests").
    pub fn is_grpc(&self) -> bool {
        self.method == "POST"
            && self.fields.first("content-type").is_some_and(|value| {
                value.strip_prefix(b"application/grpc").is_some_and(|rest| {
                    rest.is_empty() || rest.starts_with(b"+") || rest.starts_with(b";")
                })
            })
    }

    /// The gRPC service and method of the path: `/shop.Orders/Place` is `("shop.Orders", "Place")`.
    /// `None` unless there are exactly two non-empty segments.
    pub fn grpc_method(&self) -> Option<(&'a str, &'a str)> {
        let (service, method) = self.path.strip_prefix('/')?.split_once('/')?;
        let whole = !service.is_empty() && !method.is_empty() && !method.contains('/');
        whole.then_some((service, method))
    }
}

/// Header fields by lower-case name, in the order they came.
pub trait Fields {
    /// Calls `found` with each value of `name` in order.
    fn each(&self, name: &str, found: &mut dyn FnMut(&[u8]));

    /// The first value of `name`.
    fn first(&self, name: &str) -> Option<&[u8]>;
}

/// A plain list of names and values: tests, `explain` and static decisions.
impl Fields for [(&str, &str)] {
    fn each(&self, name: &str, found: &mut dyn FnMut(&[u8])) {
        for (_, value) in self.iter().filter(|(other, _)| *other == name) {
            found(value.as_bytes());
        }
    }

    fn first(&self, name: &str) -> Option<&[u8]> {
        self.iter().find(|(other, _)| *other == name).map(|(_, value)| value.as_bytes())
    }
}

/// So that a borrowed list can be passed as `&dyn Fields`.
impl<T: Fields + ?Sized> Fields for &T {
    fn each(&self, name: &str, found: &mut dyn FnMut(&[u8])) {
        (**self).each(name, found);
    }

    fn first(&self, name: &str) -> Option<&[u8]> {
        (**self).first(name)
    }
}
