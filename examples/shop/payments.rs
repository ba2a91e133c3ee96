//! Takes the money. Only `orders` may ask for it, which is the mesh's business and not its own.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tonic::{Request, Response, Status};

use super::{
    fault::Switch,
    pb::{
        ChargeRequest, ChargeResponse,
        payments_server::{Payments, PaymentsServer},
    },
};

struct Service {
    fault: Arc<Switch>,
    next: AtomicU64,
}

pub(super) fn service(fault: Arc<Switch>) -> PaymentsServer<impl Payments> {
    PaymentsServer::new(Service { fault, next: AtomicU64::new(1) })
}

#[tonic::async_trait]
impl Payments for Service {
    async fn charge(
        &self,
        request: Request<ChargeRequest>,
    ) -> Result<Response<ChargeResponse>, Status> {
        self.fault.pass().await?;
        let ChargeRequest { order, cents, currency } = request.into_inner();
        if cents == 0 {
            return Err(Status::invalid_argument("nothing to charge"));
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let receipt = format!("R{number}-{order}-{currency}{cents}");
        Ok(Response::new(ChargeResponse { receipt }))
    }
}
