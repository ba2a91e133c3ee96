//! `outrigger control-plane`: starts the mesh, and says how to reach it.

use std::{
    fmt::Write as _,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use rustls_pki_types::ServerName;

use super::{
    output::{self, Failure},
    role, words,
};
use crate::{
    app::{
        admin,
        announce::Announce,
        bootstrap,
        control_plane::{self, Facts, Options},
    },
    control::{self, Root},
    identity::disk,
    spiffe::SpiffeId,
};

/// The trust domain of a mesh that names none.
const TRUST_DOMAIN: &str = "mesh.local";
/// The largest file of a key that is read.
const KEY_BYTES_MAX: u64 = 1 << 20;

const EXAMPLES: &str = "\
Examples:
  outrigger control-plane                             for this machine
  outrigger control-plane --listen 0.0.0.0:15010 --tls-san mesh.example.net
  outrigger control-plane --data DIR --restore mesh.tar

Its first start makes the store, a certificate authority and an administrator's \
credential, and adds the context `local` for it.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Where store, CA and credential are kept [default: control-plane in the state directory]
    #[arg(long, value_name = "DIR", env = "OUTRIGGER_DATA")]
    data: Option<PathBuf>,
    /// Where the gRPC API listens
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15010")]
    #[arg(env = "OUTRIGGER_LISTEN")]
    listen: SocketAddr,
    /// Where Prometheus reads /metrics
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15014")]
    #[arg(env = "OUTRIGGER_METRICS")]
    metrics: admin::Address,
    /// The mesh's trust domain, fixed by the first start [default: mesh.local]
    #[arg(long, value_name = "DOMAIN", env = "OUTRIGGER_TRUST_DOMAIN")]
    #[arg(value_parser = trust_domain)]
    trust_domain: Option<String>,
    /// Further host names and addresses for the API's certificate, which always has localhost, the
    /// loopbacks and the host's name; repeatable
    #[arg(long, value_name = "NAME", value_delimiter = ',', env = "OUTRIGGER_TLS_SAN")]
    #[arg(value_parser = host_name)]
    tls_san: Vec<String>,
    /// PEM file with a CA certificate to sign with, and those above it, instead of a root of its own
    #[arg(long, value_name = "FILE", requires = "root_key", env = "OUTRIGGER_ROOT_CERT")]
    root_cert: Option<PathBuf>,
    /// PEM file with its key
    #[arg(long, value_name = "FILE", requires = "root_cert", env = "OUTRIGGER_ROOT_KEY")]
    root_key: Option<PathBuf>,
    /// How long workloads' certificates last; renewed from half of it
    #[arg(long, value_name = "DURATION", default_value = "24h", env = "OUTRIGGER_LEAF_TTL")]
    #[arg(value_parser = words::within("2s", "8760h"))]
    leaf_ttl: Duration,
    /// Begin with this backup, in an empty --data; see outrigger backup
    #[arg(long, value_name = "FILE", env = "OUTRIGGER_RESTORE")]
    restore: Option<PathBuf>,
    /// The contexts file [default: $XDG_CONFIG_HOME/outrigger/config.yaml]
    #[arg(long, value_name = "FILE", env = "OUTRIGGER_CONTEXTS")]
    contexts: Option<PathBuf>,
    #[command(flatten)]
    common: role::Common,
}

/// A trust domain as it can stand in an identity.
fn trust_domain(text: &str) -> Result<String, String> {
    match format!("spiffe://{text}/x").parse::<SpiffeId>() {
        Ok(id) if id.trust_domain() == text => Ok(text.to_owned()),
        _ => Err("no trust domain; up to 255 of a-z, 0-9, '.', '-' and '_'".to_owned()),
    }
}

/// A host's name or address as it can stand in a certificate.
fn host_name(text: &str) -> Result<String, String> {
    let name = ServerName::try_from(text);
    name.map(|_| text.to_owned()).map_err(|_| "no host name or address".to_owned())
}

/// The text of a file that only its owner can read.
fn private(path: &Path) -> Result<String, Failure> {
    let bytes = disk::read_private(path, KEY_BYTES_MAX)?;
    let bytes =
        bytes.ok_or_else(|| Failure::say(format!("there is no file {}", path.display())))?;
    String::from_utf8(bytes).map_err(|_| Failure::say(format!("{} is no PEM file", path.display())))
}

impl Args {
    fn options(&self) -> Result<Options, Failure> {
        let data = match &self.data {
            Some(data) => data.clone(),
            None => bootstrap::state_directory()?.join("control-plane"),
        };
        let trust_domain = self.trust_domain.as_deref().unwrap_or(TRUST_DOMAIN);
        let mut options = control::Options::new(data, trust_domain);
        let always = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        options.names = always.into_iter().chain([bootstrap::host_name()]).collect();
        options.names.extend(self.tls_san.iter().cloned());
        let ip = self.listen.ip();
        if !ip.is_unspecified() && !ip.is_loopback() {
            options.names.push(ip.to_string());
        }
        options.names.sort();
        options.names.dedup();
        options.leaf_ttl = self.leaf_ttl;
        if let (Some(certificate), Some(key)) = (&self.root_cert, &self.root_key) {
            let name = |path: &PathBuf| path.display().to_string();
            options.root = Some(Root {
                certificates: fs::read(certificate).with_context(|| name(certificate))?,
                key: private(key)?,
            });
        }
        Ok(Options {
            control: options,
            trust_domain_given: self.trust_domain.is_some(),
            listen: self.listen,
            metrics: Some(self.metrics.clone()),
            contexts: self.contexts.clone(),
            restore: self.restore.clone(),
        })
    }
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let _logging = args.common.start_log(None)?;
    let options = args.options()?;
    let announce = Announce { stdout: true, ..args.common.announce() };
    role::run(async {
        control_plane::serve(options, announce, |facts| {
            // Who closed stdout does not want to read it.
            let _unheard = output::out(&told(facts));
        })
        .await?;
        Ok(ExitCode::SUCCESS)
    })
}

/// What was made, where it is, and how to reach it.
fn told(facts: &Facts) -> String {
    let Facts { trust_domain, data, made, restored, server, addresses, credential, context } =
        facts;
    let data = quoted(&data.display().to_string());
    let what = match (*made, *restored) {
        (_, true) => "restored from a backup",
        (true, false) => "made: store, CA, administrator's credential",
        (false, false) => "found",
    };
    let mut text =
        format!("control plane of {trust_domain} on {server}\n  data     {data} ({what})\n");
    let mut line = |name: &str, value: &str| {
        writeln!(text, "  {name:8} {value}").expect("a String takes everything");
    };
    if let Some(metrics) = &addresses.metrics {
        line("metrics", &format!("http://{metrics}/metrics"));
    }
    match context {
        Ok((name, path)) => line("context", &format!("{name} in {}", path.display())),
        Err(why) => line("context", &format!("none: {why}")),
    }
    let [root, certificate, key] = [&credential.root, &credential.certificate, &credential.key]
        .map(|path| quoted(&path.display().to_string()));
    let grpcurl = format!("grpcurl -cacert {root} -cert {certificate} -key {key} {server} list");
    line("grpcurl", &grpcurl);
    line("next", "outrigger run orders --app :9090 -- ./orders");
    text
}

/// As a shell reads it.
pub(super) fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:@%,".contains(c);
    if text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::{host_name, quoted, trust_domain};

    #[test]
    fn a_path_can_be_pasted_into_a_shell() {
        assert_eq!(quoted("/a/b-c.d"), "/a/b-c.d");
        assert_eq!(quoted("/a b/it's"), r"'/a b/it'\''s'");
    }

    #[test]
    fn names_are_those_that_certificates_carry() {
        for (text, expected) in [("mesh.local", true), ("a b", false), ("a/b", false), ("", false)]
        {
            assert_eq!(trust_domain(text).is_ok(), expected, "{text}");
        }
        for (text, expected) in [("a.b", true), ("10.0.0.1", true), ("::1", true), ("a b", false)] {
            assert_eq!(host_name(text).is_ok(), expected, "{text}");
        }
    }
}
