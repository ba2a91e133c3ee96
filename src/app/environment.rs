//! The environment that leads an application into the mesh without a change of its code. Every
//! language's gRPC library reads other variables (the table is in the reference documentation), so
//! all that are known to be honoured are set, and none that is known to do harm.

use std::{fmt, net::SocketAddr, str::FromStr};

/// Which variables `run` sets for its command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Proxy variables and the addresses of upstreams.
    #[default]
    Proxy,
    /// Only the addresses of upstreams and of the application's own ports.
    None,
}

/// The text is neither `proxy` nor `none`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("neither proxy nor none")]
pub struct ModeError;

impl FromStr for Mode {
    type Err = ModeError;

    fn from_str(text: &str) -> Result<Self, ModeError> {
        match text {
            "proxy" => Ok(Self::Proxy),
            "none" => Ok(Self::None),
            _ => Err(ModeError),
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Proxy => "proxy",
            Self::None => "none",
        })
    }
}

/// What the application needs to know of its sidecar.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// The outbound listener.
    pub outbound: SocketAddr,
    /// Service name as written and the local address that leads to it.
    pub upstreams: Vec<(String, String)>,
    /// Where the application is expected to listen; the first one is its main port.
    pub app: Vec<SocketAddr>,
    /// Whether the ports in `app` were chosen for it, so that it has to be told.
    pub app_chosen: bool,
    /// The host that takes spans; its traffic does not belong in the mesh.
    pub otlp_host: Option<String>,
}

/// Never through the proxy: this machine, and the clouds' metadata address.
const DIRECT: [&str; 5] = ["localhost", "127.0.0.1", "127.0.0.0/8", "::1", "169.254.169.254"];

/// The variables to set, in a fixed order. `inherited` reads what the command would get otherwise:
/// what stands in `no_proxy` and `JAVA_TOOL_OPTIONS` is kept.
pub fn variables(
    mode: Mode,
    surroundings: &Surroundings,
    inherited: &dyn Fn(&str) -> Option<String>,
) -> Vec<(String, String)> {
    let outbound = surroundings.outbound;
    let mut variables = Vec::new();
    let mut set = |name: &str, value: String| variables.push((name.to_owned(), value));
    if mode == Mode::Proxy {
        let proxy = format!("http://{outbound}");
        // grpcio, grpc-js, curl and urllib read the first three; grpc-go only the last.
        // HTTP_PROXY in upper case stays unset: no client needs it, and CGI programs take it from
        // a request's header.
        for name in ["http_proxy", "https_proxy", "grpc_proxy", "HTTPS_PROXY"] {
            set(name, proxy.clone());
        }
        let direct = direct_hosts(surroundings, inherited);
        set("no_proxy", direct.clone());
        set("NO_PROXY", direct);
        let java =
            format!("-Dhttps.proxyHost={} -Dhttps.proxyPort={}", outbound.ip(), outbound.port());
        let java = match inherited("JAVA_TOOL_OPTIONS") {
            Some(before) => format!("{before} {java}"),
            None => java,
        };
        set("JAVA_TOOL_OPTIONS", java);
        set("NODE_USE_ENV_PROXY", "1".into());
    }
    set("OUTRIGGER_OUTBOUND_ADDRESS", outbound.to_string());
    for (service, address) in &surroundings.upstreams {
        set(&upstream_variable(service), address.clone());
    }
    if let Some(main) = surroundings.app.first() {
        set("OUTRIGGER_APP_ADDRESS", main.to_string());
        if surroundings.app_chosen {
            set("PORT", main.port().to_string());
        }
    }
    variables
}

fn direct_hosts(surroundings: &Surroundings, inherited: &dyn Fn(&str) -> Option<String>) -> String {
    let mut hosts: Vec<String> = DIRECT.iter().map(|host| (*host).to_owned()).collect();
    let before = ["no_proxy", "NO_PROXY"].map(|name| inherited(name).unwrap_or_default());
    let before = before.iter().flat_map(|list| list.split(',')).map(str::trim);
    for host in surroundings.otlp_host.as_deref().into_iter().chain(before) {
        if !host.is_empty() && !hosts.iter().any(|known| known == host) {
            hosts.push(host.to_owned());
        }
    }
    hosts.join(",")
}

/// `OUTRIGGER_UPSTREAM_ORDERS_SHOP` for `orders.shop`.
pub fn upstream_variable(service: &str) -> String {
    let name: String = service
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' })
        .collect();
    format!("OUTRIGGER_UPSTREAM_{name}")
}

#[cfg(test)]
mod tests {
    use super::{Mode, Surroundings, variables};

    fn surroundings() -> Surroundings {
        Surroundings {
            outbound: "127.0.0.1:15001".parse().expect("an address"),
            upstreams: vec![("price-list.shop".into(), "127.0.0.1:7001".into())],
            app: vec!["127.0.0.1:9090".parse().expect("an address")],
            app_chosen: false,
            otlp_host: None,
        }
    }

    fn text(mode: Mode, surroundings: &Surroundings, inherited: &[(&str, &str)]) -> String {
        let inherited = |name: &str| {
            inherited.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        let set = variables(mode, surroundings, &inherited);
        set.iter().map(|(name, value)| format!("{name}={value}\n")).collect()
    }

    #[test]
    fn the_proxy_variables_are_those_that_clients_honour() {
        let expected = "\
http_proxy=http://127.0.0.1:15001
https_proxy=http://127.0.0.1:15001
grpc_proxy=http://127.0.0.1:15001
HTTPS_PROXY=http://127.0.0.1:15001
no_proxy=localhost,127.0.0.1,127.0.0.0/8,::1,169.254.169.254
NO_PROXY=localhost,127.0.0.1,127.0.0.0/8,::1,169.254.169.254
JAVA_TOOL_OPTIONS=-Dhttps.proxyHost=127.0.0.1 -Dhttps.proxyPort=15001
NODE_USE_ENV_PROXY=1
OUTRIGGER_OUTBOUND_ADDRESS=127.0.0.1:15001
OUTRIGGER_UPSTREAM_PRICE_LIST_SHOP=127.0.0.1:7001
OUTRIGGER_APP_ADDRESS=127.0.0.1:9090
";
        assert_eq!(text(Mode::Proxy, &surroundings(), &[]), expected);
    }

    #[test]
    fn what_was_there_is_kept_and_nothing_stands_twice() {
        let mut surroundings = surroundings();
        surroundings.otlp_host = Some("collector".into());
        let inherited = [
            ("no_proxy", "db.internal, localhost"),
            ("NO_PROXY", "db.internal"),
            ("JAVA_TOOL_OPTIONS", "-Xmx64m"),
        ];
        let text = text(Mode::Proxy, &surroundings, &inherited);
        let direct = "localhost,127.0.0.1,127.0.0.0/8,::1,169.254.169.254,collector,db.internal\n";
        assert!(text.contains(&format!("no_proxy={direct}")), "{text}");
        assert!(text.contains("JAVA_TOOL_OPTIONS=-Xmx64m -Dhttps.proxyHost=127.0.0.1 "), "{text}");
    }

    #[test]
    fn without_proxy_only_addresses_are_set_and_a_chosen_port_is_told() {
        let mut surroundings = surroundings();
        surroundings.app_chosen = true;
        let expected = "\
OUTRIGGER_OUTBOUND_ADDRESS=127.0.0.1:15001
OUTRIGGER_UPSTREAM_PRICE_LIST_SHOP=127.0.0.1:7001
OUTRIGGER_APP_ADDRESS=127.0.0.1:9090
PORT=9090
";
        assert_eq!(text(Mode::None, &surroundings, &[]), expected);
    }
}
