//! Writes what runs to the data directory: at once as a rule, and when there is much to write not
//! more often than the disk of a small machine likes, since endpoints come and go.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    task::spawn_blocking,
    time::{Instant, sleep},
};

use super::held::Stored;
use crate::identity::disk::DataDirectory;

/// Between two writes, once the first ones are done.
const PAUSE: Duration = Duration::from_secs(1);
/// Writes that need not wait; one comes back with every pause.
const AT_ONCE_MAX: u32 = 20;

/// The newest configuration that is not on disk yet.
#[derive(Debug)]
pub(super) struct Saver {
    disk: Arc<DataDirectory>,
    newest: Mutex<Option<Stored>>,
    woken: Notify,
    /// One write at a time, so that an older one never comes last.
    writing: tokio::sync::Mutex<()>,
}

impl Saver {
    pub(super) fn new(disk: Arc<DataDirectory>) -> Self {
        Self {
            disk,
            newest: Mutex::default(),
            woken: Notify::new(),
            writing: tokio::sync::Mutex::new(()),
        }
    }

    /// Is to be on disk soon.
    pub(super) fn put(&self, stored: Stored) {
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = Some(stored);
        self.woken.notify_one();
    }

    /// Writes whatever is put, until the future is dropped.
    pub(super) async fn run(&self) -> Infallible {
        // A write of now is put behind the last one by a pause; writes may run ahead of the clock by
        // so many pauses.
        let mut last = Instant::now();
        loop {
            self.woken.notified().await;
            last = last.max(Instant::now()) + PAUSE;
            self.flush().await;
            sleep(last.saturating_duration_since(Instant::now() + PAUSE * AT_ONCE_MAX)).await;
        }
    }

    /// Writes what waits, now.
    pub(super) async fn flush(&self) {
        let _alone = self.writing.lock().await;
        let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(stored) = newest else { return };
        let disk = Arc::clone(&self.disk);
        match spawn_blocking(move || disk.save_last_good(&stored.encode())).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "can not store the configuration; a restart without the control plane would \
                     start from an older one"
                );
            }
            Err(error) => tracing::error!(%error, "can not store the configuration"),
        }
    }
}
