//! Bodies of OpenAI's transcription API, and how a transcript fills them.

use serde::Serialize;
use utoipa::ToSchema;

use crate::pipeline::Transcript;
use crate::text::sentences::Sentence;

/// `response_format=json`.
#[derive(Debug, Serialize, ToSchema)]
pub struct Transcription {
    /// The text.
    text: String,
    usage: Usage,
}

/// What is billed elsewhere: the length of the recording.
#[derive(Debug, Serialize, ToSchema)]
pub struct Usage {
    /// `duration`.
    r#type: &'static str,
    /// Seconds of audio.
    seconds: f64,
}

impl Usage {
    /// Of a recording of `ms`.
    pub fn of_ms(ms: u64) -> Self {
        Self { r#type: "duration", seconds: seconds(ms) }
    }
}

/// `response_format=verbose_json`.
#[derive(Debug, Serialize, ToSchema)]
pub struct VerboseTranscription {
    /// `transcribe`.
    task: &'static str,
    /// As the model heard it, else as it was told, else `auto`.
    language: String,
    /// Seconds of audio.
    duration: f64,
    /// The text.
    text: String,
    /// The text cut at its marks, unless only words are asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    segments: Option<Vec<Segment>>,
    /// The words, if they are asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    words: Option<Vec<Word>>,
    usage: Usage,
}

/// A stretch of text. What Whisper says of its own decoding has neutral values: clients want the fields.
#[derive(Debug, Serialize, ToSchema)]
pub struct Segment {
    id: usize,
    /// 0.
    seek: u64,
    /// Seconds.
    start: f64,
    /// Seconds.
    end: f64,
    text: String,
    /// Empty.
    tokens: Vec<u32>,
    /// 0.
    temperature: f64,
    /// 0: not known.
    avg_logprob: f64,
    /// 1: not known.
    compression_ratio: f64,
    /// 0: voice detection has taken silence out.
    no_speech_prob: f64,
}

/// A word and when it was said, in seconds.
#[derive(Debug, Serialize, ToSchema)]
pub struct Word {
    word: String,
    start: f64,
    end: f64,
}

/// What `timestamp_granularities[]` asks for.
#[derive(Debug, Clone, Copy)]
pub struct Granularities {
    /// `segment`, or nothing.
    pub segments: bool,
    /// `word`.
    pub words: bool,
}

impl From<&Transcript> for Transcription {
    fn from(transcript: &Transcript) -> Self {
        Self { text: transcript.text.clone(), usage: Usage::of_ms(transcript.duration_ms) }
    }
}

impl VerboseTranscription {
    /// Of a recording whose language was `told`.
    pub fn new(transcript: &Transcript, told: &str, asked: Granularities) -> Self {
        let words =
            || transcript.segments.iter().flat_map(|segment| &segment.tokens).map(Word::from).collect();
        Self {
            task: "transcribe",
            language: transcript.language.clone().unwrap_or_else(|| told.to_owned()),
            duration: seconds(transcript.duration_ms),
            text: transcript.text.clone(),
            segments: asked.segments.then(|| transcript.sentences.iter().enumerate().map(segment).collect()),
            words: asked.words.then(words),
            usage: Usage::of_ms(transcript.duration_ms),
        }
    }
}

fn segment((id, sentence): (usize, &Sentence)) -> Segment {
    Segment {
        id,
        seek: 0,
        start: seconds(sentence.start_ms),
        end: seconds(sentence.end_ms),
        text: sentence.text.clone(),
        tokens: Vec::new(),
        temperature: 0.0,
        avg_logprob: 0.0,
        compression_ratio: 1.0,
        no_speech_prob: 0.0,
    }
}

impl From<&crate::text::Token> for Word {
    fn from(token: &crate::text::Token) -> Self {
        Self { word: token.text.clone(), start: seconds(token.start_ms), end: seconds(token.end_ms) }
    }
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

/// `GET /v1/models`.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelList {
    /// `list`.
    object: &'static str,
    /// What can be named in a request.
    data: Vec<Model>,
}

/// One model.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Model {
    /// Its name.
    pub id: String,
    /// `model`.
    object: &'static str,
    /// Not known; what FunASR's server says.
    created: u64,
    /// `funasr`.
    owned_by: &'static str,
}

impl Model {
    /// The model called `id`.
    pub fn new(id: impl Into<String>) -> Self {
        Self { id: id.into(), object: "model", created: 1_700_000_000, owned_by: "funasr" }
    }
}

impl ModelList {
    /// These.
    pub fn new(data: Vec<Model>) -> Self {
        Self { object: "list", data }
    }
}

/// An error on OpenAI's routes; written by [`Refusal`](super::Refusal).
#[derive(ToSchema)]
#[allow(dead_code, reason = "documentation")]
pub struct OpenAiError {
    error: OpenAiErrorBody,
}

/// What is wrong.
#[derive(ToSchema)]
#[allow(dead_code, reason = "documentation")]
pub struct OpenAiErrorBody {
    message: String,
    /// Such as `invalid_request_error`.
    r#type: String,
    /// The field.
    param: Option<String>,
    /// Such as `not_found`.
    code: String,
}
