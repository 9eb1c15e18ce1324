//! FunASR's WebSocket protocol: its three modes on one connection, utterance after utterance.
//!
//! A reader takes frames and hands each utterance over as a [`Turn`] as soon as it begins or is complete; a writer answers
//! the turns in their order. So a client may send the next utterance before it has heard the last one out, a client that
//! does not read its answers stops being read, and errors that belong to no utterance come at once.

mod answer;
mod live;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::response::Response;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Map, Value};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::protocol::{Choice, end_reply, error_reply, failure, offline_reply};
use super::{App, Connection, Mode, Upload};
use crate::engine::{Ask, AudioFormat, Prepared};
use crate::error::{Error, Result};
use answer::{Answer, Source};
use live::LiveSink;

/// Utterances that may wait for their answers; then the client is not read.
const MAX_TURNS: usize = 16;
/// How long a client may leave an answer unread once its connection is full.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes that are read from a connection at a time. Thousands of connections are idle.
const READ_BUFFER: usize = 8 << 10;
/// Pings in the time after which a silent connection is closed.
const PINGS: u32 = 3;

/// Answers the handshake. The subprotocol `binary` is taken if it is offered.
pub(super) fn connect(app: Arc<App>, connection: Arc<Connection>, upgrade: WebSocketUpgrade) -> Response {
    let limit = app.settings.max_message_bytes;
    upgrade
        .protocols(["binary"])
        .max_message_size(limit)
        .max_frame_size(limit)
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .on_upgrade(move |socket| async move {
            converse(app, socket).await;
            drop(connection);
        })
}

async fn converse(app: Arc<App>, socket: WebSocket) {
    let (sink, stream) = socket.split();
    let (turns, waiting) = channel(MAX_TURNS);
    let (asides, said) = channel(MAX_TURNS);
    let places = Arc::new(Semaphore::new(MAX_TURNS));
    let reader = Reader {
        choice: Choice::new(app.settings.mode),
        utterance: None,
        turns,
        places,
        asides,
        app: app.clone(),
    };
    let mut writer = Writer { sink, app: app.clone(), sentences: 0 };
    // Whoever ends first ends the conversation; what the other one holds is dropped, and so cancelled.
    let code = tokio::select! {
        code = reader.read(stream) => code,
        () = writer.answer(waiting, said) => None,
    };
    if let Some(code) = code {
        let reason = match code {
            close_code::SIZE => "a message is too big",
            close_code::AWAY => "the server is shutting down",
            _ => "",
        };
        let _ = writer.send(Message::Close(Some(CloseFrame { code, reason: reason.into() }))).await;
    }
}

/// A turn and its place among those that wait or are being answered.
type Placed = (Turn, OwnedSemaphorePermit);

/// What is said in its turn.
enum Turn {
    /// To an utterance that has begun, if it is live, or is complete.
    Answer(Box<Answer>),
    Say(Map<String, Value>),
}

/// The utterance that is being spoken.
enum Utterance {
    Recording(Upload),
    Live(LiveSink),
    /// It has failed; what is still sent of it is not heard.
    Failed,
}

struct Reader {
    app: Arc<App>,
    choice: Choice,
    utterance: Option<Utterance>,
    turns: Sender<Placed>,
    places: Arc<Semaphore>,
    asides: Sender<Map<String, Value>>,
}

impl Reader {
    /// Reads until the connection ends; returns with which code to close it, unless the client is gone. An utterance that
    /// was not completed is forgotten.
    async fn read(mut self, mut stream: SplitStream<WebSocket>) -> Option<u16> {
        let idle = Duration::from_secs(self.app.settings.idle_seconds);
        loop {
            let frame = tokio::select! {
                // What has arrived is heard before the client is sent away.
                biased;
                frame = tokio::time::timeout(idle, stream.next()) => frame,
                () = self.dismissed(), if self.utterance.is_none() => return Some(close_code::AWAY),
            };
            let taken = match frame {
                Ok(Some(Ok(Message::Text(text)))) => self.take_text(&text).await,
                Ok(Some(Ok(Message::Binary(bytes)))) => self.take_audio(bytes).await,
                Ok(Some(Ok(Message::Ping(_) | Message::Pong(_)))) => Ok(()),
                Ok(Some(Err(cause))) => return code(&cause),
                Ok(Some(Ok(Message::Close(_))) | None) => return None,
                Err(_) => return Some(close_code::POLICY),
            };
            self.app.metrics.messages_in.fetch_add(1, Ordering::Relaxed);
            // The writer has ended.
            taken.ok()?;
        }
    }

    /// Waits until the server shuts down and everything is answered.
    async fn dismissed(&self) {
        let mut draining = self.app.draining();
        // Neither ends before this.
        let _ = draining.wait_for(|draining| *draining).await;
        let _ = self.places.acquire_many(MAX_TURNS as u32).await;
    }

    async fn take_text(&mut self, text: &str) -> Result<()> {
        let read = self.choice.read(text);
        if !read.faults.is_empty() {
            let message = read.faults.join("; ");
            tracing::debug!(message, "text frame");
            let reply = error_reply(&self.choice, "bad_request", &message, false);
            self.asides.send(reply).await.map_err(gone)?;
        }
        if read.ends {
            self.end().await?;
        }
        if read.wants_end {
            self.turn(Turn::Say(end_reply(&self.choice))).await?;
        }
        Ok(())
    }

    async fn take_audio(&mut self, bytes: Bytes) -> Result<()> {
        if self.utterance.is_none() {
            self.begin(&bytes).await?;
        }
        let taken = match &mut self.utterance {
            Some(Utterance::Recording(upload)) => upload.write(&bytes),
            Some(Utterance::Live(sink)) => sink.push(bytes).await,
            Some(Utterance::Failed) | None => Ok(()),
        };
        match taken {
            Ok(()) => Ok(()),
            // What became of a live session is said where its messages come from.
            Err(Error::Failed(_)) => {
                self.utterance = Some(Utterance::Failed);
                Ok(())
            }
            Err(error) => self.fail(&error).await,
        }
    }

    /// Begins an utterance, as the client has chosen.
    async fn begin(&mut self, head: &[u8]) -> Result<()> {
        if *self.app.draining().borrow() {
            return self.fail(&Error::Overloaded("the server is shutting down".into())).await;
        }
        if self.choice.mode == Mode::Offline {
            self.utterance = Some(Utterance::Recording(Upload::new(self.app.settings.max_upload_bytes)));
            return Ok(());
        }
        match self.open(head).await {
            Ok((sink, answer)) => {
                self.utterance = Some(Utterance::Live(sink));
                self.turn(answer).await
            }
            Err(error) => self.fail(&error).await,
        }
    }

    async fn open(&self, head: &[u8]) -> Result<(LiveSink, Turn)> {
        let Prepared { request, notes } = self.app.prepare(self.ask()).await?;
        let (sink, source) = LiveSink::open(&self.app, &self.choice, request, head)?;
        Ok((sink, self.answer(Source::Live(Box::new(source)), notes)))
    }

    fn answer(&self, source: Source, notes: Vec<String>) -> Turn {
        let keep_tags = self.app.settings.keep_tags;
        Turn::Answer(Box::new(Answer::new(source, self.choice.clone(), notes, keep_tags)))
    }

    /// The utterance is complete.
    async fn end(&mut self) -> Result<()> {
        if self.utterance.is_none() {
            self.begin(&[]).await?;
        }
        match self.utterance.take() {
            Some(Utterance::Recording(upload)) => self.transcribe(upload).await,
            Some(Utterance::Live(sink)) => {
                // A session that has ended has said why.
                let _ = sink.finish().await;
                Ok(())
            }
            Some(Utterance::Failed) | None => Ok(()),
        }
    }

    async fn transcribe(&mut self, upload: Upload) -> Result<()> {
        if upload.is_empty() {
            let transcript = offline_reply(&Default::default(), &self.choice.wav_name);
            return self.turn(Turn::Say(transcript)).await;
        }
        let turn = match self.queue(upload).await {
            Ok(turn) => turn,
            Err(error) => Turn::Say(failure(&self.choice, &error)),
        };
        self.turn(turn).await
    }

    async fn queue(&self, upload: Upload) -> Result<Turn> {
        let Prepared { request, notes } = self.app.prepare(self.ask()).await?;
        let format =
            if self.choice.pcm { AudioFormat::Pcm(self.choice.audio_fs) } else { AudioFormat::Container };
        let recording = upload.finish(self.choice.wav_name.clone(), format)?;
        Ok(self.answer(Source::Recording(self.app.engine.transcribe(recording, request)?), notes))
    }

    fn ask(&self) -> Ask {
        let Choice { language, svs_itn, hotwords, .. } = &self.choice;
        let itn = self.choice.itn.unwrap_or(self.app.settings.itn);
        Ask { language: *language, itn, model_itn: *svs_itn, hotwords: hotwords.clone() }
    }

    /// Ends the utterance with an error; what follows until its end is not heard.
    async fn fail(&mut self, error: &Error) -> Result<()> {
        self.utterance = Some(Utterance::Failed);
        let reply = failure(&self.choice, error);
        self.turn(Turn::Say(reply)).await
    }

    async fn turn(&self, turn: Turn) -> Result<()> {
        let place = self.places.clone().acquire_owned().await.map_err(gone)?;
        self.turns.send((turn, place)).await.map_err(gone)
    }
}

fn gone<T>(_: T) -> Error {
    Error::Failed("the connection has ended".into())
}

/// With which code a connection is closed after an error of its protocol.
fn code(cause: &axum::Error) -> Option<u16> {
    let cause = cause.to_string();
    // The library's errors are not axum's to name.
    if cause.contains("too long") || cause.contains("too big") {
        return Some(close_code::SIZE);
    }
    (!cause.contains("reset")).then_some(close_code::PROTOCOL)
}

struct Writer {
    app: Arc<App>,
    sink: SplitSink<WebSocket, Message>,
    /// Corrected sentences of the live utterances before; clients count on.
    sentences: u64,
}

impl Writer {
    /// Answers turns in their order, and says asides between messages. Ends when the client takes nothing more.
    async fn answer(&mut self, mut turns: Receiver<Placed>, mut asides: Receiver<Map<String, Value>>) {
        let mut pings = tokio::time::interval(Duration::from_secs(self.app.settings.idle_seconds) / PINGS);
        pings.reset();
        let mut current: Option<(Box<Answer>, OwnedSemaphorePermit)> = None;
        loop {
            let sent = tokio::select! {
                Some(aside) = asides.recv() => self.say(aside).await,
                _ = pings.tick() => self.send(Message::Ping(Bytes::new())).await,
                Some((turn, place)) = turns.recv(), if current.is_none() => match turn {
                    Turn::Say(reply) => self.say(reply).await,
                    Turn::Answer(answer) => {
                        current = Some((answer, place));
                        Ok(())
                    }
                },
                reply = next(&mut current, &mut self.sentences) => match reply {
                    Some(reply) => self.say(reply).await,
                    None => {
                        current = None;
                        Ok(())
                    }
                },
            };
            if sent.is_err() {
                return;
            }
        }
    }

    async fn say(&mut self, reply: Map<String, Value>) -> Result<()> {
        self.send(Message::Text(Value::from(reply).to_string().into())).await
    }

    async fn send(&mut self, message: Message) -> Result<()> {
        self.app.metrics.messages_out.fetch_add(1, Ordering::Relaxed);
        match tokio::time::timeout(SEND_TIMEOUT, self.sink.send(message)).await {
            Ok(sent) => sent.map_err(gone),
            Err(_) => Err(gone(())),
        }
    }
}

/// The next message of the current answer; waits for ever if there is none.
async fn next(
    current: &mut Option<(Box<Answer>, OwnedSemaphorePermit)>,
    sentences: &mut u64,
) -> Option<Map<String, Value>> {
    match current {
        Some((answer, _)) => answer.next(sentences).await,
        None => std::future::pending().await,
    }
}
