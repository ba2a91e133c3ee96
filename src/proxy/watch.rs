//! The limits of one worker's requests: deadlines, timeouts, silence. Nearly all of them are never
//! reached, so a limit costs a place in a list and nothing else; one timer runs, for the earliest of
//! them, and whoever has ended is only forgotten.

use std::{
    cell::{Cell, RefCell},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use pin_project_lite::pin_project;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use crate::task;

/// The limits of one worker's requests.
#[derive(Default)]
pub(super) struct Watch {
    shared: Rc<Shared>,
}

#[derive(Default)]
struct Shared {
    limits: RefCell<Limits>,
    /// When the timer looks next; `None`: there was no limit when it looked last.
    alarm: Cell<Option<Instant>>,
    earlier: Notify,
    runs: Cell<bool>,
}

#[derive(Default)]
struct Limits {
    places: Vec<Option<Limit>>,
    free: Vec<usize>,
}

struct Limit {
    at: Instant,
    waker: Waker,
    passed: bool,
}

/// The limit was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Passed;

impl Watch {
    /// Does `what`, at most until `at`. Whoever it waits for is asked first.
    pub(super) fn bound<F: Future>(&self, at: Option<Instant>, what: F) -> Bounded<'_, F> {
        Bounded { what, limit: Held { shared: &self.shared, at, place: None } }
    }
}

pin_project! {
    /// Something that is done for a request, bounded.
    pub(super) struct Bounded<'a, F> {
        #[pin]
        what: F,
        limit: Held<'a>,
    }
}

/// A limit that is forgotten when this is dropped.
struct Held<'a> {
    shared: &'a Rc<Shared>,
    at: Option<Instant>,
    /// Taken when there is something to wait for.
    place: Option<usize>,
}

impl<F: Future> Future for Bounded<'_, F> {
    type Output = Result<F::Output, Passed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(done) = this.what.poll(cx) {
            return Poll::Ready(Ok(done));
        }
        if this.limit.has_passed(cx.waker()) { Poll::Ready(Err(Passed)) } else { Poll::Pending }
    }
}

impl Held<'_> {
    fn has_passed(&mut self, waker: &Waker) -> bool {
        let Some(at) = self.at else { return false };
        let mut limits = self.shared.limits.borrow_mut();
        let Some(place) = self.place else {
            let limit = Limit { at, waker: waker.clone(), passed: false };
            self.place = Some(limits.add(limit));
            drop(limits);
            Shared::wake_by(self.shared, at);
            return false;
        };
        let Some(Some(limit)) = limits.places.get_mut(place) else { return false };
        if !limit.waker.will_wake(waker) {
            limit.waker.clone_from(waker);
        }
        limit.passed
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            let mut limits = self.shared.limits.borrow_mut();
            limits.places[place] = None;
            limits.free.push(place);
        }
    }
}

impl Limits {
    fn add(&mut self, limit: Limit) -> usize {
        let Some(place) = self.free.pop() else {
            self.places.push(Some(limit));
            return self.places.len() - 1;
        };
        self.places[place] = Some(limit);
        place
    }
}

impl Shared {
    fn wake_by(self: &Rc<Self>, at: Instant) {
        if self.alarm.get().is_some_and(|alarm| alarm <= at) {
            return;
        }
        self.alarm.set(Some(at));
        if self.runs.replace(true) {
            self.earlier.notify_one();
        } else {
            let _ends_with_the_thread = task::spawn_local("watch", Rc::clone(self).run());
        }
    }

    async fn run(self: Rc<Self>) {
        loop {
            let Some(at) = self.alarm.get() else {
                self.earlier.notified().await;
                continue;
            };
            tokio::select! {
                () = sleep_until(at) => self.look(Instant::now()),
                () = self.earlier.notified() => {}
            }
        }
    }

    /// Wakes whose limit has passed, and finds the earliest of the others.
    fn look(&self, now: Instant) {
        let mut limits = self.limits.borrow_mut();
        let mut next: Option<Instant> = None;
        let mut over = Vec::new();
        for limit in limits.places.iter_mut().flatten().filter(|limit| !limit.passed) {
            if limit.at <= now {
                limit.passed = true;
                over.push(limit.waker.clone());
            } else {
                next = Some(next.map_or(limit.at, |next| next.min(limit.at)));
            }
        }
        // After a burst the list gets short again.
        if limits.places.len() == limits.free.len() {
            *limits = Limits::default();
        }
        drop(limits);
        self.alarm.set(next);
        over.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use std::{future::pending, time::Duration};

    use tokio::{
        task::LocalSet,
        time::{Instant, sleep},
    };

    use super::{Passed, Watch};

    const SECOND: Duration = Duration::from_secs(1);

    async fn local(test: impl Future<Output = ()>) {
        LocalSet::new().run_until(test).await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_done_in_time_is_done() {
        local(async {
            let watch = Watch::default();
            let start = Instant::now();
            assert_eq!(watch.bound(Some(start), async { 7 }).await, Ok(7), "it need not wait");
            assert_eq!(watch.bound(Some(start + SECOND), sleep(SECOND / 2)).await, Ok(()));
            assert_eq!(watch.bound(None, sleep(SECOND)).await, Ok(()));
            assert_eq!(start.elapsed(), SECOND * 3 / 2);
            assert!(watch.shared.limits.borrow().places.iter().all(Option::is_none));
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn every_limit_is_kept_whatever_came_before() {
        local(async {
            let watch = Watch::default();
            let start = Instant::now();
            let limit = async |seconds: u32| {
                let at = start + SECOND * seconds;
                let passed = watch.bound(Some(at), pending::<()>()).await;
                (passed, start.elapsed().as_secs())
            };
            let (one, two, three) = tokio::join!(limit(300), limit(2), limit(10));
            let at = |seconds| (Err(Passed), seconds);
            assert_eq!((one, two, three), (at(300), at(2), at(10)));
            assert_eq!(limit(0).await, at(300), "a time that has passed");
            assert_eq!(limit(301).await, at(301));
        })
        .await;
    }
}
