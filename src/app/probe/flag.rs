//! The text of `--app-check`.

use std::str::FromStr;

/// What a port of the application is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum How {
    /// Whether it takes connections and, where it is known to speak gRPC and serves gRPC's health
    /// service, whether that says SERVING.
    Auto,
    /// Whether it takes connections.
    Tcp,
    /// Whether gRPC's health service says SERVING of this service; empty: of the whole server.
    Grpc(String),
    /// Whether a GET of this path answers 200 to 399.
    Http(String),
    /// Nothing: it is taken to be well.
    Never,
}

/// `[PORT=]auto|tcp|grpc[:SERVICE]|http:/PATH|none`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckFlag {
    /// The port, as `--app` names it; `None`: every one.
    pub port: Option<String>,
    /// What it is asked.
    pub how: How,
}

/// A text is no such flag.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no check; auto, tcp, grpc, grpc:SERVICE, http:/PATH or none, with PORT= before it or not"
)]
pub struct CheckFlagError(String);

impl FromStr for CheckFlag {
    type Err = CheckFlagError;

    fn from_str(text: &str) -> Result<Self, CheckFlagError> {
        let wrong = || CheckFlagError(text.to_owned());
        // A path may hold `=`.
        let (port, rest) = match text.split_once('=') {
            Some((port, rest)) if !port.contains(':') => (Some(port), rest),
            _ => (None, text),
        };
        if port.is_some_and(str::is_empty) {
            return Err(wrong());
        }
        let visible = |text: &&str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
        let how = match rest.split_once(':') {
            None => match rest {
                "auto" => How::Auto,
                "tcp" => How::Tcp,
                "grpc" => How::Grpc(String::new()),
                "none" => How::Never,
                _ => return Err(wrong()),
            },
            Some(("grpc", service)) => {
                How::Grpc(Some(service).filter(visible).ok_or_else(wrong)?.to_owned())
            }
            Some(("http", path)) if path.starts_with('/') => {
                How::Http(Some(path).filter(visible).ok_or_else(wrong)?.to_owned())
            }
            Some(_) => return Err(wrong()),
        };
        Ok(Self { port: port.map(str::to_owned), how })
    }
}

#[cfg(test)]
mod tests {
    use super::{CheckFlag, How};

    #[test]
    fn a_check_is_of_one_port_or_of_all() {
        for (text, port, how) in [
            ("auto", None, How::Auto),
            ("tcp", None, How::Tcp),
            ("none", None, How::Never),
            ("grpc", None, How::Grpc(String::new())),
            ("grpc=grpc:shop.Orders", Some("grpc"), How::Grpc("shop.Orders".into())),
            ("8080=http:/healthz?a=b", Some("8080"), How::Http("/healthz?a=b".into())),
            ("http:/x=1", None, How::Http("/x=1".into())),
        ] {
            let flag: CheckFlag = text.parse().expect(text);
            assert_eq!((flag.port.as_deref(), flag.how), (port, how), "{text}");
        }
        for text in ["", "udp", "http", "http:x", "http:", "grpc:", "=tcp", "a=", "http:/a b"] {
            assert!(text.parse::<CheckFlag>().is_err(), "{text}");
        }
    }
}
