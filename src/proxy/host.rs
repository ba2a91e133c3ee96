//! What a connection is told by those to whom it belongs: the requests of one that was accepted are
//! handed to a host, one that was dialled belongs to the pool.

use rustls_pki_types::CertificateDer;

use super::{pool::Far, stream::Incoming, tasks::Story};
use crate::{http::StreamError, tls::Standing};

/// What the requests of an accepted connection are handed to.
pub(super) trait Host {
    /// The story of a request.
    fn serve(&self, incoming: Incoming) -> Story;

    /// The story of a request that is not looked at.
    fn refuse(&self, incoming: Incoming, why: Refusal) -> Story;

    /// Whether the connection may go on as it is.
    fn outlook(&self) -> Outlook;

    /// Whether there is no time left for requests.
    fn is_cut_off(&self) -> bool;

    /// Whether it may go on for the certificates that its peer has shown.
    fn standing(&self, shown: &[CertificateDer<'_>]) -> Outlook;

    /// As in logs.
    fn name(&self) -> &str;
}

/// Why a request is not looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Its head could not be taken.
    Head(StreamError),
    /// Too much waits in this worker already.
    Overloaded,
    /// The proxy has no more time for it.
    Draining,
}

/// Whether a connection may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outlook {
    /// As it is.
    Stay,
    /// It takes no new requests.
    Retire,
    /// Not a moment longer.
    Cut,
}

impl Outlook {
    /// For a peer's certificates, which are not accepted any more when they have no standing.
    pub(super) fn of(standing: Option<Standing>) -> Self {
        match standing {
            Some(Standing::Good) => Self::Stay,
            Some(Standing::Retiring) => Self::Retire,
            None => Self::Cut,
        }
    }
}

/// Who is what on a connection.
pub(super) enum End {
    /// It was accepted: its peer asks.
    Near(Box<dyn Host>),
    /// It was dialled: its peer answers.
    Far(Box<Far>),
}
