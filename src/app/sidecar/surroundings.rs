//! What a sidecar takes from variables that others define: OpenTelemetry's, and the proxy that leads
//! out of this machine. A flag goes before a variable, and a variable before `Mesh`.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry_otlp::{
    Compression, OTEL_EXPORTER_OTLP_COMPRESSION, OTEL_EXPORTER_OTLP_ENDPOINT,
    OTEL_EXPORTER_OTLP_HEADERS, OTEL_EXPORTER_OTLP_TRACES_COMPRESSION,
    OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, OTEL_EXPORTER_OTLP_TRACES_HEADERS,
};

use crate::telemetry::Exporter;

/// The variables' values, read by whoever may read them.
type Read<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What is known of telemetry before any configuration.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TelemetryOptions {
    /// Where spans go, an `http://` URL.
    pub otlp: Option<String>,
    /// How they are sent there.
    pub exporter: Exporter,
    /// Share of the traces that start here, 0.0 to 1.0.
    pub sampling: Option<f64>,
    /// Further attributes of the spans' resource.
    pub resource: Vec<(String, String)>,
}

impl TelemetryOptions {
    /// From `--otlp` and the `OTEL_*` variables.
    pub fn new(flag: Option<String>, variable: Read<'_>) -> Self {
        let either = |of_traces, of_all| variable(of_traces).or_else(|| variable(of_all));
        let endpoint = either(OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, OTEL_EXPORTER_OTLP_ENDPOINT);
        let headers = either(OTEL_EXPORTER_OTLP_TRACES_HEADERS, OTEL_EXPORTER_OTLP_HEADERS);
        let compression =
            either(OTEL_EXPORTER_OTLP_TRACES_COMPRESSION, OTEL_EXPORTER_OTLP_COMPRESSION);
        let resource = variable("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
        Self {
            otlp: flag.or(endpoint),
            exporter: Exporter {
                headers: metadata(&headers.unwrap_or_default()),
                gzip: compression.and_then(|name| name.parse().ok()) == Some(Compression::Gzip),
            },
            sampling: sampling(variable),
            resource: pairs(&resource).map(|(key, value)| (key.to_owned(), value)).collect(),
        }
    }
}

/// `KEY=VALUE` separated by commas, values percent-encoded; what is none is left out.
fn pairs(text: &str) -> impl Iterator<Item = (&str, String)> {
    text.split(',').filter_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        Some((key.trim(), decode(value.trim())))
    })
}

/// Headers, whose values may be secret.
fn metadata(text: &str) -> HeaderMap {
    let header = |(name, value): (&str, String)| {
        let name = HeaderName::try_from(name).ok()?;
        let mut value = HeaderValue::try_from(value).ok()?;
        value.set_sensitive(true);
        Some((name, value))
    };
    pairs(text).filter_map(header).collect()
}

/// `OTEL_TRACES_SAMPLER`: what a caller decided holds in every case, as with the `parentbased_` ones.
fn sampling(variable: Read<'_>) -> Option<f64> {
    let sampler = variable("OTEL_TRACES_SAMPLER")?;
    match sampler.strip_prefix("parentbased_").unwrap_or(&sampler) {
        "always_on" => Some(1.0),
        "always_off" => Some(0.0),
        "traceidratio" => {
            let share: f64 = variable("OTEL_TRACES_SAMPLER_ARG")?.parse().ok()?;
            (0.0..=1.0).contains(&share).then_some(share)
        }
        _ => None,
    }
}

/// Percent-decoding, as W3C baggage has it; what is no text stays as it is.
fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let hex = |at: usize| char::from(*after.get(at)?).to_digit(16);
        let code = if *first == b'%' { hex(0).zip(hex(1)) } else { None };
        let byte = code.and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &after[2..] } else { after };
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

/// How names outside the mesh are reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct External {
    /// The proxy that the application would have used: `host:port`.
    pub proxy: Option<String>,
    /// Hosts, or domains with a leading dot, that are reached without it.
    pub direct: Vec<String>,
}

impl External {
    /// From the variables that an application would read. One that names a proxy by something else
    /// than plain HTTP is not for us.
    pub fn new(variable: Read<'_>) -> Self {
        let names = ["https_proxy", "HTTPS_PROXY", "http_proxy"];
        let proxy = names.iter().find_map(|name| variable(name)).and_then(|url| host_port(&url));
        let direct = variable("no_proxy").or_else(|| variable("NO_PROXY")).unwrap_or_default();
        let direct = direct.split(',').map(str::trim).filter(|host| !host.is_empty());
        Self { proxy, direct: direct.map(str::to_owned).collect() }
    }

    /// The proxy, unless that is the outbound listener itself: the variables that lead an application
    /// to a sidecar may stand in the sidecar's own environment.
    pub(super) fn proxy_beside(&self, outbound: Option<SocketAddr>) -> Option<String> {
        let own = |proxy: &String| {
            let (host, port) = proxy.rsplit_once(':').unwrap_or((proxy, ""));
            let ip = host.trim_matches(['[', ']']).parse::<IpAddr>();
            let here = host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback());
            here && outbound.is_some_and(|outbound| port == outbound.port().to_string())
        };
        self.proxy.clone().filter(|proxy| !own(proxy))
    }
}

fn host_port(url: &str) -> Option<String> {
    let rest = match url.split_once("://") {
        Some(("http", rest)) => rest,
        Some(_) => return None,
        None => url,
    };
    let authority = rest.split('/').next()?;
    let (host, port) = authority.rsplit_once(':').unwrap_or((authority, "80"));
    let usable = !host.is_empty() && !host.contains('@') && port.parse::<u16>().is_ok();
    usable.then(|| format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::{Exporter, External, TelemetryOptions};

    fn variables<'a>(pairs: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
        |name| {
            let found = pairs.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        }
    }

    #[test]
    fn opentelemetrys_variables_are_read_below_the_flag() {
        let read = variables(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:4317"),
            ("OTEL_RESOURCE_ATTRIBUTES", "team=a%20b, bad,x=1"),
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
            (
                "OTEL_EXPORTER_OTLP_HEADERS",
                "Api-Key=a%20secret, b ad=x, authorization=Basic%20Zg==",
            ),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "none"),
            ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "gzip"),
        ]);
        let options = TelemetryOptions::new(None, &read);
        assert_eq!(options.otlp.as_deref(), Some("http://a:4317"));
        assert_eq!(options.sampling, Some(0.25));
        let expected = [("team", "a b"), ("x", "1")];
        assert_eq!(options.resource, expected.map(|(key, value)| (key.into(), value.into())));
        let Exporter { headers, gzip } = &options.exporter;
        assert_eq!((headers.len(), *gzip), (2, true));
        assert_eq!(headers["api-key"], "a secret");
        assert_eq!(headers["authorization"], "Basic Zg==");
        assert!(!format!("{options:?}").contains("secret"), "{options:?}");
        let flag = TelemetryOptions::new(Some("http://b:1".into()), &read);
        assert_eq!(flag.otlp.as_deref(), Some("http://b:1"));
        for (sampler, expected) in
            [("always_on", Some(1.0)), ("parentbased_always_off", Some(0.0)), ("jaeger", None)]
        {
            let pairs = [("OTEL_TRACES_SAMPLER", sampler)];
            assert_eq!(TelemetryOptions::new(None, &variables(&pairs)).sampling, expected);
        }
    }

    #[test]
    fn an_inherited_proxy_is_a_host_and_a_port() {
        for (url, expected) in [
            ("http://proxy.corp:3128/", Some("proxy.corp:3128")),
            ("proxy.corp", Some("proxy.corp:80")),
            ("socks5://a:1", None),
            ("http://user:pw@a:1", None),
            ("http://a:b", None),
        ] {
            let pairs = [("https_proxy", url), ("no_proxy", "localhost, .corp")];
            let external = External::new(&variables(&pairs));
            assert_eq!(external.proxy.as_deref(), expected, "{url}");
            assert_eq!(external.direct, ["localhost", ".corp"]);
        }
    }

    #[test]
    fn the_own_outbound_listener_is_no_proxy_to_go_out_by() {
        let outbound = Some(([127, 0, 0, 1], 15001).into());
        for (proxy, other) in [
            ("127.0.0.1:15001", false),
            ("localhost:15001", false),
            ("[::1]:15001", false),
            ("127.0.0.1:3128", true),
            ("10.0.0.1:15001", true),
        ] {
            let external = External { proxy: Some(proxy.into()), direct: Vec::new() };
            assert_eq!(external.proxy_beside(outbound).is_some(), other, "{proxy}");
            assert!(external.proxy_beside(None).is_some());
        }
    }
}
