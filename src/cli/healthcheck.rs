//! `outrigger healthcheck`: for containers, whose images hold no curl. Exits 0 when the sidecar or
//! control plane on this machine is ready, and says what is missing otherwise.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    time::timeout,
};

use super::output::{Failure, Output};
use crate::{app::admin::Address, task};

/// Orchestrators ask every few seconds; a sidecar that takes longer is not ready.
const PATIENCE: Duration = Duration::from_secs(3);
/// The answer names what is missing.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Where a sidecar says how it is, and where a control plane does, beside its metrics.
const SIDECAR: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15021);
const CONTROL_PLANE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15014);

const EXAMPLES: &str = "\
Examples, for containers:
  HEALTHCHECK CMD [\"outrigger\", \"healthcheck\"]
  HEALTHCHECK CMD [\"outrigger\", \"healthcheck\", \"control-plane\"]

Exits with 0 when it is ready, else with 1.";

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Role {
    Sidecar,
    ControlPlane,
}

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// What runs here
    #[arg(value_enum, default_value = "sidecar")]
    role: Role,
    /// The sidecar's health or the control plane's metrics listener [default: 127.0.0.1:15021 or :15014]
    #[arg(long, value_name = "ADDRESS", env = "OUTRIGGER_HEALTH")]
    health: Option<Address>,
    /// Only whether it lives, not whether it is ready
    #[arg(long, env = "OUTRIGGER_LIVE")]
    live: bool,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let format = args.output.format;
    check(args).await.map_err(|failure| failure.in_format(format))
}

async fn check(args: Args) -> Result<ExitCode, Failure> {
    let (path, key) = if args.live { ("/live", "live") } else { ("/ready", "ready") };
    let (usual, hint) = match args.role {
        Role::Sidecar => (SIDECAR, "is a sidecar running here? --health names its listener"),
        Role::ControlPlane => {
            (CONTROL_PLANE, "is a control plane running here? --health names its metrics listener")
        }
    };
    let health = args.health.unwrap_or(Address::Tcp(usual));
    let address = health.to_string();
    let answer = ask_at(&health, path, ANSWER_BYTES_MAX).await;
    let (ready, text) = answer
        .with_context(|| address.clone())
        .map_err(|error| Failure::new(error).with_hint(hint))?;
    if !ready {
        return Err(anyhow!("{address}: {}", text.trim()).into());
    }
    args.output.format.print(|| text, || serde_json::json!({ "address": address, (key): true }))
}

/// Whether one of the sidecar's own listeners gives a good answer, and what it says.
pub(super) async fn ask_at(
    address: &Address,
    path: &'static str,
    bytes_max: usize,
) -> anyhow::Result<(bool, String)> {
    let asked = async {
        match address {
            Address::Tcp(address) => {
                ask(TcpStream::connect(reached(*address)).await?, path, bytes_max).await
            }
            Address::Unix(socket) => ask(UnixStream::connect(socket).await?, path, bytes_max).await,
        }
    };
    let late = |_| anyhow!("no answer within {}s", PATIENCE.as_secs());
    timeout(PATIENCE, asked).await.map_err(late)?
}

/// A listener on all addresses is asked on the loopback.
fn reached(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// Whether the answer is a good one, and what it says.
async fn ask<S>(stream: S, path: &'static str, bytes_max: usize) -> anyhow::Result<(bool, String)>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = task::spawn("healthcheck", async move {
        let _ended = connection.await;
    });
    let request = Request::get(Uri::from_static(path)).header("host", "localhost");
    let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
    let ready = response.status().is_success();
    let body = Limited::new(response.into_body(), bytes_max).collect().await;
    let body = body.map_err(|error| anyhow!("the answer: {error}"))?.to_bytes();
    connection.abort();
    Ok((ready, String::from_utf8_lossy(&body).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::reached;

    #[test]
    fn a_listener_on_all_addresses_is_asked_on_the_loopback() {
        for (address, expected) in [
            ("0.0.0.0:15021", "127.0.0.1:15021"),
            ("[::]:1", "[::1]:1"),
            ("10.0.0.1:2", "10.0.0.1:2"),
        ] {
            assert_eq!(reached(address.parse().expect("an address")).to_string(), expected);
        }
    }
}
