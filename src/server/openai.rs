//! OpenAI's transcription API: `POST /v1/audio/transcriptions` and `GET /v1/models`.

use std::convert::Infallible;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt, stream};
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::form::{Form, Order};
use super::openai_types::{
    Granularities, Model, ModelList, OpenAiError, Transcription, Usage, VerboseTranscription,
};
use super::{App, Refusal};
use crate::pipeline::Transcript;
use crate::text::sentences::Sentence;
use crate::text::subtitles::{self, Layout};

/// Names of OpenAI's own models: whatever is loaded answers to them, so that programs run unchanged.
const ALIASES: [&str; 5] =
    ["whisper-1", "gpt-4o-transcribe", "gpt-4o-mini-transcribe", "gpt-transcribe", "gpt-realtime-whisper"];
/// How often a waiting stream shows that it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// The routes.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(transcribe)).routes(routes!(list_models)).routes(routes!(show_model))
}

/// The form of a transcription. Fields that it does not name are ignored.
#[derive(ToSchema)]
#[allow(dead_code, reason = "documentation: the form is read part by part")]
struct TranscriptionForm {
    /// The recording, in any common format.
    #[schema(value_type = String, format = Binary)]
    file: (),
    /// A loaded model, or one of OpenAI's names for whichever is loaded.
    model: String,
    /// Such as `zh`; heard if it is not given.
    language: Option<String>,
    /// Hotwords: words or phrases, separated by commas.
    prompt: Option<String>,
    /// How the answer is written.
    #[schema(default = "json")]
    response_format: Option<ResponseFormat>,
    /// Of `verbose_json`.
    #[serde(rename = "timestamp_granularities[]")]
    timestamp_granularities: Option<Vec<Granularity>>,
    /// Whether to answer by server-sent events.
    stream: Option<bool>,
    /// Without effect: decoding is not sampled.
    temperature: Option<f64>,
}

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToSchema)]
#[schema(rename_all = "snake_case")]
enum ResponseFormat {
    Json,
    Text,
    Srt,
    VerboseJson,
    Vtt,
}

/// What has times.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[allow(dead_code, reason = "documentation")]
enum Granularity {
    Word,
    Segment,
}

/// Transcribe a recording
#[utoipa::path(
    post, path = "/v1/audio/transcriptions", tag = "OpenAI",
    request_body(content = TranscriptionForm, content_type = "multipart/form-data"),
    responses(
        (status = 200, description = "The transcript; `verbose_json` has the second form", content(
            (Transcription = "application/json"), (VerboseTranscription = "application/json"),
            (String = "text/plain"), (String = "text/event-stream"))),
        (status = "4XX", description = "The form is wrong, or too large", body = OpenAiError),
        (status = 503, description = "Busy: come again", body = OpenAiError)))]
async fn transcribe(State(app): State<Arc<App>>, request: Request) -> Result<Response, Refusal> {
    let mut form = Form::receive(&app, request).await?;
    check_model(&app, form.text("model"))?;
    form.number("temperature")?;
    let format = ResponseFormat::read(&form)?;
    let granularities = granularities(&form)?;
    let stream = form.switch("stream", false)?;
    let order = form.order(&app, "file").map_err(as_bad_request)?;
    if stream && matches!(format, ResponseFormat::Json | ResponseFormat::Text) {
        return Ok(streamed(app, order));
    }
    let told = order.told().to_owned();
    let transcript = order.transcribe(&app, |_| ()).await?;
    Ok(format.write(&transcript, &told, granularities))
}

/// OpenAI has no 422.
pub fn as_bad_request(refusal: Refusal) -> Refusal {
    match refusal.status {
        StatusCode::UNPROCESSABLE_ENTITY => Refusal { status: StatusCode::BAD_REQUEST, ..refusal },
        _ => refusal,
    }
}

/// Whether a request that names this model is for this server.
///
/// # Errors
/// 404.
pub fn check_model(app: &App, name: Option<&str>) -> Result<(), Refusal> {
    let Some(name) = name else { return Ok(()) };
    if ALIASES.contains(&name) || app.model() == name {
        return Ok(());
    }
    let message = format!("the model `{name}` is not loaded; `{}` is", app.model());
    Err(Refusal::new(StatusCode::NOT_FOUND, message).about("model"))
}

fn granularities(form: &Form) -> Result<Granularities, Refusal> {
    let mut asked = Granularities { segments: false, words: false };
    for name in form.all("timestamp_granularities[]").chain(form.all("timestamp_granularities")) {
        match name {
            "segment" => asked.segments = true,
            "word" => asked.words = true,
            _ => {
                let message = format!("timestamp_granularities: {name:?} is neither word nor segment");
                return Err(Refusal::bad_request(message).about("timestamp_granularities"));
            }
        }
    }
    asked.segments |= !asked.words;
    Ok(asked)
}

impl ResponseFormat {
    const ALL: [(&str, Self); 5] = [
        ("json", Self::Json),
        ("text", Self::Text),
        ("srt", Self::Srt),
        ("verbose_json", Self::VerboseJson),
        ("vtt", Self::Vtt),
    ];

    fn read(form: &Form) -> Result<Self, Refusal> {
        let name = form.text("response_format").unwrap_or("json");
        let found = Self::ALL.iter().find(|(known, _)| *known == name);
        found.map(|&(_, format)| format).ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.iter().map(|(known, _)| *known).collect();
            let message = format!("response_format: {name:?} is none of {}", known.join(", "));
            Refusal::bad_request(message).about("response_format")
        })
    }

    fn write(self, transcript: &Transcript, told: &str, asked: Granularities) -> Response {
        let plain = |kind: &'static str, text: String| ([(CONTENT_TYPE, kind)], text).into_response();
        let cues = || transcript.cues(&Layout::default());
        match self {
            Self::Json => Json(Transcription::from(transcript)).into_response(),
            Self::VerboseJson => Json(VerboseTranscription::new(transcript, told, asked)).into_response(),
            Self::Text => plain("text/plain; charset=utf-8", format!("{}\n", transcript.text)),
            Self::Srt => plain("application/x-subrip; charset=utf-8", subtitles::srt(&cues())),
            Self::Vtt => plain("text/vtt; charset=utf-8", subtitles::vtt(&cues())),
        }
    }
}

/// Server-sent events: each sentence as a delta, then the whole. Punctuation belongs to the whole text, so the first
/// delta comes when the recording has been read; until then comments show that the stream lives.
fn streamed(app: Arc<App>, order: Order) -> Response {
    let events = stream::once(async move {
        match order.transcribe(&app, |_| ()).await {
            Ok(transcript) => told(&transcript),
            Err(error) => vec![json!({ "error": Refusal::from(error).openai() })],
        }
    });
    sse(events.flat_map(stream::iter).map(|event: Value| event.to_string()))
}

/// Deltas and end of a transcript.
fn told(transcript: &Transcript) -> Vec<Value> {
    let deltas = pieces(&transcript.text, &transcript.sentences);
    let delta = |range| json!({ "type": "transcript.text.delta", "delta": &transcript.text[range] });
    let usage = Usage::of_ms(transcript.duration_ms);
    let done = json!({ "type": "transcript.text.done", "text": transcript.text, "usage": usage });
    deltas.into_iter().map(delta).chain([done]).collect()
}

/// `text` cut after each of its sentences; the parts together are the whole.
fn pieces(text: &str, sentences: &[Sentence]) -> Vec<Range<usize>> {
    let mut begin = 0;
    let mut cut = Vec::new();
    for sentence in sentences {
        let Some(found) = text[begin..].find(&sentence.text) else { continue };
        let end = begin + found + sentence.text.len();
        cut.push(begin..end);
        begin = end;
    }
    match cut.last_mut() {
        Some(last) => last.end = text.len(),
        None if !text.is_empty() => cut.push(0..text.len()),
        None => {}
    }
    cut
}

/// Server-sent events with these data, closed as OpenAI closes them.
fn sse(data: impl Stream<Item = String> + Send + 'static) -> Response {
    let events = data.chain(stream::once(async { "[DONE]".to_owned() }));
    let events = events.map(|data| Ok::<_, Infallible>(Event::default().data(data)));
    Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
}

/// The loaded models
#[utoipa::path(get, path = "/v1/models", tag = "OpenAI", responses((status = 200, body = ModelList)))]
async fn list_models(State(app): State<Arc<App>>) -> Json<ModelList> {
    Json(ModelList::new(vec![Model::new(app.model())]))
}

/// One model
#[utoipa::path(
    get, path = "/v1/models/{model}", tag = "OpenAI",
    params(("model" = String, Path, description = "Its name")),
    responses((status = 200, body = Model), (status = 404, body = OpenAiError)))]
async fn show_model(State(app): State<Arc<App>>, Path(name): Path<String>) -> Result<Json<Model>, Refusal> {
    check_model(&app, Some(&name))?;
    Ok(Json(Model::new(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deltas_together_are_the_text() {
        let sentence = |text: &str| Sentence {
            text: text.into(),
            punctuation: String::new(),
            start_ms: 0,
            end_ms: 0,
            confidence: None,
            words: 0..0,
        };
        for (text, sentences, deltas) in [
            ("", &[][..], &[][..]),
            ("好。", &[], &["好。"]),
            ("你好，hello. 再见", &["你好，", "hello.", "再见"], &["你好，", "hello.", " 再见"]),
            ("a b", &["x", "a"], &["a b"]),
        ] {
            let sentences: Vec<Sentence> = sentences.iter().map(|text| sentence(text)).collect();
            let cut: Vec<&str> = pieces(text, &sentences).into_iter().map(|range| &text[range]).collect();
            assert_eq!(cut, deltas, "{text}");
        }
    }
}
