//! What lets an instance into the mesh: a join token of its own, made before each of its lives and
//! laid where only this user can read it.

use std::{path::PathBuf, time::Duration};

use tokio::time;

use crate::{
    app::client::Client,
    identity::disk::{DiskError, write_private},
    resource::pb,
    units::ServiceName,
};

/// Long enough for a slow start, too short to be worth stealing.
const TTL_SECONDS: i64 = 600;
/// One that is not there refuses at once; one on a very busy machine needs some time.
const ANSWER_MAX: Duration = Duration::from_secs(15);

/// Makes one instance's tokens.
#[derive(Debug, Clone)]
pub(super) struct Pass {
    pub(super) client: Client,
    pub(super) service: ServiceName,
    /// Where the token is laid.
    pub(super) file: PathBuf,
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub(super) enum PassError {
    #[error("{}", .0.message())]
    Refused(#[from] tonic::Status),
    #[error("the control plane does not answer within {}s", ANSWER_MAX.as_secs())]
    Late,
    #[error(transparent)]
    Disk(#[from] DiskError),
}

impl Pass {
    /// Makes a token that can be used once.
    pub(super) async fn make(&self) -> Result<(), PassError> {
        let request = pb::CreateTokenRequest {
            service: self.service.name.clone(),
            namespace: self.service.namespace.clone(),
            ttl: Some(prost_types::Duration { seconds: TTL_SECONDS, nanos: 0 }),
            uses: Some(1),
        };
        let mut admin = self.client.admin();
        let answer = time::timeout(ANSWER_MAX, admin.create_token(request)).await;
        let token = answer.map_err(|_| PassError::Late)??.into_inner().token;
        Ok(write_private(&self.file, token.as_bytes())?)
    }
}
