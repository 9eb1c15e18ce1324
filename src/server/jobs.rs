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
use tokio::sync::watch;
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
/// How long a result can be fetched.
const KEPT: Duration = Duration::from_secs(3600);
/// How often events show that they live.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// The routes.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    let router = OpenApiRouter::new().routes(routes!(create)).routes(routes!(show, remove)).routes(routes!(events));
    router.layer(Extension(Arc::new(Jobs::default())))
}

/// All jobs of a server.
#[derive(Debug, Default)]
struct Jobs(Mutex<HashMap<Uuid, Job>>);

/// One of them.
#[derive(Debug)]
struct Job {
    state: watch::Receiver<Arc<JobState>>,
    task: AbortHandle,
    since: Instant,
}

/// How far a job is.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct JobState {
    /// Its name in paths.
    id: String,
    /// `job`.
    object: &'static str,
    status: Status,
    /// Milliseconds of audio that have been read.
    processed_ms: u64,
    /// When it is completed.
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<Arc<VerboseTranscription>>,
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
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
    let told = form.text("language").unwrap_or("auto").to_owned();
    let id = Uuid::new_v4();
    let state = JobState {
        id: id.to_string(),
        object: "job",
        status: Status::Queued,
        processed_ms: 0,
        result: None,
        error: None,
    };
    let (tell, state_now) = watch::channel(Arc::new(state.clone()));
    let task = tokio::spawn(run(app, order, told, state.clone(), tell)).abort_handle();
    jobs.add(id, Job { state: state_now, task, since: Instant::now() })?;
    let location = [(LOCATION, format!("/v1/jobs/{id}"))];
    Ok((StatusCode::ACCEPTED, location, Json(state)).into_response())
}

async fn run(app: Arc<App>, order: Order, told: String, first: JobState, tell: watch::Sender<Arc<JobState>>) {
    let tell = Arc::new(tell);
    let progress = {
        let (tell, first) = (tell.clone(), first.clone());
        move |processed_ms| {
            tell.send_replace(Arc::new(JobState { status: Status::InProgress, processed_ms, ..first.clone() }));
        }
    };
    let asked = Granularities { segments: true, words: true };
    let last = match order.transcribe(&app, progress).await {
        Ok(transcript) => JobState {
            status: Status::Completed,
            processed_ms: transcript.duration_ms,
            result: Some(Arc::new(VerboseTranscription::new(&transcript, &told, asked))),
            ..first
        },
        Err(error) => {
            let (processed_ms, error) = (tell.borrow().processed_ms, Refusal::from(error).openai());
            JobState { status: Status::Failed, processed_ms, error: Some(error), ..first }
        }
    };
    tell.send_replace(Arc::new(last));
}

/// How far a job is, and its result
#[utoipa::path(
    get, path = "/v1/jobs/{id}", tag = "Jobs", params(("id" = String, Path)),
    responses((status = 200, body = JobState), (status = 404, body = OpenAiError)))]
async fn show(Extension(jobs): Extension<Arc<Jobs>>, Path(id): Path<String>) -> Result<Json<JobState>, Refusal> {
    let state = jobs.find(&id)?;
    let state = JobState::clone(&state.borrow());
    Ok(Json(state))
}

/// Forget a job, and end it if it still runs
#[utoipa::path(
    delete, path = "/v1/jobs/{id}", tag = "Jobs", params(("id" = String, Path)),
    responses((status = 204, description = "Gone"), (status = 404, body = OpenAiError)))]
async fn remove(Extension(jobs): Extension<Arc<Jobs>>, Path(id): Path<String>) -> Result<StatusCode, Refusal> {
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
