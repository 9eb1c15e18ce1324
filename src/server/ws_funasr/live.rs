//! Where the audio of a live utterance goes: samples straight to its session, a container through a decoder.

use std::io::Read;

use axum::body::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use super::super::protocol::Choice;
use super::super::upload::is_wav;
use super::super::{App, Mode};
use crate::audio::AudioReader;
use crate::engine::{LiveInput, LiveOutput, LiveSession};
use crate::error::{Error, Result};
use crate::pipeline::{Request, SessionOptions};

/// Frames of a container that may wait for the decoder; then the client is not read.
const MAX_FRAMES: usize = 8;
/// Samples that are decoded at a time.
const DECODED: usize = 4000;

/// See the [module](self).
pub(super) enum LiveSink {
    Pcm(LiveInput),
    Container(mpsc::Sender<Bytes>),
}

/// What a live session says, and why it ended early if it did.
pub(super) struct LiveSource {
    pub output: LiveOutput,
    /// What the decoder failed at.
    pub fault: oneshot::Receiver<Error>,
}

impl LiveSink {
    /// Opens a session for what the client has chosen. `head` begins its audio: clients send wav files as plain samples.
    pub fn open(app: &App, choice: &Choice, request: Request, head: &[u8]) -> Result<(Self, LiveSource)> {
        let options = SessionOptions {
            stream: choice.stream,
            request,
            first_pass_only: choice.mode == Mode::Online,
            ..SessionOptions::default()
        };
        let (failed, fault) = oneshot::channel();
        if choice.pcm && !is_wav(head) {
            let LiveSession { input, output } = app.engine.open(choice.audio_fs, &options)?;
            return Ok((Self::Pcm(input), LiveSource { output, fault }));
        }
        let decoders = app.decoders.clone();
        let Ok(place) = decoders.try_acquire_owned() else {
            return Err(Error::Overloaded("too many live containers are decoded; send plain samples".into()));
        };
        let rate = app.engine.live_rate().unwrap_or_default();
        let LiveSession { input, output } = app.engine.open(rate, &options)?;
        let (sender, frames) = mpsc::channel(MAX_FRAMES);
        let (name, runtime) = (choice.wav_name.clone(), Handle::current());
        tokio::task::spawn_blocking(move || {
            let source = Frames { frames, current: Bytes::new() };
            if let Err(error) = decode(&name, source, rate, input, &runtime) {
                // If the session has ended, so has who would read this.
                let _ = failed.send(error);
            }
            drop(place);
        });
        Ok((Self::Container(sender), LiveSource { output, fault }))
    }

    /// Takes the next bytes; waits while there is much to hear.
    ///
    /// # Errors
    /// [`Error::Failed`] if the session has ended.
    pub async fn push(&mut self, bytes: Bytes) -> Result<()> {
        match self {
            Self::Pcm(input) => input.push_pcm16(&bytes).await,
            Self::Container(frames) => frames.send(bytes).await.map_err(super::gone),
        }
    }

    /// No bytes follow.
    ///
    /// # Errors
    /// [`Error::Failed`] if the session has ended.
    pub async fn finish(self) -> Result<()> {
        match self {
            Self::Pcm(input) => input.finish().await,
            Self::Container(_) => Ok(()),
        }
    }
}

/// Decodes a container while it arrives.
fn decode(name: &str, source: Frames, rate: u32, mut input: LiveInput, runtime: &Handle) -> Result<()> {
    let mut audio = AudioReader::streamed(name, source, rate)?;
    let mut samples = Vec::with_capacity(DECODED);
    while audio.read(&mut samples, DECODED)? > 0 {
        runtime.block_on(input.push(&samples))?;
        samples.clear();
    }
    runtime.block_on(input.finish())
}

/// Frames of a connection as a stream of bytes. It ends when the utterance does.
struct Frames {
    frames: mpsc::Receiver<Bytes>,
    current: Bytes,
}

impl Read for Frames {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.current.is_empty() {
            match self.frames.blocking_recv() {
                Some(frame) => self.current = frame,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.current.len());
        buffer[..count].copy_from_slice(&self.current.split_to(count));
        Ok(count)
    }
}
