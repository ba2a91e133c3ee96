//! Workers: each is a thread with a runtime of its own, and owns the connections that it was handed,
//! their streams and its pool of upstream connections. Nothing of those ever leaves the thread, so
//! none of it needs a lock.

use std::{
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    net::{TcpStream, UnixStream},
    runtime,
    sync::mpsc,
    task::LocalSet,
    time::{MissedTickBehavior, interval},
};

use super::{
    acceptor::Counted,
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

/// The acceptors' end of one worker. Dropping all of them ends the worker.
struct Seat {
    sockets: mpsc::Sender<(Handed, Counted)>,
    connections: Arc<AtomicUsize>,
}

/// A socket on its way to a worker. It belongs to no runtime on the way.
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

/// A socket without a runtime.
pub(super) enum Socket {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

impl Socket {
    fn open(self) -> std::io::Result<io::Socket> {
        Ok(match self {
            Self::Tcp(stream) => io::Socket::Tcp(TcpStream::from_std(stream)?),
            Self::Unix(stream) => io::Socket::Unix(UnixStream::from_std(stream)?),
        })
    }
}

/// Starts as many as the settings say.
pub(super) fn start(core: &Arc<Core>) -> Result<Crew, StartError> {
    let seats =
        (0..core.settings.workers.max(1)).map(|_| seat(core)).collect::<std::io::Result<_>>();
    Ok(Crew { seats: seats.map_err(StartError::Worker)? })
}

fn seat(core: &Arc<Core>) -> std::io::Result<Seat> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .event_interval(EVENT_INTERVAL)
        .build()?;
    let (sockets, handed) = mpsc::channel(HANDED_MAX);
    let connections = Arc::new(AtomicUsize::new(0));
    let core = Arc::clone(core);
    let _joined_never = task::thread("worker", move || {
        let local = LocalSet::new();
        local.block_on(&runtime, work(core, handed));
        drop(local);
        // A name that is being looked up must not hold up the end.
        runtime.shutdown_background();
    })?;
    Ok(Seat { sockets, connections })
}

impl Crew {
    /// Hands a socket to the worker with the fewest connections. Waits while that one has too many
    /// sockets that it has not looked at; may be cancelled, which closes the socket.
    pub(super) async fn hand(&self, handed: Handed) {
        let fewest = |seat: &&Seat| seat.connections.load(Ordering::Relaxed);
        let open = self.seats.iter().filter(|seat| !seat.sockets.is_closed());
        let Some(seat) = open.min_by_key(fewest) else {
            return tracing::error!("no worker is left; a connection was closed");
        };
        seat.connections.fetch_add(1, Ordering::Relaxed);
        let counted = Counted::of(&seat.connections);
        if seat.sockets.send((handed, counted)).await.is_err() {
            tracing::error!("a worker is gone; a connection was closed");
        }
    }
}

/// Serves what it is handed until nobody can hand it anything any more.
async fn work(core: Arc<Core>, mut handed: mpsc::Receiver<(Handed, Counted)>) {
    let (hub, woken) = Hub::new(&core.pressure);
    let pool =
        Pool::new(Rc::clone(&hub), Arc::clone(&core.dialer), core.settings.connection_age_max);
    let recorder = Recorder::new(&core.telemetry);
    let memory = Memory::default();
    let worker = Rc::new(Worker { core, hub: Rc::clone(&hub), pool, memory, recorder });
    let (stories, flushed) = (Rc::clone(&hub), Rc::clone(&worker));
    let _ends_with_the_thread = [
        task::spawn_local("upkeep", upkeep(Rc::clone(&worker))),
        task::spawn_local("draining", draining(Rc::clone(&worker))),
        task::spawn_local("flush", async move {
            hub.flush(|| flushed.recorder.hand_over()).await;
        }),
        task::spawn_local("stories", async move { stories.listen(woken).await }),
    ];
    while let Some((handed, busy)) = handed.recv().await {
        let Handed { socket, side, address, ends, guard, counted } = handed;
        let socket = match socket.open() {
            Ok(socket) => socket,
            Err(error) => {
                tracing::warn!(%address, %error, "a connection can not be served");
                continue;
            }
        };
        let counts = Counts { guard, _of_side: counted, _of_worker: busy };
        let accepted = Accepted { socket, side, address, ends, counts };
        let serve = connection::serve(Rc::clone(&worker), accepted);
        let _runs_on = task::spawn_local("connection", serve);
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
