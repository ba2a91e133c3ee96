//! The texts of `--app` and `--upstream`, which `sidecar`, `run` and `dev.yaml` have in common.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use crate::{
    proxy::{self, Address},
    units::{ServiceName, name::check_label},
};

/// Why a text is no such flag.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FlagError {
    /// No address.
    #[error("{0:?} is no address; such as 127.0.0.1:9090, :9090 or unix:PATH")]
    Address(String),
    /// A socket has no number by which it could be known.
    #[error("{0}: a Unix socket needs the number of its service port: 9090={0}")]
    Number(String),
    /// The port before `=`.
    #[error("{0:?} is neither a port's name nor its number")]
    Port(String),
    /// No service and port.
    #[error(
        "{0:?} is no SERVICE:PORT or SERVICE.NAMESPACE:PORT, with =LOCAL_ADDRESS behind it or not"
    )]
    Upstream(String),
}

/// `:9090` and `localhost:9090` are loopback.
fn address(text: &str) -> Result<Address, FlagError> {
    let wrong = || FlagError::Address(text.to_owned());
    if let Some(path) = text.strip_prefix("unix:") {
        return if path.is_empty() { Err(wrong()) } else { Ok(Address::Unix(PathBuf::from(path))) };
    }
    let port = text.strip_prefix("localhost:").or_else(|| text.strip_prefix(':'));
    if let Some(port) = port {
        let port = port.parse().map_err(|_| wrong())?;
        return Ok(Address::Tcp((Ipv4Addr::LOCALHOST, port).into()));
    }
    text.parse::<SocketAddr>().map(Address::Tcp).map_err(|_| wrong())
}

/// `[PORT_NAME_OR_NUMBER=]ADDRESS`: one port of the application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppFlag {
    /// Of the service, by name or number; `None`: the address's own number.
    pub port: Option<String>,
    /// Where the application listens; port 0 where the caller chooses one.
    pub address: Address,
}

impl FromStr for AppFlag {
    type Err = FlagError;

    fn from_str(text: &str) -> Result<Self, FlagError> {
        // A path may hold `=`.
        let (port, rest) = match text.split_once('=') {
            Some((port, rest)) if !port.starts_with("unix:") => (Some(port), rest),
            _ => (None, text),
        };
        let address = address(rest)?;
        if let Some(port) = port {
            let number = port.parse::<u16>();
            let named = number.is_err() && check_label(port).is_ok();
            if !(named || number.is_ok_and(|number| number > 0)) {
                return Err(FlagError::Port(port.to_owned()));
            }
            if named && address.port().is_none() {
                return Err(FlagError::Number(rest.to_owned()));
            }
        } else if address.port().is_none() {
            return Err(FlagError::Number(rest.to_owned()));
        }
        Ok(Self { port: port.map(str::to_owned), address })
    }
}

impl AppFlag {
    /// For the proxy.
    pub(super) fn app(&self) -> proxy::App {
        let own = self.address.port().unwrap_or_default().to_string();
        proxy::App { port: self.port.clone().unwrap_or(own), address: self.address.clone() }
    }
}

/// The application's own port behind an address; the service's where it has none.
pub(super) fn local_port(app: &proxy::App) -> u16 {
    app.address.port().or_else(|| app.port.parse().ok()).unwrap_or_default()
}

/// `SERVICE[.NAMESPACE]:PORT[=LOCAL_ADDRESS]`: a local address that leads to one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamFlag {
    /// `orders:9090` or `orders.shop:9090`, as written.
    pub name: String,
    service: String,
    port: u16,
    listen: Address,
}

impl FromStr for UpstreamFlag {
    type Err = FlagError;

    fn from_str(text: &str) -> Result<Self, FlagError> {
        let (name, listen) = match text.split_once('=') {
            Some((name, listen)) => (name, address(listen)?),
            None => (text, Address::Tcp((Ipv4Addr::LOCALHOST, 0).into())),
        };
        let wrong = || FlagError::Upstream(text.to_owned());
        let (service, port) = name.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().ok().filter(|port| *port > 0).ok_or_else(wrong)?;
        ServiceName::parse(service, "default").map_err(|_| wrong())?;
        Ok(Self { name: name.to_owned(), service: service.to_owned(), port, listen })
    }
}

impl UpstreamFlag {
    /// The service that it leads to, for a caller in this namespace.
    pub fn service(&self, namespace: &str) -> ServiceName {
        ServiceName::parse(&self.service, namespace).expect("checked when it was read")
    }

    /// For the proxy of a service in this namespace.
    pub(super) fn upstream(&self, namespace: &str) -> proxy::Upstream {
        let service = self.service(namespace);
        proxy::Upstream { service, port: self.port, listen: self.listen.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::{AppFlag, FlagError, UpstreamFlag, local_port};
    use crate::units::ServiceName;

    #[test]
    fn an_app_is_an_address_with_or_without_the_services_port() {
        for (text, port, address, local) in [
            (":9090", "9090", "127.0.0.1:9090", 9090),
            ("grpc=:9090", "grpc", "127.0.0.1:9090", 9090),
            ("80=localhost:8080", "80", "127.0.0.1:8080", 8080),
            ("[::1]:9", "9", "[::1]:9", 9),
            ("9090=unix:/run/a=b", "9090", "unix:/run/a=b", 9090),
        ] {
            let app = text.parse::<AppFlag>().expect(text).app();
            assert_eq!((app.port.as_str(), app.address.to_string().as_str()), (port, address));
            assert_eq!(local_port(&app), local, "{text}");
        }
        for text in
            ["", "9090", ":x", "host:1", "unix:", "unix:/a=b", "grpc=unix:/a", "A_=:1", "0=:1"]
        {
            assert!(text.parse::<AppFlag>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_upstream_is_of_the_own_namespace_unless_it_says_otherwise() {
        for (text, name, service, listen) in [
            ("orders:9090", "orders:9090", ("orders", "shop"), "127.0.0.1:0"),
            ("a.b:1=:7001", "a.b:1", ("a", "b"), "127.0.0.1:7001"),
            ("a:1=unix:/run/a", "a:1", ("a", "shop"), "unix:/run/a"),
        ] {
            let flag: UpstreamFlag = text.parse().expect(text);
            let upstream = flag.upstream("shop");
            assert_eq!(flag.name, name);
            assert_eq!(upstream.service, ServiceName::new(service.0, service.1), "{text}");
            assert_eq!(upstream.listen.to_string(), listen);
        }
        for text in ["orders", "orders:0", "orders:x", "A:1", "a.b.c:1", ":1"] {
            let error = text.parse::<UpstreamFlag>();
            assert_eq!(error, Err(FlagError::Upstream(text.into())));
        }
        assert!(matches!("a:1=x".parse::<UpstreamFlag>(), Err(FlagError::Address(_))));
    }
}
