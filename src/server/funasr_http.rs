//! FunASR's HTTP services: `POST /recognition` (also `POST /`), which answers with the keys of both its Python and its
//! C++ server, `POST /asr` of funasr-server, and `GET /health`.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::form::Form;
use super::protocol::offline_reply;
use super::{App, Refusal};
use crate::error::Error;
use crate::pipeline::Transcript;
use crate::text::sentences::Sentence;

/// The routes.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(recognition)).routes(routes!(asr)).routes(routes!(health))
}

/// The form of `/recognition`.
#[derive(ToSchema)]
#[allow(dead_code, reason = "documentation: the form is read part by part")]
struct RecognitionForm {
    /// The recording; a file part of any name will do.
    #[schema(value_type = String, format = Binary)]
    audio: (),
    /// Hotwords.
    hotwords: Option<String>,
    /// Such as `zh`.
    language: Option<String>,
}

/// The form of `/asr`.
#[derive(ToSchema)]
#[allow(dead_code, reason = "documentation: the form is read part by part")]
struct AsrForm {
    /// The recording.
    #[schema(value_type = String, format = Binary)]
    file: (),
    /// Such as `zh`.
    language: Option<String>,
    /// Hotwords, separated by commas.
    hotwords: Option<String>,
}

/// The answer of `/recognition`: what the Python server says, and with it what the C++ server says.
#[derive(Debug, Serialize, ToSchema)]
struct Recognised {
    /// 0.
    code: u8,
    /// The text cut at its marks, in ms.
    sentences: Vec<Span>,
    /// `text`, `mode`, `is_final`, `wav_name`, `timestamp`, `stamp_sents`, as over WebSocket in mode offline.
    #[serde(flatten)]
    #[schema(value_type = Object)]
    reply: Map<String, Value>,
}

/// A stretch of text and its time.
#[derive(Debug, Serialize, ToSchema)]
struct Span {
    text: String,
    start: u64,
    end: u64,
}

/// The answer of `/asr`; times in seconds.
#[derive(Debug, Serialize, ToSchema)]
struct Asr {
    text: String,
    segments: Vec<AsrSegment>,
    duration: f64,
    processing_time: f64,
    rtf: f64,
}

/// A stretch of text and its time in seconds.
#[derive(Debug, Serialize, ToSchema)]
struct AsrSegment {
    id: usize,
    start: f64,
    end: f64,
    text: String,
}

/// An error, written by [`Refusal`].
#[derive(ToSchema)]
#[allow(dead_code, reason = "documentation")]
struct Detail {
    /// What is wrong.
    detail: String,
}

/// Recognise a recording
#[utoipa::path(
    post, path = "/recognition", tag = "FunASR",
    request_body(content = RecognitionForm, content_type = "multipart/form-data"),
    responses(
        (status = 200, description = "The text, or `code` 1 and `msg` if the recording cannot be decoded", body = Recognised),
        (status = "4XX", description = "The form is wrong, or too large", body = Detail),
        (status = 503, description = "Busy: come again", body = Detail)))]
pub async fn recognition(State(app): State<Arc<App>>, request: Request) -> Result<Response, Refusal> {
    let order = Form::receive(&app, request).await?.order(&app, "audio")?;
    let name = order.name().to_owned();
    match order.transcribe(&app, |_| ()).await {
        Ok(transcript) => Ok(Json(Recognised::new(&transcript, &name)).into_response()),
        // Clients of the Python server look at `code`.
        Err(Error::Audio { message, .. }) => {
            let message = format!("读取音频文件发生错误: {message}");
            Ok(Json(json!({ "msg": message, "code": 1 })).into_response())
        }
        Err(error) => Err(error.into()),
    }
}

/// Recognise a recording, with how long it took
#[utoipa::path(
    post, path = "/asr", tag = "FunASR",
    request_body(content = AsrForm, content_type = "multipart/form-data"),
    responses(
        (status = 200, body = Asr),
        (status = "4XX", description = "The form is wrong, or too large", body = Detail),
        (status = 503, description = "Busy: come again", body = Detail)))]
async fn asr(State(app): State<Arc<App>>, request: Request) -> Result<Json<Asr>, Refusal> {
    let order = Form::receive(&app, request).await?.order(&app, "file")?;
    let start = Instant::now();
    let transcript = order.transcribe(&app, |_| ()).await?;
    let (duration, processing_time) = (transcript.duration_ms as f64 / 1000.0, start.elapsed().as_secs_f64());
    let segment = |(id, sentence): (usize, Sentence)| AsrSegment {
        id,
        start: sentence.start_ms as f64 / 1000.0,
        end: sentence.end_ms as f64 / 1000.0,
        text: sentence.text,
    };
    Ok(Json(Asr {
        text: transcript.text,
        segments: transcript.sentences.into_iter().enumerate().map(segment).collect(),
        duration,
        processing_time,
        rtf: processing_time / duration.max(1e-3),
    }))
}

/// Whether the server is up, as FunASR's says it
#[utoipa::path(get, path = "/health", tag = "FunASR", responses((status = 200, body = Object)))]
async fn health(State(app): State<Arc<App>>) -> Json<Value> {
    Json(json!({ "status": "ok", "models_loaded": [app.model()] }))
}

impl Recognised {
    fn new(transcript: &Transcript, name: &str) -> Self {
        let span = |sentence: &Sentence| Span {
            text: sentence.text.clone(),
            start: sentence.start_ms,
            end: sentence.end_ms,
        };
        let sentences = transcript.sentences.iter().map(span).collect();
        Self { code: 0, sentences, reply: offline_reply(transcript, name) }
    }
}
