//! One process, one port, every protocol: messages in, the [engine](crate::engine) behind, messages out.
//!
//! ```text
//! socket -> listen.rs: TLS, limits on connections -> access.rs: keys, rate, CORS -> a protocol -> engine
//! ```
//!
//! A protocol is one file that adds its routes in [`router`] and holds a connection by its [`Connection`], so that a
//! shutdown waits for what was begun.

mod access;
pub mod client;
mod config;
mod form;
mod funasr_http;
mod grpc;
mod http;
mod jobs;
mod listen;
mod live;
mod metrics;
mod openai;
mod openai_types;
mod pace;
mod protocol;
mod realtime;
mod refusal;
mod upload;
mod web;
mod ws_funasr;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use serde_json::json;
use tokio::sync::{Semaphore, watch};

pub use access::Keys;
pub use config::{Config, EngineSettings, Mode, ModelNames, Settings};
pub use listen::{Connection, Server};
pub use refusal::{Refusal, status};
pub use upload::Upload;

use crate::decode::hotwords::Hotwords;
use crate::engine::{Ask, AudioFormat, Engine, LiveSession, Prepared, Recording};
use crate::error::{Error, Result};
use crate::pipeline::SessionOptions;
use metrics::Metrics;

/// Live containers at once.
const MAX_DECODERS: usize = 64;
/// Paths that speak another protocol over WebSocket; all others speak FunASR's.
const OTHER_SOCKETS: [&str; 1] = ["/v1/realtime"];

/// Names a request in logs and answers.
const REQUEST_ID: &str = "x-request-id";

/// The id that a request has in the log.
#[derive(Debug, Clone)]
pub struct RequestId(pub String);

/// What all requests share.
#[derive(Debug)]
pub struct App {
    engine: Engine,
    settings: Settings,
    /// Name of the recognition model, as clients see it.
    model: String,
    reloaded: RwLock<Arc<Reloaded>>,
    metrics: Metrics,
    /// Requests so far.
    requests: AtomicU64,
    rates: access::Rates,
    /// Places for live containers, each of which takes a thread to decode.
    decoders: Arc<Semaphore>,
    draining: watch::Sender<bool>,
    started: Instant,
}

/// What a reload reads again.
#[derive(Debug, Default)]
struct Reloaded {
    keys: Keys,
    /// Hotwords of the server, added to every request.
    hotwords: Option<Hotwords>,
    /// A request with these hotwords alone, encoded once.
    prepared: Prepared,
}

impl App {
    /// Joins engine and settings; reads keys and hotwords. `model` is what clients are told the recognition model is.
    ///
    /// # Errors
    /// Files of keys or hotwords that cannot be read.
    pub fn new(engine: Engine, settings: Settings, model: impl Into<String>) -> Result<Arc<Self>> {
        let app = Self {
            engine,
            settings,
            model: model.into(),
            reloaded: RwLock::default(),
            metrics: Metrics::default(),
            requests: AtomicU64::new(0),
            rates: access::Rates::default(),
            decoders: Arc::new(Semaphore::new(MAX_DECODERS)),
            draining: watch::channel(false).0,
            started: Instant::now(),
        };
        app.reload()?;
        Ok(Arc::new(app))
    }

    /// Reads keys and hotwords again. If one of them cannot be read, all stays as it was.
    ///
    /// # Errors
    /// The file that cannot be read.
    pub fn reload(&self) -> Result<()> {
        let keys = Keys::read(&self.settings)?;
        let hotwords = self.settings.hotword.as_ref().map(Hotwords::read).transpose()?;
        let prepared = self.engine.prepare(&Ask { hotwords: hotwords.clone(), ..self.ask() })?;
        for note in &prepared.notes {
            tracing::warn!("{note}");
        }
        let reloaded = Arc::new(Reloaded { keys, hotwords, prepared });
        *self.reloaded.write().unwrap_or_else(PoisonError::into_inner) = reloaded;
        Ok(())
    }

    fn next_id(&self) -> HeaderValue {
        HeaderValue::from(self.requests.fetch_add(1, Ordering::Relaxed))
    }

    fn reloaded(&self) -> Arc<Reloaded> {
        self.reloaded.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What clients are told the recognition model is.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// What a client that asks for nothing gets.
    pub fn ask(&self) -> Ask {
        Ask { itn: self.settings.itn, model_itn: true, ..Ask::default() }
    }

    /// Makes an ask ready, with the server's hotwords after its own. Not on the async threads if there are many: hotwords
    /// take time, so this does it elsewhere.
    ///
    /// # Errors
    /// Those of [`Engine::prepare`].
    pub async fn prepare(self: &Arc<Self>, mut ask: Ask) -> Result<Prepared> {
        let reloaded = self.reloaded();
        let own = ask.hotwords.as_ref().is_some_and(|own| !own.words.is_empty() || !own.rejected.is_empty());
        if !own {
            let plain = Ask { hotwords: None, ..ask };
            let mut prepared = self.engine.prepare(&plain)?;
            prepared.request.share_hotwords(&reloaded.prepared.request);
            return Ok(prepared);
        }
        if let (Some(own), Some(server)) = (&mut ask.hotwords, &reloaded.hotwords) {
            let known: std::collections::HashSet<String> = own.words.iter().map(|w| w.text.clone()).collect();
            own.words.extend(server.words.iter().filter(|word| !known.contains(&word.text)).cloned());
        }
        let app = self.clone();
        let prepared = tokio::task::spawn_blocking(move || app.engine.prepare(&ask)).await;
        prepared.map_err(|cause| Error::Failed(cause.to_string()))?
    }

    /// Open connections.
    pub fn connections(&self) -> i64 {
        self.metrics.connections.get()
    }

    /// WebSocket messages received so far.
    pub fn messages_received(&self) -> u64 {
        self.metrics.messages_in.load(Ordering::Relaxed)
    }

    /// Whether the server is shutting down. What was begun goes on, nothing new is begun.
    pub fn draining(&self) -> watch::Receiver<bool> {
        self.draining.subscribe()
    }

    /// Begins to shut down.
    pub fn drain(&self) {
        self.draining.send_replace(true);
    }
}

/// Runs all models once, so that the first client does not wait for memory and caches.
///
/// # Errors
/// Models that do not run.
pub async fn warm_up(app: &App) -> Result<()> {
    let rate = app.engine.recognizer().sample_rate();
    // A quiet tone: the networks run whatever is heard.
    let samples: Vec<f32> = (0..2 * rate).map(|i| 0.01 * (0.1 * i as f32).sin()).collect();
    if let Some(rate) = app.engine.live_rate() {
        let LiveSession { mut input, mut output } = app.engine.open(rate, &SessionOptions::default())?;
        input.push(&samples).await?;
        input.finish().await?;
        while output.next().await.transpose()?.is_some() {}
    }
    let bytes: Vec<u8> = samples.iter().flat_map(|x| ((x * 32_767.0) as i16).to_le_bytes()).collect();
    let recording = Recording {
        name: "warm-up".to_owned(),
        bytes: Box::new(std::io::Cursor::new(bytes)),
        format: AudioFormat::Pcm(rate),
    };
    app.engine.transcribe(recording, Default::default())?.outcome().await.map(drop)
}

/// Every route, and what all requests go through.
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { Json(json!({"status": "ok"})) }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics::render))
        .merge(http::routes())
        .fallback(|| async { Refusal::new(StatusCode::NOT_FOUND, "there is nothing here") })
        .layer(from_fn_with_state(app.clone(), sockets))
        .layer(from_fn_with_state(app.clone(), pace::keep))
        .layer(from_fn_with_state(app.clone(), access::check))
        .layer(from_fn_with_state(app.clone(), refusal::shape))
        .layer(from_fn_with_state(app.clone(), count))
        .with_state(app)
}

/// Takes WebSocket handshakes on any path but those of other protocols.
async fn sockets(
    State(app): State<Arc<App>>,
    Extension(connection): Extension<Arc<Connection>>,
    request: Request,
    next: Next,
) -> Response {
    let upgrade = request.headers().get(header::UPGRADE);
    let is_socket = upgrade.is_some_and(|name| name.as_bytes().eq_ignore_ascii_case(b"websocket"));
    if !is_socket || OTHER_SOCKETS.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    match WebSocketUpgrade::from_request_parts(&mut request.into_parts().0, &()).await {
        Ok(upgrade) => ws_funasr::connect(app, connection, upgrade),
        Err(fault) => Refusal::new(fault.status(), fault.body_text()).into_response(),
    }
}

/// The models are warm when the server listens; while it shuts down it takes nothing new.
async fn ready(State(app): State<Arc<App>>) -> Response {
    if *app.draining.borrow() {
        return Refusal::busy("shutting down").into_response();
    }
    Json(json!({"status": "ready", "model": app.model, "uptime_seconds": app.started.elapsed().as_secs()}))
        .into_response()
}

/// Counts and logs a request under an id: the client's `X-Request-Id`, or a number.
async fn count(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = request.headers().get(REQUEST_ID).cloned().unwrap_or_else(|| app.next_id());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let text = id.to_str().unwrap_or_default().to_owned();
    request.extensions_mut().insert(RequestId(text.clone()));
    let mut response = next.run(request).await;
    let (status, time) = (response.status().as_u16(), started.elapsed());
    app.metrics.request(status, time);
    tracing::info!(id = text, %method, path, status, ms = time.as_millis() as u64, "request");
    response.headers_mut().insert(REQUEST_ID, id);
    response
}
