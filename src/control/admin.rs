//! `AdminService`: who may join, who may call, and the certificate authority.

use std::{sync::Arc, time::SystemTime};

use tokio::task::spawn_blocking;
use tonic::{Code, Request, Response, Status};

use super::{
    audit::{Audit, Entry, Note},
    auth,
    ca::{self, Ca},
    credentials, error, refs,
    state::State,
    tokens,
};
use crate::{
    identity::{Authority, Roots, RotationError},
    resource::pb::{self, admin_service_server::AdminService},
    units::{ServiceName, name::check_label},
};

/// Entries of the audit log that are shown when nobody says how many.
const AUDIT_DEFAULT: usize = 100;

/// The service.
#[derive(Debug)]
pub(crate) struct Admin {
    pub state: Arc<State>,
    pub ca: Arc<Ca>,
    pub audit: Arc<Audit>,
}

/// An answer, with what the audit log says of the call.
fn noted<T>(answer: T, what: impl Into<String>) -> Response<T> {
    let mut response = Response::new(answer);
    response.extensions_mut().insert(Note(what.into()));
    response
}

impl Admin {
    /// Changes the CA, alone and off the asynchronous runtime; returns it as it is afterwards.
    async fn change(
        &self,
        what: &str,
        change: impl FnOnce(&Roots, SystemTime) -> Result<Roots, RotationError> + Send + 'static,
    ) -> Result<Response<pb::Authority>, Status> {
        let ca = Arc::clone(&self.ca);
        self.state.write(move |_, _| ca.change(change).map_err(ca::refusal)).await?;
        Ok(noted(self.ca.to_pb(), what))
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
        let principal = auth::principal(&request)?;
        let request = request.into_inner();
        let service = ServiceName::new(request.service, refs::or_default(&request.namespace));
        for (field, label) in [("service", &service.name), ("namespace", &service.namespace)] {
            check_label(label)
                .map_err(|wrong| error::invalid(field, format!("{label:?} {wrong}")))?;
        }
        principal.grant()?.check_write(&service.namespace)?;
        let by = principal.name().to_owned();
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
        let what = format!("token {} for {}", info.id, token.service());
        let token = token.to_text();
        Ok(noted(pb::CreateTokenResponse { token, info: Some(info) }, what))
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
        let principal = auth::principal(&request)?;
        let (grant, id) = (Arc::clone(principal.grant()?), request.into_inner().id);
        let what = format!("token {id}");
        tracing::info!(token = id, by = principal.name(), "token to be revoked");
        let revoke = move |state: &State, writer: &mut _| {
            if let Some(service) = tokens::service_of(writer, &id) {
                grant.check_write(&service.namespace)?;
            }
            tokens::revoke(state, writer, &id)
        };
        self.state.write(revoke).await?;
        Ok(noted(pb::RevokeTokenResponse {}, what))
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
        let what = if to.is_some() { "to a root that was brought" } else { "to a new root" };
        self.change(what, move |roots, now| roots.begin(to, &by, now)).await
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
        self.change(phase.as_str_name(), step).await
    }

    async fn abort_rotation(
        &self,
        request: Request<pb::AbortRotationRequest>,
    ) -> Result<Response<pb::Authority>, Status> {
        let by = auth::principal(&request)?.name().to_owned();
        tracing::warn!(by, "the exchange of the root is taken back");
        self.change("taken back", |roots, now| roots.abort(now)).await
    }

    async fn create_credential(
        &self,
        request: Request<pb::CreateCredentialRequest>,
    ) -> Result<Response<pb::CreateCredentialResponse>, Status> {
        let by = auth::principal(&request)?.name().to_owned();
        let wanted = credentials::Wanted::of(request.into_inner(), by)?;
        let what = wanted.to_string();
        let ca = Arc::clone(&self.ca);
        let made = self.state.write(move |_, _| credentials::create(&ca, wanted)).await?;
        tracing::info!(what, "credential made");
        Ok(noted(made, what))
    }

    async fn list_credentials(
        &self,
        _: Request<pb::ListCredentialsRequest>,
    ) -> Result<Response<pb::ListCredentialsResponse>, Status> {
        let grants = self.ca.grants();
        let credentials = grants.all().map(|grant| credentials::to_pb(grant)).collect();
        Ok(Response::new(pb::ListCredentialsResponse { credentials }))
    }

    async fn revoke_credential(
        &self,
        request: Request<pb::RevokeCredentialRequest>,
    ) -> Result<Response<pb::RevokeCredentialResponse>, Status> {
        let by = auth::principal(&request)?.name().to_owned();
        let name = request.into_inner().name;
        let what = format!("credential {name}");
        tracing::info!(name, by, "credential to be revoked");
        let ca = Arc::clone(&self.ca);
        self.state.write(move |_, _| credentials::revoke(&ca, &name)).await?;
        Ok(noted(pb::RevokeCredentialResponse {}, what))
    }

    async fn list_audit(
        &self,
        request: Request<pb::ListAuditRequest>,
    ) -> Result<Response<pb::ListAuditResponse>, Status> {
        let limit = match usize::try_from(request.into_inner().limit).unwrap_or_default() {
            0 => AUDIT_DEFAULT,
            limit => limit,
        };
        let audit = Arc::clone(&self.audit);
        let read = spawn_blocking(move || audit.last(limit)).await;
        let entries = read.map_err(|_| error::internal("reading the audit log panicked"))?;
        let entries = entries.map_err(|failed| {
            tracing::error!(error = %failed, "the audit log can not be read");
            Status::unavailable("the audit log can not be read; the control plane's log says more")
        })?;
        let entries = entries.iter().map(Entry::to_pb).collect();
        Ok(Response::new(pb::ListAuditResponse { entries }))
    }
}
