//! Live sessions as their clients hold them: audio goes in, messages come out.

use std::sync::Arc;
use std::thread::Thread;
use std::time::Instant;

use async_channel::{Receiver, Sender, bounded, unbounded};

use super::rounds::{MAX_UNTAKEN, Slot, start};
use super::{EngineOptions, Stats};
use crate::audio::Resampler;
use crate::error::{Error, Result};
use crate::pipeline::{Message, RealTime, SessionOptions};

/// Audio in one piece of input.
const PIECE_MS: usize = 240;
/// Pieces that may wait for the owner; then who pushes waits.
const MAX_PIECES: usize = 16;

/// A session that was opened: audio goes in, messages come out, each from any thread or task.
#[derive(Debug)]
pub struct LiveSession {
    /// Takes the audio.
    pub input: LiveInput,
    /// Gives the messages.
    pub output: LiveOutput,
}

/// A message, and when the oldest audio arrived that led to it.
#[derive(Debug)]
pub struct Said {
    /// The message.
    pub message: Message,
    /// Arrival of that audio.
    pub heard: Instant,
}

/// Where the audio of a session goes. Dropping it before [`LiveInput::finish`] ends the session without further messages.
#[derive(Debug)]
pub struct LiveInput {
    pieces: Sender<Input>,
    owner: Thread,
    resampler: Option<Resampler>,
    piece_samples: usize,
    /// The first byte of a sample whose second has not come.
    odd: Option<u8>,
}

/// What comes to a session.
#[derive(Debug)]
pub(super) enum Input {
    /// Samples at the models' rate.
    Audio { samples: Vec<f32>, arrived: Instant },
    /// No more of them.
    Finish { arrived: Instant },
}

impl LiveInput {
    /// Takes 16-bit little-endian mono samples, cut anywhere. Waits while the session has much to hear already.
    ///
    /// # Errors
    /// [`Error::Failed`] if the session has ended.
    pub async fn push_pcm16(&mut self, bytes: &[u8]) -> Result<()> {
        let arrived = Instant::now();
        for piece in bytes.chunks(2 * self.piece_samples) {
            let samples = self.decode(piece);
            self.push_at(&samples, arrived).await?;
        }
        Ok(())
    }

    /// Takes mono samples in [-1, 1], and waits likewise.
    ///
    /// # Errors
    /// [`Error::Failed`] if the session has ended.
    pub async fn push(&mut self, samples: &[f32]) -> Result<()> {
        self.push_at(samples, Instant::now()).await
    }

    /// Says that no audio follows; the session ends with its final message.
    ///
    /// # Errors
    /// [`Error::Failed`] if the session has ended.
    pub async fn finish(mut self) -> Result<()> {
        let arrived = Instant::now();
        if let Some(resampler) = self.resampler.take() {
            let mut samples = Vec::new();
            resampler.finish(&mut samples);
            if !samples.is_empty() {
                self.send(Input::Audio { samples, arrived }).await?;
            }
        }
        self.send(Input::Finish { arrived }).await
    }

    async fn push_at(&mut self, samples: &[f32], arrived: Instant) -> Result<()> {
        for piece in samples.chunks(self.piece_samples) {
            let samples = match &mut self.resampler {
                None => piece.to_vec(),
                Some(resampler) => {
                    let mut resampled = Vec::new();
                    resampler.push(piece, &mut resampled);
                    resampled
                }
            };
            self.send(Input::Audio { samples, arrived }).await?;
        }
        Ok(())
    }

    async fn send(&self, input: Input) -> Result<()> {
        self.pieces.send(input).await.map_err(|_| Error::Failed("the session has ended".into()))?;
        self.owner.unpark();
        Ok(())
    }

    fn decode(&mut self, bytes: &[u8]) -> Vec<f32> {
        let sample = |low: u8, high: u8| f32::from(i16::from_le_bytes([low, high])) / 32_768.0;
        let mut samples = Vec::with_capacity(bytes.len() / 2 + 1);
        let mut bytes = bytes;
        if let (Some(low), [high, rest @ ..]) = (self.odd, bytes) {
            samples.push(sample(low, *high));
            (self.odd, bytes) = (None, rest);
        }
        let (whole, rest) = bytes.as_chunks::<2>();
        samples.extend(whole.iter().map(|&[low, high]| sample(low, high)));
        if let [low] = rest {
            self.odd = Some(*low);
        }
        samples
    }
}

impl Drop for LiveInput {
    fn drop(&mut self) {
        self.pieces.close();
        self.owner.unpark();
    }
}

/// Where the messages of a session come from. Dropping it ends the session.
#[derive(Debug)]
pub struct LiveOutput {
    messages: Receiver<Result<Said>>,
    owner: Thread,
}

impl LiveOutput {
    /// The next message; nothing after the final one. An error is the end, too.
    pub async fn next(&mut self) -> Option<Result<Said>> {
        let message = self.messages.recv().await.ok();
        // A session that rests because nobody took its messages goes on.
        if self.messages.len() + 1 == MAX_UNTAKEN / 2 {
            self.owner.unpark();
        }
        message
    }
}

impl Drop for LiveOutput {
    fn drop(&mut self) {
        self.messages.close();
        self.owner.unpark();
    }
}

/// The owner, seen from outside.
#[derive(Debug)]
pub(super) struct Live {
    models: Arc<RealTime>,
    newcomers: Sender<Slot>,
    owner: Thread,
    max_sessions: usize,
    stats: Arc<Stats>,
}

impl Live {
    pub fn start(models: RealTime, options: &EngineOptions, stats: &Arc<Stats>) -> Result<Self> {
        let models = Arc::new(models);
        let (newcomers, arrivals) = bounded(options.max_sessions.max(1));
        let owner = start(&models, arrivals, options, stats)?;
        let max_sessions = options.max_sessions;
        Ok(Self { models, newcomers, owner, max_sessions, stats: stats.clone() })
    }

    pub fn sample_rate(&self) -> u32 {
        self.models.sample_rate()
    }

    pub fn open(&self, sample_rate: u32, options: &SessionOptions) -> Result<LiveSession> {
        let full = || Error::Overloaded(format!("{} live sessions run already", self.max_sessions));
        let rate = self.models.sample_rate();
        let resampler = (sample_rate != rate).then(|| Resampler::new(sample_rate, rate)).transpose()?;
        let session = self.models.session(options)?;
        if self.stats.sessions.get() >= i64::try_from(self.max_sessions).unwrap_or(i64::MAX) {
            return Err(full());
        }
        let (pieces, input) = bounded(MAX_PIECES);
        let (output, messages) = unbounded();
        let slot = Slot::new(session, input, output, &self.stats);
        self.newcomers.try_send(slot).map_err(|_| full())?;
        self.owner.unpark();
        let piece_samples = sample_rate as usize * PIECE_MS / 1000;
        let owner = self.owner.clone();
        let input = LiveInput { pieces, owner, resampler, piece_samples, odd: None };
        Ok(LiveSession { input, output: LiveOutput { messages, owner: self.owner.clone() } })
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.newcomers.close();
        self.owner.unpark();
    }
}
