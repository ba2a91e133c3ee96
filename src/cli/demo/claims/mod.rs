//! The ten claims: what the demo says of the mesh, and how each is measured. None is taken from
//! what the mesh should do; every number is counted where it happens, at the caller, in a sidecar's
//! metrics, in spans or in a log.

mod harm;
mod order;
mod rules;
mod traffic;

use super::running::Shop;

/// One claim, in the order in which they are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim {
    /// Every sidecar has the identity of its service.
    Identity,
    /// An order is placed.
    Order,
    /// The order's trace is whole.
    Trace,
    /// Calls are split by weight.
    Canary,
    /// A failing instance is left alone.
    Failure,
    /// Failed calls are tried again where that is asked for.
    Retry,
    /// A hanging service holds nobody else up.
    Bulkhead,
    /// A killed instance costs only what it was working on.
    Kill,
    /// Who is not allowed is refused.
    Denied,
    /// The mesh goes on without its control plane.
    NoControl,
}

/// That a claim holds, and by which numbers.
#[derive(Debug)]
pub(super) struct Evidence {
    /// One line.
    pub(super) line: String,
    /// More of it, such as a tree.
    pub(super) details: Vec<String>,
}

impl From<String> for Evidence {
    fn from(line: String) -> Self {
        Self { line, details: Vec::new() }
    }
}

impl Claim {
    pub(super) const ALL: [Self; 10] = [
        Self::Identity,
        Self::Order,
        Self::Trace,
        Self::Canary,
        Self::Failure,
        Self::Retry,
        Self::Bulkhead,
        Self::Kill,
        Self::Denied,
        Self::NoControl,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Order => "order",
            Self::Trace => "trace",
            Self::Canary => "canary",
            Self::Failure => "failure",
            Self::Retry => "retry",
            Self::Bulkhead => "bulkhead",
            Self::Kill => "kill",
            Self::Denied => "denied",
            Self::NoControl => "no control",
        }
    }

    /// Waits until the last claim's harm has healed, and measures this one.
    ///
    /// # Errors
    ///
    /// What was expected and what was seen instead.
    pub(super) async fn check(self, shop: &mut Shop) -> anyhow::Result<Evidence> {
        if !matches!(self, Self::Identity | Self::Order | Self::Trace) {
            shop.heal().await?;
        }
        let line = match self {
            Self::Identity => order::identity(shop).await?,
            Self::Order => order::order(shop).await?,
            Self::Trace => return order::trace(shop).await,
            Self::Canary => traffic::canary(shop).await?,
            Self::Failure => harm::failure(shop).await?,
            Self::Retry => traffic::retry(shop).await?,
            Self::Bulkhead => harm::bulkhead(shop).await?,
            Self::Kill => harm::kill(shop).await?,
            Self::Denied => rules::denied(shop).await?,
            Self::NoControl => rules::no_control(shop).await?,
        };
        Ok(line.into())
    }
}
