//! Starting the shop: a directory of its own, the files of `examples/shop` as they were compiled
//! in, the collector, and then the same supervisor as `outrigger dev`.

use std::{fs, os::unix::fs::DirBuilderExt as _, path::PathBuf, time::Duration};

use anyhow::Context as _;
use tokio::time;

use super::{collector::Collector, running::Shop};
use crate::app::dev::{Config, Mesh, Options, Output, StartError};

const DEV_YAML: &str = include_str!("../../../examples/shop/dev.yaml");
const MESH_YAML: &str = include_str!("../../../examples/shop/mesh.yaml");
/// How long all of it may take to be ready, on a slow machine.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// A directory that is removed when the demo ends, unless a claim failed.
#[derive(Debug)]
pub(super) struct Place {
    root: PathBuf,
    kept: bool,
}

impl Place {
    /// Makes it in the system's directory for temporary files, for this user alone.
    pub(super) fn new() -> anyhow::Result<Self> {
        let name = format!("outrigger-demo-{}-{:08x}", std::process::id(), fastrand::u32(..));
        let root = std::env::temp_dir().join(name);
        let mut builder = fs::DirBuilder::new();
        builder.mode(0o700).create(&root).with_context(|| root.display().to_string())?;
        let place = Self { root, kept: false };
        for directory in [place.logs(), place.cards(), place.data()] {
            builder.create(&directory).with_context(|| directory.display().to_string())?;
        }
        Ok(place)
    }

    /// It stays when the demo ends.
    pub(super) fn keep(&mut self) {
        self.kept = true;
    }

    /// One file for each instance and one for the control plane.
    pub(super) fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// The file by which other commands find this mesh.
    pub(super) fn contexts(&self) -> PathBuf {
        self.data().join("contexts.yaml")
    }

    fn cards(&self) -> PathBuf {
        self.root.join("cards")
    }

    /// Keys, certificates and the store.
    pub(super) fn data(&self) -> PathBuf {
        self.root.join("data")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.kept {
            // What is worth keeping are the logs; the rest holds keys.
            let _gone = fs::remove_dir_all(self.data());
            return;
        }
        if let Err(error) = fs::remove_dir_all(&self.root) {
            tracing::warn!(%error, directory = %self.root.display(), "not removed");
        }
    }
}

/// Starts everything; returns when all of it is ready. Dropping what it returns ends all of it.
///
/// # Errors
///
/// What did not start, and why.
pub(super) async fn start(place: &Place, otlp: Option<&str>) -> anyhow::Result<Shop> {
    let collector = Collector::start(otlp).await?;
    let cards = place.cards();
    let named = cards.to_str().context("the temporary directory's name is no text")?.to_owned();
    let options = Options {
        config: Config::parse(DEV_YAML, "examples/shop/dev.yaml")?,
        resources: vec![("examples/shop/mesh.yaml".to_owned(), MESH_YAML.to_owned())],
        directory: place.root.clone(),
        data: place.data(),
        output: Output { terminal: None, directory: Some(place.logs()) },
        otlp: Some(format!("http://{}", collector.address)),
        environment: vec![("SHOP_DIRECTORY".to_owned(), named)],
        log: None,
    };
    let mesh = time::timeout(READY_WITHIN, Mesh::start(&options))
        .await
        .with_context(|| format!("no control plane within {}s", READY_WITHIN.as_secs()))?
        .map_err(explain)?;
    let late = mesh.ready(READY_WITHIN).await;
    if let Some((instance, why)) = late.first() {
        anyhow::bail!("{}: {why}", instance.name());
    }
    drop(late);
    Ok(Shop { mesh, cards, collector, order: 0 })
}

/// A start error with the problems that it carries.
fn explain(error: StartError) -> anyhow::Error {
    let problems: Vec<String> = match &error {
        StartError::Problems(problems) => problems.iter().map(ToString::to_string).collect(),
        _ => Vec::new(),
    };
    let mut text = format!("{:#}", anyhow::Error::new(error));
    for problem in problems {
        text.push('\n');
        text.push_str(&problem);
    }
    anyhow::anyhow!(text)
}
