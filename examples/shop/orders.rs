//! Places an order: asks the catalog for the price, reserves in the inventory, charges the money.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tonic::{Request, Response, Status, transport::Channel};

use super::{
    Error, Instance,
    calls::{dial, pass_on},
    fault::Switch,
    pb::{
        ChargeRequest, GetRequest, PlaceRequest, PlaceResponse, ReserveRequest,
        catalog_client::CatalogClient,
        inventory_client::InventoryClient,
        orders_server::{Orders, OrdersServer},
        payments_client::PaymentsClient,
    },
};

/// Of one item in one order.
const QUANTITY_MAX: u32 = 100;

struct Service {
    version: String,
    next: AtomicU64,
    fault: Arc<Switch>,
    catalog: CatalogClient<Channel>,
    inventory: InventoryClient<Channel>,
    payments: PaymentsClient<Channel>,
}

pub(super) fn service(instance: &Instance) -> Result<OrdersServer<impl Orders>, Error> {
    Ok(OrdersServer::new(Service {
        version: instance.version.clone(),
        next: AtomicU64::new(instance.first_order),
        fault: Arc::clone(&instance.fault),
        catalog: CatalogClient::new(dial("catalog")?),
        inventory: InventoryClient::new(dial("inventory")?),
        payments: PaymentsClient::new(dial("payments")?),
    }))
}

/// What went wrong at another service, with its name before the message and its code kept.
fn at(service: &str) -> impl Fn(Status) -> Status {
    move |status| Status::new(status.code(), format!("{service}: {}", status.message()))
}

#[tonic::async_trait]
impl Orders for Service {
    async fn place(
        &self,
        request: Request<PlaceRequest>,
    ) -> Result<Response<PlaceResponse>, Status> {
        self.fault.pass().await?;
        let (metadata, _, PlaceRequest { item, quantity }) = request.into_parts();
        if quantity == 0 || quantity > QUANTITY_MAX {
            let message = format!("quantity {quantity} is not from 1 to {QUANTITY_MAX}");
            return Err(Status::invalid_argument(message));
        }

        let asked = pass_on(&metadata, GetRequest { item: item.clone() });
        let price = self.catalog.clone().get(asked).await.map_err(at("catalog"))?.into_inner();

        let wanted = pass_on(&metadata, ReserveRequest { item, quantity });
        self.inventory.clone().reserve(wanted).await.map_err(at("inventory"))?;

        let order = self.next.fetch_add(1, Ordering::Relaxed);
        let cents = price.cents.saturating_mul(u64::from(quantity));
        let currency = price.currency;
        let due = pass_on(&metadata, ChargeRequest { order, cents, currency: currency.clone() });
        self.payments.clone().charge(due).await.map_err(at("payments"))?;

        let version = self.version.clone();
        Ok(Response::new(PlaceResponse { order, cents, currency, version }))
    }
}
