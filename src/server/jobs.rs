//! Long recordings as jobs: `POST /v1/jobs` takes one, its events tell how far it is, its result stays for an hour.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use futures_util::StreamExt;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;
use tokio_stream::wrappers::WatchStream;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::form::{Form, Order};
use super::openai::{as_bad_request, check_model};
use super::openai_types::{Granularities, OpenAiError, OpenAiErrorBody, VerboseTranscription};
use super::{App, Refusal};

/// Jobs that are known at a time; a finished one makes room for a new one.
const MAX_JOBS: usize = 1000;
/// Jobs that are worked on at a time.
const AT_ONCE: usize = 4;
/// How long a result can be fetched.
const KEPT: Duration = Duration::from_secs(3600);
/// How often events show that they live.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// The routes.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(create))
        .routes(routes!(show, remove))
        .routes(routes!(events))
        .layer(Extension(Arc::new(Jobs { table: Mutex::default(), turns: Semaphore::new(AT_ONCE) })))
}

/// All jobs of a server.
#[derive(Debug)]
struct Jobs {
    table: Mutex<HashMap<Uuid, Job>>,
    /// Jobs wait here and leave the engine's queue to those who wait for an answer.
    turns: Semaphore,
}

/// One of them.
#[derive(Debug)]
struct Job {
    state: watch::Receiver<Arc<JobState>>,
    task: AbortHandle,
    since: Instant,
}

/// How far a job is.
#[derive(Debug, Serialize, ToSchema)]
struct JobState {
    /// Its name in paths.
    #[schema(value_type = String)]
    id: Uuid,
    /// `job`.
    object: &'static str,
    status: Status,
    /// Milliseconds of audio that have been read.
    processed_ms: u64,
    /// When it is completed.
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<VerboseTranscription>,
    /// When it has failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<OpenAiErrorBody>)]
    error: Option<Value>,
}

/// The state of a job; the last two are its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Status {
    Queued,
    InProgress,
    Completed,
    Failed,
}

/// The form of a job.
#[derive(ToSchema)]
#[allow(dead_code, reason = "documentation: the form is read part by part")]
struct JobForm {
    /// The recording, in any common format.
    #[schema(value_type = String, format = Binary)]
    file: (),
    /// A loaded model.
    model: Option<String>,
    /// Such as `zh`.
    language: Option<String>,
    /// Hotwords, separated by commas.
    prompt: Option<String>,
}

impl JobState {
    fn new(id: Uuid, status: Status, processed_ms: u64) -> Self {
        Self { id, object: "job", status, processed_ms, result: None, error: None }
    }

    fn event(&self) -> Event {
        let name = match self.status {
            Status::Queued | Status::InProgress => "progress",
            Status::Completed => "completed",
            Status::Failed => "failed",
        };
        let event = Event::default().event(name);
        event.json_data(self).unwrap_or_else(|_| Event::default().event("failed"))
    }

    fn ended(&self) -> bool {
        matches!(self.status, Status::Completed | Status::Failed)
    }
}

impl Jobs {
    fn table(&self) -> MutexGuard<'_, HashMap<Uuid, Job>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, id: Uuid, job: Job) -> Result<(), Refusal> {
        let mut table = self.table();
        table.retain(|_, job| !job.state.borrow().ended() || job.since.elapsed() < KEPT);
        if table.len() >= MAX_JOBS {
            let ended = table.iter().filter(|(_, job)| job.state.borrow().ended());
            let oldest = ended.min_by_key(|(_, job)| job.since).map(|(&id, _)| id);
            let Some(oldest) = oldest else {
                job.task.abort();
                return Err(Refusal::busy(format!("{MAX_JOBS} jobs are waiting already")));
            };
            table.remove(&oldest);
        }
        table.insert(id, job);
        Ok(())
    }

    fn find(&self, id: &str) -> Result<watch::Receiver<Arc<JobState>>, Refusal> {
        let found = id.parse().ok().and_then(|id: Uuid| self.table().get(&id).map(|job| job.state.clone()));
        found.ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, format!("no job `{id}`")).about("id"))
    }
}

/// Transcribe a long recording
#[utoipa::path(
    post, path = "/v1/jobs", tag = "Jobs",
    request_body(content = JobForm, content_type = "multipart/form-data"),
    responses(
        (status = 202, description = "Taken; `Location` names it", body = JobState),
        (status = "4XX", description = "The form is wrong, or too large", body = OpenAiError),
        (status = 503, description = "Busy: come again", body = OpenAiError)))]
async fn create(
    State(app): State<Arc<App>>,
    Extension(jobs): Extension<Arc<Jobs>>,
    request: Request,
) -> Result<Response, Refusal> {
    let mut form = Form::receive(&app, request).await?;
    check_model(&app, form.text("model"))?;
    let order = form.order(&app, "file").map_err(as_bad_request)?;
    let id = Uuid::new_v4();
    let (tell, state) = watch::channel(Arc::new(JobState::new(id, Status::Queued, 0)));
    let task = tokio::spawn(run(app, jobs.clone(), order, id, tell)).abort_handle();
    let reply = Json(&**state.borrow()).into_response();
    jobs.add(id, Job { state: state.clone(), task, since: Instant::now() })?;
    Ok((StatusCode::ACCEPTED, [(LOCATION, format!("/v1/jobs/{id}"))], reply).into_response())
}

async fn run(app: Arc<App>, jobs: Arc<Jobs>, order: Order, id: Uuid, tell: watch::Sender<Arc<JobState>>) {
    // The semaphore is never closed.
    let _turn = jobs.turns.acquire().await.ok();
    let told = order.told().to_owned();
    let progress = |processed_ms| {
        tell.send_replace(Arc::new(JobState::new(id, Status::InProgress, processed_ms)));
    };
    let asked = Granularities { segments: true, words: true };
    let last = match order.transcribe(&app, progress).await {
        Ok(transcript) => JobState {
            result: Some(VerboseTranscription::new(&transcript, &told, asked)),
            ..JobState::new(id, Status::Completed, transcript.duration_ms)
        },
        Err(error) => {
            let processed_ms = tell.borrow().processed_ms;
            let error = Some(Refusal::from(error).openai());
            JobState { error, ..JobState::new(id, Status::Failed, processed_ms) }
        }
    };
    tell.send_replace(Arc::new(last));
}

/// How far a job is, and its result
#[utoipa::path(
    get, path = "/v1/jobs/{id}", tag = "Jobs", params(("id" = String, Path)),
    responses((status = 200, body = JobState), (status = 404, body = OpenAiError)))]
async fn show(Extension(jobs): Extension<Arc<Jobs>>, Path(id): Path<String>) -> Result<Response, Refusal> {
    let state = jobs.find(&id)?.borrow().clone();
    Ok(Json(&*state).into_response())
}

/// Forget a job, and end it if it still runs
#[utoipa::path(
    delete, path = "/v1/jobs/{id}", tag = "Jobs", params(("id" = String, Path)),
    responses((status = 204, description = "Gone"), (status = 404, body = OpenAiError)))]
async fn remove(
    Extension(jobs): Extension<Arc<Jobs>>,
    Path(id): Path<String>,
) -> Result<StatusCode, Refusal> {
    jobs.find(&id)?;
    let removed = id.parse().ok().and_then(|id: Uuid| jobs.table().remove(&id));
    if let Some(job) = removed {
        job.task.abort();
    }
    Ok(StatusCode::NO_CONTENT)
}

/// The progress of a job as server-sent events, up to its end
#[utoipa::path(
    get, path = "/v1/jobs/{id}/events", tag = "Jobs", params(("id" = String, Path)),
    responses(
        (status = 200, description = "`progress`, then `completed` or `failed`, each with the job", body = String,
         content_type = "text/event-stream"),
        (status = 404, body = OpenAiError)))]
async fn events(Extension(jobs): Extension<Arc<Jobs>>, Path(id): Path<String>) -> Result<Response, Refusal> {
    let state = jobs.find(&id)?;
    let states = WatchStream::new(state).scan(false, |ended, state| {
        let next = (!*ended).then(|| state.clone());
        *ended = state.ended();
        std::future::ready(next)
    });
    let events = states.map(|state| Ok::<_, Infallible>(state.event()));
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response())
}
