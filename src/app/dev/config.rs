//! `dev.yaml`: which services to run, how, and which configuration the mesh gets.

use std::{collections::BTreeMap, fmt};

use serde::Deserialize;

use crate::{
    app::sidecar::{AppFlag, UpstreamFlag},
    resource,
    units::{ServiceName, name::check_label},
};

/// More instances of one service are a mistake in a file for one machine.
const REPLICAS_MAX: u32 = 50;
/// The port of a service whose application gets a free one and that nobody names one for.
const PORT_DEFAULT: u16 = 80;

/// A `dev.yaml`, checked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// Files that are applied once the control plane is up; relative to this one.
    #[serde(default)]
    pub mesh: Words,
    /// What runs.
    pub services: Vec<Service>,
}

/// One service of a `dev.yaml`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Service {
    /// `orders`
    pub name: String,
    /// Default `default`.
    #[serde(default = "default_namespace")]
    pub namespace: String,
    /// How many instances; default 1.
    #[serde(default = "one")]
    pub replicas: u32,
    /// Labels of its workloads.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Where the application listens, as for `run --app`; `:0` is a free port.
    #[serde(default)]
    pub app: Words,
    /// The application and its arguments; `outrigger` is this very program.
    pub command: Vec<String>,
    /// Further environment variables, for the application and its sidecar: `OUTRIGGER_LOG: debug`
    /// is the latter's.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// As for `run --upstream`.
    #[serde(default)]
    pub upstreams: Vec<String>,
    /// What happens when it ends; default `Never`.
    #[serde(default)]
    pub restart: Restart,
}

/// One word or several.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "OneOrMany")]
pub struct Words(pub Vec<String>);

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl From<OneOrMany> for Words {
    fn from(words: OneOrMany) -> Self {
        match words {
            OneOrMany::One(word) => Self(vec![word]),
            OneOrMany::Many(words) => Self(words),
        }
    }
}

/// Whether an instance that ended is started again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum Restart {
    /// It stays down.
    #[default]
    Never,
    /// Unless it ended with code 0.
    OnFailure,
    /// In every case.
    Always,
}

/// Why a text is no `dev.yaml`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {message}")]
pub struct ConfigError {
    file: String,
    message: String,
}

fn default_namespace() -> String {
    "default".to_owned()
}

fn one() -> u32 {
    1
}

impl Config {
    /// Reads and checks a text; `file` is its name in errors.
    ///
    /// # Errors
    /// The first mistake.
    pub fn parse(text: &str, file: &str) -> Result<Self, ConfigError> {
        let wrong = |message: String| ConfigError { file: file.to_owned(), message };
        let config: Self = serde_saphyr::from_str(text)
            .map_err(|error| wrong(error.without_snippet().to_string()))?;
        let mut seen: Vec<(ServiceName, &BTreeMap<String, String>)> = Vec::new();
        for service in &config.services {
            let name = service.full_name();
            let wrong = |what: &dyn fmt::Display| wrong(format!("service {name}: {what}"));
            check_label(&service.name).map_err(|error| wrong(&error))?;
            check_label(&service.namespace).map_err(|error| wrong(&error))?;
            if seen.contains(&(name.clone(), &service.labels)) {
                return Err(wrong(
                    &"stands twice with the same labels; replicas says how many run",
                ));
            }
            if service.replicas > REPLICAS_MAX {
                return Err(wrong(&format_args!("replicas: {REPLICAS_MAX} at most")));
            }
            if service.command.is_empty() {
                return Err(wrong(&"command is empty"));
            }
            service.check_flags().map_err(|error| wrong(&error))?;
            let fixed = |app: &&String| !app.ends_with(":0") && !app.contains("unix:");
            if let Some(app) = service.app.0.iter().find(fixed).filter(|_| service.replicas > 1) {
                return Err(wrong(&format_args!(
                    "{} replicas can not all listen on {app}; \":0\" is a free port for each",
                    service.replicas
                )));
            }
            seen.push((name, &service.labels));
        }
        Ok(config)
    }

    /// One `app` as a flag of `run`. A free port without a number for callers gets the one that
    /// some service names in its `upstreams`, else 80: callers who name no port mean that one.
    pub(super) fn app(&self, service: &Service, app: &str) -> String {
        if app.contains('=') || !app.ends_with(":0") {
            return app.to_owned();
        }
        let port = self.port_by_callers(&service.full_name()).unwrap_or(PORT_DEFAULT);
        format!("{port}={app}")
    }

    fn port_by_callers(&self, service: &ServiceName) -> Option<u16> {
        self.services.iter().find_map(|caller| {
            caller.upstreams.iter().find_map(|upstream| {
                let target = upstream.split('=').next().unwrap_or_default();
                let (name, port) = target.rsplit_once(':')?;
                let (name, namespace) = match name.split_once('.') {
                    Some((name, namespace)) => (name, namespace),
                    None => (name, caller.namespace.as_str()),
                };
                let same = name == service.name && namespace == service.namespace;
                if same { port.parse().ok() } else { None }
            })
        })
    }
}

impl Service {
    /// What becomes a flag of `run` is looked at here, where the file is known.
    fn check_flags(&self) -> Result<(), String> {
        for app in &self.app.0 {
            app.parse::<AppFlag>().map_err(|error| format!("app: {error}"))?;
        }
        for upstream in &self.upstreams {
            upstream.parse::<UpstreamFlag>().map_err(|error| format!("upstreams: {error}"))?;
        }
        for (key, value) in &self.labels {
            if let Some(wrong) = resource::check_one_label(key, value) {
                let (value, message, hint) = (&wrong.value, &wrong.message, &wrong.hint);
                return Err(format!("labels: {value:?} is {message}; {hint}"));
            }
        }
        match self.env.keys().find(|name| name.is_empty() || name.contains(['=', '\0'])) {
            Some(name) => Err(format!("env: {name:?} is no name of a variable")),
            None => Ok(()),
        }
    }

    /// `orders.shop`
    pub fn full_name(&self) -> ServiceName {
        ServiceName::new(&self.name, &self.namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::{Config, Restart, Words};
    use crate::units::ServiceName;

    #[test]
    fn everything_but_name_and_command_has_a_default() {
        let text = "services:\n- {name: orders, command: [./orders]}\n";
        let config = Config::parse(text, "dev.yaml").expect("well-formed");
        let service = &config.services[0];
        assert_eq!(service.full_name(), ServiceName::new("orders", "default"));
        assert_eq!((service.replicas, service.restart), (1, Restart::Never));
        assert_eq!((&config.mesh, &service.app), (&Words::default(), &Words::default()));
    }

    #[test]
    fn the_documented_form_is_read() {
        let text = r#"
mesh: mesh.yaml
services: [{name: orders, namespace: shop, replicas: 2, labels: {version: v1}, app: ":0",
  command: [./orders], env: {A: b}, upstreams: [catalog:9090], restart: OnFailure}]
"#;
        let config = Config::parse(text, "dev.yaml").expect("well-formed");
        assert_eq!(config.mesh.0, ["mesh.yaml"]);
        assert_eq!(config.services[0].app.0, [":0"]);
        let called = |name: &str| config.port_by_callers(&ServiceName::new(name, "shop"));
        assert_eq!((called("catalog"), called("orders")), (Some(9090), None));
        for (app, flag) in [(":0", "80=:0"), ("grpc=:0", "grpc=:0"), (":9090", ":9090")] {
            assert_eq!(config.app(&config.services[0], app), flag);
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (text, expected) in [
            ("services: [{name: a, command: [x], replica: 2}]", "replica"),
            ("services: [{name: A_, command: [x]}]", "service A_.default: "),
            ("services: [{name: a, command: []}]", "command is empty"),
            ("services: [{name: a, command: [x]}, {name: a, command: [x]}]", "stands twice"),
            ("services: [{name: a, command: [x], replicas: 2, app: ':80'}]", "free port for each"),
            ("services: [{name: a, command: [x], replicas: 51}]", "50 at most"),
            ("services: [{name: a, command: [x], app: here}]", "app: \"here\" is no address"),
            ("services: [{name: a, command: [x], upstreams: [b]}]", "upstreams: \"b\" is no"),
            ("services: [{name: a, command: [x], labels: {a b: c}}]", "labels: \"a b\" is not"),
            ("services: [{name: a, command: [x], env: {a=b: c}}]", "env: \"a=b\" is no name"),
        ] {
            let error = Config::parse(text, "dev.yaml").expect_err(text).to_string();
            assert!(error.starts_with("dev.yaml: ") && error.contains(expected), "{error}");
        }
    }
}
