//! Starting the shop: a directory of its own, the files of `examples/shop` as they were compiled
//! in, the collector, and then the same supervisor as `outrigger dev`.

use std::{
    fs,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use super::{collector::Collector, running::Shop};
use crate::app::dev::{Config, Dev, Options};

const DEV_YAML: &str = include_str!("../../../examples/shop/dev.yaml");
const MESH_YAML: &str = include_str!("../../../examples/shop/mesh.yaml");

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
        fs::write(place.root.join("mesh.yaml"), MESH_YAML)?;
        fs::write(place.root.join("dev.yaml"), DEV_YAML)?;
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

    fn cards(&self) -> PathBuf {
        self.root.join("cards")
    }

    fn data(&self) -> PathBuf {
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
    let config = config(&place.cards(), &collector)?;
    let options = Options {
        directory: place.root.clone(),
        data: place.data(),
        logs: Some(place.logs()),
        ..Options::default()
    };
    let dev = Dev::start(config, options).await?;
    Ok(Shop { dev, cards: place.cards(), collector, order: 0 })
}

/// `dev.yaml` with what only this run knows: where cards and spans go.
fn config(cards: &Path, collector: &Collector) -> anyhow::Result<Config> {
    let mut config = Config::parse(DEV_YAML, "examples/shop/dev.yaml")?;
    let cards = cards.to_str().context("the temporary directory's name is no text")?;
    for service in &mut config.services {
        let mut set = |name: &str, value: String| {
            service.env.insert(name.to_owned(), value);
        };
        set("SHOP_DIRECTORY", cards.to_owned());
        set("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", collector.address));
    }
    Ok(config)
}
