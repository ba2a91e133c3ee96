//! `ConfigService`: what people and programs configure the mesh with. How a write is made is
//! [`super::write`]'s; reads load the current world, or read the log beside the writers, and never
//! wait for one.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Semaphore, mpsc},
    task::spawn_blocking,
    time::{Instant, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};

use super::{
    apply, auth, conditions, credentials, error,
    filter::Filter,
    fleet::Fleet,
    guard, list, log, rollback,
    state::{State, pb_time},
    status,
    trust::Tenure,
    watch,
    world::World,
    write::{self, Writing, Written},
};
use crate::{
    resource::{
        self, Kind, ResourceKey,
        pb::{self, config_service_server::ConfigService},
    },
    task,
};

/// `Watch` streams at once.
pub(super) const WATCHES_MAX: usize = 256;
/// Messages of a difference that wait for their reader.
const DIFF_QUEUE: usize = 16;
/// How long the reader of a difference may take.
const DIFF_TIME_MAX: Duration = Duration::from_mins(2);

/// The service.
#[derive(Debug)]
pub(crate) struct Config {
    pub state: Arc<State>,
    pub fleet: Arc<Fleet>,
    pub facts: status::Facts,
    /// Places for [`WATCHES_MAX`] streams.
    pub watches: Arc<Semaphore>,
    /// Cancelled when the control plane ends.
    pub ending: CancellationToken,
}

fn key_of(id: Option<&pb::ResourceId>) -> Result<ResourceKey, Status> {
    let id = id.ok_or_else(|| error::invalid("resource", "is missing"))?;
    ResourceKey::from_pb(id).ok_or_else(|| {
        let known: Vec<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        let what = format!("{:?} is no kind; there are {}", id.kind, known.join(", "));
        error::invalid("resource.kind", what)
    })
}

/// A write's answer as one of the messages that say it.
macro_rules! answer {
    ($written:expr => $message:ident $(, $more:ident)?) => {{
        let Written { revision, problems, changes, sidecars, sidecars_total, repeated, .. } =
            $written;
        Response::new(pb::$message {
            revision,
            problems,
            changes,
            sidecars,
            sidecars_total,
            repeated_request: repeated,
            $($more,)?
        })
    }};
}

fn now_pb(state: &State) -> prost_types::Timestamp {
    pb_time(state.now())
}

/// Off the asynchronous runtime.
async fn blocking<T: Send + 'static>(
    what: impl FnOnce() -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    spawn_blocking(what).await.unwrap_or_else(|_| Err(error::internal("a call panicked")))
}

#[tonic::async_trait]
impl ConfigService for Config {
    type WatchStream = ReceiverStream<Result<pb::WatchResponse, Status>>;
    type DiffStream = ReceiverStream<Result<pb::DiffResponse, Status>>;

    async fn apply(
        &self,
        request: Request<pb::ApplyRequest>,
    ) -> Result<Response<pb::ApplyResponse>, Status> {
        // Before anything is done with each of them.
        write::check_count("resources", request.get_ref().resources.len())?;
        auth::check_write(&request, request.get_ref().resources.iter().filter_map(resource::key))?;
        let by = auth::principal(&request)?.name().to_owned();
        let pb::ApplyRequest { resources, dry_run, expect_revision, message, request_id, guard } =
            request.into_inner();
        let guard = guard::duration(guard)?;
        let how = format!("{expect_revision:?} {message:?} {guard:?}");
        let (resources, asked_sha256) = if request_id.is_empty() {
            (resources, Vec::new())
        } else {
            blocking(move || {
                let asked = write::asked_to_write(&resources, &how);
                Ok((resources, asked))
            })
            .await?
        };
        let writing = Writing {
            dry_run,
            expect_revision,
            by,
            message,
            request_id,
            asked_sha256,
            guard,
            rollback_to: None,
        };
        let plan = move |world: &World, state: &State| {
            Ok(apply::apply(world, state.trust_domain(), resources, now_pb(state)))
        };
        let mut written = write::write(self, writing, plan).await?;
        let guard = written.guard.take();
        Ok(answer!(written => ApplyResponse, guard))
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
        let (fleet, sessions) = (&self.fleet, self.fleet.sessions());
        Ok(Response::new(conditions::with_status(&world, fleet, &sessions, &key, resource)))
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
        let pb::DeleteRequest {
            resources,
            dry_run,
            expect_revision,
            message,
            request_id,
            guard,
            expect_versions,
        } = request.into_inner();
        write::check_count("resources", resources.len())?;
        write::check_count("expect_versions", expect_versions.len())?;
        let guard = guard::duration(guard)?;
        let how = format!("{expect_revision:?} {message:?} {guard:?} {expect_versions:?}");
        let writing = Writing {
            dry_run,
            expect_revision,
            by,
            message,
            request_id,
            asked_sha256: write::asked_to_delete(&resources, &how),
            guard,
            rollback_to: None,
        };
        let plan = move |world: &World, state: &State| {
            let now = now_pb(state);
            Ok(apply::delete(world, state.trust_domain(), &resources, &expect_versions, now))
        };
        let mut written = write::write(self, writing, plan).await?;
        let guard = written.guard.take();
        Ok(answer!(written => DeleteResponse, guard))
    }

    async fn history(
        &self,
        request: Request<pb::HistoryRequest>,
    ) -> Result<Response<pb::HistoryResponse>, Status> {
        let (state, request) = (Arc::clone(&self.state), request.into_inner());
        blocking(move || log::history(&state, &request)).await.map(Response::new)
    }

    async fn diff(
        &self,
        request: Request<pb::DiffRequest>,
    ) -> Result<Response<Self::DiffStream>, Status> {
        let pb::DiffRequest { from_revision, to_revision, resources } = request.into_inner();
        write::check_count("resources", resources.len())?;
        if !resources.is_empty() && (from_revision.is_some() || to_revision.is_some()) {
            return Err(error::invalid("resources", "are compared with the newest revision only"));
        }
        let Ok(place) = Arc::clone(&self.watches).try_acquire_owned() else {
            return Err(Status::resource_exhausted("too many streams already"));
        };
        let state = Arc::clone(&self.state);
        let difference = blocking(move || {
            if resources.is_empty() {
                log::Difference::of_revisions(&state, from_revision, to_revision)
            } else {
                Ok(log::Difference::of_resources(&state, resources))
            }
        })
        .await?;
        let (sender, receiver) = mpsc::channel(DIFF_QUEUE);
        let _detached = task::spawn("diff", async move {
            // A reader that takes longer sees its stream end in the middle, with this.
            if timeout(DIFF_TIME_MAX, difference.tell(sender.clone())).await.is_err() {
                let late = Status::deadline_exceeded("the difference was not read in time");
                let _told = sender.try_send(Err(late));
            }
            drop(place);
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn rollback(
        &self,
        request: Request<pb::RollbackRequest>,
    ) -> Result<Response<pb::RollbackResponse>, Status> {
        let principal = auth::principal(&request)?;
        let (by, grant) = (principal.name().to_owned(), Arc::clone(principal.grant()?));
        let pb::RollbackRequest { revision: to, dry_run, expect_revision, message, request_id } =
            request.into_inner();
        let how = format!("rollback {to} {expect_revision:?} {message:?}");
        let default = || format!("rollback to {to}");
        let writing = Writing {
            dry_run,
            expect_revision,
            by,
            message: if message.is_empty() { default() } else { message },
            request_id,
            asked_sha256: write::asked_to_delete(&[], &how),
            guard: None,
            rollback_to: Some(to),
        };
        let plan = move |world: &World, state: &State| {
            let failed = |failure| error::store(&failure);
            match state.store().past(to).map_err(failed)? {
                Some(past) => {
                    let planned = rollback::plan(world, state.trust_domain(), &past, now_pb(state));
                    let mut changed =
                        planned.plan.changes.iter().filter_map(|it| it.resource.as_ref());
                    changed.try_for_each(|id| grant.check_write(&id.namespace))?;
                    Ok(planned)
                }
                None => {
                    let reach = state.store().reach().map_err(failed)?;
                    Err(log::unreachable(to, reach, world.revision))
                }
            }
        };
        let written = write::write(self, writing, plan).await?;
        Ok(answer!(written => RollbackResponse))
    }

    async fn get_guard(
        &self,
        request: Request<pb::GetGuardRequest>,
    ) -> Result<Response<pb::Guard>, Status> {
        log::guard(&self.state, request.into_inner().revision).map(Response::new)
    }

    async fn watch(
        &self,
        request: Request<pb::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let tenure = Tenure::of(&request)?;
        let pb::WatchRequest { kinds, namespace, selector, from_revision, store } =
            request.into_inner();
        let filter = Filter::parse(&kinds, namespace, &selector)?;
        let Ok(place) = Arc::clone(&self.watches).try_acquire_owned() else {
            let message = format!("there are {WATCHES_MAX} Watch streams already");
            return Err(Status::resource_exhausted(message));
        };
        let (sender, receiver) = mpsc::channel(1);
        let mut watch = watch::Watch::new(&self.state, &self.fleet, filter, sender);
        if let Some(revision) = from_revision {
            watch = blocking(move || watch.resume(revision, &store).map(|()| watch)).await?;
        }
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
        let caller = credentials::to_pb(auth::principal(&request)?.grant()?);
        let only = status::only(&request.into_inner().service)?;
        let (state, fleet) = (Arc::clone(&self.state), Arc::clone(&self.fleet));
        let facts = self.facts.clone();
        let now = Instant::now();
        let status = spawn_blocking(move || status::of(&state, &fleet, &facts, only, now)).await;
        let status = status.map_err(|_| error::internal("a Status panicked"))?;
        Ok(Response::new(pb::StatusResponse { caller: Some(caller), ..status }))
    }
}
