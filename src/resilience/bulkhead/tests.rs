//! Tables, races and random histories of the bulkhead.

use std::{
    collections::VecDeque,
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll, Waker},
};

use proptest::{
    collection::vec, prelude::Strategy, prop_assert, prop_assert_eq, prop_oneof, proptest,
};

use super::{Admission, Bulkhead, Permit, Waiter};

fn admitted(bulkhead: &Arc<Bulkhead>) -> Permit {
    match bulkhead.try_admit() {
        Admission::Admitted(permit) => permit,
        other => panic!("expected a permit, got {other:?}"),
    }
}

fn waiting(bulkhead: &Arc<Bulkhead>) -> Waiter {
    match bulkhead.try_admit() {
        Admission::Wait(waiter) => waiter,
        other => panic!("expected to wait, got {other:?}"),
    }
}

fn poll(waiter: &mut Waiter) -> Option<Permit> {
    match Pin::new(waiter).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(permit) => Some(permit),
        Poll::Pending => None,
    }
}

#[test]
fn what_has_no_room_queues_and_then_is_refused() {
    let bulkhead = Bulkhead::new(1, 1);
    let permit = admitted(&bulkhead);
    let mut waiter = waiting(&bulkhead);
    assert!(matches!(bulkhead.try_admit(), Admission::Full));
    assert!(poll(&mut waiter).is_none());
    assert_eq!((bulkhead.in_use(), bulkhead.queued()), (1, 1));
    drop(permit);
    let permit = poll(&mut waiter).expect("the place was handed over");
    assert_eq!((bulkhead.in_use(), bulkhead.queued()), (1, 0));
    drop((permit, waiter));
    assert_eq!((bulkhead.in_use(), bulkhead.queued()), (0, 0));
}

#[test]
fn the_first_in_the_queue_is_served_first() {
    let bulkhead = Bulkhead::new(1, 10);
    let permit = admitted(&bulkhead);
    let mut waiters: Vec<Waiter> = (0..3).map(|_| waiting(&bulkhead)).collect();
    let mut holder = permit;
    for turn in 0..3 {
        let early: Vec<bool> = waiters[turn..].iter_mut().map(|w| poll(w).is_some()).collect();
        assert_eq!(early, vec![false; 3 - turn], "nobody before the place is free");
        drop(holder);
        holder = poll(&mut waiters[turn]).expect("its turn");
    }
    drop(holder);
    assert_eq!((bulkhead.in_use(), bulkhead.queued()), (0, 0));
}

#[test]
fn a_waiter_that_goes_leaves_the_queue() {
    let bulkhead = Bulkhead::new(1, 2);
    let permit = admitted(&bulkhead);
    let first = waiting(&bulkhead);
    let mut second = waiting(&bulkhead);
    drop(first);
    assert_eq!(bulkhead.queued(), 1);
    drop(permit);
    assert!(poll(&mut second).is_some());
}

#[test]
fn a_waiter_that_goes_after_it_was_served_passes_its_place_on() {
    let bulkhead = Bulkhead::new(1, 2);
    let permit = admitted(&bulkhead);
    let first = waiting(&bulkhead);
    let mut second = waiting(&bulkhead);
    drop(permit);
    assert_eq!((bulkhead.in_use(), bulkhead.queued()), (1, 1));
    drop(first);
    let permit = poll(&mut second).expect("served by the one that went");
    assert_eq!((bulkhead.in_use(), bulkhead.queued()), (1, 0));
    drop(permit);
    assert_eq!(bulkhead.in_use(), 0);
}

#[test]
fn nobody_overtakes_the_queue() {
    let bulkhead = Bulkhead::new(2, 2);
    let permits = (admitted(&bulkhead), admitted(&bulkhead));
    let mut waiter = waiting(&bulkhead);
    drop(permits.0);
    assert!(matches!(bulkhead.try_admit(), Admission::Wait(_)), "the place is the waiter's");
    assert!(poll(&mut waiter).is_some());
}

#[test]
fn limits_change_while_it_runs() {
    let bulkhead = Bulkhead::new(1, 4);
    let mut permits = vec![admitted(&bulkhead)];
    let mut waiters: Vec<Waiter> = (0..3).map(|_| waiting(&bulkhead)).collect();
    bulkhead.set_limits(3, 4);
    permits.extend(waiters.iter_mut().filter_map(poll));
    assert_eq!((permits.len(), bulkhead.in_use(), bulkhead.queued()), (3, 3, 1));
    bulkhead.set_limits(1, 0);
    permits.truncate(1);
    assert_eq!((bulkhead.in_use(), bulkhead.queued()), (1, 1), "two left, nobody followed");
    permits.clear();
    assert!(poll(&mut waiters[2]).is_some());
    assert!(bulkhead.check_invariants());
}

#[test]
fn without_a_queue_it_refuses_at_once() {
    let bulkhead = Bulkhead::new(0, 0);
    assert!(matches!(bulkhead.try_admit(), Admission::Full));
}

#[tokio::test]
async fn a_released_permit_wakes_its_waiter() {
    let bulkhead = Bulkhead::new(1, 1);
    let permit = admitted(&bulkhead);
    let waiter = pin!(waiting(&bulkhead));
    let (permit, ()) = tokio::join!(waiter, async { drop(permit) });
    assert_eq!(bulkhead.in_use(), 1);
    drop(permit);
}

#[test]
fn threads_together_keep_the_limit_and_lose_nobody() {
    let bulkhead = Bulkhead::new(3, 64);
    let (under_way, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let work = |bulkhead: Arc<Bulkhead>, under_way: Arc<AtomicU32>, most: Arc<AtomicU32>| {
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
            for turn in 0..2000 {
                let permit = match bulkhead.try_admit() {
                    Admission::Admitted(permit) => permit,
                    Admission::Wait(waiter) if turn % 5 == 0 => {
                        drop(waiter);
                        continue;
                    }
                    Admission::Wait(waiter) => runtime.block_on(waiter),
                    Admission::Full => continue,
                };
                most.fetch_max(under_way.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::yield_now();
                under_way.fetch_sub(1, Ordering::SeqCst);
                drop(permit);
            }
        }
    };
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let shared = (Arc::clone(&bulkhead), Arc::clone(&under_way), Arc::clone(&most));
            std::thread::spawn(work(shared.0, shared.1, shared.2))
        })
        .collect();
    for thread in threads {
        thread.join().expect("ran to its end");
    }
    assert!(most.load(Ordering::SeqCst) <= 3);
    assert_eq!((bulkhead.in_use(), bulkhead.queued()), (0, 0));
    assert!(bulkhead.check_invariants());
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Admit,
    Release(usize),
    Cancel(usize),
    Poll,
    Limits(u32, u32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => proptest::strategy::Just(Step::Admit),
        3 => (0..8_usize).prop_map(Step::Release),
        1 => (0..8_usize).prop_map(Step::Cancel),
        1 => proptest::strategy::Just(Step::Poll),
        1 => (0..5_u32, 0..5_u32).prop_map(|(concurrent, queued)| Step::Limits(concurrent, queued)),
    ]
}

proptest! {
    #[test]
    fn any_history_keeps_the_invariants(steps in vec(step(), 0..200)) {
        let bulkhead = Bulkhead::new(2, 3);
        let mut limits = (2, 3);
        let mut permits: Vec<Permit> = Vec::new();
        let mut waiters: VecDeque<Waiter> = VecDeque::new();
        for step in steps {
            match step {
                Step::Admit => match bulkhead.try_admit() {
                    Admission::Admitted(permit) => {
                        permits.push(permit);
                        prop_assert!(bulkhead.in_use() <= limits.0);
                    }
                    Admission::Wait(waiter) => {
                        waiters.push_back(waiter);
                        prop_assert!(bulkhead.queued() <= limits.1);
                    }
                    Admission::Full => prop_assert!(bulkhead.queued() >= limits.1),
                },
                Step::Release(index) if !permits.is_empty() => {
                    drop(permits.remove(index % permits.len()));
                }
                Step::Cancel(index) if !waiters.is_empty() => {
                    let index = index % waiters.len();
                    drop(waiters.remove(index));
                }
                Step::Poll => {
                    let mut left = VecDeque::new();
                    for mut waiter in waiters.drain(..) {
                        match poll(&mut waiter) {
                            Some(permit) => {
                                prop_assert!(left.is_empty(), "served in order");
                                permits.push(permit);
                            }
                            None => left.push_back(waiter),
                        }
                    }
                    waiters = left;
                    prop_assert_eq!(usize::try_from(bulkhead.in_use()), Ok(permits.len()));
                    prop_assert_eq!(usize::try_from(bulkhead.queued()), Ok(waiters.len()));
                }
                Step::Limits(concurrent, queued) => {
                    limits = (concurrent, queued);
                    bulkhead.set_limits(concurrent, queued);
                }
                Step::Release(_) | Step::Cancel(_) => {}
            }
            prop_assert!(bulkhead.check_invariants());
        }
        drop((permits, waiters));
        prop_assert_eq!((bulkhead.in_use(), bulkhead.queued()), (0, 0));
    }
}
