//! OpenAI's Realtime API over websocket, transcription sessions alone: `GET /v1/realtime`.
//!
//! With server VAD each sentence is an item, which completes when its speaker pauses; without, the audio between
//! two commits is one. Streamed text comes as deltas, the text of the second pass with `completed`.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::extract::ws::{CloseFrame, Message as Frame, WebSocket, WebSocketUpgrade, close_code};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use tokio::time::timeout;
use uuid::Uuid;

use super::form::language;
use super::live::hearing;
use super::openai::check_model;
use super::openai_types::Usage;
use super::{App, Connection, Refusal};
use crate::audio::SAMPLE_RATES;
use crate::decode::hotwords::Hotwords;
use crate::engine::{Ask, LiveInput, LiveOutput, LiveSession, Said};
use crate::pipeline::{Message, Pass, SessionOptions};

/// Audio that OpenAI asks for at least before a commit.
const MIN_COMMIT_MS: u64 = 100;
/// How long a client may leave an event unread once its connection is full.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);
/// Silence that ends a sentence may be set within these bounds.
const SILENCE_MS: std::ops::RangeInclusive<u32> = 100..=10_000;

/// Takes the connection, whose subprotocol is `realtime` if one is offered.
pub async fn upgrade(
    State(app): State<Arc<App>>,
    Extension(connection): Extension<Arc<Connection>>,
    socket: WebSocketUpgrade,
) -> Response {
    let limit = app.settings().max_message_bytes;
    let socket = socket.protocols(["realtime"]).max_message_size(limit).max_frame_size(limit);
    socket.on_upgrade(move |socket| async move {
        // An error here is a client that has left.
        let _ = Conversation::new(app, socket).run().await;
        drop(connection);
    })
}

/// The connection is gone.
struct Left;

/// One connection.
struct Conversation {
    app: Arc<App>,
    socket: WebSocket,
    session_id: String,
    settings: Settings,
    turn: Option<Turn>,
    /// The item before, in the order of the conversation.
    previous: Option<String>,
    /// Audio before the open turn.
    before_ms: u64,
}

/// Audio that is being heard: between two commits, or with server VAD all of it.
struct Turn {
    input: LiveInput,
    output: LiveOutput,
    item: Option<Item>,
    bytes: u64,
    bytes_per_second: u64,
}

/// What is being said.
struct Item {
    id: String,
    text: String,
}

impl Conversation {
    fn new(app: Arc<App>, socket: WebSocket) -> Self {
        Self {
            app,
            socket,
            session_id: name("sess"),
            settings: Settings::default(),
            turn: None,
            previous: None,
            before_ms: 0,
        }
    }

    async fn run(mut self) -> Result<(), Left> {
        self.say(json!({ "type": "session.created", "session": self.session() })).await?;
        let idle = Duration::from_secs(self.app.settings().idle_seconds);
        let mut draining = self.app.draining();
        loop {
            // The value watched is a lock, which must not be held meanwhile.
            let drained = async { drop(draining.wait_for(|draining| *draining).await) };
            let heard = async {
                match &mut self.turn {
                    Some(turn) => turn.output.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                frame = timeout(idle, self.socket.recv()) => match frame {
                    Ok(Some(Ok(Frame::Text(text)))) => self.on_text(&text).await?,
                    Ok(Some(Ok(Frame::Binary(_)))) => {
                        let message = "events are text; audio stands in them as base64";
                        self.refuse(None, &Refusal::bad_request(message)).await?;
                    }
                    Ok(Some(Ok(Frame::Ping(_) | Frame::Pong(_)))) => {}
                    Ok(Some(Ok(Frame::Close(_)) | Err(_)) | None) => return Err(Left),
                    Err(_) => return self.close(close_code::POLICY, "nothing was sent for too long").await,
                },
                () = drained => {
                    self.end_turn().await?;
                    return self.close(close_code::AWAY, "the server is shutting down").await;
                }
                said = heard => self.on_heard(said).await?,
            }
        }
    }

    /// One event of the client; what is wrong with it is answered and the connection lives on.
    async fn on_text(&mut self, text: &str) -> Result<(), Left> {
        let Ok(event) = serde_json::from_str::<Value>(text) else {
            return self.refuse(None, &Refusal::bad_request("the event is not JSON")).await;
        };
        let id = event["event_id"].as_str().map(str::to_owned);
        let done = match event["type"].as_str() {
            Some("session.update") => self.update(&event, "session.updated").await?,
            Some("transcription_session.update") => {
                self.update(&event, "transcription_session.updated").await?
            }
            Some("input_audio_buffer.append") => self.append(&event).await?,
            Some("input_audio_buffer.commit") => self.commit().await?,
            Some("input_audio_buffer.clear") => {
                self.drop_turn();
                self.say(json!({ "type": "input_audio_buffer.cleared" })).await?;
                Ok(())
            }
            kind => {
                let message = format!("no event of a transcription session: {}", kind.unwrap_or("(no type)"));
                Err(Refusal::bad_request(message).about("type"))
            }
        };
        match done {
            Ok(()) => Ok(()),
            Err(refusal) => self.refuse(id, &refusal).await,
        }
    }

    async fn update(&mut self, event: &Value, reply: &str) -> Result<Result<(), Refusal>, Left> {
        let settings = match self.settings.updated(&event["session"]) {
            Ok(settings) => settings,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if let Err(refusal) = check_model(&self.app, settings.model.as_deref()) {
            return Ok(Err(refusal));
        }
        if settings != self.settings {
            // What was said so far keeps the settings it was said under.
            self.end_turn().await?;
            self.settings = settings;
        }
        self.say(json!({ "type": reply, "session": self.session() })).await?;
        Ok(Ok(()))
    }

    async fn append(&mut self, event: &Value) -> Result<Result<(), Refusal>, Left> {
        let bytes = match self.audio(event) {
            Ok(bytes) => bytes,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let mut turn = match self.turn.take() {
            Some(turn) => turn,
            None => match self.settings.open(&self.app).await {
                Ok(turn) => turn,
                Err(refusal) => return Ok(Err(refusal)),
            },
        };
        turn.bytes += bytes.len() as u64;
        let (pushed, heard) = hearing(&mut turn.output, turn.input.push_pcm16(&bytes)).await;
        self.turn = Some(turn);
        for said in heard {
            self.on_heard(Some(said)).await?;
        }
        Ok(pushed.map_err(Refusal::from))
    }

    fn audio(&self, event: &Value) -> Result<Vec<u8>, Refusal> {
        let wrong = |why: &str| Refusal::bad_request(format!("audio: {why}")).about("audio");
        let audio = event["audio"].as_str().ok_or_else(|| wrong("is not a text"))?;
        let bytes = BASE64.decode(audio).map_err(|e| wrong(&format!("is not base64: {e}")))?;
        Ok(self.settings.format.to_pcm(bytes))
    }

    async fn commit(&mut self) -> Result<Result<(), Refusal>, Left> {
        let ms = self.turn.as_ref().map_or(0, Turn::pushed_ms);
        if ms < MIN_COMMIT_MS {
            let message =
                format!("{ms} ms of audio are too little to commit; {MIN_COMMIT_MS} ms are the least");
            return Ok(Err(Refusal::bad_request(message)));
        }
        self.end_turn().await?;
        Ok(Ok(()))
    }

    /// Forgets what was appended.
    fn drop_turn(&mut self) {
        if let Some(turn) = self.turn.take() {
            self.before_ms += turn.pushed_ms();
        }
    }

    /// Hears the turn to its end and tells the rest.
    async fn end_turn(&mut self) -> Result<(), Left> {
        let Some(turn) = self.turn.take() else { return Ok(()) };
        let pushed_ms = turn.pushed_ms();
        let Turn { input, mut output, mut item, .. } = turn;
        let (finished, mut heard) = hearing(&mut output, input.finish()).await;
        heard.extend(finished.err().map(Err));
        while let Some(said) = output.next().await {
            heard.push(said);
        }
        if self.settings.turns == Turns::ByCommit {
            self.tell_turn(heard, item, pushed_ms).await?;
        } else {
            for said in heard {
                match said {
                    Ok(said) => self.tell_sentence(&mut item, said.message).await?,
                    Err(error) => self.refuse(None, &error.into()).await?,
                }
            }
        }
        self.before_ms += pushed_ms;
        Ok(())
    }

    /// What the open turn says by itself.
    async fn on_heard(&mut self, said: Option<crate::Result<Said>>) -> Result<(), Left> {
        let Some(mut turn) = self.turn.take() else { return Ok(()) };
        match said {
            Some(Ok(said)) if self.settings.turns != Turns::ByCommit => {
                self.tell_sentence(&mut turn.item, said.message).await?;
            }
            // Without server VAD nothing is told before the commit, which may never come.
            Some(Ok(said)) => hold(&mut turn.item, said.message),
            Some(Err(error)) => {
                self.before_ms += turn.pushed_ms();
                return self.refuse(None, &error.into()).await;
            }
            None => return Ok(()),
        }
        self.turn = Some(turn);
        Ok(())
    }

    /// A message of a sentence that is an item of its own.
    async fn tell_sentence(&mut self, open: &mut Option<Item>, message: Message) -> Result<(), Left> {
        let begins = open.is_none() && !message.text.is_empty();
        match message.pass {
            Pass::Streaming { .. } if message.text.is_empty() => Ok(()),
            Pass::Streaming { start_ms, .. } => {
                let item = open.get_or_insert_with(Item::new);
                if begins {
                    self.say(speech_started(&item.id, self.before_ms + start_ms)).await?;
                }
                item.text.push_str(&message.text);
                let delta = delta(&item.id, &message.text);
                self.say(delta).await
            }
            Pass::Corrected(correction) => {
                if !begins && open.is_none() {
                    return Ok(());
                }
                let item = open.take().unwrap_or_else(Item::new);
                let [start_ms, end_ms] =
                    [correction.start_ms, correction.end_ms].map(|ms| self.before_ms + ms);
                if begins {
                    self.say(speech_started(&item.id, start_ms)).await?;
                }
                let stopped = "input_audio_buffer.speech_stopped";
                self.say(json!({ "type": stopped, "audio_end_ms": end_ms, "item_id": item.id })).await?;
                self.commit_item(&item.id).await?;
                self.complete(&item.id, &message.text, end_ms - start_ms).await
            }
        }
    }

    /// All that was said in a turn, as one item.
    async fn tell_turn(
        &mut self,
        heard: Vec<crate::Result<Said>>,
        held: Option<Item>,
        pushed_ms: u64,
    ) -> Result<(), Left> {
        let (mut item, mut failed) = (held, None);
        for said in heard {
            match said {
                Ok(said) => hold(&mut item, said.message),
                Err(error) => failed = Some(Refusal::from(error)),
            }
        }
        let item = item.unwrap_or_else(Item::new);
        self.commit_item(&item.id).await?;
        if let Some(refusal) = failed {
            let error = refusal.openai();
            return self
                .say(json!({
                    "type": "conversation.item.input_audio_transcription.failed",
                    "item_id": item.id, "content_index": 0, "error": error,
                }))
                .await;
        }
        if !item.text.is_empty() {
            self.say(delta(&item.id, &item.text)).await?;
        }
        self.complete(&item.id, &item.text, pushed_ms).await
    }

    async fn commit_item(&mut self, id: &str) -> Result<(), Left> {
        let previous = self.previous.replace(id.to_owned());
        let committed = "input_audio_buffer.committed";
        self.say(json!({ "type": committed, "item_id": id, "previous_item_id": previous })).await?;
        let item = json!({
            "id": id, "object": "realtime.item", "type": "message", "status": "completed", "role": "user",
            "content": [{ "type": "input_audio", "transcript": null }],
        });
        let added = "conversation.item.added";
        self.say(json!({ "type": added, "previous_item_id": previous, "item": item })).await
    }

    async fn complete(&mut self, id: &str, transcript: &str, ms: u64) -> Result<(), Left> {
        self.say(json!({
            "type": "conversation.item.input_audio_transcription.completed",
            "item_id": id, "content_index": 0, "transcript": transcript, "usage": Usage::of_ms(ms),
        }))
        .await
    }

    async fn refuse(&mut self, event_id: Option<String>, refusal: &Refusal) -> Result<(), Left> {
        let mut error = refusal.openai();
        error["event_id"] = event_id.into();
        self.say(json!({ "type": "error", "error": error })).await
    }

    async fn say(&mut self, mut event: Value) -> Result<(), Left> {
        event["event_id"] = name("event").into();
        self.send(Frame::text(event.to_string())).await
    }

    async fn close(&mut self, code: u16, reason: &'static str) -> Result<(), Left> {
        self.send(Frame::Close(Some(CloseFrame { code, reason: reason.into() }))).await
    }

    /// A client that does not read counts as gone.
    async fn send(&mut self, frame: Frame) -> Result<(), Left> {
        timeout(SEND_TIMEOUT, self.socket.send(frame)).await.map_or(Err(Left), |sent| sent.map_err(|_| Left))
    }

    fn session(&self) -> Value {
        let mut session = self.settings.to_json();
        session["id"] = self.session_id.as_str().into();
        session["object"] = "realtime.transcription_session".into();
        session["type"] = "transcription".into();
        session
    }
}

impl Turn {
    fn pushed_ms(&self) -> u64 {
        self.bytes * 1000 / self.bytes_per_second
    }
}

/// Keeps what was said for the commit: the corrected text of each sentence.
fn hold(item: &mut Option<Item>, message: Message) {
    if let Pass::Corrected(_) = message.pass {
        item.get_or_insert_with(Item::new).text.push_str(&message.text);
    }
}

impl Item {
    fn new() -> Self {
        Self { id: name("item"), text: String::new() }
    }
}

fn name(kind: &str) -> String {
    format!("{kind}_{}", Uuid::new_v4().simple())
}

fn speech_started(id: &str, ms: u64) -> Value {
    json!({ "type": "input_audio_buffer.speech_started", "audio_start_ms": ms, "item_id": id })
}

fn delta(id: &str, text: &str) -> Value {
    let kind = "conversation.item.input_audio_transcription.delta";
    json!({ "type": kind, "item_id": id, "content_index": 0, "delta": text })
}

/// What the client has set.
#[derive(Debug, Clone, PartialEq)]
struct Settings {
    format: Format,
    model: Option<String>,
    language: String,
    hotwords: String,
    turns: Turns,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            format: Format::Pcm(24_000),
            model: None,
            language: "auto".to_owned(),
            hotwords: String::new(),
            turns: Turns::BySilence(None),
        }
    }
}

/// What ends an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turns {
    /// The client's commit.
    ByCommit,
    /// Silence of so many ms, by default the detector's own; server VAD.
    BySilence(Option<u32>),
}

/// How appended audio is coded, always mono.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    /// 16-bit little-endian, at this rate.
    Pcm(u32),
    /// G.711 at 8 kHz.
    MuLaw,
    /// G.711 at 8 kHz.
    ALaw,
}

impl Settings {
    /// These with what `session` sets, in today's form or that of the beta (`input_audio_format` and so on).
    fn updated(&self, session: &Value) -> Result<Self, Refusal> {
        let mut settings = self.clone();
        let input = &session["audio"]["input"];
        let get = |today: &str, beta: &str| {
            [&input[today], &session[beta]].into_iter().find(|value| !value.is_null()).cloned()
        };
        if let Some(format) = get("format", "input_audio_format") {
            settings.format = Format::read(&format)?;
        }
        if let Some(transcription) = get("transcription", "input_audio_transcription") {
            settings.transcription(&transcription);
        }
        let detection = [(input, "turn_detection"), (session, "turn_detection")];
        if let Some((_, detection)) =
            detection.iter().find_map(|(of, key)| of.as_object()?.get_key_value(*key))
        {
            settings.turns = Turns::read(detection)?;
        }
        Ok(settings)
    }

    fn transcription(&mut self, told: &Value) {
        if let Some(model) = told["model"].as_str() {
            self.model = Some(model.to_owned());
        }
        if let Some(language) = told["language"].as_str() {
            self.language = language.to_owned();
        }
        let keywords = told["keywords"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let hotwords: Vec<&str> = told["prompt"].as_str().into_iter().chain(keywords).collect();
        if !hotwords.is_empty() {
            self.hotwords = hotwords.join("\n");
        }
    }

    /// A turn under these settings.
    async fn open(&self, app: &Arc<App>) -> Result<Turn, Refusal> {
        let rate = match self.format {
            Format::Pcm(rate) => rate,
            Format::MuLaw | Format::ALaw => 8_000,
        };
        let hotwords = (!self.hotwords.is_empty()).then(|| Hotwords::parse(&self.hotwords));
        let ask = Ask { language: language(&self.language), hotwords, ..app.ask() };
        let request = app.prepare(ask).await?.request;
        let max_end_silence_ms = match self.turns {
            Turns::ByCommit => None,
            Turns::BySilence(ms) => ms,
        };
        let options = SessionOptions { request, max_end_silence_ms, ..SessionOptions::default() };
        let LiveSession { input, output } = app.engine().open(rate, &options)?;
        Ok(Turn { input, output, item: None, bytes: 0, bytes_per_second: 2 * u64::from(rate) })
    }

    fn to_json(&self) -> Value {
        let format = match self.format {
            Format::Pcm(rate) => json!({ "type": "audio/pcm", "rate": rate }),
            Format::MuLaw => json!({ "type": "audio/pcmu" }),
            Format::ALaw => json!({ "type": "audio/pcma" }),
        };
        let detection = match self.turns {
            Turns::ByCommit => Value::Null,
            Turns::BySilence(ms) => json!({ "type": "server_vad", "silence_duration_ms": ms }),
        };
        let transcription =
            json!({ "model": self.model, "language": self.language, "prompt": self.hotwords });
        json!({ "audio": { "input": {
            "format": format, "transcription": transcription, "turn_detection": detection,
            "noise_reduction": null,
        } } })
    }
}

impl Turns {
    /// `turn_detection`: null, or an object whose type tells how turns end; here the voice detector does in every case.
    fn read(detection: &Value) -> Result<Self, Refusal> {
        if detection.is_null() {
            return Ok(Self::ByCommit);
        }
        if !matches!(detection["type"].as_str(), Some("server_vad" | "semantic_vad")) {
            let message = "turn_detection: null, server_vad or semantic_vad";
            return Err(Refusal::bad_request(message).about("turn_detection"));
        }
        let ms = &detection["silence_duration_ms"];
        if ms.is_null() {
            return Ok(Self::BySilence(None));
        }
        let ms = ms.as_u64().and_then(|ms| u32::try_from(ms).ok()).filter(|ms| SILENCE_MS.contains(ms));
        let range = format!("silence_duration_ms: from {} to {}", SILENCE_MS.start(), SILENCE_MS.end());
        ms.map(|ms| Self::BySilence(Some(ms)))
            .ok_or_else(|| Refusal::bad_request(range).about("silence_duration_ms"))
    }
}

impl Format {
    fn read(format: &Value) -> Result<Self, Refusal> {
        let rate = format["rate"].as_u64().unwrap_or(24_000);
        match format.as_str().or(format["type"].as_str()) {
            Some("audio/pcm" | "pcm16") => match u32::try_from(rate) {
                Ok(rate) if SAMPLE_RATES.contains(&rate) => Ok(Self::Pcm(rate)),
                _ => Err(Refusal::bad_request(format!("format: {rate} Hz is not supported")).about("rate")),
            },
            Some("audio/pcmu" | "g711_ulaw") => Ok(Self::MuLaw),
            Some("audio/pcma" | "g711_alaw") => Ok(Self::ALaw),
            _ => Err(Refusal::bad_request("format: audio/pcm, audio/pcmu or audio/pcma").about("format")),
        }
    }

    /// 16-bit little-endian samples.
    fn to_pcm(self, bytes: Vec<u8>) -> Vec<u8> {
        let decode = match self {
            Self::Pcm(_) => return bytes,
            Self::MuLaw => mu_law,
            Self::ALaw => a_law,
        };
        bytes.into_iter().flat_map(|byte| decode(byte).to_le_bytes()).collect()
    }
}

/// ITU-T G.711, mu-law.
fn mu_law(byte: u8) -> i16 {
    let code = !byte;
    let magnitude = ((i16::from(code & 0x0f) << 3) + 0x84) << ((code & 0x70) >> 4);
    if code & 0x80 == 0 { magnitude - 0x84 } else { 0x84 - magnitude }
}

/// ITU-T G.711, A-law.
fn a_law(byte: u8) -> i16 {
    let code = byte ^ 0x55;
    let step = i16::from(code & 0x0f) << 4;
    let magnitude = match (code & 0x70) >> 4 {
        0 => step + 8,
        exponent => (step + 0x108) << (exponent - 1),
    };
    if code & 0x80 == 0 { -magnitude } else { magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g711_decodes_to_the_values_of_the_standard() {
        for (byte, linear) in
            [(0xff, 0), (0x7f, 0), (0x80, 32124), (0x00, -32124), (0xf0, 120), (0x8f, 16764)]
        {
            assert_eq!(mu_law(byte), linear, "mu-law {byte:#x}");
        }
        for (byte, linear) in
            [(0xd5, 8), (0x55, -8), (0xaa, 32256), (0x2a, -32256), (0x80, 5504), (0x85, 4224)]
        {
            assert_eq!(a_law(byte), linear, "A-law {byte:#x}");
        }
    }

    #[test]
    fn settings_come_in_both_forms() {
        let updated = |session: Value| Settings::default().updated(&session);
        let today = updated(json!({ "audio": { "input": {
            "format": { "type": "audio/pcm", "rate": 16000 }, "turn_detection": null,
            "transcription": { "language": "zh", "prompt": "你好", "keywords": ["赵磊"] } } } }));
        let today = today.unwrap_or_default();
        assert_eq!(today.format, Format::Pcm(16_000));
        assert_eq!((today.turns, today.language.as_str()), (Turns::ByCommit, "zh"));
        assert_eq!(today.hotwords, "你好\n赵磊");
        let detection = json!({ "type": "server_vad", "silence_duration_ms": 300 });
        let beta = updated(json!({ "input_audio_format": "g711_ulaw", "turn_detection": detection }));
        let beta = beta.unwrap_or_default();
        assert_eq!((beta.format, beta.turns), (Format::MuLaw, Turns::BySilence(Some(300))));
        for wrong in [
            json!({ "audio": { "input": { "format": { "type": "audio/mp3" } } } }),
            json!({ "audio": { "input": { "format": { "type": "audio/pcm", "rate": 1 } } } }),
            json!({ "turn_detection": { "type": "none" } }),
            json!({ "turn_detection": { "type": "server_vad", "silence_duration_ms": -1 } }),
        ] {
            assert!(updated(wrong.clone()).is_err(), "{wrong}");
        }
        assert_eq!(updated(Value::Null).unwrap_or_default(), Settings::default());
    }
}
