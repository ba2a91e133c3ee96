//! The control plane's port: TLS, one tower stack around every call, and the services.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Server, server::Router};
use tonic_health::ServingStatus;
use tower::{ServiceBuilder, limit::GlobalConcurrencyLimitLayer, load_shed::LoadShedLayer};

use super::{
    admin::Admin,
    audit::{Audit, Record},
    auth::Authenticate,
    config::Config,
    discovery::Discovery,
    issue::Identities,
    layers::{Deadline, Layered, Trace},
    listen,
    metrics::Metrics,
    state::State,
    trust::Trust,
    upload::Uploads,
};
use crate::resource::{
    DESCRIPTORS,
    pb::{
        admin_service_server::{AdminServiceServer, SERVICE_NAME as ADMIN_SERVICE},
        config_service_server::{ConfigServiceServer, SERVICE_NAME as CONFIG_SERVICE},
        discovery_service_server::{DiscoveryServiceServer, SERVICE_NAME as DISCOVERY_SERVICE},
        identity_service_server::{IdentityServiceServer, SERVICE_NAME as IDENTITY_SERVICE},
    },
};

/// Calls under way at once; more are refused and may come again.
pub(super) const CALLS_MAX: usize = 1024;
/// How long a call may take to be answered.
const CALL_MAX: Duration = Duration::from_secs(20);
/// Between two signs of life on a connection: a sidecar whose machine died is withdrawn after this
/// and the next.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// How long a sign of life is waited for.
const KEEPALIVE_MAX: Duration = Duration::from_secs(5);
/// Streams on one connection.
const STREAMS_MAX: u32 = 256;
/// Header lists of a call; gRPC clients send a few hundred bytes.
const HEADERS_BYTES_MAX: u32 = 16 << 10;
/// Streams of one connection that broke the protocol before the connection is ended. Said because
/// hyper passes on no limit at all otherwise.
const RESETS_MAX: usize = 128;
/// An Apply of 10,000 resources.
const APPLY_BYTES_MAX: usize = 64 << 20;
/// A hello with all that a sidecar holds.
const SUBSCRIBE_BYTES_MAX: usize = 16 << 20;
/// CSRs and tokens.
const SMALL_BYTES_MAX: usize = 64 << 10;
/// Bytes in flight from one client; above the default so that an Apply takes few round trips.
const WINDOW_BYTES: u32 = 1 << 20;
/// How long the end waits for calls under way.
const ENDING_MAX: Duration = Duration::from_secs(5);

/// The names for which health is told; the empty one is the port as a whole.
const SERVICES: [&str; 5] =
    ["", CONFIG_SERVICE, DISCOVERY_SERVICE, IDENTITY_SERVICE, ADMIN_SERVICE];

/// The services of the port.
pub(crate) struct Services {
    pub config: Config,
    pub discovery: Discovery,
    pub identities: Identities,
    pub admin: Admin,
}

/// What is around them.
pub(crate) struct Surroundings {
    pub tls: Arc<ArcSwap<ServerConfig>>,
    pub trust: watch::Receiver<Arc<Trust>>,
    pub metrics: Arc<Metrics>,
    pub audit: Arc<Audit>,
    pub state: Arc<State>,
    /// The wall clock.
    pub now: fn() -> SystemTime,
    /// Cancelled by [`serve`] when it ends; the services end their streams by it.
    pub ending: CancellationToken,
}

/// Serves until `shutdown` is done, then ends streams and waits a bounded time for the calls under
/// way.
///
/// # Errors
/// When the connections can not be served.
pub(crate) async fn serve(
    services: Services,
    surroundings: Surroundings,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let Surroundings { tls, trust, metrics, audit, state, now, ending } = surroundings;
    let (health, health_service) = tonic_health::server::health_reporter();
    for service in SERVICES {
        health.set_service_status(service, ServingStatus::Serving).await;
    }
    // As many as strangers have connections: whoever joins makes one call on its own.
    let strangers = Arc::new(Semaphore::new(listen::STRANGERS_MAX));
    let stack = ServiceBuilder::new()
        .layer(LoadShedLayer::new())
        .layer(GlobalConcurrencyLimitLayer::new(CALLS_MAX))
        .layer(Layered(Trace { metrics }))
        .layer(Layered(Deadline { after: CALL_MAX }))
        .layer(Layered(Authenticate { trust, now, strangers }))
        .layer(Layered(Record { audit, state }))
        .layer(Layered(Uploads { room: Arc::default() }))
        .into_inner();
    let mut builder = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_MAX))
        .max_concurrent_streams(STREAMS_MAX)
        .http2_max_header_list_size(HEADERS_BYTES_MAX)
        .http2_max_local_error_reset_streams(Some(RESETS_MAX))
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES * 8)
        .layer(stack);
    let router = add(services, builder.add_service(health_service));
    let incoming = listen::accept(listener, tls, ending.clone());
    let serving = router.serve_with_incoming_shutdown(incoming, ending.clone().cancelled_owned());
    tokio::pin!(serving);
    tokio::select! {
        ended = &mut serving => return ended,
        () = shutdown => {}
    }
    for service in SERVICES {
        health.set_service_status(service, ServingStatus::NotServing).await;
    }
    ending.cancel();
    match timeout(ENDING_MAX, serving).await {
        Ok(ended) => ended,
        Err(_) => {
            tracing::warn!("calls were still under way at the end");
            Ok(())
        }
    }
}

fn add<L>(services: Services, router: Router<L>) -> Router<L> {
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .with_service_name(CONFIG_SERVICE)
        .with_service_name(DISCOVERY_SERVICE)
        .with_service_name(IDENTITY_SERVICE)
        .with_service_name(ADMIN_SERVICE)
        .with_service_name("grpc.health.v1.Health")
        .with_service_name("grpc.reflection.v1.ServerReflection")
        .build_v1()
        .expect("the descriptors come from the compiler");
    router
        .add_service(reflection)
        .add_service(
            ConfigServiceServer::new(services.config).max_decoding_message_size(APPLY_BYTES_MAX),
        )
        .add_service(
            DiscoveryServiceServer::new(services.discovery)
                .max_decoding_message_size(SUBSCRIBE_BYTES_MAX),
        )
        .add_service(
            IdentityServiceServer::new(services.identities)
                .max_decoding_message_size(SMALL_BYTES_MAX),
        )
        .add_service(
            AdminServiceServer::new(services.admin).max_decoding_message_size(SMALL_BYTES_MAX),
        )
}
