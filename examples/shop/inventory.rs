//! What lies in the warehouse. The demo's stock is large enough for every order it places.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tonic::{Request, Response, Status};

use super::{
    fault::Switch,
    pb::{
        ReserveRequest, ReserveResponse,
        inventory_server::{Inventory, InventoryServer},
    },
};

/// Of every item, at the start.
const STOCK: u32 = 1_000_000;
/// Different items that one instance keeps count of.
const ITEMS_MAX: usize = 1000;

struct Service {
    fault: Arc<Switch>,
    instance: String,
    next: AtomicU64,
    left: Mutex<HashMap<String, u32>>,
}

pub(super) fn service(fault: Arc<Switch>) -> InventoryServer<impl Inventory> {
    InventoryServer::new(Service {
        fault,
        instance: format!("inventory-{}", std::process::id()),
        next: AtomicU64::new(1),
        left: Mutex::new(HashMap::new()),
    })
}

impl Service {
    fn take(&self, item: &str, quantity: u32) -> Result<(), Status> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        if left.len() >= ITEMS_MAX && !left.contains_key(item) {
            return Err(Status::resource_exhausted("the warehouse has no more shelves"));
        }
        let left = left.entry(item.to_owned()).or_insert(STOCK);
        *left = left
            .checked_sub(quantity)
            .ok_or_else(|| Status::failed_precondition(format!("only {left} `{item}` left")))?;
        Ok(())
    }
}

#[tonic::async_trait]
impl Inventory for Service {
    async fn reserve(
        &self,
        request: Request<ReserveRequest>,
    ) -> Result<Response<ReserveResponse>, Status> {
        self.fault.pass().await?;
        let ReserveRequest { item, quantity } = request.into_inner();
        self.take(&item, quantity)?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let reservation = format!("{}-{number}", self.instance);
        Ok(Response::new(ReserveResponse { reservation, instance: self.instance.clone() }))
    }
}
