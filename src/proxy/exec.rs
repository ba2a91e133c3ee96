//! hyper's executor on a worker: every future stays on the thread that owns its connection.

use std::future::Future;

use hyper::rt::Executor;

use crate::task;

/// Spawns on the current worker.
#[derive(Debug, Clone, Copy)]
pub(super) struct LocalExec;

impl<F> Executor<F> for LocalExec
where
    F: Future<Output = ()> + 'static,
{
    fn execute(&self, future: F) {
        let _runs_on = task::spawn_local("stream", future);
    }
}
