//! Workers: each is a thread with a runtime of its own, and owns the connections that it was handed,
//! their streams and its pool of upstream connections. Nothing of those ever leaves the thread, so
//! none of it needs a lock.

use std::{
    rc::Rc,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    net::{TcpStream, UnixStream},
    runtime,
    sync::{mpsc, oneshot},
    task::LocalSet,
    time::{MissedTickBehavior, interval},
};

use super::{
    acceptor::{self, Acceptor, Counted},
    connection::{self, Accepted, Counts, Side},
    core::Core,
    ends::Ends,
    hub::Hub,
    io,
    link::Link,
    memory::Memory,
    pool::Pool,
    settings::{HANDED_MAX, SWEEP_EVERY},
    start::StartError,
};
use crate::{
    task::{self, DrainGuard},
    telemetry::Recorder,
};

/// How many tasks run before the system is asked again what is ready: all that are.
const EVENT_INTERVAL: u32 = 1024;

/// What a worker owns.
pub(super) struct Worker {
    /// Its place in the crew.
    place: usize,
    pub(super) core: Arc<Core>,
    pub(super) hub: Rc<Hub>,
    pub(super) pool: Pool,
    pub(super) memory: Memory,
    pub(super) recorder: Recorder,
}

/// All workers of a proxy.
pub(super) struct Crew {
    seats: Vec<Seat>,
}

/// The others' end of one worker. Dropping all of them ends the worker.
struct Seat {
    orders: mpsc::Sender<Order>,
    connections: Arc<AtomicUsize>,
}

/// What a worker is asked to do.
enum Order {
    /// To accept connections; says when it does.
    Accept(Acceptor, Weak<Crew>, oneshot::Sender<std::io::Result<()>>),
    /// To serve a connection that another worker has accepted.
    Serve(Handed, Counted),
}

/// A socket on its way to a worker.
pub(super) struct Handed {
    pub(super) socket: Socket,
    pub(super) side: Side,
    pub(super) address: Arc<str>,
    pub(super) ends: Option<Ends>,
    /// Taken when it was accepted, so that no drain overlooks it.
    pub(super) guard: DrainGuard,
    /// Counts against the limit of its side.
    pub(super) counted: Counted,
}

/// A socket that was accepted, woken by the runtime of the thread that did.
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    /// The same, woken by the runtime of this thread.
    fn moved_here(self) -> std::io::Result<Self> {
        Ok(match self {
            Self::Tcp(stream) => Self::Tcp(TcpStream::from_std(stream.into_std()?)?),
            Self::Unix(stream) => Self::Unix(UnixStream::from_std(stream.into_std()?)?),
        })
    }
}

impl From<Socket> for io::Socket {
    fn from(socket: Socket) -> Self {
        match socket {
            Socket::Tcp(stream) => Self::Tcp(stream),
            Socket::Unix(stream) => Self::Unix(stream),
        }
    }
}

impl Worker {
    /// Serves a connection of this thread.
    fn serve(self: &Rc<Self>, handed: Handed, busy: Counted) {
        let Handed { socket, side, address, ends, guard, counted } = handed;
        let counts = Counts { guard, _of_side: counted, _of_worker: busy };
        let accepted = Accepted { socket: socket.into(), side, address, ends, counts };
        let serve = connection::serve(Rc::clone(self), accepted);
        let _runs_on = task::spawn_local("connection", serve);
    }
}

/// Starts as many as the settings say.
pub(super) fn start(core: &Arc<Core>) -> Result<Crew, StartError> {
    let places = 0..core.settings.workers.max(1);
    let seats = places.map(|place| seat(core, place)).collect::<std::io::Result<_>>();
    Ok(Crew { seats: seats.map_err(StartError::Worker)? })
}

fn seat(core: &Arc<Core>, place: usize) -> std::io::Result<Seat> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .event_interval(EVENT_INTERVAL)
        .build()?;
    let (orders, given) = mpsc::channel(HANDED_MAX);
    let connections = Arc::new(AtomicUsize::new(0));
    let core = Arc::clone(core);
    let _joined_never = task::thread("worker", move || {
        let local = LocalSet::new();
        local.block_on(&runtime, work(core, place, given));
        drop(local);
        // A name that is being looked up must not hold up the end.
        runtime.shutdown_background();
    })?;
    Ok(Seat { orders, connections })
}

impl Crew {
    /// Has a worker accept the connections of a listener, until the crew is dropped. `turn` spreads
    /// the listeners over the workers.
    pub(super) async fn accept(
        self: &Arc<Self>,
        turn: usize,
        acceptor: Acceptor,
    ) -> std::io::Result<()> {
        let (said, heard) = oneshot::channel();
        let seat = self.seats.get(turn % self.seats.len());
        let order = Order::Accept(acceptor, Arc::downgrade(self), said);
        if let Some(seat) = seat
            && seat.orders.send(order).await.is_ok()
            && let Ok(said) = heard.await
        {
            return said;
        }
        Err(std::io::Error::other("the worker has ended"))
    }

    /// Hands a socket that worker `by` has accepted to the one with the fewest connections. Waits
    /// while that one has too many that it has not looked at; may be cancelled, which closes the
    /// socket.
    pub(super) async fn hand(&self, by: &Rc<Worker>, handed: Handed) {
        let fewest = |(_, seat): &(usize, &Seat)| seat.connections.load(Ordering::Relaxed);
        let open = self.seats.iter().enumerate().filter(|(_, seat)| !seat.orders.is_closed());
        let Some((place, seat)) = open.min_by_key(fewest) else {
            return tracing::error!("no worker is left; a connection was closed");
        };
        seat.connections.fetch_add(1, Ordering::Relaxed);
        let counted = Counted::of(&seat.connections);
        if place == by.place {
            by.serve(handed, counted);
        } else if seat.orders.send(Order::Serve(handed, counted)).await.is_err() {
            tracing::error!("a worker is gone; a connection was closed");
        }
    }
}

/// Does what it is asked until nobody can ask it for anything any more.
async fn work(core: Arc<Core>, place: usize, mut orders: mpsc::Receiver<Order>) {
    let (hub, woken) = Hub::new(&core.pressure);
    let pool =
        Pool::new(Rc::clone(&hub), Arc::clone(&core.dialer), core.settings.connection_age_max);
    let recorder = Recorder::new(&core.telemetry);
    let memory = Memory::default();
    let worker = Rc::new(Worker { place, core, hub: Rc::clone(&hub), pool, memory, recorder });
    let (stories, flushed) = (Rc::clone(&hub), Rc::clone(&worker));
    let _ends_with_the_thread = [
        task::spawn_local("upkeep", upkeep(Rc::clone(&worker))),
        task::spawn_local("draining", draining(Rc::clone(&worker))),
        task::spawn_local("flush", async move {
            hub.flush(|| flushed.recorder.hand_over()).await;
        }),
        task::spawn_local("stories", async move { stories.listen(woken).await }),
    ];
    while let Some(order) = orders.recv().await {
        match order {
            Order::Accept(acceptor, crew, said) => {
                let moved = acceptor.listener.moved_here().map(|listener| {
                    let acceptor = Acceptor { listener, ..acceptor };
                    let accept = acceptor::accept(Rc::clone(&worker), crew, acceptor);
                    let _runs_on = task::spawn_local("acceptor", accept);
                });
                // Who asked may have given up.
                drop(said.send(moved));
            }
            Order::Serve(handed, busy) => match handed.socket.moved_here() {
                Ok(socket) => worker.serve(Handed { socket, ..handed }, busy),
                Err(error) => {
                    let address = handed.address;
                    tracing::warn!(%address, %error, "a connection can not be served");
                }
            },
        }
    }
}

/// Looks after connections and streams: what is idle, aged, slow or expired ends, and so does what is
/// not trusted any more.
async fn upkeep(worker: Rc<Worker>) {
    let mut sweep = interval(SWEEP_EVERY);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut changes = worker.core.identity.as_ref().map(|identity| identity.subscribe());
    loop {
        let changed = async {
            match &mut changes {
                Some(changes) => changes.changed().await.is_ok(),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = sweep.tick() => {
                worker.hub.now();
                resize_windows(&worker);
                worker.hub.links().iter().for_each(|link| link.guarded(Link::look_after));
                worker.pool.sweep();
                worker.hub.shrink();
                // What nobody could take when its turn ended.
                worker.recorder.hand_over();
                worker.hub.tasks.run();
            }
            () = worker.hub.turned.notified() => resize_windows(&worker),
            open = changed => {
                worker.hub.now();
                worker.hub.links().iter().for_each(|link| link.guarded(Link::recheck));
                worker.hub.tasks.run();
                if !open {
                    changes = None;
                }
            }
        }
    }
}

/// Windows are small while much waits in the process: a thousand slow readers then hold little.
fn resize_windows(worker: &Worker) {
    if let (window, true) = worker.hub.waiting.window() {
        tracing::debug!(window, "how much waits has changed the windows of streams");
        worker.hub.links().iter().for_each(|link| link.guarded(|link| link.set_window(window)));
    }
}

/// Tells connections at once when they are to end in order.
async fn draining(worker: Rc<Worker>) {
    let (mut inbound, mut outbound) = (false, false);
    while !(inbound && outbound) {
        tokio::select! {
            () = worker.core.inbound_drain.signalled(), if !inbound => inbound = true,
            () = worker.core.outbound_drain.signalled(), if !outbound => outbound = true,
        }
        worker.hub.links().iter().for_each(|link| link.guarded(Link::look_after));
    }
    worker.core.cut_off.signalled().await;
    worker.hub.links().iter().for_each(|link| link.guarded(Link::cut_off));
}
