//! What need not be found out for every request: a worker remembers what authorities mean on the
//! configuration that runs, a connection what holds for all of its requests.

use std::{
    cell::{OnceCell, RefCell},
    hash::BuildHasher as _,
    sync::Arc,
};

use rustc_hash::FxBuildHasher;

use super::{
    core::Running,
    destination::Entry,
    plan::{Plans, ScopeNumber},
    watch::Watch,
};
use crate::resilience::Bulkhead;

/// Authorities that a worker remembers.
const NAMES: usize = 32;
/// The longest one.
const NAME_BYTES_MAX: usize = 256;

/// What a worker remembers from request to request.
#[derive(Default)]
pub(super) struct Memory {
    /// The limits of its requests.
    pub(super) watch: Watch,
    /// What was decided about calls.
    pub(super) plans: Plans,
    names: RefCell<Names>,
}

/// What is found out once for a connection.
#[derive(Default)]
pub(super) struct Once {
    /// Who called, for the application.
    pub(super) client_cert: OnceCell<Option<Box<str>>>,
    /// The authority to which the listener leads.
    pub(super) authority: OnceCell<Box<str>>,
    /// The caller's places.
    pub(super) bulkhead: OnceCell<Arc<Bulkhead>>,
    /// For whom its decisions hold.
    pub(super) scope: ScopeNumber,
}

#[derive(Default)]
struct Names {
    /// On what it was found out; on anything else it is worth nothing.
    running: Option<Arc<Running>>,
    names: [Option<Name>; NAMES],
}

struct Name {
    fixed: bool,
    authority: Box<str>,
    meaning: Meaning,
}

/// A service of the mesh, as an authority names it.
#[derive(Clone)]
pub(super) struct Meaning {
    /// The service.
    pub(super) entry: Arc<Entry>,
    /// As the caller wrote it.
    pub(super) port: Option<u16>,
}

impl Memory {
    /// Gives what `authority` means to `found`; `fixed`: it is the listener's.
    pub(super) fn recall<T>(
        &self,
        running: &Arc<Running>,
        fixed: bool,
        authority: &str,
        found: impl FnOnce(&Meaning) -> T,
    ) -> Option<T> {
        let names = self.names.borrow();
        if !names.running.as_ref().is_some_and(|last| Arc::ptr_eq(last, running)) {
            return None;
        }
        let name = names.names[place(authority)].as_ref()?;
        (name.fixed == fixed && *name.authority == *authority).then(|| found(&name.meaning))
    }

    /// Remembers it.
    pub(super) fn note(
        &self,
        running: &Arc<Running>,
        fixed: bool,
        authority: &str,
        meaning: &Meaning,
    ) {
        if authority.len() > NAME_BYTES_MAX {
            return;
        }
        let mut names = self.names.borrow_mut();
        if !names.running.as_ref().is_some_and(|last| Arc::ptr_eq(last, running)) {
            *names = Names { running: Some(Arc::clone(running)), ..Names::default() };
        }
        let meaning = meaning.clone();
        names.names[place(authority)] = Some(Name { fixed, authority: authority.into(), meaning });
    }
}

fn place(authority: &str) -> usize {
    // The upper bits are the well-mixed ones.
    let hash = FxBuildHasher.hash_one(authority) >> 32;
    usize::try_from(hash).unwrap_or_default() % NAMES
}
