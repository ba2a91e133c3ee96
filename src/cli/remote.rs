//! What every command that talks to a control plane has in common: which one, with which
//! credential, and how its refusals are said.

use std::{path::PathBuf, sync::Arc};

use super::output::Failure;
use crate::app::{
    client::{Client, Credential},
    context::{Contexts, NamedContext},
};

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
}

impl Remote {
    /// The context that is meant.
    pub(super) fn context(&self) -> Result<NamedContext, Failure> {
        let contexts = Contexts::load(self.contexts.as_deref())?;
        Ok(contexts.choose(self.context.as_deref())?)
    }

    /// Reads context and credential; connects at the first call.
    pub(super) fn connect(&self) -> Result<Connected, Failure> {
        let context = self.context()?.context;
        let credential = Arc::new(Credential::load(&context)?);
        Ok(Connected {
            client: Client::new(&context.server, credential.tls())?,
            namespace: context.namespace().to_owned(),
            server: context.server,
        })
    }
}
