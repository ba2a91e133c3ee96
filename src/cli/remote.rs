//! What every command that talks to a control plane has in common: which one, with which
//! credential, and how its refusals are said.

use std::{path::PathBuf, sync::Arc};

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{output::Failure, words};
use crate::app::{
    client::{Client, ConnectError, Credential, connect_error, is_credential_refused},
    context::{Contexts, NamedContext},
};

/// The control plane's word for a disk that takes no writes.
const STORE_FAILED: &str = "STORE_FAILED";

#[derive(Debug, Clone, clap::Args)]
pub(super) struct Remote {
    /// The context to use [default: the current one]
    #[arg(long, value_name = "NAME", env = "OUTRIGGER_CONTEXT")]
    context: Option<String>,
    /// The contexts file [default: $XDG_CONFIG_HOME/outrigger/config.yaml]
    #[arg(long, value_name = "FILE", env = "OUTRIGGER_CONTEXTS")]
    contexts: Option<PathBuf>,
}

/// A control plane to call.
#[derive(Debug)]
pub(super) struct Connected {
    pub(super) client: Client,
    /// As the context has it.
    pub(super) server: String,
    /// The namespace meant when none is named.
    pub(super) namespace: String,
    /// The context's name.
    context: String,
    /// Where the context was read.
    contexts: PathBuf,
}

impl Remote {
    /// The context that is meant.
    pub(super) fn context(&self) -> Result<NamedContext, Failure> {
        self.choose().map(|(named, _)| named)
    }

    /// Reads context and credential; connects at the first call.
    pub(super) fn connect(&self) -> Result<Connected, Failure> {
        let (named, contexts) = self.choose()?;
        let NamedContext { name, context } = named;
        let again = format!("outrigger context add {name} names other files");
        let credential =
            Credential::load(&context).map_err(|error| Failure::new(error).with_hint(again))?;
        Ok(Connected {
            client: Client::new(&context.server, Arc::new(credential).tls())?,
            namespace: context.namespace().to_owned(),
            server: context.server,
            context: name,
            contexts,
        })
    }

    /// The context that is meant, and the file that it is in.
    pub(super) fn choose(&self) -> Result<(NamedContext, PathBuf), Failure> {
        let contexts = Contexts::load(self.contexts.as_deref())?;
        Ok((contexts.choose(self.context.as_deref())?, contexts.path().to_owned()))
    }
}

impl Connected {
    /// What to say about a call that failed, and what to do.
    pub(super) fn failed(&self, status: &Status) -> Failure {
        let Self { server, context, .. } = self;
        let check = format!("outrigger check --context {context}");
        let message = status.message();
        match (status.code(), connect_error(status)) {
            (_, Some(ConnectError::Tls { .. })) => Failure::say(message).with_hint(check),
            (_, Some(_)) => {
                let file = self.contexts.display();
                let hint = format!(
                    "outrigger control-plane starts one; context {context} of {file} names \
                     this address"
                );
                Failure::say(message).with_hint(hint)
            }
            (Code::Unavailable, None) if is_credential_refused(status) => {
                let message = format!(
                    "the control plane at {server} does not know the credential of context \
                     {context}: {message}"
                );
                Failure::say(message).with_hint(check)
            }
            (Code::Unavailable, None) if std::error::Error::source(status).is_some() => {
                let message = format!("the control plane at {server} hung up: {message}");
                Failure::say(message).with_hint(check)
            }
            (Code::Unauthenticated | Code::PermissionDenied, None) => {
                let message = format!(
                    "the control plane at {server} refuses the credential of context {context}: \
                     {message}"
                );
                Failure::say(message).with_hint(check)
            }
            (Code::Unimplemented, None) => {
                let message = format!("the control plane at {server} does not know this call");
                Failure::say(message).with_hint("outrigger version shows both versions")
            }
            (Code::Unavailable, None) if reason(status).as_deref() == Some(STORE_FAILED) => {
                let hint = "its log says why, as a full or broken disk; it needs no restart";
                Failure::say(message).with_hint(hint)
            }
            (code, None) => {
                let message = if message.is_empty() { code.description() } else { message };
                let failure = Failure::say(message);
                match status.get_details_retry_info().and_then(|info| info.retry_delay) {
                    Some(pause) => {
                        failure.with_hint(format!("the same again in {}", words::age(pause)))
                    }
                    None => failure,
                }
            }
        }
    }
}

/// Why a call was refused, in a word for programs.
fn reason(status: &Status) -> Option<String> {
    status.get_details_error_info().map(|info| info.reason)
}
