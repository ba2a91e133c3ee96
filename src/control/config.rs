//! `ConfigService`: what people and programs configure the mesh with. A write is planned against the
//! newest world, validated with the compiler and stored as one transaction, all under the writer's
//! lock; reads load the current world and never wait.

use std::sync::Arc;

use tokio::{
    sync::{Semaphore, mpsc},
    task::spawn_blocking,
    time::Instant,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};

use super::{
    apply::{self, Planned},
    auth, conditions, error,
    filter::Filter,
    fleet::Fleet,
    list,
    metrics::Metrics,
    state::{State, Writer, pb_time},
    status,
    trust::Tenure,
    watch,
    world::World,
};
use crate::{
    resource::{
        self, Kind, Problem, ResourceKey,
        pb::{self, config_service_server::ConfigService},
    },
    task,
};

/// Resources in one write.
const WRITE_MAX: usize = 10_000;
/// Bytes of the message that is kept with a revision.
const MESSAGE_BYTES_MAX: usize = 1024;
/// `Watch` streams at once.
pub(super) const WATCHES_MAX: usize = 256;

/// The service.
#[derive(Debug)]
pub(crate) struct Config {
    pub state: Arc<State>,
    pub fleet: Arc<Fleet>,
    pub metrics: Arc<Metrics>,
    pub facts: status::Facts,
    /// Places for [`WATCHES_MAX`] streams.
    pub watches: Arc<Semaphore>,
    /// Cancelled when the control plane ends.
    pub ending: CancellationToken,
}

/// How a write is to be made.
struct Writing {
    dry_run: bool,
    expect_revision: Option<u64>,
    by: String,
    message: String,
}

/// What became of a write.
struct Written {
    revision: u64,
    problems: Vec<pb::Problem>,
    changes: Vec<pb::Change>,
}

impl Config {
    async fn write(
        &self,
        writing: Writing,
        plan: impl FnOnce(&World, &State) -> Planned + Send + 'static,
    ) -> Result<Written, Status> {
        if writing.message.len() > MESSAGE_BYTES_MAX {
            let what = format!("has more than {MESSAGE_BYTES_MAX} bytes");
            return Err(error::invalid("message", what));
        }
        let (fleet, metrics) = (Arc::clone(&self.fleet), Arc::clone(&self.metrics));
        self.state
            .write(move |state, writer| {
                let world = state.world();
                check_expected(&world, writing.expect_revision)?;
                let planned = plan(&world, state);
                let written = carry_out(state, writer, &fleet, planned, &writing)?;
                for took in fleet.rolled_out(Instant::now()) {
                    metrics.propagated(took);
                }
                Ok(written)
            })
            .await
    }
}

fn check_expected(world: &World, expected: Option<u64>) -> Result<(), Status> {
    let newest = world.revision;
    match expected {
        Some(expected) if expected != newest => Err(error::refused(
            Code::Aborted,
            "REVISION",
            format!("the newest revision is {newest}, not {expected}; look again at what changed"),
            &[("newest", newest.to_string()), ("expected", expected.to_string())],
        )),
        _ => Ok(()),
    }
}

fn carry_out(
    state: &State,
    writer: &mut Writer,
    fleet: &Fleet,
    planned: Planned,
    writing: &Writing,
) -> Result<Written, Status> {
    let before = state.world().revision;
    let refused = planned.is_refused();
    let problems = planned.problems.iter().map(Problem::to_pb).collect();
    let changes = planned.plan.changes.clone();
    if refused || writing.dry_run {
        return Ok(Written { revision: before, problems, changes });
    }
    let began = Instant::now();
    let revision = state
        .commit(writer, planned.plan, &writing.by, &writing.message)
        .map_err(|error| error::store(&error))?;
    if revision > before {
        fleet.wrote(revision, began);
        tracing::info!(
            revision,
            by = writing.by,
            message = writing.message,
            "configuration written"
        );
    }
    Ok(Written { revision, problems, changes })
}

fn check_count(field: &str, count: usize) -> Result<(), Status> {
    if count > WRITE_MAX {
        return Err(error::invalid(field, format!("more than {WRITE_MAX} at once")));
    }
    Ok(())
}

fn key_of(id: Option<&pb::ResourceId>) -> Result<ResourceKey, Status> {
    let id = id.ok_or_else(|| error::invalid("resource", "is missing"))?;
    ResourceKey::from_pb(id).ok_or_else(|| {
        let known: Vec<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        let what = format!("{:?} is no kind; there are {}", id.kind, known.join(", "));
        error::invalid("resource.kind", what)
    })
}

fn now_pb(state: &State) -> prost_types::Timestamp {
    pb_time(state.now())
}

#[tonic::async_trait]
impl ConfigService for Config {
    type WatchStream = ReceiverStream<Result<pb::WatchResponse, Status>>;

    async fn apply(
        &self,
        request: Request<pb::ApplyRequest>,
    ) -> Result<Response<pb::ApplyResponse>, Status> {
        auth::check_write(&request, request.get_ref().resources.iter().filter_map(resource::key))?;
        let by = auth::principal(&request)?.name().to_owned();
        let pb::ApplyRequest { resources, dry_run, expect_revision, message } =
            request.into_inner();
        check_count("resources", resources.len())?;
        let writing = Writing { dry_run, expect_revision, by, message };
        let plan = move |world: &World, state: &State| {
            apply::apply(world, state.trust_domain(), resources, now_pb(state))
        };
        let Written { revision, problems, changes } = self.write(writing, plan).await?;
        Ok(Response::new(pb::ApplyResponse { revision, problems, changes }))
    }

    async fn get(
        &self,
        request: Request<pb::GetRequest>,
    ) -> Result<Response<pb::Resource>, Status> {
        let key = key_of(request.into_inner().resource.as_ref())?;
        let world = self.state.world();
        let Some(resource) = world.get(&key) else {
            let id = [("resource", key.to_string())];
            let message = format!("there is no {key}");
            return Err(error::refused(Code::NotFound, "NO_SUCH_RESOURCE", message, &id));
        };
        Ok(Response::new(conditions::with_status(&world, &self.fleet.sessions(), &key, resource)))
    }

    async fn list(
        &self,
        request: Request<pb::ListRequest>,
    ) -> Result<Response<pb::ListResponse>, Status> {
        let query = list::Query::parse(request.into_inner())?;
        let (world, fleet) = (self.state.world(), Arc::clone(&self.fleet));
        // Conditions look at every sidecar for every resource.
        let page = spawn_blocking(move || query.page(&world, &fleet)).await;
        page.map(Response::new).map_err(|_| error::internal("a List panicked"))
    }

    async fn delete(
        &self,
        request: Request<pb::DeleteRequest>,
    ) -> Result<Response<pb::DeleteResponse>, Status> {
        let keys = request.get_ref().resources.iter().filter_map(ResourceKey::from_pb);
        auth::check_write(&request, keys)?;
        let by = auth::principal(&request)?.name().to_owned();
        let pb::DeleteRequest { resources, dry_run, expect_revision, message } =
            request.into_inner();
        check_count("resources", resources.len())?;
        let writing = Writing { dry_run, expect_revision, by, message };
        let plan = move |world: &World, state: &State| {
            apply::delete(world, state.trust_domain(), &resources, now_pb(state))
        };
        let Written { revision, problems, changes } = self.write(writing, plan).await?;
        Ok(Response::new(pb::DeleteResponse { revision, problems, changes }))
    }

    async fn watch(
        &self,
        request: Request<pb::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let tenure = Tenure::of(&request)?;
        let pb::WatchRequest { kinds, namespace, selector } = request.into_inner();
        let filter = Filter::parse(&kinds, namespace, &selector)?;
        let Ok(place) = Arc::clone(&self.watches).try_acquire_owned() else {
            let message = format!("there are {WATCHES_MAX} Watch streams already");
            return Err(Status::resource_exhausted(message));
        };
        let (sender, receiver) = mpsc::channel(1);
        let watch = watch::Watch::new(&self.state, &self.fleet, filter, sender);
        let ending = self.ending.clone();
        let _detached = task::spawn("watch", async move {
            watch.run(tenure.over(), ending).await;
            drop(place);
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn status(
        &self,
        request: Request<pb::StatusRequest>,
    ) -> Result<Response<pb::StatusResponse>, Status> {
        let only = status::only(&request.into_inner().service)?;
        let (state, fleet) = (Arc::clone(&self.state), Arc::clone(&self.fleet));
        let facts = self.facts.clone();
        let now = Instant::now();
        let status = spawn_blocking(move || status::of(&state, &fleet, &facts, only, now)).await;
        status.map(Response::new).map_err(|_| error::internal("a Status panicked"))
    }
}
