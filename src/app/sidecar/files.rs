//! Static mode: configuration and certificate from files that somebody else writes. The resources and
//! `compile` are those of a live mesh; only, the files are all that there is.
//!
//! At the start every error is a reason not to start. Later a reload takes all of the new files or
//! none: with any error in them, what ran before runs on, and the log, the admin page and metrics say
//! so.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    app::bootstrap,
    clock,
    identity::{Files, FilesError},
    resource::{
        self, Problem, ResourceKey, forget_descriptors, pb,
        yaml::{self, Parsed},
    },
    snapshot::{self, Context, Node, Snapshot},
    telemetry::{Telemetry, chain},
    tls::{Identity, IdentityError},
};

/// The largest file that is read.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Why files are not taken.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// One can not be read.
    #[error("{}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said; displayed here, and so no source besides.
        error: io::Error,
    },
    /// There is nothing in them, as in a file that somebody has begun to write.
    #[error("no resources in {0}")]
    Empty(String),
    /// What they say is wrong.
    #[error("the configuration is refused\n{0}")]
    Problems(Problems),
    /// The certificate's files.
    #[error(transparent)]
    Certificate(#[from] FilesError),
    /// The certificate is another one's.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// Errors of a configuration; displayed one below the other.
#[derive(Debug)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line_end = "";
        for problem in &self.0 {
            write!(f, "{line_end}{problem}")?;
            line_end = "\n";
        }
        Ok(())
    }
}

/// What the files of a static sidecar say, now and after each reload.
pub(super) struct Static {
    pub(super) configuration: Vec<PathBuf>,
    pub(super) certificate: Files,
    pub(super) identity: Arc<Identity>,
    pub(super) node: Node,
    pub(super) snapshots: Arc<snapshot::Handle>,
    pub(super) telemetry: Arc<Telemetry>,
    pub(super) state: Mutex<State>,
}

/// How the last reload went.
#[derive(Debug, Clone, Default)]
pub(super) struct State {
    /// Counted up by each that was taken; the revision of what runs.
    pub(super) revision: u64,
    /// Why the last one was not taken.
    pub(super) error: Option<String>,
}

impl Static {
    /// Reads the configuration for the first time and publishes it.
    pub(super) fn start(&self) -> Result<(), FileError> {
        self.load_configuration()?;
        self.state().revision = 1;
        Ok(())
    }

    /// Reads all files again. The certificate and the configuration are taken or not each on its
    /// own: a certificate must not run out because of a misspelt word.
    pub(super) fn reload(&self) -> Result<(), FileError> {
        let certificate = self.load_certificate();
        let configuration = self.load_configuration();
        let mut state = self.state();
        let rejected = match &configuration {
            Ok(()) => {
                state.revision += 1;
                0
            }
            Err(FileError::Problems(Problems(problems))) => problems.len(),
            Err(_) => 1,
        };
        let metrics = self.telemetry.metrics();
        metrics.config(state.revision, rejected);
        let failed: Vec<&FileError> =
            [&certificate, &configuration].into_iter().filter_map(|it| it.as_ref().err()).collect();
        for _ in &failed {
            metrics.config_rejection();
        }
        let texts: Vec<String> = failed.iter().map(|error| chain(*error)).collect();
        state.error = (!texts.is_empty()).then(|| texts.join("\n"));
        for text in texts {
            tracing::error!("not reloaded, what ran before runs on: {text}");
        }
        drop(state);
        certificate.and(configuration)
    }

    pub(super) fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn load_certificate(&self) -> Result<(), FileError> {
        let (svid, bundle) = self.certificate.load(clock::now())?;
        // The SVID first: it is what can be refused, and a refused one must not change the roots.
        self.identity.replace_svid(svid)?;
        self.identity.replace_bundle(bundle)?;
        Ok(())
    }

    fn load_configuration(&self) -> Result<(), FileError> {
        let parsed = read(&self.configuration);
        forget_descriptors();
        let parsed = parsed?;
        let revision = self.state().revision + 1;
        let last = self.snapshots.load();
        let (snapshot, warnings) = compile(
            &parsed,
            last.as_deref(),
            &self.node,
            self.identity.id().trust_domain(),
            revision,
        )?;
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        let count = parsed.len();
        self.snapshots.publish(Arc::new(snapshot));
        self.telemetry.metrics().config(revision, 0);
        tracing::info!(revision, resources = count, "configuration loaded from files");
        Ok(())
    }
}

impl fmt::Debug for Static {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Static").field("configuration", &self.configuration).finish_non_exhaustive()
    }
}

/// Reads and checks all files together.
fn read(paths: &[PathBuf]) -> Result<Vec<Parsed>, FileError> {
    let (mut all, mut problems) = (Vec::new(), Vec::new());
    for path in paths {
        let text = read_text(path)?;
        let (parsed, found) = yaml::parse(&text, &path.display().to_string());
        all.extend(parsed);
        problems.extend(found);
    }
    if all.is_empty() && problems.is_empty() {
        let names: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
        return Err(FileError::Empty(names.join(", ")));
    }
    problems.extend(yaml::check(&all));
    let (errors, warnings): (Vec<_>, Vec<_>) = problems.into_iter().partition(Problem::is_error);
    if !errors.is_empty() {
        return Err(FileError::Problems(Problems(errors)));
    }
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    Ok(all)
}

fn read_text(path: &Path) -> Result<String, FileError> {
    let failed = |error| FileError::Read { path: path.to_owned(), error };
    bootstrap::read_text(path, FILE_BYTES_MAX).map_err(failed)
}

/// Compiles what was read; the problems that are left are warnings.
fn compile(
    parsed: &[Parsed],
    last: Option<&Snapshot>,
    node: &Node,
    trust_domain: &str,
    revision: u64,
) -> Result<(Snapshot, Vec<Problem>), FileError> {
    let (mut resources, mut sources) = (BTreeMap::new(), BTreeMap::new());
    for one in parsed {
        let Some(key) = resource::key(&one.resource) else { continue };
        sources.insert(key.clone(), &one.source);
        resources.insert(key, Arc::new(one.resource.clone()));
    }
    let context = Context {
        node: node.clone(),
        trust_domain: trust_domain.to_owned(),
        namespaces: BTreeSet::new(),
        answered: BTreeMap::new(),
        complete: true,
        revision,
    };
    let resources: BTreeMap<ResourceKey, Arc<pb::Resource>> = resources;
    let (snapshot, problems) = snapshot::compile(&resources, last, &context);
    let locate = |problem: Problem| {
        let source = problem.resource.as_ref().and_then(|key| sources.get(key));
        match source {
            Some(source) if problem.at.is_none() => source.locate(problem),
            _ => problem,
        }
    };
    let located = problems.into_iter().map(locate);
    let (errors, warnings): (Vec<_>, Vec<_>) = located.partition(Problem::is_error);
    if errors.is_empty() {
        Ok((snapshot, warnings))
    } else {
        Err(FileError::Problems(Problems(errors)))
    }
}
