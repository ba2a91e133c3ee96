//! One exchange of a root: how far it is, both CAs, and its form in a file.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustls_pki_types::{CertificateDer, pem::PemObject};

use super::{Authority, CaError, disk::DiskError, root::RootKey};
use crate::spiffe::{BundleError, certificate_pem};

/// How far the exchange of a root is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Both roots are trusted, and the old one issues.
    Trust,
    /// Both roots are trusted, and the new one issues.
    Issue,
    /// The same, and connections of the old root end in order.
    Retire,
    /// Only the new root is trusted.
    Drop,
}

impl Phase {
    /// All, in order.
    pub(super) const ALL: [(Self, &str); 4] = [
        (Self::Trust, "trust"),
        (Self::Issue, "issue"),
        (Self::Retire, "retire"),
        (Self::Drop, "drop"),
    ];

    /// As it is stored.
    pub(super) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(phase, _)| *phase == self).map_or("", |(_, name)| name)
    }
}

/// The exchange of a root.
#[derive(Debug, Clone)]
pub struct Rotation {
    /// How far it is.
    pub phase: Phase,
    /// When it began.
    pub began: SystemTime,
    /// When its phase began.
    pub phase_began: SystemTime,
    /// Who asked for it.
    pub by: String,
    /// Whether it leads back to the root from which another exchange led away.
    pub aborting: bool,
    pub(super) to: Arc<Authority>,
    pub(super) to_key: Option<Arc<RootKey>>,
    /// What leads from the old root to the new one.
    pub(super) links: Vec<CertificateDer<'static>>,
}

impl Rotation {
    /// The CA that is to stay.
    pub fn to(&self) -> &Arc<Authority> {
        &self.to
    }
}

/// Why a root is not exchanged.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// One exchange at a time.
    #[error("the exchange of a root is under way already")]
    UnderWay,
    /// There is none.
    #[error("no exchange of a root is under way")]
    None,
    /// The old root is not trusted any more by some.
    #[error("the old root is being dropped; this can not be taken back, only finished")]
    TooLate,
    /// The new root is the old one.
    #[error("this is the root that the mesh has already")]
    SameRoot,
    /// The CA can not be made, used or stored.
    #[error(transparent)]
    Ca(#[from] CaError),
}

impl From<DiskError> for RotationError {
    fn from(error: DiskError) -> Self {
        Self::Ca(error.into())
    }
}

/// What a file says of an exchange.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) from: Arc<Authority>,
    pub(super) from_key: Option<Arc<RootKey>>,
    pub(super) rotation: Rotation,
}

/// Every certificate of a PEM text.
pub(super) fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, CaError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    Ok(all.map_err(|error| BundleError::Pem(error.to_string()))?)
}

/// An exchange as it is stored, a secret: a head of names and values, then both CAs.
pub(super) fn to_text(from: &Authority, from_key: Option<&RootKey>, rotation: &Rotation) -> String {
    let key = |key: Option<&RootKey>| key.map_or_else(String::new, RootKey::to_pem);
    let links: String = rotation.links.iter().map(|der| certificate_pem(der)).collect();
    format!(
        "phase {}\nbegan {}\nphase-began {}\naborting {}\nby {}\n\
         [from]\n{}[from-root]\n{}[to]\n{}[to-root]\n{}[links]\n{links}",
        rotation.phase.name(),
        seconds(rotation.began),
        seconds(rotation.phase_began),
        rotation.aborting,
        rotation.by,
        from.to_pem(),
        key(from_key),
        rotation.to.to_pem(),
        key(rotation.to_key.as_deref()),
    )
}

/// Reads it back; `None` when it is damaged.
///
/// # Errors
/// When a CA in it can not be used.
pub(super) fn from_text(
    text: &str,
    trust_domain: &str,
    now: SystemTime,
) -> Result<Option<Stored>, CaError> {
    let section = |name: &str| {
        let after = text.split_once(&format!("\n[{name}]\n"))?.1;
        // The next one begins right behind it when this one is empty.
        if after.starts_with('[') {
            return Some("");
        }
        Some(after.split_once("\n[").map_or(after, |(section, _)| section))
    };
    let head = text.split_once("\n[").map_or("", |(head, _)| head);
    let field =
        |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let time = |name| {
        let seconds = field(name)?.parse().ok()?;
        UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
    };
    let phase = Phase::ALL.iter().find(|(_, name)| field("phase") == Some(name));
    let (Some((phase, _)), Some(began), Some(phase_began), Some(from), Some(to), Some(links)) = (
        phase,
        time("began"),
        time("phase-began"),
        section("from"),
        section("to"),
        section("links"),
    ) else {
        return Ok(None);
    };
    let authority =
        |text: &str| Authority::from_pem(trust_domain, text.as_bytes(), text, now).map(Arc::new);
    let key = |name| {
        let text = section(name).filter(|text| !text.is_empty());
        text.map(|text| RootKey::from_pem(text.as_bytes()).map(Arc::new)).transpose()
    };
    let rotation = Rotation {
        phase: *phase,
        began,
        phase_began,
        by: field("by").unwrap_or_default().to_owned(),
        aborting: field("aborting") == Some("true"),
        to: authority(to)?,
        to_key: key("to-root")?,
        links: certificates(links.as_bytes())?,
    };
    Ok(Some(Stored { from: authority(from)?, from_key: key("from-root")?, rotation }))
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
