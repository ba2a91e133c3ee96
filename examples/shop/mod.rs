//! The demo's shop: an HTTP `front` and the gRPC services `orders`, `catalog`, `inventory` and
//! `payments`. They are plain applications, as anyone would write them: they know nothing of the
//! mesh beyond the address that the environment gives them to dial, and what they do for tracing is
//! what every traced application does, passing `traceparent` on.
//!
//! They are compiled into the program (`outrigger shop SERVICE`), because `cargo run` builds no
//! examples and an installed binary has no source tree beside it.

mod calls;
mod catalog;
mod fault;
mod front;
mod inventory;
mod orders;
mod payments;

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;

pub(crate) use fault::Fault;

/// The messages, clients and servers of `shop.proto`.
#[allow(
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    clippy::nursery,
    unreachable_pub,
    unused_qualifications,
    elided_lifetimes_in_paths,
    missing_docs,
    reason = "generated code"
)]
pub(crate) mod pb {
    tonic::include_proto!("shop");
}

/// How long requests under way may take to finish once the service was told to stop.
const STOP_WITHIN: Duration = Duration::from_secs(2);

/// What can keep a service of the shop from running.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Neither the command line nor the environment names it.
    #[error("no service `{0}` in the shop: front, orders, catalog, inventory or payments")]
    NoSuchService(String),
    /// A variable of the environment does not hold what it should.
    #[error("{name}={value}: {message}")]
    Variable {
        /// Its name.
        name: &'static str,
        /// What it holds.
        value: String,
        /// What it should hold.
        message: String,
    },
    /// A listener, or the card in `SHOP_DIRECTORY`, could not be made.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The gRPC server broke.
    #[error("serving: {0}")]
    Serve(#[from] tonic::transport::Error),
}

/// What one instance needs to know; all of it comes from the environment.
struct Instance {
    service: String,
    /// `SHOP_VERSION`, such as `v2`.
    version: String,
    /// `SHOP_FIRST_ORDER`: so that two versions of `orders` do not hand out the same numbers.
    first_order: u64,
    fault: Arc<fault::Switch>,
}

/// Reads one variable; empty counts as absent.
#[allow(clippy::disallowed_methods, reason = "an application reads its own environment")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Reads one variable as a `T`, or takes the default.
fn parsed<T: std::str::FromStr>(name: &'static str, default: T) -> Result<T, Error>
where
    T::Err: std::fmt::Display,
{
    let Some(value) = variable(name) else { return Ok(default) };
    value.parse().map_err(|error: T::Err| Error::Variable {
        name,
        message: error.to_string(),
        value: value.clone(),
    })
}

/// Serves one of the shop's services until SIGTERM or SIGINT. It listens on `PORT` of the loopback
/// (0 or absent: a free one) and, for faults, on a second free port; both stand in the card that
/// it lays into `SHOP_DIRECTORY`, if that is set.
///
/// # Errors
///
/// An unknown service, a variable that can not be read, or a port that is taken.
pub(crate) async fn run(service: &str) -> Result<(), Error> {
    let port: u16 = parsed("PORT", 0)?;
    let instance = Instance {
        service: service.to_owned(),
        version: variable("SHOP_VERSION").unwrap_or_else(|| "v1".to_owned()),
        first_order: parsed("SHOP_FIRST_ORDER", 1001)?,
        fault: Arc::new(fault::Switch::new(parsed("SHOP_FAULT", Fault::None)?)),
    };
    let listener = listen(port).await?;
    let control = listen(0).await?;
    lay_card(&instance, &listener, &control)?;
    let stop = stop_signal()?;

    let mut overdue = stop.clone();
    let serving = serve(instance, listener, stop, control);
    tokio::select! {
        served = serving => served,
        () = async {
            drop(overdue.wait_for(|stopped| *stopped).await);
            tokio::time::sleep(STOP_WITHIN).await;
        } => Ok(()),
    }
}

async fn serve(
    instance: Instance,
    listener: TcpListener,
    mut stop: watch::Receiver<bool>,
    control: TcpListener,
) -> Result<(), Error> {
    let faults = Arc::clone(&instance.fault);
    let stopped = {
        let faults = Arc::clone(&faults);
        async move {
            drop(stop.wait_for(|stopped| *stopped).await);
            // Hanging calls are answered, or the server would wait for them.
            faults.set(Fault::None);
        }
    };
    let mut server = Server::builder();
    let incoming = TcpListenerStream::new(listener);
    let serving = async {
        match instance.service.as_str() {
            "front" => front::serve(instance, incoming.into_inner(), stopped).await,
            "orders" => {
                let service = orders::service(&instance)?;
                Ok(server
                    .add_service(service)
                    .serve_with_incoming_shutdown(incoming, stopped)
                    .await?)
            }
            "catalog" => {
                let service = catalog::service(instance.fault);
                Ok(server
                    .add_service(service)
                    .serve_with_incoming_shutdown(incoming, stopped)
                    .await?)
            }
            "inventory" => {
                let service = inventory::service(instance.fault);
                Ok(server
                    .add_service(service)
                    .serve_with_incoming_shutdown(incoming, stopped)
                    .await?)
            }
            "payments" => {
                let service = payments::service(instance.fault);
                Ok(server
                    .add_service(service)
                    .serve_with_incoming_shutdown(incoming, stopped)
                    .await?)
            }
            _ => Err(Error::NoSuchService(instance.service)),
        }
    };
    tokio::select! {
        served = serving => served,
        never = fault::serve(faults, control) => match never {},
    }
}

async fn listen(port: u16) -> Result<TcpListener, Error> {
    TcpListener::bind(("127.0.0.1", port))
        .await
        .map_err(|source| Error::Io { what: format!("listening on 127.0.0.1:{port}"), source })
}

/// Writes `SHOP_DIRECTORY/<service>-<process id>.json`, by which the demo finds an instance's
/// second port; where it was told to dial tells which instance it is. It appears under its name when it is whole.
fn lay_card(instance: &Instance, app: &TcpListener, control: &TcpListener) -> Result<(), Error> {
    let Some(directory) = variable("SHOP_DIRECTORY").map(PathBuf::from) else { return Ok(()) };
    let process = std::process::id();
    let name = format!("{}-{process}.json", instance.service);
    let unwritten = |source| Error::Io { what: format!("writing {name}"), source };
    let address = |listener: &TcpListener| -> Result<SocketAddr, Error> {
        listener.local_addr().map_err(unwritten)
    };
    let card = serde_json::json!({
        "service": instance.service,
        "version": instance.version,
        "process": process,
        "address": address(app)?.to_string(),
        "control": address(control)?.to_string(),
        "outbound": variable("OUTRIGGER_OUTBOUND_ADDRESS"),
    });
    let whole = directory.join(&name);
    let unfinished = directory.join(format!(".{name}"));
    std::fs::write(&unfinished, card.to_string()).map_err(unwritten)?;
    std::fs::rename(&unfinished, &whole).map_err(unwritten)
}

/// Turns true at SIGTERM or SIGINT.
fn stop_signal() -> Result<watch::Receiver<bool>, Error> {
    let unheard = |source| Error::Io { what: "listening for signals".to_owned(), source };
    let mut terminate = signal(SignalKind::terminate()).map_err(unheard)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(unheard)?;
    let (sender, receiver) = watch::channel(false);
    let waiting = async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        sender.send_replace(true);
    };
    spawn(waiting);
    Ok(receiver)
}

/// Starts a task that ends by itself when the service stops.
#[allow(clippy::disallowed_methods, reason = "an application has no tasks of the mesh to watch")]
fn spawn(work: impl Future<Output = ()> + Send + 'static) {
    let _done = tokio::spawn(work);
}
