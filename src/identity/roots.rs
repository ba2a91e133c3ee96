//! The mesh's CA as a whole: what signs now, whom to trust, and the exchange of its root.
//!
//! A root is exchanged in three steps, each of which the control plane takes only when every sidecar
//! has followed the one before:
//!
//! 1. **trust both**: the new root is trusted beside the old one, which goes on issuing;
//! 2. **issue from new**: the new root issues; everybody gets a new certificate;
//! 3. **drop old**: connections of the old root end in order ([`Phase::Retire`]), then it is not
//!    trusted any more ([`Phase::Drop`]).
//!
//! Everything is in files, replaced one at a time, and each step is decided by one of them alone, so
//! that a crash leaves a step done or not done. What signs vouches for the root that follows it:
//! whoever only knows the old root (a token that was made before, a context on another machine) still
//! accepts the control plane by that.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls_pki_types::CertificateDer;

use super::{
    Authority, CaError,
    disk::{self, DiskError},
    exchange::{self, Phase, Rotation, RotationError, Stored},
    root::RootKey,
};
use crate::spiffe::{BundleError, Svid, TrustBundle, certificate_pem};

/// The state of an exchange: its phase, and both CAs with their keys.
const ROTATION_FILE: &str = "rotation.pem";
/// What leads from the root before to this one.
const LINKS_FILE: &str = "previous.pem";
/// The roots that are trusted now, for people and other programs.
const BUNDLE_FILE: &str = "root.pem";
/// The largest file that is read.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The mesh's CA. Immutable: each change makes another one, which is on disk when it is returned.
#[derive(Debug, Clone)]
pub struct Roots {
    directory: PathBuf,
    /// What signs, or signed until an exchange began.
    authority: Arc<Authority>,
    /// The key of its root, where that is ours and on line.
    root_key: Option<Arc<RootKey>>,
    /// What leads from the root before to this one.
    links: Vec<CertificateDer<'static>>,
    rotation: Option<Rotation>,
}

impl Roots {
    /// The CA of a data directory; made and stored when there is none yet. One that is `brought`
    /// takes the place of what issues below the same root.
    ///
    /// # Errors
    /// When the directory can not be used, others can read a key, a file is damaged, or the one
    /// brought has another root than the mesh ([`RotationError::UnderWay`] while roots are exchanged
    /// for ones that are neither, [`RotationError::SameRoot`] never).
    pub fn open(
        directory: &Path,
        trust_domain: &str,
        brought: Option<Authority>,
        now: SystemTime,
    ) -> Result<Opened, CaError> {
        let links = load_links(directory)?;
        let mut roots = match load_rotation(directory, trust_domain, &links, now)? {
            Some(roots) => roots,
            None => Self::load(directory, trust_domain, links, brought.as_ref(), now)?,
        };
        if let Some(brought) = brought {
            let known = |authority: &Authority| authority.root_hash() == brought.root_hash();
            match &roots.rotation {
                Some(rotation) if known(&rotation.to) || known(&roots.authority) => {}
                None if known(&roots.authority) => {
                    // Kept, so that a start without the flags goes on with it.
                    brought.save(directory)?;
                    roots.authority = Arc::new(brought);
                }
                _ => return Ok(Opened::OtherRoot),
            }
        }
        roots.publish()?;
        Ok(Opened::Roots(roots))
    }

    fn load(
        directory: &Path,
        trust_domain: &str,
        links: Vec<CertificateDer<'static>>,
        brought: Option<&Authority>,
        now: SystemTime,
    ) -> Result<Self, CaError> {
        let root_key = RootKey::load(directory)?;
        let loaded = Authority::load(directory, trust_domain, now)?;
        let (authority, root_key) = match (loaded, brought, root_key) {
            (Some(authority), _, root_key) => {
                let root = authority.root_hash();
                (authority, root_key.filter(|key| key.hash() == root))
            }
            (None, Some(brought), _) => {
                brought.save(directory)?;
                let again = Authority::load(directory, trust_domain, now)?;
                (again.ok_or(BundleError::Empty)?, None)
            }
            (None, None, root_key) => {
                // The key of a root may be there alone, after a crash or to begin with.
                let root_key = match root_key {
                    Some(root_key) => root_key,
                    None => {
                        let root_key = RootKey::create(trust_domain, now)?;
                        root_key.save(directory)?;
                        root_key
                    }
                };
                let authority = root_key.authority(trust_domain, now)?;
                authority.save(directory)?;
                (authority, Some(root_key))
            }
        };
        Ok(Self {
            directory: directory.to_owned(),
            authority: Arc::new(authority),
            root_key: root_key.map(Arc::new),
            links,
            rotation: None,
        })
    }

    /// What signs now.
    pub fn issuer(&self) -> &Arc<Authority> {
        match &self.rotation {
            Some(rotation) if rotation.phase != Phase::Trust => &rotation.to,
            _ => &self.authority,
        }
    }

    /// Whom to trust now.
    pub fn bundle(&self) -> TrustBundle {
        let Some(rotation) = &self.rotation else { return self.authority.bundle().clone() };
        if rotation.phase == Phase::Drop {
            return rotation.to.bundle().clone();
        }
        let roots = vec![self.authority.root().clone(), rotation.to.root().clone()];
        TrustBundle::new(self.authority.trust_domain(), roots).expect("each was a bundle before")
    }

    /// The roots, by SHA-256, whose connections are to end.
    pub fn retiring(&self) -> Vec<[u8; 32]> {
        let retires = |rotation: &&Rotation| rotation.phase == Phase::Retire;
        let retiring = self.rotation.as_ref().filter(retires);
        retiring.map(|_| self.authority.root_hash()).into_iter().collect()
    }

    /// The exchange that is under way.
    pub fn rotation(&self) -> Option<&Rotation> {
        self.rotation.as_ref()
    }

    /// What signed until an exchange began, or signs.
    pub fn from(&self) -> &Arc<Authority> {
        &self.authority
    }

    /// Whether the key of the root that stays is here and can renew what issues.
    pub fn is_root_key_here(&self) -> bool {
        match &self.rotation {
            Some(rotation) => rotation.to_key.is_some(),
            None => self.root_key.is_some(),
        }
    }

    /// The control plane's own SVID, acceptable to whoever knows the root before, too.
    ///
    /// # Errors
    /// As [`Authority::server_certificate`].
    pub fn server_certificate(
        &self,
        names: &[String],
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Svid, CaError> {
        let links = match &self.rotation {
            Some(rotation) if rotation.phase != Phase::Trust => &rotation.links,
            _ => &self.links,
        };
        self.issuer().server_certificate(names, links, ttl, now)
    }

    /// Begins to exchange the root for that of `to`, or for a new one of our own.
    ///
    /// # Errors
    /// When an exchange is under way, the root is the same, or the disk fails.
    pub fn begin(
        &self,
        to: Option<Authority>,
        by: &str,
        now: SystemTime,
    ) -> Result<Self, RotationError> {
        if self.rotation.is_some() {
            return Err(RotationError::UnderWay);
        }
        let (to, to_key) = match to {
            Some(to) => (to, None),
            None => {
                let trust_domain = self.authority.trust_domain();
                let root_key = RootKey::create(trust_domain, now)?;
                (root_key.authority(trust_domain, now)?, Some(Arc::new(root_key)))
            }
        };
        if to.root_hash() == self.authority.root_hash() {
            return Err(RotationError::SameRoot);
        }
        let links = self.authority.vouch_for(&to, now)?;
        let (phase, aborting, to) = (Phase::Trust, false, Arc::new(to));
        let by = by.lines().next().unwrap_or_default().to_owned();
        let rotation =
            Rotation { phase, began: now, phase_began: now, by, aborting, to, to_key, links };
        self.with(rotation)
    }

    /// Takes the next step, whoever has not followed yet.
    ///
    /// # Errors
    /// When no exchange is under way, or the disk fails.
    pub fn advance(&self, now: SystemTime) -> Result<Self, RotationError> {
        let rotation = self.rotation.clone().ok_or(RotationError::None)?;
        let phase = match rotation.phase {
            Phase::Trust => Phase::Issue,
            Phase::Issue => Phase::Retire,
            Phase::Retire => Phase::Drop,
            Phase::Drop => return self.finish(&rotation),
        };
        self.with(Rotation { phase, phase_began: now, ..rotation })
    }

    /// Takes the exchange back: at once where only the old root has issued, else by an exchange in
    /// the other direction.
    ///
    /// # Errors
    /// When no exchange is under way, it is too late, or the disk fails.
    pub fn abort(&self, now: SystemTime) -> Result<Self, RotationError> {
        let rotation = self.rotation.clone().ok_or(RotationError::None)?;
        match rotation.phase {
            Phase::Trust => {
                disk::remove(&self.directory.join(ROTATION_FILE))?;
                let next = Self { rotation: None, ..self.clone() };
                next.publish()?;
                Ok(next)
            }
            Phase::Issue | Phase::Retire => {
                let back = Self {
                    authority: Arc::clone(&rotation.to),
                    root_key: rotation.to_key.clone(),
                    ..self.clone()
                };
                let links = rotation.to.vouch_for(&self.authority, now)?;
                back.with(Rotation {
                    phase: Phase::Issue,
                    phase_began: now,
                    aborting: !rotation.aborting,
                    to: Arc::clone(&self.authority),
                    to_key: self.root_key.clone(),
                    links,
                    ..rotation
                })
            }
            Phase::Drop => Err(RotationError::TooLate),
        }
    }

    /// Renews what issues when half of its time is over and the key of its root is here; `None` when
    /// there is nothing to do.
    ///
    /// # Errors
    /// When it can not be made or stored.
    pub fn renewed(&self, now: SystemTime) -> Result<Option<Self>, CaError> {
        if self.rotation.is_some() {
            return Ok(None);
        }
        // It may have been put back since the start, and taken away.
        let root_key = RootKey::load(&self.directory)?.map(Arc::new);
        let root_key = root_key.filter(|key| key.hash() == self.authority.root_hash());
        let (_, from, until) = self.authority.issuing()?;
        let half = from + until.duration_since(from).unwrap_or_default() / 2;
        let due = root_key.as_ref().filter(|_| now >= half && self.authority.chain().len() > 1);
        let Some(key) = due else {
            let same = root_key.is_some() == self.root_key.is_some();
            return Ok((!same).then(|| Self { root_key, ..self.clone() }));
        };
        let authority = key.authority(self.authority.trust_domain(), now)?;
        authority.save(&self.directory)?;
        let next = Self { authority: Arc::new(authority), root_key, ..self.clone() };
        next.publish()?;
        Ok(Some(next))
    }

    fn save_rotation(&self) -> Result<(), DiskError> {
        let Some(rotation) = &self.rotation else { return Ok(()) };
        let text = exchange::to_text(&self.authority, self.root_key.as_deref(), rotation);
        disk::write_private(&self.directory.join(ROTATION_FILE), text.as_bytes())
    }

    fn with(&self, rotation: Rotation) -> Result<Self, RotationError> {
        let next = Self { rotation: Some(rotation), ..self.clone() };
        next.save_rotation()?;
        next.publish()?;
        Ok(next)
    }

    /// What was exchanged for takes the place of what it was. The file of the exchange goes last: until
    /// then a start comes back to its last phase.
    fn finish(&self, rotation: &Rotation) -> Result<Self, RotationError> {
        let links: String = rotation.links.iter().map(|der| certificate_pem(der)).collect();
        disk::write_private(&self.directory.join(LINKS_FILE), links.as_bytes())?;
        match &rotation.to_key {
            Some(key) => key.save(&self.directory)?,
            None => RootKey::remove(&self.directory)?,
        }
        rotation.to.save(&self.directory)?;
        disk::remove(&self.directory.join(ROTATION_FILE))?;
        Ok(Self {
            directory: self.directory.clone(),
            authority: Arc::clone(&rotation.to),
            root_key: rotation.to_key.clone(),
            links: rotation.links.clone(),
            rotation: None,
        })
    }

    /// Lays the roots that are trusted where people find them.
    fn publish(&self) -> Result<(), DiskError> {
        disk::write_public(&self.directory.join(BUNDLE_FILE), self.bundle().to_pem().as_bytes())
    }
}

/// What [`Roots::open`] found.
#[derive(Debug)]
pub enum Opened {
    /// The CA.
    Roots(Roots),
    /// The one that was brought is not the mesh's.
    OtherRoot,
}

fn load_links(directory: &Path) -> Result<Vec<CertificateDer<'static>>, CaError> {
    let text = disk::read(&directory.join(LINKS_FILE), FILE_BYTES_MAX)?.unwrap_or_default();
    exchange::certificates(&text)
}

fn load_rotation(
    directory: &Path,
    trust_domain: &str,
    links: &[CertificateDer<'static>],
    now: SystemTime,
) -> Result<Option<Roots>, CaError> {
    let path = directory.join(ROTATION_FILE);
    let Some(text) = disk::read_private(&path, FILE_BYTES_MAX)? else { return Ok(None) };
    let text = String::from_utf8(text).map_err(|_| CaError::Damaged(path.clone()))?;
    let stored = exchange::from_text(&text, trust_domain, now)?;
    let Stored { from, from_key, rotation } = stored.ok_or(CaError::Damaged(path))?;
    Ok(Some(Roots {
        directory: directory.to_owned(),
        authority: from,
        root_key: from_key,
        links: links.to_vec(),
        rotation: Some(rotation),
    }))
}
