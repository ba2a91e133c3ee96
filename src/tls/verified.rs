//! Chains that were found good. A peer that connects again shows the same certificates, and whether
//! they are good depends on them, the roots and the time only: a third of what a handshake costs is
//! spared. What is remembered ends with the first certificate or root that changes its validity, and
//! all of it with the trust bundle for which it was found.

use std::{
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use aws_lc_rs::digest::{Context, SHA256};
use rustc_hash::FxHashMap;
use rustls_pki_types::CertificateDer;

use super::verify::{Role, Untrusted, verify};
use crate::spiffe::{Leaf, TrustBundle, validity};

/// Peers of one mesh that a process hears of; beyond them it begins anew.
const CHAINS_MAX: usize = 1024;

type Digest = [u8; 32];

/// Chains that were found good with one trust bundle.
#[derive(Debug, Default)]
pub(super) struct Verified {
    good: Mutex<FxHashMap<Digest, Good>>,
}

#[derive(Debug)]
struct Good {
    leaf: Leaf,
    from: SystemTime,
    until: SystemTime,
}

impl Verified {
    /// As [`verify`], always with the same `bundle`.
    pub(super) fn check(
        &self,
        chain: &[CertificateDer<'_>],
        bundle: &TrustBundle,
        role: Role,
        now: SystemTime,
    ) -> Result<Leaf, Untrusted> {
        let digest = digest(chain, role);
        if let Some(leaf) = self.recall(&digest, now) {
            return Ok(leaf);
        }
        let leaf = verify(chain, bundle, role, now)?;
        if let Some((from, until)) = holds(chain, bundle, now) {
            let mut good = self.good.lock().unwrap_or_else(PoisonError::into_inner);
            if good.len() >= CHAINS_MAX {
                good.clear();
            }
            good.insert(digest, Good { leaf: leaf.clone(), from, until });
        }
        Ok(leaf)
    }

    fn recall(&self, digest: &Digest, now: SystemTime) -> Option<Leaf> {
        let good = self.good.lock().unwrap_or_else(PoisonError::into_inner);
        let found = good.get(digest)?;
        (found.from <= now && now < found.until).then(|| found.leaf.clone())
    }
}

/// During which time around `now` the answer is the same; `None`: nobody knows.
fn holds(
    chain: &[CertificateDer<'_>],
    bundle: &TrustBundle,
    now: SystemTime,
) -> Option<(SystemTime, SystemTime)> {
    let (mut from, mut until) = bundle.unchanged_around(now);
    for certificate in chain {
        let (not_before, not_after) = validity(certificate).ok()?;
        (from, until) = (from.max(not_before), until.min(not_after));
    }
    (from <= now && now < until).then_some((from, until))
}

fn digest(chain: &[CertificateDer<'_>], role: Role) -> Digest {
    let mut context = Context::new(&SHA256);
    context.update(&[u8::from(role == Role::Server)]);
    for certificate in chain {
        context.update(&certificate.len().to_be_bytes());
        context.update(certificate);
    }
    let mut digest = Digest::default();
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustls_pki_types::CertificateDer;

    use super::{CHAINS_MAX, Verified};
    use crate::{
        clock,
        identity::{Authority, csr},
        spiffe::{SpiffeId, TrustBundle},
        tls::Role,
    };

    fn chain(ca: &Authority, ttl: Duration) -> Vec<CertificateDer<'static>> {
        let id: SpiffeId = "spiffe://mesh.local/ns/shop/svc/web".parse().expect("an ID");
        let request = csr::make().expect("a key");
        ca.sign(&request.csr, &id, ttl, clock::now()).expect("signed").chain
    }

    #[test]
    fn what_was_found_good_is_good_until_it_ends_and_not_before_it_began() {
        let now = clock::now();
        let ca = Authority::create("mesh.local", now).expect("a CA");
        let (verified, hour) = (Verified::default(), Duration::from_hours(1));
        let chain = chain(&ca, hour);
        let check = |now| verified.check(&chain, ca.bundle(), Role::Client, now);
        let leaf = check(now).expect("good");
        assert_eq!(verified.good.lock().expect("whole").len(), 1);
        assert_eq!(check(now + hour / 2).expect("still"), leaf);
        check(leaf.not_after + Duration::from_secs(1)).expect_err("ended");
        check(leaf.not_before - Duration::from_secs(1)).expect_err("not begun");
        let other = Authority::create("mesh.local", now).expect("another CA");
        let other = Verified::default().check(&chain, other.bundle(), Role::Client, now);
        other.expect_err("of another root");
    }

    #[test]
    fn nothing_is_taken_for_what_it_is_not() {
        let now = clock::now();
        let (ca, other) = (
            Authority::create("mesh.local", now).expect("a CA"),
            Authority::create("mesh.local", now).expect("another CA"),
        );
        let verified = Verified::default();
        let good = chain(&ca, Duration::from_hours(1));
        let check = |chain: &[CertificateDer<'_>]| {
            verified.check(chain, ca.bundle(), Role::Client, now).is_ok()
        };
        assert!(check(&good));
        assert!(!check(&[]));
        assert!(!check(&chain(&other, Duration::from_hours(1))));
        let mut broken = good[0].to_vec();
        let last = broken.len() - 1;
        broken[last] ^= 1;
        assert!(!check(&[CertificateDer::from(broken)]));
        assert_eq!(verified.good.lock().expect("whole").len(), 1);
    }

    #[test]
    fn a_root_that_changes_ends_what_was_found() {
        let now = clock::now();
        let later = now + Duration::from_mins(30);
        let ca = Authority::create("mesh.local", now).expect("a CA");
        let next = Authority::create("mesh.local", later).expect("a later CA");
        let roots = [ca.bundle(), next.bundle()].map(|bundle| bundle.certificates().cloned());
        let roots = roots.into_iter().flatten().collect();
        let bundle = TrustBundle::new("mesh.local", roots).expect("two roots");
        let (from, until) = bundle.unchanged_around(now);
        assert!(from <= now && now < until && until <= later, "{from:?} {until:?}");
    }

    #[test]
    fn it_stays_small() {
        let verified = Verified::default();
        let now = clock::now();
        let ca = Authority::create("mesh.local", now).expect("a CA");
        let good = chain(&ca, Duration::from_hours(1));
        for extra in 0..CHAINS_MAX + 10 {
            // A chain may have more in it than is needed.
            let mut more = good.clone();
            more.extend(vec![good[0].clone(); extra % 3]);
            verified.check(&more, ca.bundle(), Role::Client, now).expect("good");
        }
        assert!(verified.good.lock().expect("whole").len() <= 3);
    }
}
