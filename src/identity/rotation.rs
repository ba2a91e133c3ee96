//! Renewal of an SVID: when, what after a failure, and the loop that does it.
//!
//! An SVID is renewed at a random moment between 50 and 60 % of its life, so that sidecars that
//! started together do not come back together, and half of its life is left for a control plane
//! that is away. Before that time it is renewed when the mesh's root is exchanged ([`Wish`]). Failures are tried again with exponential backoff and full jitter, bounded by what
//! is left; after the end it goes on, since the control plane renews for 72 hours more. Time and
//! randomness are arguments of everything but the loop's own waits.

use std::{
    convert::Infallible,
    error::Error,
    future::Future,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls_pki_types::CertificateDer;
use tokio::{sync::watch, task::spawn_blocking};

use super::{ca::BACKDATE, csr, disk::DataDirectory};
use crate::{
    spiffe::{Svid, TrustBundle},
    telemetry::chain,
    tls::{self, Identity, Role, Trust},
};

/// The earliest and latest moment of renewal, as shares of an SVID's life.
const RENEW_SHARE: (f64, f64) = (0.5, 0.6);
/// The first wait after a failure, before jitter; doubles with each.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
/// No wait after a failure is longer.
const BACKOFF_MAX: Duration = Duration::from_secs(300);
/// No wait is shorter: neither after a failure nor between two successes.
const WAIT_MIN: Duration = Duration::from_millis(200);
/// No wait after the certificate's end is longer: nothing works without it, so a control plane that
/// is back must be noticed soon.
const BACKOFF_EXPIRED_MAX: Duration = Duration::from_secs(5);
/// The share of what is left of a life that one wait may take, as a divisor.
const REMAINING_DIVISOR: u32 = 8;
/// The wall clock is looked at again this often: a machine that slept wakes to an old certificate.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// With less than this share of its life left a certificate that is not renewed is an error.
const SOON_SHARE: f64 = 0.25;
/// How long one renewal may take.
const ATTEMPT_MAX: Duration = Duration::from_secs(30);

/// Gets a certificate for a new key, by the current SVID.
pub trait Renew {
    /// Why it did not.
    type Error: Error + Send + Sync + 'static;

    /// Sends a CSR (PKCS#10, DER) and returns the chain and, when it is known, whom to trust.
    ///
    /// # Errors
    /// When the control plane can not be reached or refuses.
    fn renew(&self, csr: &[u8]) -> impl Future<Output = Result<Renewed, Self::Error>> + Send;
}

/// What came back for a CSR.
#[derive(Debug, Clone)]
pub struct Renewed {
    /// Leaf first, without the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// Whom to trust from now on; absent: as before.
    pub trust: Option<Trust>,
}

/// From which root the control plane issues now, as it last said: an SVID of another root is renewed
/// before its time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wish {
    /// The root's SHA-256; `None`: any will do.
    pub issuer: Option<[u8; 32]>,
    /// A random time up to this goes by first, so that a whole mesh does not come at once.
    pub within: Duration,
    /// Counts how often the control plane has refused the SVID: renewed at once, by whatever else
    /// there is.
    pub refused: u32,
}

/// How one renewal ended, for metrics and `status`; the log has it already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A new SVID is in use.
    Renewed {
        /// When it ends.
        not_after: SystemTime,
    },
    /// The old one stays.
    Failed {
        /// So many times in a row.
        times: u32,
    },
}

/// Where the loop gets time and randomness from.
#[derive(Debug, Clone, Copy)]
pub struct Sources {
    /// The wall clock.
    pub now: fn() -> SystemTime,
    /// A number of 0.0 up to 1.0.
    pub random: fn() -> f64,
}

impl Sources {
    /// The real ones.
    pub const REAL: Self = Self { now: crate::clock::now, random: fastrand::f64 };
}

/// When to renew an SVID; `random` is from 0.0 up to 1.0. In the past when that moment has passed.
pub fn renew_at(not_before: SystemTime, not_after: SystemTime, random: f64) -> SystemTime {
    // A CA dates the beginning back; a short life would be half over when it begins.
    let whole = not_after.duration_since(not_before).unwrap_or_default();
    let life = if whole > BACKDATE { whole - BACKDATE } else { whole };
    let (earliest, latest) = RENEW_SHARE;
    let share = earliest + (latest - earliest) * random.clamp(0.0, 1.0);
    not_after - life.mul_f64(1.0 - share)
}

/// How long to wait after the `times`th failure in a row; `random` is from 0.0 up to 1.0.
pub fn retry_after(times: u32, not_after: SystemTime, now: SystemTime, random: f64) -> Duration {
    let doubled = 2_u32.saturating_pow(times.saturating_sub(1).min(16));
    let longest = BACKOFF_FIRST.saturating_mul(doubled).min(BACKOFF_MAX);
    let longest = match not_after.duration_since(now) {
        Ok(left) => longest.min(left / REMAINING_DIVISOR),
        Err(_) => longest.min(BACKOFF_EXPIRED_MAX),
    };
    longest.mul_f64(random.clamp(0.0, 1.0)).max(WAIT_MIN)
}

/// Keeps an identity's SVID fresh until the future is dropped: waits, makes a new key, renews, puts
/// it in use and stores it. Between a success and its storing nothing is lost but the stored copy.
pub async fn keep(
    identity: Arc<Identity>,
    renewer: impl Renew,
    disk: Option<Arc<DataDirectory>>,
    sources: Sources,
    mut wish: watch::Receiver<Wish>,
    mut observe: impl FnMut(Outcome),
) -> Infallible {
    let mut failures: u32 = 0;
    // What was wished for at the last renewal: asking again would bring the same.
    let mut tried = Wish::default();
    loop {
        let svid = identity.svid();
        let at = renew_at(svid.not_before(), svid.not_after(), (sources.random)());
        if failures == 0 {
            tokio::time::sleep(WAIT_MIN).await;
            tokio::select! {
                () = wait_until(at, sources.now) => {}
                within = wished(&mut wish, &identity, &tried, sources.now) => {
                    tokio::time::sleep(within.mul_f64((sources.random)().clamp(0.0, 1.0))).await;
                }
            }
        }
        let wanted = wish.borrow().clone();
        match renew_once(&identity, &renewer, disk.as_ref(), sources.now).await {
            Ok(()) => {
                failures = 0;
                tried = wanted;
                let not_after = identity.svid().not_after();
                observe(Outcome::Renewed { not_after });
            }
            Err(error) => {
                failures = failures.saturating_add(1);
                tell(failures, &error, &svid, (sources.now)());
                observe(Outcome::Failed { times: failures });
                let random = (sources.random)();
                let wait = retry_after(failures, svid.not_after(), (sources.now)(), random);
                tokio::time::sleep(wait).await;
            }
        }
    }
}

/// Renewal begins at half of a life: a failure is worth a warning then, and more when little is left.
fn tell(failures: u32, error: &str, svid: &Svid, now: SystemTime) {
    let left = svid.not_after().duration_since(now).unwrap_or_default();
    let life = svid.not_after().duration_since(svid.not_before()).unwrap_or_default();
    let left_seconds = left.as_secs();
    if left.is_zero() {
        tracing::error!(failures, error, "can not renew the certificate, which has expired");
    } else if left <= life.mul_f64(SOON_SHARE) {
        tracing::error!(
            failures,
            error,
            left_seconds,
            "can not renew the certificate; it ends soon"
        );
    } else {
        tracing::warn!(failures, error, left_seconds, "can not renew the certificate");
    }
}

/// Waits until another issuer is wished for than that of the SVID, and says over how long its
/// renewal may be spread.
async fn wished(
    wish: &mut watch::Receiver<Wish>,
    identity: &Identity,
    tried: &Wish,
    now: fn() -> SystemTime,
) -> Duration {
    loop {
        {
            let wish = wish.borrow_and_update();
            if wish.refused != tried.refused {
                return Duration::ZERO;
            }
            if let Some(root) = wish.issuer
                && tried.issuer != Some(root)
                && !is_of(&identity.svid(), &identity.bundle(), &root, now())
            {
                return wish.within;
            }
        }
        if wish.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Whether that one of the trusted roots vouches for the SVID.
fn is_of(svid: &Svid, bundle: &TrustBundle, root: &[u8; 32], now: SystemTime) -> bool {
    let only = bundle.filtered(|known| known == root);
    only.is_some_and(|only| tls::verify(svid.chain(), &only, Role::Server, now).is_ok())
}

async fn wait_until(at: SystemTime, now: fn() -> SystemTime) {
    while let Ok(left) = at.duration_since(now()) {
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(LOOK_AGAIN)).await;
    }
}

/// One renewal; the error is text, because it is for the log alone.
async fn renew_once(
    identity: &Identity,
    renewer: &impl Renew,
    disk: Option<&Arc<DataDirectory>>,
    now: fn() -> SystemTime,
) -> Result<(), String> {
    let request = csr::make().map_err(told)?;
    let version = identity.trust_version();
    let renewed = tokio::time::timeout(ATTEMPT_MAX, renewer.renew(&request.csr)).await;
    let renewed = renewed.map_err(|_| format!("no answer within {} s", ATTEMPT_MAX.as_secs()))?;
    let renewed = renewed.map_err(told)?;
    let svid = Svid::new(renewed.chain, request.key, tls::provider()).map_err(told)?;
    // What was heard of the roots meanwhile is newer than this answer.
    let trust = renewed.trust.filter(|_| identity.trust_version() == version);
    let bundle = match &trust {
        Some(trust) => trust.bundle.clone(),
        None => (*identity.bundle()).clone(),
    };
    // One that peers would refuse must not take the place of one that works.
    tls::verify(svid.chain(), &bundle, Role::Server, now()).map_err(told)?;
    // Roots first: peers may already show what only the new ones accept.
    if let Some(trust) = trust {
        identity.replace_trust(trust).map_err(told)?;
    }
    identity.replace_svid(svid).map_err(told)?;
    if let Some(disk) = disk {
        store(identity, disk).await;
    }
    Ok(())
}

/// A copy that can not be stored is no failed renewal: the new SVID is in use.
async fn store(identity: &Identity, disk: &Arc<DataDirectory>) {
    let (disk, svid, bundle) = (Arc::clone(disk), identity.svid(), identity.bundle());
    let write = move || disk.save_bundle(&bundle).and_then(|()| disk.save_svid(&svid));
    match spawn_blocking(write).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(error = told(error), "can not store the certificate");
        }
        Err(error) => tracing::error!(%error, "can not store the certificate"),
    }
}

#[allow(clippy::needless_pass_by_value, reason = "the form that map_err takes")]
fn told(error: impl Error) -> String {
    chain(&error)
}

#[cfg(test)]
mod tests {
    use std::{
        cell::Cell,
        sync::{
            Arc, Mutex,
            atomic::{AtomicU32, Ordering},
        },
        time::{Duration, SystemTime, UNIX_EPOCH},
    };

    use tokio::{sync::watch, time::Instant};

    use super::{Outcome, Renew, Renewed, Sources, WAIT_MIN, Wish, keep, renew_at, retry_after};
    use crate::{
        identity::{Authority, csr, disk::DataDirectory},
        spiffe::{SpiffeId, Svid},
        tls::{self, Identity, Trust},
    };

    const HOUR: Duration = Duration::from_hours(1);

    fn base() -> SystemTime {
        UNIX_EPOCH + Duration::from_hours(500_000)
    }

    thread_local! {
        static START: Cell<Option<Instant>> = const { Cell::new(None) };
    }

    /// A wall clock that goes with tokio's paused one.
    fn now() -> SystemTime {
        let start = START.get().unwrap_or_else(Instant::now);
        START.set(Some(start));
        base() + start.elapsed()
    }

    const SOURCES: Sources = Sources { now, random: || 0.5 };

    #[test]
    fn renewal_is_between_half_and_six_tenths_of_life() {
        let (begin, end) = (base(), base() + Duration::from_secs(60) + 10 * HOUR);
        let at = |random| renew_at(begin, end, random).duration_since(end - 10 * HOUR).ok();
        assert_eq!(at(0.0), Some(5 * HOUR));
        assert_eq!(at(0.5), Some(HOUR.mul_f64(5.5)));
        assert_eq!(at(1.0), Some(6 * HOUR));
        assert_eq!(at(7.0), Some(6 * HOUR));
    }

    #[test]
    fn a_life_of_seconds_is_renewed_within_it() {
        let issued = base();
        let (begin, end) = (issued - Duration::from_secs(60), issued + Duration::from_secs(4));
        assert_eq!(renew_at(begin, end, 0.0), issued + Duration::from_secs(2));
        assert!(renew_at(end, begin, 0.0) <= end);
    }

    #[test]
    fn waits_grow_have_jitter_and_leave_room_before_the_end() {
        let far = base() + 100 * HOUR;
        let seconds = |times, random| retry_after(times, far, base(), random).as_secs_f64();
        assert_eq!((seconds(1, 1.0), seconds(2, 1.0), seconds(5, 1.0)), (1.0, 2.0, 16.0));
        assert_eq!((seconds(5, 0.5), seconds(100, 1.0)), (8.0, 300.0));
        assert_eq!(retry_after(9, far, base(), 0.0), WAIT_MIN);
        let soon = base() + Duration::from_secs(40);
        assert_eq!(retry_after(9, soon, base(), 1.0), Duration::from_secs(5));
        assert_eq!(retry_after(9, base(), base(), 1.0), WAIT_MIN);
        assert_eq!(retry_after(2, base() - HOUR, base(), 1.0), Duration::from_secs(2));
        assert_eq!(retry_after(9, base() - HOUR, base(), 1.0), Duration::from_secs(5));
    }

    /// A control plane that fails so many times first.
    struct Plane {
        authority: Authority,
        failures: AtomicU32,
        keys: Mutex<Vec<Vec<u8>>>,
        names: &'static str,
    }

    impl Renew for Arc<Plane> {
        type Error = std::io::Error;

        async fn renew(&self, csr: &[u8]) -> Result<Renewed, Self::Error> {
            let failing = |left: u32| left.checked_sub(1);
            let order = Ordering::Relaxed;
            if self.failures.fetch_update(order, order, failing).is_ok() {
                return Err(std::io::Error::other("away"));
            }
            self.keys.lock().expect("whole").push(csr.to_vec());
            let issued = self.authority.sign(csr, &id(self.names), 10 * HOUR, now());
            let trust = Some(Trust::of(self.authority.bundle().clone()));
            Ok(Renewed { chain: issued.expect("signed").chain, trust })
        }
    }

    fn no_wish() -> watch::Receiver<Wish> {
        watch::channel(Wish::default()).1
    }

    fn id(service: &str) -> SpiffeId {
        format!("spiffe://mesh.local/ns/shop/svc/{service}").parse().expect("an ID")
    }

    fn plane(failures: u32, names: &'static str) -> (Arc<Plane>, Arc<Identity>) {
        let authority = Authority::create("mesh.local", now()).expect("a CA");
        let request = csr::make().expect("a key");
        let first = authority.sign(&request.csr, &id("orders"), 10 * HOUR, now()).expect("signed");
        let first = Svid::new(first.chain, request.key, tls::provider()).expect("an SVID");
        let identity = Identity::new(first, authority.bundle().clone()).expect("one domain");
        let failures = AtomicU32::new(failures);
        let plane = Plane { authority, failures, keys: Mutex::default(), names };
        (Arc::new(plane), Arc::new(identity))
    }

    #[tokio::test(start_paused = true)]
    async fn an_svid_is_renewed_with_a_new_key_each_time_and_stored() {
        let (plane, identity) = plane(0, "orders");
        let directory = tempfile::tempdir().expect("a directory");
        let disk = Arc::new(DataDirectory::open(directory.path()).expect("mine"));
        let mut outcomes = Vec::new();
        let kept = keep(
            Arc::clone(&identity),
            Arc::clone(&plane),
            Some(Arc::clone(&disk)),
            SOURCES,
            no_wish(),
            |outcome| outcomes.push((outcome, now())),
        );
        tokio::time::timeout(12 * HOUR, kept).await.expect_err("never ends");
        assert_eq!(outcomes.len(), 2, "{outcomes:?}");
        let Outcome::Renewed { not_after } = outcomes[0].0 else { panic!("{outcomes:?}") };
        let late = outcomes[0].1.duration_since(base() + HOUR.mul_f64(5.5)).expect("not before");
        assert!(late < Duration::from_secs(1), "{late:?}");
        assert!(not_after > base() + 15 * HOUR);
        let keys = plane.keys.lock().expect("whole").clone();
        assert_ne!(keys[0], keys[1]);
        let stored = disk.load_svid().expect("readable").expect("stored");
        assert_eq!(stored.chain(), identity.svid().chain());
        assert!(disk.load_bundle("mesh.local").expect("readable").is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_retried_and_the_old_svid_serves_on() {
        let (plane, identity) = plane(3, "orders");
        let before = identity.svid();
        let mut outcomes = Vec::new();
        let kept = keep(Arc::clone(&identity), plane, None, SOURCES, no_wish(), |outcome| {
            if matches!(outcome, Outcome::Failed { .. }) {
                assert_eq!(identity.svid().chain(), before.chain());
            }
            outcomes.push(outcome);
        });
        tokio::time::timeout(6 * HOUR, kept).await.expect_err("never ends");
        let failed = |times| Outcome::Failed { times };
        assert_eq!(outcomes[..3], [failed(1), failed(2), failed(3)]);
        assert!(matches!(outcomes[3..], [Outcome::Renewed { .. }]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_certificate_for_somebody_else_is_not_used() {
        let (plane, identity) = plane(0, "payments");
        let before = identity.svid();
        let mut failures = 0;
        let kept = keep(Arc::clone(&identity), plane, None, SOURCES, no_wish(), |outcome| {
            failures += u32::from(matches!(outcome, Outcome::Failed { .. }));
        });
        tokio::time::timeout(6 * HOUR, kept).await.expect_err("never ends");
        assert!(failures > 3);
        assert_eq!(identity.svid().chain(), before.chain());
    }

    #[tokio::test(start_paused = true)]
    async fn an_svid_of_another_root_than_wished_for_is_renewed_at_once_and_once() {
        let (plane, identity) = plane(0, "orders");
        let roots = |of: &Plane| of.authority.root_hash();
        let own = roots(&plane);
        let (sender, wish) = watch::channel(Wish { issuer: Some(own), ..Wish::default() });
        let mut renewed = Vec::new();
        {
            let kept = keep(Arc::clone(&identity), plane, None, SOURCES, wish, |_| {
                renewed.push(now());
            });
            let mut kept = std::pin::pin!(kept);
            let minute = Duration::from_secs(60);
            tokio::time::timeout(minute, kept.as_mut()).await.expect_err("never ends");
            // A root that this control plane can not issue from: asked once, not again and again.
            let within = Duration::from_secs(10);
            sender.send_replace(Wish { issuer: Some([7; 32]), within, refused: 0 });
            tokio::time::timeout(HOUR, kept.as_mut()).await.expect_err("never ends");
        }
        assert_eq!(renewed.len(), 1, "{renewed:?}");
        let after = renewed[0].duration_since(base()).expect("later");
        assert!((64..67).contains(&after.as_secs()), "half of the ten seconds: {after:?}");
    }
}
