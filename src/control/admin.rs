//! `AdminService`: who may join, and the certificate authority.

use std::{sync::Arc, time::SystemTime};

use tonic::{Code, Request, Response, Status};

use super::{
    auth,
    ca::{self, Ca},
    error, refs,
    state::State,
    tokens,
};
use crate::{
    identity::{Authority, Roots, RotationError},
    resource::pb::{self, admin_service_server::AdminService},
    units::{ServiceName, name::check_label},
};

/// The service.
#[derive(Debug)]
pub(crate) struct Admin {
    pub state: Arc<State>,
    pub ca: Arc<Ca>,
}

impl Admin {
    /// Changes the CA, alone and off the asynchronous runtime; returns it as it is afterwards.
    async fn change(
        &self,
        change: impl FnOnce(&Roots, SystemTime) -> Result<Roots, RotationError> + Send + 'static,
    ) -> Result<Response<pb::Authority>, Status> {
        let ca = Arc::clone(&self.ca);
        self.state.write(move |_, _| ca.change(change).map_err(ca::refusal)).await?;
        Ok(Response::new(self.ca.to_pb()))
    }
}

/// The new root that is asked for; `None`: one of our own making.
fn brought(
    trust_domain: &str,
    request: &pb::RotateRootRequest,
    now: SystemTime,
) -> Result<Option<Authority>, Status> {
    if request.certificates.is_empty() && request.key.is_empty() {
        return Ok(None);
    }
    let key = std::str::from_utf8(&request.key).map_err(|_| error::invalid("key", "is no PEM"))?;
    let made = Authority::from_pem(trust_domain, &request.certificates, key, now);
    made.map(Some).map_err(|wrong| error::invalid("certificates", wrong.to_string()))
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
        let root_hash = self.ca.issuer().root_hash();
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

    async fn get_authority(
        &self,
        _: Request<pb::GetAuthorityRequest>,
    ) -> Result<Response<pb::Authority>, Status> {
        Ok(Response::new(self.ca.to_pb()))
    }

    async fn rotate_root(
        &self,
        request: Request<pb::RotateRootRequest>,
    ) -> Result<Response<pb::Authority>, Status> {
        let by = auth::principal(&request)?.name().to_owned();
        let to = brought(self.state.trust_domain(), request.get_ref(), self.state.now())?;
        tracing::warn!(by, "the exchange of the root begins");
        self.change(move |roots, now| roots.begin(to, &by, now)).await
    }

    async fn advance_rotation(
        &self,
        request: Request<pb::AdvanceRotationRequest>,
    ) -> Result<Response<pb::Authority>, Status> {
        let by = auth::principal(&request)?.name().to_owned();
        let phase = request.into_inner().phase();
        let is_in = |roots: &Roots| roots.rotation().map(|it| ca::phase_pb(it.phase));
        match is_in(&self.ca.roots()) {
            None => return Err(ca::refusal(RotationError::None)),
            Some(now) if now != phase => {
                let message = format!("the exchange is in the phase {}", now.as_str_name());
                return Err(error::refused(Code::Aborted, "OTHER_PHASE", message, &[]));
            }
            Some(_) => {}
        }
        tracing::warn!(by, ?phase, "the exchange of the root goes on without those who lag");
        let step = move |roots: &Roots, now| match is_in(roots) {
            Some(current) if current == phase => roots.advance(now),
            // Somebody else was faster.
            _ => Ok(roots.clone()),
        };
        self.change(step).await
    }

    async fn abort_rotation(
        &self,
        request: Request<pb::AbortRotationRequest>,
    ) -> Result<Response<pb::Authority>, Status> {
        let by = auth::principal(&request)?.name().to_owned();
        tracing::warn!(by, "the exchange of the root is taken back");
        self.change(|roots, now| roots.abort(now)).await
    }
}
