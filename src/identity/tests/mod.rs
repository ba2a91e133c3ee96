//! Tests of the CA, of what it is asked to sign, and of what is kept on disk.

mod ca;
mod csr;
mod disk;
mod files;
mod roots;

use std::time::{Duration, SystemTime};

use crate::{
    clock,
    identity::{Authority, Issued},
    spiffe::SpiffeId,
};

const HOUR: Duration = Duration::from_hours(1);

fn authority() -> Authority {
    Authority::create("mesh.local", clock::now()).expect("a CA")
}

fn orders() -> SpiffeId {
    "spiffe://mesh.local/ns/shop/svc/orders".parse().expect("an ID")
}

fn sign(authority: &Authority, csr: &[u8], now: SystemTime) -> Issued {
    authority.sign(csr, &orders(), HOUR, now).expect("signed")
}
