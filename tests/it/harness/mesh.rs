//! Meshes to test in: sidecars in static mode with certificates from openssl, and a live one with a
//! control plane that everything joins by token.

use std::{net::SocketAddr, path::PathBuf};

use super::{Certificates, Island, Place, Program, Said};

/// The flags that let the system choose every port of a sidecar.
pub(crate) fn free_ports() -> Vec<String> {
    ["inbound", "outbound", "admin", "metrics", "health"]
        .iter()
        .flat_map(|flag| [format!("--{flag}"), "127.0.0.1:0".to_owned()])
        .collect()
}

/// `default` is left out of it, as people do.
pub(crate) fn spiffe_id(service: &str) -> String {
    format!("spiffe://mesh.local/ns/default/svc/{service}")
}

/// What a static file says of a service with one port.
pub(crate) fn service_yaml(service: &str, port: u16) -> String {
    format!(
        "apiVersion: outrigger.dev/v1\nkind: Service\nmetadata: {{name: {service}}}\n\
         spec: {{ports: [{{name: main, port: {port}}}]}}\n"
    )
}

/// What a static file says of one endpoint behind a sidecar.
pub(crate) fn workload_yaml(name: &str, service: &str, inbound: u16, identity: &str) -> String {
    format!(
        "---\napiVersion: outrigger.dev/v1\nkind: Workload\nmetadata: {{name: {name}}}\n\
         spec: {{service: {service}, address: 127.0.0.1, inbound: {inbound}, identity: \
         \"{identity}\"}}\n"
    )
}

/// `caller` beside nothing and `echo` beside an application, both in static mode.
pub(crate) struct StaticPair {
    pub(crate) server: Program,
    pub(crate) client: Program,
    pub(crate) certificates: Certificates,
    pub(crate) place: Place,
}

impl StaticPair {
    /// Starts both; `None` without openssl.
    pub(crate) async fn start(app: SocketAddr) -> Option<Self> {
        Self::start_speaking(app, None).await
    }

    /// The same for an application that speaks what is said, an `appProtocol`.
    pub(crate) async fn start_speaking(app: SocketAddr, protocol: Option<&str>) -> Option<Self> {
        let place = Place::new();
        let certificates = Certificates::new(&place)?;
        let mut service = service_yaml("echo", 9090);
        if let Some(protocol) = protocol {
            service = service.replace("9090", &format!("9090, appProtocol: {protocol}"));
        }
        let file = place.write("server.yaml", &service);
        let mut args = sidecar_args(&[&file]);
        args.extend(certificates.issue("server", &spiffe_id("echo")));
        args.extend(["--app".into(), format!("9090={app}")]);
        let server = Program::start(&place, "server", &args).await;
        let inbound = server.address("inbound").port();
        let known = service + &workload_yaml("echo-1", "echo", inbound, &spiffe_id("echo"));
        let file = place.write("client.yaml", &known);
        let mut args = sidecar_args(&[&file]);
        args.extend(certificates.issue("caller", &spiffe_id("caller")));
        args.extend(["--upstream".into(), "echo:9090=127.0.0.1:0".into()]);
        let client = Program::start(&place, "client", &args).await;
        Some(Self { server, client, certificates, place })
    }
}

/// `sidecar` with these files as its configuration.
pub(crate) fn sidecar_args(files: &[&PathBuf]) -> Vec<String> {
    let mut args = vec!["sidecar".to_owned()];
    args.extend(free_ports());
    args.extend(files.iter().flat_map(|file| ["--config".into(), file.display().to_string()]));
    args
}

/// A sidecar in static mode beside an application that callers know under port 9090. Its
/// configuration is `NAME.yaml` in the place.
pub(crate) async fn start_static_server(
    place: &Place,
    certificates: &Certificates,
    name: &str,
    service: &str,
    app: SocketAddr,
) -> Program {
    let file = place.write(&format!("{name}.yaml"), &service_yaml(service, 9090));
    let mut args = sidecar_args(&[&file]);
    args.extend(certificates.issue(name, &spiffe_id(service)));
    args.extend(["--app".into(), format!("9090={app}")]);
    Program::start(place, name, &args).await
}

/// A control plane and whatever joins it.
pub(crate) struct Mesh {
    pub(crate) control: Program,
    pub(crate) place: Place,
    args: Vec<String>,
}

impl Mesh {
    /// Starts a control plane on free ports, with its data in the place.
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same with more flags.
    pub(crate) async fn start_with(flags: &[&str]) -> Self {
        let place = Place::new();
        let mut args: Vec<String> =
            ["control-plane", "--metrics", "127.0.0.1:0"].map(str::to_owned).into();
        args.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let mut first = args.clone();
        first.extend(["--listen".into(), "127.0.0.1:0".into()]);
        let control = Program::start(&place, "control-plane", &first).await;
        // Started again, it has to be where its sidecars and contexts know it.
        args.extend(["--listen".into(), control.address("listen").to_string()]);
        Self { control, place, args }
    }

    /// Starts a control plane on an island; what joins it is here.
    pub(crate) async fn start_on(island: &Island) -> Self {
        let place = Place::new();
        let listen = format!("{}:0", island.address);
        let args = ["control-plane", "--metrics", "127.0.0.1:0", "--listen", &listen];
        let args = args.map(str::to_owned).to_vec();
        let mut control =
            Program::begin_under(&place, "control-plane", &island.under(), &args, &[]);
        control.wait_ready(&place).await;
        Self { control, place, args }
    }

    /// Starts the control plane again on its data and its port.
    pub(crate) async fn restart_control(&mut self) {
        self.control.kill();
        self.control = Program::start(&self.place, "control-plane", &self.args).await;
    }

    /// The built program in the place of the mesh, run until it ends.
    pub(crate) async fn run(&self, args: &[&str]) -> Said {
        self.place.run(args).await
    }

    /// Applies YAML, and waits until every sidecar concerned runs it. As a person would, it tries
    /// again when a busy machine keeps it from reaching the control plane.
    pub(crate) async fn apply(&self, yaml: &str) {
        let file = self.place.write("apply.yaml", yaml).display().to_string();
        for tries_left in (0..3).rev() {
            let said = self.place.run(&["apply", "-f", &file, "--wait"]).await;
            let busy =
                said.stderr.contains("TLS handshake") || said.stderr.contains("no TLS answer");
            if said.code == Some(0) || !busy || tries_left == 0 {
                said.assert_done();
                return;
            }
        }
    }

    /// A file with a join token for a service.
    pub(crate) async fn token(&self, service: &str) -> String {
        let made = self.place.run(&["token", "create", "--service", service]).await;
        let token = made.assert_done().stdout.trim();
        self.place.write(&format!("{service}.token"), token).display().to_string()
    }

    /// The arguments of a sidecar that joins by token.
    pub(crate) async fn sidecar_args(&self, service: &str, more: &[&str]) -> Vec<String> {
        let mut args = vec!["sidecar".to_owned(), "--service".into(), service.into()];
        args.extend(free_ports());
        args.extend(["--control-plane".into(), self.control.address("listen").to_string()]);
        args.extend(["--token-file".into(), self.token(service).await]);
        args.extend(more.iter().map(|flag| (*flag).to_owned()));
        args
    }

    /// Starts a sidecar that joins by token; `name` is its log's and its data's.
    pub(crate) async fn sidecar(&self, name: &str, service: &str, more: &[&str]) -> Program {
        let data = self.place.path(format!("data/{name}")).display().to_string();
        let mut args = self.sidecar_args(service, more).await;
        args.extend(["--data".into(), data]);
        Program::start(&self.place, name, &args).await
    }

    /// A sidecar beside an application that callers know under port 9090.
    pub(crate) async fn server(&self, name: &str, service: &str, app: SocketAddr) -> Program {
        self.sidecar(name, service, &["--app", &format!("9090={app}")]).await
    }
}
