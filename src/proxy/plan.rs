//! What was decided about a call, and what a worker remembers of it: where a call goes, whether it may,
//! and how it may be tried again follow from who calls, what is called and the configuration, as long
//! as no rule looks at other fields. The next call of the same method by the same caller then gets the
//! same answer without asking again; on another configuration nothing is remembered.

use std::{
    cell::{OnceCell, RefCell},
    hash::{BuildHasher as _, Hasher as _},
    rc::Rc,
    sync::Arc,
};

use rustc_hash::{FxBuildHasher, FxHashMap};

use super::{
    connection::{Origin, Side},
    core::Running,
    route::Route,
};
use crate::{
    http::{Head, HeaderBlock, Token},
    resilience::retry::Schedule,
    spiffe::SpiffeId,
    telemetry::{Name, metrics::Decision},
    units::ServiceName,
};

/// Calls that a worker remembers; a power of two.
const PLANS: usize = 256;
/// The longest path and authority that are remembered.
const TEXT_BYTES_MAX: usize = 256;
/// Kinds of callers that are told apart at a time.
const SCOPES_MAX: usize = 1024;

/// Where a request goes and on what terms, with everything that follows from its method.
pub(super) struct Plan {
    pub(super) route: Route,
    /// Before the first attempt.
    pub(super) schedule: Schedule,
    /// What the record calls the destination.
    pub(super) destination: Name,
    /// The policy that decided; empty: none.
    pub(super) policy: Name,
    /// Said about every request that is let in.
    pub(super) decisions: &'static [Decision],
}

impl Plan {
    /// For requests like `head`.
    pub(super) fn new(route: Route, head: &Head<'_>) -> Self {
        let schedule = Schedule::new(route.settings().retry.as_ref(), head);
        // A text of its own, which this worker alone counts the users of.
        let name = &*route.entry.name;
        let destination = if route.to_app { Name::default() } else { name.into() };
        Self { route, schedule, destination, policy: Name::default(), decisions: &[] }
    }
}

/// What a worker remembers.
#[derive(Default)]
pub(super) struct Plans {
    known: RefCell<Known>,
    scopes: RefCell<Scopes>,
}

#[derive(Default)]
struct Known {
    /// On what it was decided; on anything else it is worth nothing.
    running: Option<Arc<Running>>,
    slots: Vec<Option<Slot>>,
}

struct Slot {
    scope: u64,
    authority: Box<[u8]>,
    path: Box<[u8]>,
    plan: Rc<Plan>,
}

/// Numbers of scopes; no number is given twice.
#[derive(Default)]
struct Scopes {
    numbers: FxHashMap<Scope, u64>,
    last: u64,
}

/// All that a decision may depend on and that a connection's requests have in common.
#[derive(PartialEq, Eq, Hash)]
enum Scope {
    Outbound { fixed: Option<(ServiceName, u16)> },
    Inbound { peer: Option<SpiffeId>, port: Option<u16> },
}

/// The number of a connection's scope, once it was asked for.
#[derive(Default)]
pub(super) struct ScopeNumber(OnceCell<u64>);

impl Plans {
    /// What is known of a gRPC call with this head.
    pub(super) fn recall(
        &self,
        origin: &Origin,
        running: &Arc<Running>,
        head: &HeaderBlock,
    ) -> Option<Rc<Plan>> {
        let known = self.known.borrow();
        if !known.running.as_ref().is_some_and(|last| Arc::ptr_eq(last, running)) {
            return None;
        }
        let path = head.get(Token::Path)?;
        let scope = self.scope(origin);
        let slot = known.slots.get(place(scope, path))?.as_ref()?;
        let same = slot.scope == scope
            && *slot.path == *path
            && head.get(Token::Authority).is_some_and(|authority| *slot.authority == *authority);
        same.then(|| Rc::clone(&slot.plan))
    }

    /// Remembers what every gRPC call with this authority and path gets.
    pub(super) fn note(
        &self,
        origin: &Origin,
        running: &Arc<Running>,
        head: &Head<'_>,
        plan: &Rc<Plan>,
    ) {
        let short = head.path.len() <= TEXT_BYTES_MAX && head.authority.len() <= TEXT_BYTES_MAX;
        if !short || !head.query.is_empty() {
            return;
        }
        let mut known = self.known.borrow_mut();
        if !known.running.as_ref().is_some_and(|last| Arc::ptr_eq(last, running)) {
            let slots = std::iter::repeat_with(|| None).take(PLANS).collect();
            *known = Known { running: Some(Arc::clone(running)), slots };
        }
        let scope = self.scope(origin);
        let (authority, path) = (head.authority.as_bytes(), head.path.as_bytes());
        let (authority, path, plan) = (authority.into(), path.into(), Rc::clone(plan));
        let place = place(scope, head.path.as_bytes());
        known.slots[place] = Some(Slot { scope, authority, path, plan });
    }

    fn scope(&self, origin: &Origin) -> u64 {
        *origin.once.scope.0.get_or_init(|| {
            let scope = match &origin.side {
                Side::Outbound { fixed } => Scope::Outbound { fixed: fixed.clone() },
                Side::Inbound { peer, sni } => Scope::Inbound {
                    peer: peer.as_ref().map(|peer| peer.id.clone()),
                    port: sni.as_ref().map(|sni| sni.port),
                },
            };
            let mut scopes = self.scopes.borrow_mut();
            if let Some(number) = scopes.numbers.get(&scope) {
                return *number;
            }
            if scopes.numbers.len() >= SCOPES_MAX {
                scopes.numbers.clear();
            }
            scopes.last += 1;
            let number = scopes.last;
            scopes.numbers.insert(scope, number);
            number
        })
    }
}

fn place(scope: u64, path: &[u8]) -> usize {
    let mut hasher = FxBuildHasher.build_hasher();
    hasher.write_u64(scope);
    hasher.write(path);
    // The upper bits are the well-mixed ones.
    usize::try_from(hasher.finish() >> 32).unwrap_or_default() % PLANS
}
