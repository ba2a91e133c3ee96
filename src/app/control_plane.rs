//! The control plane's role: open, serve, tell the user how to reach it, end in order.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{self, PathBuf},
    time::Duration,
};

use super::{
    admin::{self, HealthView, Listener, Server, Surface},
    announce::{self, Addresses, Announce},
    context::{Context, Contexts},
    footprint,
    signals::{Wish, Wishes},
};
use crate::{
    control::{self, BackupError, ControlPlane, CredentialFiles, OpenError, StoreError},
    net::{self, ListenError},
    task::Tasks,
};

/// The name of a control plane on this machine among the user's contexts.
const CONTEXT: &str = "local";
/// How long scrapes under way may take at the end.
const SCRAPE_MAX: Duration = Duration::from_millis(500);

/// What a control plane is started with.
#[derive(Debug)]
pub struct Options {
    /// Store, CA and certificate.
    pub control: control::Options,
    /// Whether `control.trust_domain` was asked for; if not, a store keeps the one that it has.
    pub trust_domain_given: bool,
    /// Where its API listens.
    pub listen: SocketAddr,
    /// Where Prometheus reads; `None`: nowhere.
    pub metrics: Option<admin::Address>,
    /// The contexts file; by default the user's.
    pub contexts: Option<PathBuf>,
    /// A backup to begin with, in an empty data directory.
    pub restore: Option<PathBuf>,
}

/// What runs and where it is, for people.
#[derive(Debug)]
pub struct Facts {
    /// The mesh's trust domain.
    pub trust_domain: String,
    /// Where it keeps everything.
    pub data: PathBuf,
    /// Whether it was made by this start.
    pub made: bool,
    /// Whether it was made of a backup by this start.
    pub restored: bool,
    /// Where clients on this machine reach it.
    pub server: String,
    /// Where it really listens.
    pub addresses: Addresses,
    /// The administrator's credential.
    pub credential: CredentialFiles,
    /// The context that leads to it and its file, or why there is none.
    pub context: Result<(String, PathBuf), String>,
}

/// Why the role failed.
#[derive(Debug, thiserror::Error)]
pub enum RoleError {
    /// The data directory.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The backup to begin with.
    #[error(transparent)]
    Restore(#[from] BackupError),
    /// The API's address.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The metrics' address.
    #[error(transparent)]
    Bind(#[from] admin::BindError),
    /// Connections can not be served.
    #[error("serving failed: {0}")]
    Serve(#[from] tonic::transport::Error),
    /// There are no signals to be had, or nobody to tell.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The API has a health service of its own, for those who have a credential.
struct View(ControlPlane);

impl HealthView for View {
    /// It answers when all listens. A store that takes no writes is no reason to keep sidecars away:
    /// everything else works, and a new start would mend nothing.
    fn missing(&self) -> Vec<String> {
        Vec::new()
    }

    fn metrics(&self) -> String {
        self.0.metrics()
    }
}

/// Serves until SIGTERM or SIGINT, and ends in order; a second one ends at once. When all serves,
/// tells `show` and then `announce`.
///
/// # Errors
/// When it does not open or listen, or whoever waits for it can not be told.
pub async fn serve(
    options: Options,
    announce: Announce,
    show: impl FnOnce(&Facts),
) -> Result<(), RoleError> {
    let mut wishes = Wishes::listen(announce.supervisor)?;
    let made = !options.control.data.join("mesh.redb").exists();
    let (control, data) = open(&options)?;
    let listener = net::listen(options.listen)?;
    let bound = listener.local_addr()?;
    let mut addresses = Addresses { listen: Some(bound.to_string()), ..Addresses::default() };
    let mut metrics = None;
    if let Some(address) = &options.metrics {
        let surface = Surface::ControlPlane(std::sync::Arc::new(View(control.clone())));
        let server = Server::start(Listener::bind(address).await?, surface)?;
        addresses.metrics = Some(server.address().to_string());
        control.tell_metrics_address(&server.address().to_string());
        metrics = Some(server);
    }
    let server = reached(bound).to_string();
    let facts = Facts {
        trust_domain: control.trust_domain().to_owned(),
        made,
        restored: options.restore.is_some(),
        context: add_context(&options, &control, &server),
        credential: control.credential().clone(),
        data,
        server,
        addresses,
    };
    show(&facts);
    announce.ready(&facts.addresses.to_json())?;
    tracing::info!(address = %bound, trust_domain = facts.trust_domain, "the control plane serves");
    let mut tasks = Tasks::new();
    announce::start_watchdog(&mut tasks);
    tasks.spawn("footprint", footprint::let_go_of_start(std::future::ready(())));
    let told = control.clone();
    announce::start_status(&mut tasks, move || told.summary());
    let (ask, asked) = tokio::sync::oneshot::channel::<()>();
    // On the heap, because the whole of the API is in it.
    let mut serving = Box::pin(control.serve(listener, async {
        let _asked_or_gone = asked.await;
    }));
    let ended = tokio::select! {
        ended = &mut serving => Some(ended),
        () = next_end(&mut wishes) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            announce::notify("STOPPING=1");
            tracing::info!("ending");
            drop(ask);
            tokio::select! {
                ended = &mut serving => ended,
                () = next_end(&mut wishes) => Ok(()),
            }
        }
    };
    if let Some(metrics) = metrics {
        metrics.stop(SCRAPE_MAX).await;
    }
    Ok(ended?)
}

/// Nothing is read again at SIGHUP, since configuration comes by the API; but whoever asked waits
/// until that is done.
async fn next_end(wishes: &mut Wishes) {
    while wishes.next().await == Wish::Reload {
        announce::notify_reloading();
        announce::notify("READY=1");
    }
}

fn open(options: &Options) -> Result<(ControlPlane, PathBuf), RoleError> {
    let mut control = options.control.clone();
    // Credentials are named to other programs, which run elsewhere.
    control.data = path::absolute(&control.data)?;
    let data = control.data.clone();
    if let Some(archive) = &options.restore {
        let manifest = control::restore(archive, &data)?;
        tracing::info!(revision = manifest.revision, archive = %archive.display(), "restored");
    }
    let opened = match ControlPlane::open(control.clone()) {
        Err(OpenError::Store(StoreError::TrustDomain { stored, .. }))
            if !options.trust_domain_given =>
        {
            ControlPlane::open(control::Options { trust_domain: stored, ..control })
        }
        opened => opened,
    };
    Ok((opened?, data))
}

/// Where clients on this machine reach it.
fn reached(bound: SocketAddr) -> SocketAddr {
    let ip = match bound.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, bound.port())
}

/// A user without a place for contexts, as under systemd, has the credential all the same.
fn add_context(
    options: &Options,
    control: &ControlPlane,
    server: &str,
) -> Result<(String, PathBuf), String> {
    let credential = control.credential();
    let context = Context {
        server: server.to_owned(),
        certificate_authority: credential.root.clone(),
        client_certificate: credential.certificate.clone(),
        client_key: credential.key.clone(),
        namespace: None,
    };
    let add = || {
        let mut contexts = Contexts::load(options.contexts.as_deref())?;
        let name = contexts.ensure(CONTEXT, context);
        contexts.save()?;
        Ok((name, contexts.path().to_owned()))
    };
    add().map_err(|error: super::context::ContextError| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::reached;

    #[test]
    fn a_listener_on_all_addresses_is_reached_on_loopback() {
        for (bound, expected) in [
            ("0.0.0.0:15010", "127.0.0.1:15010"),
            ("[::]:1", "[::1]:1"),
            ("10.0.0.7:2", "10.0.0.7:2"),
        ] {
            let bound = bound.parse().expect("an address");
            assert_eq!(reached(bound).to_string(), expected);
        }
    }
}
