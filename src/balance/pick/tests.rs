//! Who is picked, how often, and who is not.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Choice, NoEndpoint};
use crate::{
    balance::Pool,
    resilience::Verdict,
    snapshot::{Balancing, Endpoint, EndpointAddress, OutlierDetection, Readiness, Transport},
};

const OUTLIER: OutlierDetection = OutlierDetection {
    consecutive_failures: 1,
    interval: Duration::from_secs(10),
    base_ejection: Duration::from_secs(30),
    ejected_max: 0.5,
};

fn endpoint(name: &str, weight: u32, ready: bool) -> Arc<Endpoint> {
    Arc::new(Endpoint {
        name: name.into(),
        address: EndpointAddress::Ip(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        transport: Transport::Plain { ports: Vec::new() },
        weight,
        zone: String::new(),
        readiness: if ready { Readiness::Ready } else { Readiness::NotReady },
    })
}

fn pool(endpoints: &[(&str, u32, bool)]) -> (Pool, Instant) {
    let now = tokio::time::Instant::now().into_std();
    let endpoints: Vec<_> = endpoints.iter().map(|(n, w, r)| endpoint(n, *w, *r)).collect();
    (Pool::new(&endpoints, now), now)
}

/// Random numbers that are the same in every run.
fn randoms(count: u64) -> impl Iterator<Item = u64> {
    (1..=count).map(|index| {
        let mut bits = index.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    })
}

/// How often each is picked of `count` times.
fn shares(
    pool: &Pool,
    balancing: Balancing,
    tried: &[&str],
    now: Instant,
    count: u64,
) -> BTreeMap<String, u32> {
    let mut picked = BTreeMap::new();
    for random in randoms(count) {
        let member = pool.pick(&Choice { balancing, tried, now, random }).expect("somebody");
        *picked.entry(member.endpoint.name.clone()).or_default() += 1;
    }
    picked
}

const ALL: [Balancing; 4] =
    [Balancing::PeakEwma, Balancing::LeastRequest, Balancing::RoundRobin, Balancing::Random];

#[test]
fn only_ready_ones_with_a_weight_are_picked() {
    let (pool, now) = pool(&[("a", 0, true), ("b", 1, false), ("c", 1, true)]);
    for balancing in ALL {
        let picked = shares(&pool, balancing, &[], now, 20);
        assert_eq!(picked.into_keys().collect::<Vec<_>>(), ["c"], "{balancing:?}");
    }
}

#[test]
fn ejected_ones_are_left_alone_until_nobody_else_is_there() {
    let (pool, now) = pool(&[("a", 1, true), ("b", 1, true)]);
    pool.observe(&OUTLIER, &pool.members()[0], Verdict::of_http(503), now).expect("ejected");
    for balancing in ALL {
        assert_eq!(shares(&pool, balancing, &[], now, 20).get("b"), Some(&20), "{balancing:?}");
    }
    assert_eq!(shares(&pool, Balancing::Random, &["b"], now, 20).get("b"), Some(&20));
    let alone = pool.with_endpoints(&[endpoint("a", 1, true), endpoint("b", 1, false)]);
    assert_eq!(shares(&alone, Balancing::PeakEwma, &[], now, 20).get("a"), Some(&20));
}

#[test]
fn another_attempt_goes_elsewhere_where_there_is_one() {
    let (pool, now) = pool(&[("a", 1, true), ("b", 100, true), ("c", 100, true)]);
    for balancing in ALL {
        let picked = shares(&pool, balancing, &["b", "c"], now, 20);
        assert_eq!(picked.get("a"), Some(&20), "{balancing:?}");
        let picked = shares(&pool, balancing, &["a", "b", "c"], now, 50);
        assert!(picked.len() >= 2, "{balancing:?}: tried ones are better than none");
    }
}

#[test]
fn weights_decide_the_shares() {
    let (pool, now) = pool(&[("a", 1, true), ("b", 9, true)]);
    for balancing in [Balancing::RoundRobin, Balancing::Random] {
        let picked = shares(&pool, balancing, &[], now, 10_000);
        let share = picked["a"];
        assert!((900..=1100).contains(&share), "{balancing:?}: {share}");
    }
}

#[test]
fn round_robin_takes_turns() {
    let (pool, now) = pool(&[("a", 1, true), ("b", 1, true), ("c", 1, true)]);
    let picked = shares(&pool, Balancing::RoundRobin, &[], now, 300);
    assert!(picked.values().all(|share| *share == 100), "{picked:?}");
}

#[test]
fn of_two_the_less_busy_is_taken() {
    let (pool, now) = pool(&[("a", 1, true), ("b", 1, true)]);
    let _busy = pool.members()[0].load.begin();
    for balancing in [Balancing::PeakEwma, Balancing::LeastRequest] {
        assert_eq!(shares(&pool, balancing, &[], now, 50).get("b"), Some(&50), "{balancing:?}");
    }
}

#[test]
fn of_two_the_faster_is_taken_until_it_is_busier() {
    let (pool, now) = pool(&[("a", 1, true), ("b", 1, true)]);
    let (slow, fast) = (&pool.members()[0], &pool.members()[1]);
    slow.load.observe(Duration::from_millis(30), false, now);
    fast.load.observe(Duration::from_millis(10), false, now);
    let _busy: Vec<_> = (0..2).map(|_| fast.load.begin()).collect();
    assert_eq!(shares(&pool, Balancing::PeakEwma, &[], now, 50).len(), 2, "even: 30 = 3 * 10");
    let _busier = fast.load.begin();
    assert_eq!(shares(&pool, Balancing::PeakEwma, &[], now, 50).get("a"), Some(&50));
    assert_eq!(shares(&pool, Balancing::LeastRequest, &[], now, 50).get("a"), Some(&50));
}

#[test]
fn a_heavier_one_may_carry_more() {
    let (pool, now) = pool(&[("a", 1, true), ("b", 4, true)]);
    let _busy: Vec<_> = (0..2).map(|_| pool.members()[1].load.begin()).collect();
    assert_eq!(shares(&pool, Balancing::LeastRequest, &[], now, 50).get("b"), Some(&50));
    let _busier: Vec<_> = (0..2).map(|_| pool.members()[1].load.begin()).collect();
    assert_eq!(shares(&pool, Balancing::LeastRequest, &[], now, 50).get("a"), Some(&50));
}

#[test]
fn a_new_endpoint_is_tried_by_one_request_at_once() {
    let (pool, now) = pool(&[("old", 1, true), ("new", 1, true)]);
    pool.members()[0].load.observe(Duration::from_millis(1), false, now);
    assert_eq!(shares(&pool, Balancing::PeakEwma, &[], now, 50).get("new"), Some(&50));
    let _first = pool.members()[1].load.begin();
    assert_eq!(shares(&pool, Balancing::PeakEwma, &[], now, 50).get("old"), Some(&50));
}

#[test]
fn equal_ones_share_evenly() {
    let names = ["a", "b", "c", "d", "e"];
    let (pool, now) = pool(&names.map(|name| (name, 1, true)));
    for balancing in ALL {
        let picked = shares(&pool, balancing, &[], now, 10_000);
        for name in names {
            assert!((1800..=2200).contains(&picked[name]), "{balancing:?}: {picked:?}");
        }
    }
}

#[test]
fn what_is_known_stays_with_an_endpoint_that_stays() {
    let (pool, now) = pool(&[("a", 1, true), ("b", 1, true)]);
    let _busy = pool.members()[0].load.begin();
    pool.observe(&OUTLIER, &pool.members()[0], Verdict::of_http(503), now).expect("ejected");
    let mut moved = (*endpoint("b", 1, true)).clone();
    moved.address = EndpointAddress::Name("elsewhere".into());
    let next = pool.with_endpoints(&[endpoint("a", 7, true), Arc::new(moved)]);
    let (a, b) = (&next.members()[0], &next.members()[1]);
    assert_eq!((a.endpoint.weight, a.load.in_flight()), (7, 1));
    assert!(next.is_ejected(a, now));
    assert!(!Arc::ptr_eq(&b.load, &pool.members()[1].load), "another address is another endpoint");
}

#[test]
fn it_says_why_there_is_none() {
    for (endpoints, expected, text) in [
        (&[][..], NoEndpoint::default(), "0 endpoints"),
        (
            &[("a", 1, false)],
            NoEndpoint { total: 1, not_ready: 1, weightless: 0 },
            "1 endpoint: 1 not ready",
        ),
        (
            &[("a", 1, false), ("b", 0, true), ("c", 0, false)],
            NoEndpoint { total: 3, not_ready: 2, weightless: 1 },
            "3 endpoints: 2 not ready, 1 of weight 0",
        ),
    ] {
        let (pool, now) = pool(endpoints);
        let choice = Choice { balancing: Balancing::PeakEwma, tried: &[], now, random: 0 };
        let none = pool.pick(&choice).expect_err("nobody");
        assert_eq!((none, none.to_string()), (expected, text.to_owned()));
    }
}

#[test]
fn when_nobody_is_ready_those_are_asked_whose_checks_fail() {
    let failing = |name: &str, weight| {
        Arc::new(Endpoint {
            readiness: Readiness::Failing,
            ..(*endpoint(name, weight, true)).clone()
        })
    };
    let now = tokio::time::Instant::now().into_std();
    let of = |endpoints: &[Arc<Endpoint>]| Pool::new(endpoints, now);
    let picked = |pool: &Pool, tried: &[&str]| {
        shares(pool, Balancing::PeakEwma, tried, now, 100).into_keys().collect::<Vec<_>>()
    };
    let pool = of(&[failing("a", 1), endpoint("b", 1, true), endpoint("c", 1, false)]);
    assert_eq!(picked(&pool, &[]), ["b"]);
    assert_eq!(picked(&pool, &["b"]), ["b"], "one that was tried before one that fails");
    let pool = of(&[failing("a", 1), failing("b", 1), failing("c", 0), endpoint("d", 1, false)]);
    assert_eq!(picked(&pool, &[]), ["a", "b"]);
    assert_eq!(picked(&pool, &["a"]), ["b"]);
    assert_eq!(picked(&pool, &["a", "b"]), ["a", "b"]);
}
