//! What the shop sells, and for how much.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::{
    fault::Switch,
    pb::{
        GetRequest, GetResponse,
        catalog_server::{Catalog, CatalogServer},
    },
};

/// Items with their prices in cents.
const ITEMS: [(&str, u64); 4] =
    [("paddle", 2100), ("canoe", 89_900), ("float", 12_450), ("rope", 575)];

struct Service {
    fault: Arc<Switch>,
}

pub(super) fn service(fault: Arc<Switch>) -> CatalogServer<impl Catalog> {
    CatalogServer::new(Service { fault })
}

#[tonic::async_trait]
impl Catalog for Service {
    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        self.fault.pass().await?;
        let item = request.into_inner().item;
        let Some((_, cents)) = ITEMS.iter().find(|(name, _)| *name == item) else {
            let names = ITEMS.map(|(name, _)| name).join(", ");
            return Err(Status::not_found(format!("no item `{item}`; there are {names}")));
        };
        Ok(Response::new(GetResponse { item, cents: *cents, currency: "EUR".to_owned() }))
    }
}
