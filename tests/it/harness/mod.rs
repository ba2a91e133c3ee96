//! What the tests share: a private place on the disk, programs started in it, applications and
//! clients in this process, certificates, and waiting with a bound.

mod app;
mod certificates;
mod http;
mod island;
mod mesh;
mod peers;
mod place;
mod program;
mod relay;

use std::{
    fmt::Display,
    future::Future,
    net::{SocketAddr, TcpListener},
    sync::OnceLock,
    time::Duration,
};

use tokio::{
    sync::{Mutex, MutexGuard},
    time::{self, Instant},
};

pub(crate) use app::{App, echo, echo_client};
pub(crate) use certificates::Certificates;
pub(crate) use http::{get, metrics, request};
pub(crate) use island::Island;
pub(crate) use mesh::{
    Mesh, StaticPair, service_yaml, sidecar_args, spiffe_id, start_static_server, workload_yaml,
};
pub(crate) use peers::{interpreter, peer};
pub(crate) use place::{Place, Said, finish, root};
pub(crate) use program::{Program, descendants};
pub(crate) use relay::Relay;

/// How long anything that should happen at once may take on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Asks `look` until it has an answer; after `bound`, panics with what it said last.
pub(crate) async fn eventually<T, E: Display, F: Future<Output = Result<T, E>>>(
    bound: Duration,
    mut look: impl FnMut() -> F,
) -> T {
    let end = Instant::now() + bound;
    loop {
        match look().await {
            Ok(found) => return found,
            Err(why) if Instant::now() >= end => panic!("not within {bound:?}: {why}"),
            Err(_) => time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// The right to load the machine: tests that do take turns, so that none starves another.
pub(crate) async fn heavy() -> MutexGuard<'static, ()> {
    static TURN: OnceLock<Mutex<()>> = OnceLock::new();
    TURN.get_or_init(|| Mutex::new(())).lock().await
}

/// A port that was free just now, for peers that can not choose one themselves.
pub(crate) fn free_port() -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("bound")
}
