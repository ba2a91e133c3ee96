//! How `run` comes into the mesh: by the token that it was given, by what is on disk, or by a token
//! for one use that it makes itself with the user's credential.

use std::time::Duration;

use tonic::Code;

use crate::{
    app::{
        client::{Client, ConnectError, Credential, CredentialError},
        context::Context,
        joining,
    },
    identity::{
        JoinToken, TokenError,
        disk::{DataDirectory, DiskError},
    },
    resource::pb,
    units::ServiceName,
};

/// A token that is used at once needs no longer life.
const TTL_SECONDS: i64 = 300;
/// How long a person at a terminal waits for a control plane that is about to start.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(300);

/// What a sidecar joins with.
#[derive(Debug)]
pub struct Entry {
    /// `127.0.0.1:15010`
    pub server: String,
    /// `None`: what is on disk is good enough, or has to be.
    pub token: Option<JoinToken>,
    /// How long an absent control plane is waited for.
    pub patience: Option<Duration>,
}

/// Why there is no way into the mesh.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    /// The context's credential.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// The context's address.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The data directory.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// What the control plane gave is no token.
    #[error("the control plane's answer: {0}")]
    Token(#[from] TokenError),
    /// No token was made.
    #[error("no join token for {service}: {}", status.message())]
    Refused {
        /// For whom.
        service: ServiceName,
        /// What the control plane said.
        status: tonic::Status,
    },
}

impl Entry {
    /// By a token that was given, or none: then what is on disk has to do.
    pub fn given(server: String, token: Option<JoinToken>) -> Self {
        Self { server, token, patience: None }
    }

    /// By the user's context. Without a certificate of this mesh on disk a token is made.
    ///
    /// # Errors
    /// When the context can not be used, or no token is made.
    pub async fn by_context(
        context: &Context,
        service: &ServiceName,
        data: &DataDirectory,
    ) -> Result<Self, EntryError> {
        let credential = Credential::load(context)?;
        let mut entry =
            Self { server: context.server.clone(), token: None, patience: Some(PATIENCE) };
        if !has_joined(&credential, service, data)? {
            let client = Client::new(&context.server, credential.tls())?;
            entry.token = Some(make_token(&client, service).await?);
        }
        Ok(entry)
    }
}

/// Whether a certificate on disk can still be used, or renewed, in the mesh of this credential.
fn has_joined(
    credential: &Credential,
    service: &ServiceName,
    data: &DataDirectory,
) -> Result<bool, DiskError> {
    let (svid, bundle) = match data.load_identity() {
        Ok(Some(stored)) => stored,
        Ok(None) => return Ok(false),
        // A token makes another one.
        Err(error) if error.is_broken() => return Ok(false),
        Err(error) => return Err(error),
    };
    let own = svid.id().service().as_ref() == Some(service);
    let same_mesh =
        bundle.certificates().any(|root| credential.bundle.certificates().any(|own| own == root));
    Ok(own && same_mesh && joining::is_renewable(&svid))
}

async fn make_token(client: &Client, service: &ServiceName) -> Result<JoinToken, EntryError> {
    let request = pb::CreateTokenRequest {
        service: service.name.clone(),
        namespace: service.namespace.clone(),
        ttl: Some(prost_types::Duration { seconds: TTL_SECONDS, nanos: 0 }),
        uses: Some(1),
    };
    // Asked until the answer may be yes: a user starts both at once.
    let end = tokio::time::Instant::now() + PATIENCE;
    let mut told = false;
    loop {
        match client.admin().create_token(request.clone()).await {
            Ok(answer) => return Ok(JoinToken::parse(&answer.into_inner().token)?),
            Err(status)
                if status.code() == Code::Unavailable && tokio::time::Instant::now() < end =>
            {
                if !told {
                    tracing::warn!(error = status.message(), "waiting for the control plane");
                    told = true;
                }
            }
            Err(status) => return Err(EntryError::Refused { service: service.clone(), status }),
        }
        tokio::time::sleep(PAUSE).await;
    }
}
