//! Credentials for the API: what each may do, and by which certificate it is known.
//!
//! A credential is a client certificate of which only the SHA-256 is kept. It is known by that alone,
//! whichever root signed it, so that an exchange of the root cuts off nobody and a stolen root makes
//! no credential; and it is worth nothing once its entry is gone. The book is one small file that is
//! replaced as a whole.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use tonic::{Code, Status};

use super::error;
use crate::{
    identity::disk::{self, DiskError},
    resource::pb,
};

/// The file in the data directory.
const FILE: &str = "credentials.json";
/// The largest file that is read.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// Credentials at once.
const GRANTS_MAX: usize = 10_000;
/// Certificates by which one credential is known: the last and the one before.
const CERTIFICATES_MAX: usize = 2;

/// What a credential may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// Everything.
    Admin,
    /// Read everything; write resources of its namespaces and make join tokens for them.
    Editor,
    /// Read everything.
    Viewer,
}

impl Role {
    /// As people write it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Editor => "editor",
            Self::Viewer => "viewer",
        }
    }

    /// As it travels.
    pub(crate) fn to_pb(self) -> pb::CredentialRole {
        match self {
            Self::Admin => pb::CredentialRole::Admin,
            Self::Editor => pb::CredentialRole::Editor,
            Self::Viewer => pb::CredentialRole::Viewer,
        }
    }

    /// As it travelled; `None` when it is no role.
    pub(crate) fn of(role: pb::CredentialRole) -> Option<Self> {
        match role {
            pb::CredentialRole::Unspecified => None,
            pb::CredentialRole::Admin => Some(Self::Admin),
            pb::CredentialRole::Editor => Some(Self::Editor),
            pb::CredentialRole::Viewer => Some(Self::Viewer),
        }
    }
}

/// One credential.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Grant {
    pub name: String,
    pub role: Role,
    /// Where an editor may write; none: everywhere.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub namespaces: BTreeSet<String>,
    /// The SHA-256 of its certificates, in lower-case hexadecimal, the newest last.
    pub sha256: Vec<String>,
    /// In seconds since 1970.
    pub created_at: u64,
    /// In seconds since 1970.
    pub expires_at: u64,
    pub created_by: String,
}

impl Grant {
    /// Whether it may write what is in that namespace; "" is what belongs to the mesh as a whole.
    ///
    /// # Errors
    /// PERMISSION_DENIED when it may not.
    pub(crate) fn check_write(&self, namespace: &str) -> Result<(), Status> {
        let may = match self.role {
            Role::Admin => true,
            Role::Editor if namespace.is_empty() => false,
            Role::Editor => self.namespaces.is_empty() || self.namespaces.contains(namespace),
            Role::Viewer => false,
        };
        if may {
            return Ok(());
        }
        let what = match namespace {
            "" => "what belongs to the whole mesh".to_owned(),
            namespace => format!("the namespace {namespace}"),
        };
        let message =
            format!("the credential {} ({}) may not write {what}", self.name, self.role.name());
        let facts = [("credential", self.name.clone()), ("namespace", namespace.to_owned())];
        Err(error::refused(Code::PermissionDenied, "NOT_PERMITTED", message, &facts))
    }
}

/// All credentials. Immutable: each change makes another one, which is on disk when it is returned.
#[derive(Debug, Clone)]
pub(crate) struct Grants {
    path: PathBuf,
    by_name: BTreeMap<String, Arc<Grant>>,
    by_certificate: Arc<HashMap<String, Arc<Grant>>>,
}

/// Why the book can not be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GrantsError {
    /// The file.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// It is not what was written.
    #[error("{} is damaged: {}", .0.display(), .1)]
    Damaged(PathBuf, String),
}

impl Grants {
    /// Reads those of a data directory.
    ///
    /// # Errors
    /// When the file can not be read, others can read it, or it is damaged.
    pub(crate) fn load(directory: &Path) -> Result<Self, GrantsError> {
        let path = directory.join(FILE);
        let all: Vec<Grant> = match disk::read_private(&path, FILE_BYTES_MAX)? {
            None => Vec::new(),
            Some(text) => serde_json::from_slice(&text)
                .map_err(|error| GrantsError::Damaged(path.clone(), error.to_string()))?,
        };
        Ok(Self::of(path, all.into_iter().map(Arc::new)))
    }

    fn of(path: PathBuf, all: impl Iterator<Item = Arc<Grant>>) -> Self {
        let by_name: BTreeMap<_, _> = all.map(|grant| (grant.name.clone(), grant)).collect();
        let by_certificate = by_name
            .values()
            .flat_map(|grant| grant.sha256.iter().map(|hash| (hash.clone(), Arc::clone(grant))));
        let by_certificate = Arc::new(by_certificate.collect());
        Self { path, by_name, by_certificate }
    }

    /// The credential with this certificate.
    pub(crate) fn by_certificate(&self, sha256: &str) -> Option<&Arc<Grant>> {
        self.by_certificate.get(sha256)
    }

    /// The SHA-256 of every certificate by which somebody is known.
    pub(crate) fn certificates(&self) -> HashSet<[u8; 32]> {
        self.by_certificate.keys().filter_map(|hash| unhex(hash)).collect()
    }

    /// The credential of this name.
    pub(crate) fn get(&self, name: &str) -> Option<&Arc<Grant>> {
        self.by_name.get(name)
    }

    /// All of them, by name.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Grant>> {
        self.by_name.values()
    }

    /// Whether there is room for another one.
    pub(crate) fn has_room(&self) -> bool {
        self.by_name.len() < GRANTS_MAX
    }

    /// With this one, or in place of the one of its name, whose last certificate stays known.
    ///
    /// # Errors
    /// When the disk fails.
    pub(crate) fn with(&self, mut grant: Grant) -> Result<Self, GrantsError> {
        if let Some(before) = self.get(&grant.name) {
            let mut known = before.sha256.clone();
            known.retain(|hash| !grant.sha256.contains(hash));
            known.append(&mut grant.sha256);
            let over = known.len().saturating_sub(CERTIFICATES_MAX);
            grant.sha256 = known.split_off(over);
            if grant == **before {
                return Ok(self.clone());
            }
        }
        let others = self.all().filter(|other| other.name != grant.name).cloned();
        self.saved(others.chain([Arc::new(grant.clone())]))
    }

    /// Without the one of that name.
    ///
    /// # Errors
    /// When the disk fails.
    pub(crate) fn without(&self, name: &str) -> Result<Self, GrantsError> {
        self.saved(self.all().filter(|grant| grant.name != name).cloned())
    }

    fn saved(&self, all: impl Iterator<Item = Arc<Grant>>) -> Result<Self, GrantsError> {
        let next = Self::of(self.path.clone(), all);
        let list: Vec<&Grant> = next.all().map(|grant| &**grant).collect();
        let text = serde_json::to_vec_pretty(&list)
            .map_err(|error| GrantsError::Damaged(self.path.clone(), error.to_string()))?;
        disk::write_private(&self.path, &text)?;
        Ok(next)
    }
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (i, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::{Grant, Grants, Role};

    fn grant(name: &str, role: Role, namespaces: &[&str], sha256: &str) -> Grant {
        Grant {
            name: name.to_owned(),
            role,
            namespaces: namespaces.iter().map(|it| (*it).to_owned()).collect(),
            sha256: vec![sha256.to_owned()],
            created_at: 1,
            expires_at: 2,
            created_by: "a test".to_owned(),
        }
    }

    #[test]
    fn a_role_may_write_where_it_says() {
        for (role, namespaces, expected) in [
            (Role::Admin, &[][..], [true, true, true]),
            (Role::Editor, &[], [true, true, false]),
            (Role::Editor, &["shop"], [true, false, false]),
            (Role::Viewer, &[], [false; 3]),
        ] {
            let grant = grant("ana", role, namespaces, "");
            let may = [
                grant.check_write("shop").is_ok(),
                grant.check_write("billing").is_ok(),
                grant.check_write("").is_ok(),
            ];
            assert_eq!(may, expected, "{role:?} {namespaces:?}");
        }
    }

    #[test]
    fn the_book_survives_a_restart_and_forgets_what_was_revoked() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("credentials.json");
        let grants = Grants::load(directory.path()).expect("empty");
        let grants = grants.with(grant("ana", Role::Editor, &["shop"], "one")).expect("stored");
        let grants = grants.with(grant("ben", Role::Viewer, &[], "two")).expect("stored");
        // Made anew, the certificate before is known until the next.
        let grants = grants.with(grant("ana", Role::Editor, &["shop"], "three")).expect("stored");
        let known = |grants: &Grants| {
            ["one", "two", "three", "four"].map(|hash| grants.by_certificate(hash).is_some())
        };
        assert_eq!(known(&grants), [true, true, true, false]);
        let grants = grants.with(grant("ana", Role::Editor, &["shop"], "four")).expect("stored");
        assert_eq!(known(&grants), [false, true, true, true]);
        let grants = grants.without("ben").expect("stored");
        let again = Grants::load(directory.path()).expect("read");
        assert_eq!(known(&again), known(&grants));
        assert_eq!(known(&again), [false, false, true, true]);
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        for text in ["", "[{}]", "[", "[{\"name\": \"root\", \"role\": \"god\"}]"] {
            fs::write(&path, text).expect("written");
            Grants::load(directory.path()).expect_err(text);
        }
    }
}
