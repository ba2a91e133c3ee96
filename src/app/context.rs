//! Contexts, as kubectl has them: which control planes this user knows, with which credential, and
//! which one is meant when none is named. A control plane's first start adds `local`.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::bootstrap::{self, BootstrapError};
use crate::identity::disk::{DiskError, write_private};

/// The largest contexts file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Why contexts could not be read, chosen or written.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// A place for the file is missing, or it could not be read.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    /// The file could not be written.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The file is no contexts file.
    #[error("{}: {message}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column.
        message: String,
    },
    /// There is none to choose from.
    #[error(
        "no context: {} names no control plane. `outrigger control-plane` starts one and adds \
         `local`; `outrigger context add` adds another", .0.display()
    )]
    None(PathBuf),
    /// The one asked for is not there.
    #[error("no context {name:?} in {}; there are: {known}", path.display())]
    Unknown {
        /// The name asked for.
        name: String,
        /// The file.
        path: PathBuf,
        /// The names that it has.
        known: String,
    },
}

/// One control plane and the credential for it. Relative paths start at the contexts file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Context {
    /// `127.0.0.1:15010`
    pub server: String,
    /// PEM file with the roots that the control plane's certificate may come from.
    pub certificate_authority: PathBuf,
    /// PEM file with the client certificate.
    pub client_certificate: PathBuf,
    /// PEM file with its key.
    pub client_key: PathBuf,
    /// The namespace meant when none is named; default `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

impl Context {
    /// The namespace meant when none is named.
    pub fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or("default")
    }
}

/// A context under its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedContext {
    /// `local`
    pub name: String,
    /// What it means.
    pub context: Context,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Document {
    #[serde(rename = "apiVersion", default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    current_context: Option<String>,
    #[serde(default)]
    contexts: Vec<NamedContext>,
}

/// The contexts file in memory.
#[derive(Debug)]
pub struct Contexts {
    path: PathBuf,
    document: Document,
}

impl Contexts {
    /// Reads the file at `path`, by default [`bootstrap::contexts_path`]; one that is not there is
    /// empty.
    ///
    /// # Errors
    /// When it can not be read or is no contexts file.
    pub fn load(path: Option<&Path>) -> Result<Self, ContextError> {
        let path = match path {
            Some(path) => path.to_owned(),
            None => bootstrap::contexts_path()?,
        };
        let document = match bootstrap::read_text(&path, FILE_BYTES_MAX) {
            Ok(text) if text.trim().is_empty() => Document::default(),
            Ok(text) => serde_saphyr::from_str(&text).map_err(|error| {
                let message = error.without_snippet().to_string();
                ContextError::Malformed { path: path.clone(), message }
            })?,
            Err(error) if error.kind() == ErrorKind::NotFound => Document::default(),
            Err(source) => return Err(BootstrapError::Io { path, source }.into()),
        };
        Ok(Self { path, document })
    }

    /// Where the file is or would be.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All of them, in the file's order.
    pub fn all(&self) -> &[NamedContext] {
        &self.document.contexts
    }

    /// The current one's name.
    pub fn current(&self) -> Option<&str> {
        self.document.current_context.as_deref()
    }

    /// The context of that name, else the current one, with paths made absolute.
    ///
    /// # Errors
    /// When there is none of that name, or none is current.
    pub fn choose(&self, name: Option<&str>) -> Result<NamedContext, ContextError> {
        let Some(name) = name.or_else(|| self.current()) else {
            return Err(ContextError::None(self.path.clone()));
        };
        let Some(found) = self.document.contexts.iter().find(|context| context.name == name) else {
            return Err(self.unknown(name));
        };
        let mut found = found.clone();
        let base = self.path.parent().unwrap_or_else(|| Path::new("."));
        for path in [
            &mut found.context.certificate_authority,
            &mut found.context.client_certificate,
            &mut found.context.client_key,
        ] {
            *path = base.join(&*path);
        }
        Ok(found)
    }

    fn unknown(&self, name: &str) -> ContextError {
        let names: Vec<_> = self.all().iter().map(|context| context.name.as_str()).collect();
        let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        ContextError::Unknown { name: name.to_owned(), path: self.path.clone(), known }
    }

    /// Adds the context, or replaces the one of its name; it becomes current if none is.
    pub fn put(&mut self, context: NamedContext) {
        if self.document.current_context.is_none() {
            self.document.current_context = Some(context.name.clone());
        }
        match self.document.contexts.iter_mut().find(|other| other.name == context.name) {
            Some(other) => *other = context,
            None => self.document.contexts.push(context),
        }
    }

    /// Makes sure that a context leads to the control plane of this credential, and returns its
    /// name: the one that has the credential already gets the server's address; else `name` is
    /// added, or replaced when its credential is gone, or `name-2` and so on is added.
    pub fn ensure(&mut self, name: &str, context: Context) -> String {
        let same = |other: &&mut NamedContext| other.context.client_key == context.client_key;
        if let Some(own) = self.document.contexts.iter_mut().find(same) {
            own.context.server = context.server;
            return own.name.clone();
        }
        let name = (1_u32..)
            .map(|number| if number == 1 { name.to_owned() } else { format!("{name}-{number}") })
            .find(|name| {
                let taken = self.all().iter().find(|other| other.name == *name);
                taken.is_none_or(|other| !other.context.client_key.exists())
            })
            .expect("there are more numbers than contexts");
        self.put(NamedContext { name: name.clone(), context });
        name
    }

    /// Makes the context of that name current.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn choose_current(&mut self, name: &str) -> Result<(), ContextError> {
        if self.all().iter().all(|context| context.name != name) {
            return Err(self.unknown(name));
        }
        self.document.current_context = Some(name.to_owned());
        Ok(())
    }

    /// Removes the context of that name, if it is there; was it current, then none is.
    pub fn remove(&mut self, name: &str) {
        self.document.contexts.retain(|context| context.name != name);
        if self.current() == Some(name) {
            self.document.current_context = None;
        }
    }

    /// Writes the file, for the owner only.
    ///
    /// # Errors
    /// When it can not be written.
    pub fn save(&mut self) -> Result<(), ContextError> {
        self.document.api_version = "outrigger.dev/v1".to_owned();
        self.document.kind = "Config".to_owned();
        let text = serde_saphyr::to_string(&self.document).map_err(|error| {
            ContextError::Malformed { path: self.path.clone(), message: error.to_string() }
        })?;
        if let Some(directory) = self.path.parent() {
            bootstrap::make_private_directory(directory)?;
        }
        Ok(write_private(&self.path, text.as_bytes())?)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::{Context, ContextError, Contexts, NamedContext};

    fn context(server: &str, directory: &Path) -> Context {
        Context {
            server: server.into(),
            certificate_authority: directory.join("ca.pem"),
            client_certificate: directory.join("admin.pem"),
            client_key: directory.join("admin-key.pem"),
            namespace: None,
        }
    }

    #[test]
    fn the_first_context_is_current_and_survives_the_file() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let path = root.path().join("deep/config.yaml");
        let mut contexts = Contexts::load(Some(&path)).expect("absent is empty");
        assert!(matches!(contexts.choose(None), Err(ContextError::None(_))));
        for name in ["local", "far"] {
            let context = context("127.0.0.1:15010", Path::new(name));
            contexts.put(NamedContext { name: name.into(), context });
        }
        contexts.save().expect("written");

        let mut contexts = Contexts::load(Some(&path)).expect("readable");
        let chosen = contexts.choose(None).expect("current");
        assert_eq!(chosen.name, "local");
        let key = path.parent().expect("has one").join("local/admin-key.pem");
        assert_eq!(chosen.context.client_key, key, "relative to the file");
        assert_eq!(chosen.context.namespace(), "default");
        contexts.choose_current("far").expect("known");
        assert_eq!(contexts.choose(None).expect("current").name, "far");
        let unknown = contexts.choose(Some("near")).expect_err("unknown").to_string();
        assert!(unknown.ends_with("there are: local, far"), "{unknown}");
        contexts.remove("far");
        assert_eq!((contexts.current(), contexts.all().len()), (None, 1));
    }

    #[test]
    fn a_control_plane_finds_its_own_context_again_and_takes_no_one_elses() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let (one, two) = (root.path().join("one"), root.path().join("two"));
        for directory in [&one, &two] {
            fs::create_dir(directory).expect("made");
            fs::write(directory.join("admin-key.pem"), "").expect("written");
        }
        let mut contexts = Contexts::load(Some(&root.path().join("config.yaml"))).expect("empty");
        assert_eq!(contexts.ensure("local", context("127.0.0.1:1", &one)), "local");
        assert_eq!(contexts.ensure("local", context("127.0.0.1:2", &one)), "local");
        assert_eq!(contexts.all()[0].context.server, "127.0.0.1:2");
        assert_eq!(contexts.ensure("local", context("127.0.0.1:3", &two)), "local-2");
        fs::remove_dir_all(&one).expect("removed");
        let three = context("127.0.0.1:4", &root.path().join("three"));
        assert_eq!(contexts.ensure("local", three), "local", "its credential is gone");
        assert_eq!(contexts.all().len(), 2);
    }

    #[test]
    fn a_broken_file_is_refused_with_its_name() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let path = root.path().join("config.yaml");
        for text in ["contexts: 3\n", "context: []\n", "current-context: a\ncurrent-context: b\n"] {
            fs::write(&path, text).expect("written");
            let error = Contexts::load(Some(&path)).expect_err(text).to_string();
            assert!(error.starts_with(&path.display().to_string()), "{error}");
        }
    }
}
