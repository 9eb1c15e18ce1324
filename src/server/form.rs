//! Forms with a recording (`multipart/form-data`), everything bounded, and the transcription that they order.

use std::error::Error;
use std::io;
use std::iter::successors;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::multipart::{Field, Multipart, MultipartError, MultipartRejection};
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::{App, Refusal, Settings, Upload};
use crate::audio::RAW_PCM_RATE;
use crate::decode::hotwords::Hotwords;
use crate::engine::{Ask, AudioFormat, Recording};
use crate::error::Result as EngineResult;
use crate::pipeline::{Language, Transcript};

/// Bytes of the longest text field.
const MAX_TEXT_BYTES: usize = 256 << 10;
/// Parts of a form.
const MAX_PARTS: usize = 100;
/// How long what remains of a refused form is skipped.
const LINGER: Duration = Duration::from_secs(2);
/// How often progress is told.
const PROGRESS: Duration = Duration::from_millis(250);

type Result<T> = std::result::Result<T, Refusal>;

/// A form as it was received.
#[derive(Debug, Default)]
pub struct Form {
    texts: Vec<(String, String)>,
    /// The recording and what the client calls it.
    file: Option<(String, Upload)>,
}

impl Form {
    /// Receives a form. The file is the part with a file name, or called `file` or `audio`.
    ///
    /// # Errors
    /// No form or a malformed one, a second file, too much of anything, a sender that is too slow.
    pub async fn receive(app: &Arc<App>, request: Request) -> Result<Self> {
        let no_form = |rejection: MultipartRejection| {
            Refusal::new(rejection.status(), format!("not a form: {}", rejection.body_text()))
        };
        let mut parts = Multipart::from_request(request, app).await.map_err(no_form)?;
        let form = Self::read(&mut parts, app.settings()).await;
        if form.as_ref().is_err_and(|refusal| refusal.status != StatusCode::REQUEST_TIMEOUT) {
            // A client reads the answer when it has sent everything: what remains is skipped for a moment, since closing
            // before would reset the connection under it.
            let rest = async { while let Ok(Some(_)) = parts.next_field().await {} };
            let _ = timeout(LINGER, rest).await;
        }
        form
    }

    async fn read(parts: &mut Multipart, settings: &Settings) -> Result<Self> {
        let mut form = Self::default();
        for _ in 0..MAX_PARTS {
            let Some(part) = parts.next_field().await.map_err(|e| malformed(&e))? else { return Ok(form) };
            let name = part.name().unwrap_or_default().to_owned();
            if part.file_name().is_none() && !matches!(name.as_str(), "file" | "audio") {
                let text = text(part, &name).await?;
                form.texts.push((name, text));
            } else if form.file.is_none() {
                form.file = Some(file(part, settings.max_upload_bytes).await?);
            } else {
                return Err(Refusal::bad_request(format!("{name}: a second file; one recording is taken")));
            }
        }
        Err(Refusal::bad_request(format!("a form of more than {MAX_PARTS} parts")))
    }

    /// The last text called `name`, unless it is empty.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.all(name).last()
    }

    /// Every text called `name` that is not empty.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        let called = self.texts.iter().filter(move |(field, text)| field == name && !text.trim().is_empty());
        called.map(|(_, text)| text.trim())
    }

    /// A field that is on or off.
    ///
    /// # Errors
    /// Any other word.
    pub fn switch(&self, name: &'static str, default: bool) -> Result<bool> {
        match self.text(name).map(str::to_lowercase).as_deref() {
            None => Ok(default),
            Some("true" | "1" | "on" | "yes") => Ok(true),
            Some("false" | "0" | "off" | "no") => Ok(false),
            Some(_) => Err(Refusal::bad_request(format!("{name}: neither true nor false")).about(name)),
        }
    }

    /// A number.
    ///
    /// # Errors
    /// Anything else.
    pub fn number(&self, name: &'static str) -> Result<Option<f64>> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let number = text.parse().ok().filter(|number: &f64| number.is_finite());
        number.map(Some).ok_or_else(|| Refusal::bad_request(format!("{name}: not a number")).about(name))
    }

    /// The transcription that the form orders: its file, and the fields `language`, `itn`, `hotwords` and OpenAI's `prompt`
    /// and `keywords[]`, which are hotwords too.
    ///
    /// # Errors
    /// No file, which `field` should have held; a value that is none of its field's.
    pub fn order(&mut self, app: &App, field: &'static str) -> Result<Order> {
        let (name, upload) = self.file.take().ok_or_else(|| {
            Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, format!("{field}: field required")).about(field)
        })?;
        let told = self.text("language").unwrap_or("auto").to_owned();
        let plain = app.ask();
        let ask = Ask {
            language: language(&told),
            itn: self.switch("itn", plain.itn)?,
            model_itn: self.switch("itn", plain.model_itn)?,
            hotwords: self.hotwords(),
        };
        // As on the command line.
        let extension = name.rsplit_once('.').map(|(_, extension)| extension.to_lowercase());
        let format = match extension.as_deref() {
            Some("pcm" | "raw") => AudioFormat::Pcm(RAW_PCM_RATE),
            _ => AudioFormat::Container,
        };
        let called = if name.is_empty() { "the recording" } else { &name };
        let recording = upload.finish(called, format)?;
        Ok(Order { recording, told, ask })
    }

    fn hotwords(&self) -> Option<Hotwords> {
        let names = ["hotwords", "hotword", "prompt", "keywords[]"];
        let lists: Vec<&str> = names.iter().flat_map(|name| self.all(name)).collect();
        (!lists.is_empty()).then(|| Hotwords::parse(&lists.join("\n")))
    }
}

/// A recording and how it is to be transcribed.
pub struct Order {
    recording: Recording,
    told: String,
    ask: Ask,
}

impl Order {
    /// What the client calls the recording.
    pub fn name(&self) -> &str {
        &self.recording.name
    }

    /// The language as it was told, or `auto`.
    pub fn told(&self) -> &str {
        &self.told
    }

    /// Transcribes it; `progress` is told how many milliseconds have been heard. Dropping the future cancels.
    ///
    /// # Errors
    /// A recording that cannot be read or is too long, no room in the queue, a failed forward pass.
    pub async fn transcribe(self, app: &Arc<App>, mut progress: impl FnMut(u64)) -> EngineResult<Transcript> {
        let prepared = app.prepare(self.ask).await?;
        let name = self.recording.name.clone();
        let job = app.engine().transcribe(self.recording, prepared.request)?;
        let mut tick = interval(PROGRESS);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let outcome = loop {
            tokio::select! {
                outcome = job.outcome() => break outcome?,
                _ = tick.tick() => progress(job.heard_ms()),
            }
        };
        if let Some(damage) = outcome.damage {
            tracing::warn!(name, damage, "a damaged recording was transcribed as far as it goes");
        }
        let mut transcript = outcome.transcript;
        if app.settings().keep_tags {
            transcript.keep_tags();
        }
        Ok(transcript)
    }
}

/// A language by its code (`zh`, `zh-CN`) or English name; one that no model is told counts as not given.
pub fn language(told: &str) -> Language {
    let told = told.to_lowercase();
    let code = match told.as_str() {
        "chinese" | "mandarin" => "zh",
        "english" => "en",
        "cantonese" => "yue",
        "japanese" => "ja",
        "korean" => "ko",
        code => code.split(['-', '_']).next().unwrap_or_default(),
    };
    code.parse().unwrap_or_default()
}

/// What a form that breaks off says. [`pace`](super::pace) ends those that stall.
fn malformed(error: &MultipartError) -> Refusal {
    let causes = successors(error.source(), |&cause| cause.source());
    let is_slow = |cause: &io::Error| cause.kind() == io::ErrorKind::TimedOut;
    if causes.clone().any(|cause| cause.downcast_ref().is_some_and(is_slow)) {
        return Refusal::new(StatusCode::REQUEST_TIMEOUT, "the form arrives too slowly");
    }
    // Whatever is wrong with a body is the client's doing.
    let status = Some(error.status()).filter(|status| status.is_client_error());
    let cause = causes.last().map(ToString::to_string).unwrap_or_default();
    Refusal::new(status.unwrap_or(StatusCode::BAD_REQUEST), format!("malformed form: {cause}"))
}

async fn text(mut part: Field<'_>, name: &str) -> Result<String> {
    let mut bytes = Vec::new();
    while let Some(chunk) = part.chunk().await.map_err(|e| malformed(&e))? {
        if bytes.len() + chunk.len() > MAX_TEXT_BYTES {
            let message = format!("{name}: longer than {MAX_TEXT_BYTES} bytes");
            return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message));
        }
        bytes.extend_from_slice(&chunk);
    }
    String::from_utf8(bytes).map_err(|_| Refusal::bad_request(format!("{name}: not UTF-8")))
}

async fn file(mut part: Field<'_>, max_bytes: u64) -> Result<(String, Upload)> {
    let name = part.file_name().unwrap_or_default().to_owned();
    let mut upload = Upload::new(max_bytes);
    while let Some(chunk) = part.chunk().await.map_err(|e| malformed(&e))? {
        // Chunks are small and go to the page cache: not worth a thread each.
        upload.write(&chunk)?;
    }
    Ok((name, upload))
}
