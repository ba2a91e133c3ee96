//! The whole of it: a control plane, its configuration, and every service's instances, each a
//! `run` of its own. What is known of one instance is in [`Instance`].

use std::{
    collections::{BTreeMap, BTreeSet},
    env, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use tokio::time;

use super::{
    config::{Config, Restart, Service},
    instance::{About, Instance},
    output::Output,
    pass::Pass,
    process::Spec,
};
use crate::{
    app::{
        bootstrap::{self, BootstrapError},
        client::{Client, ConnectError, Credential, CredentialError},
        context::{ContextError, Contexts, NamedContext},
        ports::ReservedPort,
    },
    resource::{
        self, Problem, pb,
        yaml::{self, Parsed},
    },
    units::ServiceName,
};

/// The control plane's name among the instances.
const CONTROL_PLANE: &str = "control-plane";
/// A command of this name is this very program.
const OWN_NAME: &str = "outrigger";
/// The part of the time for an orderly end that the instances get; the control plane has the rest.
const INSTANCES_SHARE: f64 = 0.8;

/// What to run, and where.
#[derive(Debug, Clone)]
pub struct Options {
    /// The services.
    pub config: Config,
    /// Texts of resources with the names of their files; applied before any service starts.
    pub resources: Vec<(String, String)>,
    /// Where the services' commands run.
    pub directory: PathBuf,
    /// Where everything is kept between lives: made if need be, for the owner only.
    pub data: PathBuf,
    /// Where the children's lines go.
    pub output: Output,
    /// Where sidecars send spans, such as `http://127.0.0.1:4317`.
    pub otlp: Option<String>,
    /// Further variables for every service.
    pub environment: Vec<(String, String)>,
    /// The children's own log level.
    pub log: Option<String>,
}

/// Why there is no mesh.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A directory or file.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    /// A log file, a port, or the program itself.
    #[error("{what}: {source}")]
    Io {
        /// What was wanted.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// The control plane is not ready.
    #[error("the control plane does not start: {0}")]
    ControlPlane(String),
    /// It left no usable context.
    #[error("the control plane's context: {0}")]
    Context(#[from] ContextError),
    /// The context's credential.
    #[error("the control plane's context: {0}")]
    Credential(#[from] CredentialError),
    /// The context's address.
    #[error("the control plane's context: {0}")]
    Connect(#[from] ConnectError),
    /// The configuration has errors; these are all problems found.
    #[error("the configuration is refused; nothing was started")]
    Problems(Vec<Problem>),
    /// The control plane refused to take it.
    #[error("the configuration is refused: {}", .0.message())]
    Refused(#[from] tonic::Status),
}

/// A running mesh. Dropping it kills every process of it.
#[derive(Debug)]
pub struct Mesh {
    // Dropped before the control plane.
    instances: Vec<Instance>,
    control_plane: Instance,
    context: NamedContext,
    client: Client,
    warnings: Vec<Problem>,
}

impl Mesh {
    /// Starts the control plane, applies the configuration, and starts every instance without
    /// waiting for it.
    ///
    /// # Errors
    /// When the control plane does not start or refuses the configuration; nothing runs then.
    pub async fn start(options: &Options) -> Result<Self, StartError> {
        for directory in [&options.data, &options.data.join("tokens")] {
            bootstrap::make_private_directory(directory)?;
        }
        if let Some(directory) = &options.output.directory {
            bootstrap::make_private_directory(directory)?;
        }
        // Before anything runs: most mistakes need no control plane to be found.
        let (parsed, mut warnings) = read(&options.resources)?;
        let starter = Starter::new(options)?;
        let control_plane = starter.control_plane()?;
        control_plane.ready().await.map_err(StartError::ControlPlane)?;
        let context = Contexts::load(Some(&options.data.join("contexts.yaml")))?.choose(None)?;
        let credential = Credential::load(&context.context)?;
        let client = Client::new(&context.context.server, credential.tls())?;
        for found in apply(&client, &parsed).await? {
            if !warnings.contains(&found) {
                warnings.push(found);
            }
        }
        let instances = starter.instances(&context.context.server, &client)?;
        Ok(Self { instances, control_plane, context, client, warnings })
    }

    /// The services' instances, in the order of the configuration.
    pub fn instances(&self) -> &[Instance] {
        &self.instances
    }

    /// The instance of that name, such as `orders-1`.
    pub fn instance(&self, name: &str) -> Option<&Instance> {
        self.instances.iter().find(|instance| instance.name() == name)
    }

    /// The control plane, which can be stopped and started again like any instance: it keeps its
    /// address.
    pub fn control_plane(&self) -> &Instance {
        &self.control_plane
    }

    /// Calls to the control plane with its administrator's credential.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The context that leads to this mesh; its files are in the data directory.
    pub fn context(&self) -> &NamedContext {
        &self.context
    }

    /// What was found in the configuration and did not keep it from being applied.
    pub fn warnings(&self) -> &[Problem] {
        &self.warnings
    }

    /// Waits until every instance is ready, or down, or `bound` is over. Returns those that are not
    /// ready and why.
    pub async fn ready(&self, bound: Duration) -> Vec<(&Instance, String)> {
        let waits = self.instances.iter().map(|instance| async move {
            match time::timeout(bound, instance.ready()).await {
                Ok(Ok(_)) => None,
                Ok(Err(why)) => Some((instance, why)),
                Err(_) => Some((instance, format!("not ready within {}s", bound.as_secs()))),
            }
        });
        join_all(waits).await.into_iter().flatten().collect()
    }

    /// Ends all of it in order: every instance drains and ends its application, then the control
    /// plane ends. What has not ended in time is killed; when this returns, no process is left.
    /// Returns the names of those that were killed.
    pub async fn shutdown(self, bound: Duration) -> Vec<String> {
        let end = time::Instant::now() + bound;
        let first = end - bound.mul_f64(1.0 - INSTANCES_SHARE);
        let instances = self.instances.iter().map(|instance| stop_by(instance, first));
        let mut killed: Vec<&Instance> = join_all(instances).await.into_iter().flatten().collect();
        killed.extend(stop_by(&self.control_plane, end).await);
        killed.into_iter().map(|instance| instance.name().to_owned()).collect()
    }
}

/// Stops it in order, or kills it and returns it when that takes until after `end`.
async fn stop_by(instance: &Instance, end: time::Instant) -> Option<&Instance> {
    if time::timeout_at(end, instance.stop()).await.is_ok() {
        return None;
    }
    instance.kill().await;
    Some(instance)
}

/// Reads resources; returns warnings too.
fn read(texts: &[(String, String)]) -> Result<(Vec<Parsed>, Vec<Problem>), StartError> {
    let mut parsed = Vec::new();
    let mut problems = Vec::new();
    for (name, text) in texts {
        let (some, found) = yaml::parse(text, name);
        parsed.extend(some);
        problems.extend(found);
    }
    problems.extend(yaml::check(&parsed));
    if problems.iter().any(Problem::is_error) {
        return Err(StartError::Problems(problems));
    }
    Ok((parsed, problems))
}

/// Applies resources; returns warnings.
async fn apply(client: &Client, parsed: &[Parsed]) -> Result<Vec<Problem>, StartError> {
    if parsed.is_empty() {
        return Ok(Vec::new());
    }
    let resources = parsed.iter().map(|one| one.resource.clone()).collect();
    let request = pb::ApplyRequest { resources, ..pb::ApplyRequest::default() };
    let answer = client.config().apply(request).await?.into_inner();
    // The control plane knows no files: a problem's place is that of its resource's field.
    let locate = |problem: &pb::Problem| {
        let problem = Problem::from_pb(problem);
        let whose = parsed.iter().find(|one| {
            problem.resource.is_some() && resource::key(&one.resource) == problem.resource
        });
        match whose {
            Some(one) => one.source.locate(problem),
            None => problem,
        }
    };
    let problems: Vec<Problem> = answer.problems.iter().map(locate).collect();
    if problems.iter().any(Problem::is_error) {
        return Err(StartError::Problems(problems));
    }
    Ok(problems)
}

/// Turns the configuration into instances.
struct Starter<'a> {
    options: &'a Options,
    program: PathBuf,
    /// The longest name, for aligned prefixes.
    width: usize,
    names: Vec<Vec<String>>,
}

impl<'a> Starter<'a> {
    fn new(options: &'a Options) -> Result<Self, StartError> {
        let program = env::current_exe();
        let program =
            program.map_err(|source| StartError::Io { what: "this program".into(), source })?;
        let names = names(&options.config.services);
        let all = names.iter().flatten().map(String::len);
        let width = all.chain([CONTROL_PLANE.len()]).max().unwrap_or(0);
        Ok(Self { options, program, width, names })
    }

    fn start(
        &self,
        spec: Spec,
        service: Option<ServiceName>,
        restart: Restart,
        pass: Option<Pass>,
        number: usize,
    ) -> Result<Instance, StartError> {
        let output = &self.options.output;
        let log = output.file(&spec.name);
        let voice = output.of(&spec.name, self.width, number).map_err(|source| {
            let what =
                log.as_ref().map_or_else(|| "log".to_owned(), |path| path.display().to_string());
            StartError::Io { what, source }
        })?;
        let data = self.options.data.join(&spec.name);
        let about = About { service, data, log };
        Ok(Instance::start(spec, about, restart, pass, voice))
    }

    fn control_plane(&self) -> Result<Instance, StartError> {
        // Not the system's choice, because it has to be the same after a restart.
        let port = ReservedPort::find()
            .map_err(|source| StartError::Io { what: "a port".into(), source })?;
        let contexts = self.options.data.join("contexts.yaml");
        let mut arguments = Arguments::new("control-plane");
        arguments.flag("--data", self.options.data.join(CONTROL_PLANE));
        arguments.flag("--listen", format!("127.0.0.1:{}", port.number()));
        arguments.flag("--metrics", "127.0.0.1:0");
        let spec = Spec {
            name: CONTROL_PLANE.to_owned(),
            program: self.program.clone(),
            arguments: arguments.0,
            environment: self
                .environment([("OUTRIGGER_CONTEXTS".into(), contexts.display().to_string())]),
            directory: self.options.data.clone(),
            // It says how to go on without dev.
            shows_stdout: false,
            _reserved: Some(Arc::new(port)),
        };
        self.start(spec, None, Restart::OnFailure, None, 0)
    }

    fn instances(&self, server: &str, client: &Client) -> Result<Vec<Instance>, StartError> {
        let mut instances = Vec::new();
        for (service, names) in self.options.config.services.iter().zip(&self.names) {
            for name in names {
                let full = service.full_name();
                let file = self.options.data.join("tokens").join(name);
                let spec = self.spec(service, name, server, &file);
                let pass = Pass { client: client.clone(), service: full.clone(), file };
                let number = instances.len() + 1;
                instances.push(self.start(
                    spec,
                    Some(full),
                    service.restart,
                    Some(pass),
                    number,
                )?);
            }
        }
        Ok(instances)
    }

    fn spec(&self, service: &Service, name: &str, server: &str, token: &Path) -> Spec {
        let mut arguments = Arguments::new("run");
        arguments.flag("--control-plane", server);
        arguments.flag("--token-file", token);
        arguments.flag("--data", self.options.data.join(name));
        // The namespace before the number is only for telling instances apart here.
        let number = name.rsplit('-').next().unwrap_or_default();
        arguments.flag("--workload", format!("{}-{number}", service.name));
        for (label, value) in &service.labels {
            arguments.flag("--label", format!("{label}={value}"));
        }
        for app in &service.app.0 {
            arguments.flag("--app", self.options.config.app(service, app));
        }
        for upstream in &service.upstreams {
            arguments.flag("--upstream", upstream);
        }
        if let Some(otlp) = &self.options.otlp {
            arguments.flag("--otlp", otlp);
        }
        arguments.word(service.full_name().to_string());
        arguments.word("--");
        for (index, word) in service.command.iter().enumerate() {
            if index == 0 && word == OWN_NAME {
                arguments.word(&self.program);
            } else {
                arguments.word(word);
            }
        }
        let own = service.env.iter().map(|(name, value)| (name.clone(), value.clone()));
        Spec {
            name: name.to_owned(),
            program: self.program.clone(),
            arguments: arguments.0,
            environment: self.environment(self.options.environment.iter().cloned().chain(own)),
            directory: self.options.directory.clone(),
            shows_stdout: true,
            _reserved: None,
        }
    }

    fn environment(
        &self,
        further: impl IntoIterator<Item = (String, String)>,
    ) -> Vec<(String, String)> {
        let log = self.options.log.iter().map(|level| ("OUTRIGGER_LOG".to_owned(), level.clone()));
        log.chain(further).collect()
    }
}

/// A child's command line.
struct Arguments(Vec<std::ffi::OsString>);

impl Arguments {
    fn new(command: &str) -> Self {
        Self(vec![command.into(), "--supervised".into()])
    }

    fn flag(&mut self, name: &str, value: impl Into<std::ffi::OsString>) {
        self.0.extend([name.into(), value.into()]);
    }

    fn word(&mut self, word: impl Into<std::ffi::OsString>) {
        self.0.push(word.into());
    }
}

/// A name for each instance of each service: `orders-1`, `orders-2` and so on, also over several
/// entries of one service; with the namespace where two namespaces have the same service.
fn names(services: &[Service]) -> Vec<Vec<String>> {
    let mut namespaces: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for service in services {
        namespaces.entry(&service.name).or_default().insert(&service.namespace);
    }
    let mut numbers: BTreeMap<ServiceName, u32> = BTreeMap::new();
    let mut name = |service: &Service| {
        let full = service.full_name();
        let several = namespaces.get(service.name.as_str()).is_some_and(|all| all.len() > 1);
        let base = if several { full.to_string() } else { service.name.clone() };
        let number = numbers.entry(full).or_default();
        *number += 1;
        format!("{base}-{number}")
    };
    services.iter().map(|service| (0..service.replicas).map(|_| name(service)).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::{Config, names};

    #[test]
    fn instances_are_counted_by_service_and_told_apart_by_namespace() {
        let text = "services:
- {name: orders, namespace: shop, replicas: 2, command: [x], app: '9090=:0'}
- {name: orders, namespace: shop, labels: {version: v2}, command: [x], app: '9090=:0'}
- {name: web, command: [x]}
- {name: web, namespace: shop, command: [x]}
";
        let config = Config::parse(text, "dev.yaml").expect("well-formed");
        assert_eq!(
            names(&config.services),
            [
                vec!["orders-1", "orders-2"],
                vec!["orders-3"],
                vec!["web.default-1"],
                vec!["web.shop-1"]
            ]
        );
    }
}
