//! Live sessions as the protocols here see them: bytes in, messages out.

use tokio::sync::mpsc;

use super::App;
use super::reply::Refusal;
use crate::audio::Resampler;
use crate::pipeline::{ChunkSize, Language, Message};

/// Pushes that may wait to be heard; then the sender waits.
const WAITING_PUSHES: usize = 8;

/// How a session is to be heard.
#[derive(Debug, Clone)]
pub struct LiveOptions {
    /// Sample rate of the audio.
    pub pcm_rate: u32,
    /// Chunks of the first pass.
    pub chunk_size: ChunkSize,
    /// Whether there is a second pass.
    pub corrected: bool,
    /// For models that are told.
    pub language: Language,
    /// In any of FunASR's forms.
    pub hotwords: String,
    /// Silence that ends a sentence; by default the detector's own.
    pub max_end_silence_ms: Option<u32>,
}

/// Takes the audio of a session; dropping it before [`LiveAudio::finish`] ends the session without a word.
#[derive(Debug)]
pub struct LiveAudio {
    pcm_rate: u32,
    resampler: Option<Resampler>,
    /// Half a sample.
    odd: Option<u8>,
    samples: u64,
    session: mpsc::Sender<Push>,
}

/// What a session says.
#[derive(Debug)]
pub struct LiveMessages(mpsc::Receiver<Result<Message, Refusal>>);
