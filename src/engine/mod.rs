//! The models at work for many clients at once: recordings and live sessions, batched across requests.
//!
//! Threads own the work and clients hold handles; the handles are async without naming a runtime, so any will do.
//!
//! ```text
//! recordings -> queue -> workers: decode, detect -> batchers: recognise -> punctuations: label words -> workers: write -> Job
//! live audio -> a thread that moves all sessions on <-> one that corrects segments -> LiveSession
//! ```
//!
//! Every queue is bounded: a full one is [`Error::Overloaded`] for who asks, or makes who pushes wait. The weights are in
//! memory once. A panic ends the request it happens in.

mod batcher;
mod files;
mod live;
mod punctuations;
mod rounds;
mod stats;
mod threads;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::decode::hotwords::{Hotwords, Rejected};
use crate::error::{Error, Result};
use crate::pipeline::{
    Language, PunctuationModel, RealTime, Recognizer, Request, SessionOptions, Transcriber,
    TranscriberOptions, VoiceDetector,
};
use crate::text::itn::Itn;

pub use files::{AudioFormat, Job, Outcome, Recording};
pub use live::{LiveInput, LiveOutput, LiveSession, Said};
pub use stats::{Gauge, Histogram, Stats};

/// Most hotwords that a note names.
const NAMED_HOTWORDS: usize = 5;

/// The models, each in memory once.
#[derive(Debug)]
pub struct Models {
    /// Offline recognition, of recordings.
    pub recognizer: Arc<Recognizer>,
    /// Where recordings have speech; without it they are short or refused.
    pub detector: Option<Arc<VoiceDetector>>,
    /// Punctuation of recordings.
    pub punctuation: Option<Arc<PunctuationModel>>,
    /// Live sessions; without it there are none.
    pub real_time: Option<RealTime>,
    /// Rules that write digits in recordings, of a recogniser that does not write them itself.
    pub itn: Option<Arc<Itn>>,
    /// What every request begins as: an n-gram model, scales and beams.
    pub base: Request,
}

/// How much is done at once, and how much may wait.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Threads that the networks compute with.
    pub threads: usize,
    /// Recordings that are worked on at once: as many threads decode and detect speech.
    pub workers: usize,
    /// Recordings that may wait for a worker.
    pub queue: usize,
    /// Audio in one padded batch of segments.
    pub batch_seconds: u32,
    /// How long a batch that is not full waits for other requests.
    pub batch_wait: Duration,
    /// Longest recording.
    pub max_audio: Duration,
    /// Live sessions at once.
    pub max_sessions: usize,
}

impl Default for EngineOptions {
    /// For the cores of this machine.
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            threads,
            workers: (2 * threads).max(4),
            queue: 256,
            batch_seconds: 60,
            batch_wait: Duration::from_millis(10),
            max_audio: Duration::from_secs(6 * 3600),
            max_sessions: 2000,
        }
    }
}

/// What a client asks of the recognition, of whatever model there is.
#[derive(Debug, Clone, Default)]
pub struct Ask {
    /// Language of the speech.
    pub language: Language,
    /// Inverse text normalisation by a stage after the models.
    pub itn: bool,
    /// Inverse text normalisation by a model that can do it itself (SenseVoice).
    pub model_itn: bool,
    /// Words to listen for.
    pub hotwords: Option<Hotwords>,
}

/// An [`Ask`] made ready for the models.
#[derive(Debug, Clone, Default)]
pub struct Prepared {
    /// What the pipeline is asked.
    pub request: Request,
    /// What of the ask cannot be met, in words for the client.
    pub notes: Vec<String>,
}

/// See the [module](self). Clones share everything; the last one dropped ends the threads when their work is done.
#[derive(Debug, Clone)]
pub struct Engine(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    recognizer: Arc<Recognizer>,
    base: Request,
    /// Whether there are rules that write digits.
    rules: bool,
    files: files::Files,
    live: Option<live::Live>,
    stats: Arc<Stats>,
    draining: AtomicBool,
    options: EngineOptions,
}

impl Engine {
    /// Starts the threads.
    ///
    /// # Errors
    /// Threads that cannot be started.
    pub fn start(models: Models, options: EngineOptions) -> Result<Self> {
        let stats = Arc::new(Stats::default());
        let Models { recognizer, base, itn, .. } = models;
        let rules = itn.is_some();
        let batch = TranscriberOptions { batch_seconds: options.batch_seconds, ..Default::default() };
        let transcriber = Transcriber::new(recognizer.clone(), models.detector, models.punctuation, batch);
        let transcriber = match itn {
            Some(rules) => transcriber.with_itn(rules),
            None => transcriber,
        };
        let files = files::Files::start(transcriber, &options, &stats)?;
        let live = models.real_time.map(|models| live::Live::start(models, &options, &stats)).transpose()?;
        let draining = AtomicBool::new(false);
        let inner = Inner { recognizer, base, rules, files, live, stats, draining, options };
        Ok(Self(Arc::new(inner)))
    }

    /// Makes an ask ready. What the models cannot do is left out and noted. Encoding hotwords takes time: a moment for a
    /// few, a second for thousands.
    ///
    /// # Errors
    /// [`Error::Inference`], if hotwords cannot be encoded.
    pub fn prepare(&self, ask: &Ask) -> Result<Prepared> {
        let recognizer = &self.0.recognizer;
        let mut prepared = Prepared { request: self.0.base.clone(), notes: Vec::new() };
        let mut wanted = prepared.request.clone();
        wanted.language = ask.language;
        if recognizer.check(&wanted).is_ok() {
            prepared.request = wanted;
        } else {
            let language = ask.language;
            prepared.notes.push(format!("language {language} is not used: the model cannot be told one"));
        }
        prepared.request.itn = if recognizer.normalizes() { ask.model_itn } else { ask.itn && self.0.rules };
        let given = |list: &&Hotwords| !list.words.is_empty() || !list.rejected.is_empty();
        let Some(hotwords) = ask.hotwords.as_ref().filter(given) else {
            return Ok(prepared);
        };
        let report = recognizer.bias(&mut prepared.request, hotwords)?;
        let note = |word: &Rejected| format!("hotword {:?} is not used: {}", word.word, word.why);
        prepared.notes.extend(report.rejected.iter().take(NAMED_HOTWORDS).map(note));
        let beyond = report.rejected.len().saturating_sub(NAMED_HOTWORDS);
        prepared.notes.extend((beyond > 0).then(|| format!("{beyond} hotwords more are not used")));
        Ok(prepared)
    }

    /// Queues a recording. Dropping the job cancels it.
    ///
    /// # Errors
    /// [`Error::Overloaded`] if as many wait already as may, or the engine is [draining](Engine::drain).
    pub fn transcribe(&self, recording: Recording, request: Request) -> Result<Job> {
        self.refuse_if_draining()?;
        self.0.files.add(recording, request)
    }

    /// Opens a live session whose audio comes at `sample_rate`. Dropping its input before [`LiveInput::finish`] cancels it.
    ///
    /// # Errors
    /// [`Error::Overloaded`] if there are as many as may be, or the engine is draining; [`Error::Unsupported`] without
    /// models for live sessions, or for options that they cannot use.
    pub fn open(&self, sample_rate: u32, options: &SessionOptions) -> Result<LiveSession> {
        self.refuse_if_draining()?;
        let Some(live) = &self.0.live else {
            return Err(Error::Unsupported(
                "this server has no streaming model: it takes recordings only".into(),
            ));
        };
        live.open(sample_rate, options)
    }

    /// Sample rate that live sessions hear, without resampling; nothing if there are none.
    pub fn live_rate(&self) -> Option<u32> {
        self.0.live.as_ref().map(live::Live::sample_rate)
    }

    /// Takes nothing new from now on. What was taken is finished.
    pub fn drain(&self) {
        self.0.draining.store(true, Ordering::Relaxed);
    }

    /// What the engine did and does.
    pub fn stats(&self) -> &Arc<Stats> {
        &self.0.stats
    }

    /// The options it was started with.
    pub fn options(&self) -> &EngineOptions {
        &self.0.options
    }

    /// The recogniser of recordings.
    pub fn recognizer(&self) -> &Recognizer {
        &self.0.recognizer
    }

    fn refuse_if_draining(&self) -> Result<()> {
        if self.0.draining.load(Ordering::Relaxed) {
            return Err(Error::Overloaded("the server is shutting down".into()));
        }
        Ok(())
    }
}
