//! gRPC calls to the shop's services by way of one sidecar's outbound listener, as that sidecar's
//! application would make them.

use std::{net::SocketAddr, time::Duration};

use anyhow::Context as _;
use tokio::time::Instant;
use tonic::{
    Request, Status,
    transport::{Channel, Endpoint, Uri},
};

use crate::{
    cli::shop::services::pb::{
        ChargeRequest, GetRequest, ReserveRequest, catalog_client::CatalogClient,
        inventory_client::InventoryClient, payments_client::PaymentsClient,
    },
    http::fields::REASON,
    reason::GrpcCode,
};

/// Longer than any claim lets a call hang.
const WITHIN: Duration = Duration::from_secs(30);
/// The port by which the shop's gRPC services are known.
const PORT: u16 = 9090;

/// One connection to an outbound listener, whose calls go to one service.
#[derive(Debug, Clone)]
pub(super) struct Calls {
    channel: Channel,
}

/// One call: how long it took and what came of it.
#[derive(Debug)]
pub(super) struct Called {
    pub(super) took: Duration,
    pub(super) result: Result<(), Status>,
}

impl Calls {
    /// To `service` through the sidecar that listens at `outbound`; connects at the first call.
    pub(super) fn new(outbound: SocketAddr, service: &str) -> anyhow::Result<Self> {
        let origin =
            Uri::try_from(format!("http://{service}:{PORT}")).context("a service's name")?;
        let endpoint = Endpoint::from_shared(format!("http://{outbound}"))
            .context("an outbound listener's address")?
            .origin(origin)
            .timeout(WITHIN)
            .connect_timeout(WITHIN)
            .tcp_nodelay(true);
        Ok(Self { channel: endpoint.connect_lazy() })
    }

    /// `shop.Catalog/Get`
    pub(super) async fn get(&self) -> Called {
        let mut client = CatalogClient::new(self.channel.clone());
        timed(client.get(GetRequest { item: "paddle".to_owned() })).await
    }

    /// `shop.Inventory/Reserve`
    pub(super) async fn reserve(&self) -> Called {
        let mut client = InventoryClient::new(self.channel.clone());
        timed(client.reserve(ReserveRequest { item: "paddle".to_owned(), quantity: 1 })).await
    }

    /// `shop.Payments/Charge`
    pub(super) async fn charge(&self) -> Called {
        self.charge_in(Request::new(())).await
    }

    /// `shop.Payments/Charge` with the metadata of `around`.
    pub(super) async fn charge_in(&self, around: Request<()>) -> Called {
        let charge = ChargeRequest { order: 1, cents: 100, currency: "EUR".to_owned() };
        let request = around.map(|()| charge);
        let mut client = PaymentsClient::new(self.channel.clone());
        timed(client.charge(request)).await
    }
}

async fn timed<T>(call: impl Future<Output = Result<T, Status>>) -> Called {
    let began = Instant::now();
    let result = call.await.map(drop);
    Called { took: began.elapsed(), result }
}

/// `UNAVAILABLE (bulkhead_full)`: the status and the mesh's reason, as far as there is one.
pub(super) fn say(status: &Status) -> String {
    let code = u32::try_from(i32::from(status.code())).ok().and_then(GrpcCode::from_number);
    let code = code.map_or("UNKNOWN", GrpcCode::name);
    match reason(status) {
        "" => format!("{code}: {}", status.message()),
        reason => format!("{code} ({reason})"),
    }
}

/// Why the mesh refused; empty when it was not the mesh.
pub(super) fn reason(status: &Status) -> &str {
    let reason = status.metadata().get(REASON);
    reason.and_then(|reason| reason.to_str().ok()).unwrap_or_default()
}
