//! Tasks with a name that are watched and joined; drain and readiness guards.
//!
//! Nothing in the program spawns but through here, so that no task can die without a word: a panic
//! is logged with the task's name and ends that task only. What must outlive nobody is kept in a
//! [`Tasks`], which ends with its owner.

mod drain;
mod ready;

use std::{any::Any, borrow::Cow, future::Future, panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt as _;
use tokio::task::{JoinHandle, JoinSet};

pub use drain::{Drain, DrainGuard};
pub use ready::{Condition, Ready};

/// Runs `future` on the current runtime. Its result is `None` when it panicked, which is logged
/// under `name`. A dropped handle leaves it running; `abort` on the handle ends it.
///
/// # Panics
/// Outside of a tokio runtime.
#[allow(clippy::disallowed_methods, reason = "this is the one place that spawns")]
pub fn spawn<F>(name: impl Into<Cow<'static, str>>, future: F) -> JoinHandle<Option<F::Output>>
where
    F: Future<Output: Send> + Send + 'static,
{
    tokio::spawn(watched(name.into(), future))
}

/// As [`spawn`], for futures that stay on the current thread: a worker's connections.
///
/// # Panics
/// Outside of a local runtime or `LocalSet`.
pub fn spawn_local<F>(
    name: impl Into<Cow<'static, str>>,
    future: F,
) -> JoinHandle<Option<F::Output>>
where
    F: Future + 'static,
{
    tokio::task::spawn_local(watched(name.into(), future))
}

/// Starts a thread of that name for what blocks. A panic in it is logged under `name`.
///
/// # Errors
/// When the system gives no thread.
pub fn thread(
    name: &'static str,
    body: impl FnOnce() + Send + 'static,
) -> std::io::Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        if let Err(panic) = std::panic::catch_unwind(AssertUnwindSafe(body)) {
            tracing::error!(thread = name, panic = message(panic.as_ref()), "thread panicked");
        }
    })
}

/// Tasks that end with their owner: dropping it aborts what still runs.
#[derive(Debug, Default)]
pub struct Tasks {
    set: JoinSet<()>,
}

impl Tasks {
    /// Holds nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs `future` on the current runtime; a panic is logged under `name`.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn spawn(
        &mut self,
        name: impl Into<Cow<'static, str>>,
        future: impl Future<Output = ()> + Send + 'static,
    ) {
        // Forget those that are done, so that the set grows with what runs.
        while self.set.try_join_next().is_some() {}
        let watched = watched(name.into(), future);
        self.set.spawn(watched.map(drop));
    }

    /// How many still run, at most.
    pub fn len(&self) -> usize {
        self.set.len()
    }

    /// Whether none is left.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty()
    }

    /// Waits until all have ended, aborts those that have not after `bound`, and returns how many
    /// those were. Cancelling it leaves them running.
    pub async fn join(&mut self, bound: Duration) -> usize {
        let all = async { while self.set.join_next().await.is_some() {} };
        if tokio::time::timeout(bound, all).await.is_ok() {
            return 0;
        }
        let left = self.set.len();
        self.set.shutdown().await;
        left
    }
}

/// No `async fn`: that would hold the future twice, as an argument and where it is awaited.
fn watched<F: Future>(
    name: Cow<'static, str>,
    future: F,
) -> impl Future<Output = Option<F::Output>> {
    AssertUnwindSafe(future).catch_unwind().map(move |ended| match ended {
        Ok(output) => Some(output),
        Err(panic) => {
            tracing::error!(task = %name, panic = message(panic.as_ref()), "task panicked");
            None
        }
    })
}

/// What a panic said, if it was text.
fn message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&'static str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use std::{future, time::Duration};

    use super::{Tasks, spawn, thread};

    #[tokio::test]
    async fn a_task_returns_what_its_future_does() {
        assert_eq!(spawn("sum", async { 1 + 1 }).await.expect("joined"), Some(2));
    }

    #[tokio::test]
    async fn a_panic_ends_only_its_own_task() {
        assert_eq!(
            spawn("broken", async { panic!("on purpose") }).await.expect("joined"),
            None::<()>
        );
        thread("broken", || panic!("on purpose")).expect("started").join().expect("caught");
    }

    #[tokio::test(start_paused = true)]
    async fn joining_is_bounded_and_says_how_many_did_not_end() {
        let mut tasks = Tasks::new();
        tasks.spawn("quick", async {});
        tasks.spawn("endless", future::pending());
        assert_eq!(tasks.join(Duration::from_secs(3)).await, 1);
        assert!(tasks.is_empty());
        assert_eq!(tasks.join(Duration::from_secs(3)).await, 0);
    }

    #[tokio::test]
    async fn dropping_the_set_ends_its_tasks() {
        let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
        let mut tasks = Tasks::new();
        tasks.spawn("endless", async move {
            future::pending::<()>().await;
            drop(sender);
        });
        drop(tasks);
        assert!(receiver.await.is_err(), "its future was dropped");
    }
}
