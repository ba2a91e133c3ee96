//! `AdminService`: who may join.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::{auth, error, refs, state::State, tokens};
use crate::{
    resource::pb::{self, admin_service_server::AdminService},
    units::{ServiceName, name::check_label},
};

/// The service.
#[derive(Debug)]
pub(crate) struct Admin {
    pub state: Arc<State>,
    /// What tokens carry so that whoever joins knows whom to trust.
    pub root_hash: [u8; 32],
}

#[tonic::async_trait]
impl AdminService for Admin {
    async fn create_token(
        &self,
        request: Request<pb::CreateTokenRequest>,
    ) -> Result<Response<pb::CreateTokenResponse>, Status> {
        let by = auth::principal(&request)?.name().to_owned();
        let request = request.into_inner();
        let service = ServiceName::new(request.service, refs::or_default(&request.namespace));
        for (field, label) in [("service", &service.name), ("namespace", &service.namespace)] {
            check_label(label)
                .map_err(|wrong| error::invalid(field, format!("{label:?} {wrong}")))?;
        }
        let ttl = tokens::ttl(request.ttl)?;
        let wanted = tokens::Wanted { service, uses: request.uses.unwrap_or(1), ttl, by };
        let root_hash = self.root_hash;
        let (token, info) = self
            .state
            .write(move |state, writer| {
                tokens::create(state, writer, &wanted, root_hash, state.now())
            })
            .await?;
        tracing::info!(token = info.id, service = %token.service(), by = info.created_by, "token made");
        let token = token.to_text();
        Ok(Response::new(pb::CreateTokenResponse { token, info: Some(info) }))
    }

    async fn list_tokens(
        &self,
        _: Request<pb::ListTokensRequest>,
    ) -> Result<Response<pb::ListTokensResponse>, Status> {
        let tokens = self.state.write(|_, writer| Ok(tokens::list(writer))).await?;
        Ok(Response::new(pb::ListTokensResponse { tokens }))
    }

    async fn revoke_token(
        &self,
        request: Request<pb::RevokeTokenRequest>,
    ) -> Result<Response<pb::RevokeTokenResponse>, Status> {
        let by = auth::principal(&request)?.name().to_owned();
        let id = request.into_inner().id;
        tracing::info!(token = id, by, "token revoked");
        self.state.write(move |state, writer| tokens::revoke(state, writer, &id)).await?;
        Ok(Response::new(pb::RevokeTokenResponse {}))
    }
}
