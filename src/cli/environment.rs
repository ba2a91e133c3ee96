//! `outrigger env`: for whoever starts an application without `run`, what to export so that it
//! reaches the mesh through a sidecar. Only what the language's clients honour is printed.

use std::{net::SocketAddr, process::ExitCode};

use clap::ValueEnum;

use super::output::{self, Failure};
use crate::app::{
    bootstrap,
    environment::{self, Mode, Surroundings},
};

const EXAMPLES: &str = "\
Examples:
  eval \"$(outrigger env python)\" && python app.py
  outrigger env go --outbound 127.0.0.1:16001

`outrigger run` sets all of it for the command that it starts.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// What the application is written in
    language: Language,
    /// The sidecar's outbound listener
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15001")]
    #[arg(env = "OUTRIGGER_OUTBOUND")]
    outbound: SocketAddr,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Language {
    Go,
    Python,
    Node,
    Java,
    Curl,
}

impl Language {
    /// The variables that its clients honour, and what its users should know.
    fn honours(self) -> (&'static [&'static str], &'static str) {
        match self {
            Self::Go => (
                &["HTTPS_PROXY", "NO_PROXY"],
                "grpc-go 1.71 or newer; an older one dials passthrough:///orders:9090 or an --upstream",
            ),
            Self::Python => (&["http_proxy", "grpc_proxy", "no_proxy"], "grpcio, urllib, requests"),
            Self::Node => (
                &["http_proxy", "grpc_proxy", "no_proxy", "NODE_USE_ENV_PROXY"],
                "@grpc/grpc-js; fetch on Node versions that know NODE_USE_ENV_PROXY",
            ),
            Self::Java => (&["JAVA_TOOL_OPTIONS"], "grpc-java"),
            Self::Curl => (&["http_proxy", "no_proxy"], "curl http://orders:9090/"),
        }
    }
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    output::out(&exports(args.language, args.outbound, &bootstrap::variable))?;
    Ok(ExitCode::SUCCESS)
}

fn exports(
    language: Language,
    outbound: SocketAddr,
    inherited: &dyn Fn(&str) -> Option<String>,
) -> String {
    let (names, remark) = language.honours();
    let surroundings = Surroundings {
        outbound,
        upstreams: Vec::new(),
        app: Vec::new(),
        app_chosen: false,
        otlp_host: None,
    };
    let variables = environment::variables(Mode::Proxy, &surroundings, inherited);
    let lines = variables
        .iter()
        .filter(|(name, _)| names.contains(&name.as_str()))
        .map(|(name, value)| format!("export {name}='{}'\n", value.replace('\'', r"'\''")));
    std::iter::once(format!("# {remark}\n")).chain(lines).collect()
}

#[cfg(test)]
mod tests {
    use super::{Language, exports};

    #[test]
    fn only_what_the_language_honours_is_exported() {
        let outbound = "127.0.0.1:15001".parse().expect("an address");
        let java = exports(Language::Java, outbound, &|_| Some("-Dname='x'".into()));
        let expected = "# grpc-java\nexport JAVA_TOOL_OPTIONS='-Dname='\\''x'\\'' \
                        -Dhttps.proxyHost=127.0.0.1 -Dhttps.proxyPort=15001'\n";
        assert_eq!(java, expected);
        let go = exports(Language::Go, outbound, &|_| None);
        assert!(go.contains("HTTPS_PROXY") && !go.contains("http_proxy"), "{go}");
    }
}
