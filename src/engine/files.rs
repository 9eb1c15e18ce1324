//! Recordings: a bounded queue and the workers that take from it.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_channel::{Receiver, Sender, TrySendError, bounded};
use rayon::ThreadPoolBuilder;

use super::batcher::{Batcher, Budget};
use super::punctuations::Punctuations;
use super::threads::{FILES, spawn, step_back};
use super::{EngineOptions, Stats};
use crate::audio::AudioReader;
use crate::error::{Error, Result, catch};
use crate::pipeline::{Host, PunctuationModel, Recognition, Request, Transcriber, Transcript, Utterance};
use crate::punctuation::Punctuated;

/// Cores that one batch keeps busy; with more of them, more batches run at once.
const CORES_PER_BATCH: usize = 4;

/// A recording to transcribe.
pub struct Recording {
    /// What messages call it.
    pub name: String,
    /// Its bytes. They are read on a worker, so they may come from memory, a file or a pipe.
    pub bytes: Box<dyn Read + Send>,
    /// What the bytes are.
    pub format: AudioFormat,
}

/// What the bytes of a recording are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AudioFormat {
    /// A container that is recognised by its content.
    Container,
    /// Headerless 16-bit little-endian mono samples at this rate.
    Pcm(u32),
}

/// What became of a recording.
#[derive(Debug)]
pub struct Outcome {
    /// The transcript.
    pub transcript: Transcript,
    /// What of the recording could not be read.
    pub damage: Option<String>,
    /// How long it took, without the time in the queue.
    pub processing: Duration,
}

/// A recording that was queued. Dropping it cancels it.
#[derive(Debug)]
pub struct Job {
    shared: Arc<Progress>,
    outcome: Receiver<Result<Outcome>>,
}

#[derive(Debug, Default)]
struct Progress {
    heard_ms: AtomicU64,
    cancelled: AtomicBool,
}

impl Job {
    /// How much of the recording was heard so far.
    pub fn heard_ms(&self) -> u64 {
        self.shared.heard_ms.load(Ordering::Relaxed)
    }

    /// Waits for the end. Cancelling this future cancels nothing; it can be called again until it has given the outcome.
    ///
    /// # Errors
    /// Those of [`Transcriber::transcribe`]; a recording that is too long.
    pub async fn outcome(&self) -> Result<Outcome> {
        self.outcome.recv().await.unwrap_or_else(|_| Err(Error::Overloaded("the engine has ended".into())))
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.shared.cancelled.store(true, Ordering::Relaxed);
    }
}

/// The queue.
#[derive(Debug)]
pub(super) struct Files {
    queue: Sender<Task>,
    stats: Arc<Stats>,
}

struct Task {
    recording: Recording,
    request: Request,
    progress: Arc<Progress>,
    outcome: Sender<Result<Outcome>>,
}

impl Files {
    pub fn start(transcriber: Transcriber, options: &EngineOptions, stats: &Arc<Stats>) -> Result<Self> {
        let transcriber = Arc::new(transcriber);
        let recognizer = transcriber.clone();
        let pool =
            ThreadPoolBuilder::new().num_threads(options.threads).start_handler(|_| step_back(FILES)).build();
        let pool = pool.map_err(|cause| Error::Device(format!("threads: {cause}")))?;
        let samples = options.batch_seconds as usize * transcriber.sample_rate() as usize;
        let pool = Arc::new(pool);
        let punctuation = transcriber.punctuation().cloned();
        let start = |model| Punctuations::start(model, pool.clone(), stats);
        let punctuations = punctuation.map(start).transpose()?;
        let batcher = Batcher::start(
            options.threads.div_ceil(CORES_PER_BATCH),
            Budget { samples, wait: options.batch_wait },
            Arc::new(move |utterances: &[Utterance]| {
                pool.install(|| recognizer.recognizer().recognize(utterances))
            }),
            stats,
        )?;
        let (queue, tasks) = bounded::<Task>(options.queue.max(1));
        for _ in 0..options.workers {
            let worker = Worker {
                transcriber: transcriber.clone(),
                batcher: batcher.clone(),
                punctuations: punctuations.clone(),
                max_ms: u64::try_from(options.max_audio.as_millis()).unwrap_or(u64::MAX),
                stats: stats.clone(),
            };
            let tasks = tasks.clone();
            spawn("transcribe", move || {
                step_back(FILES);
                while let Ok(task) = tasks.recv_blocking() {
                    worker.take(task);
                }
            })?;
        }
        Ok(Self { queue, stats: stats.clone() })
    }

    pub fn add(&self, recording: Recording, request: Request) -> Result<Job> {
        let shared = Arc::new(Progress::default());
        let (sender, outcome) = bounded(1);
        let task = Task { recording, request, progress: shared.clone(), outcome: sender };
        self.stats.files_waiting.add(1);
        self.queue.try_send(task).map_err(|error| {
            self.stats.files_waiting.add(-1);
            Error::Overloaded(match error {
                TrySendError::Full(_) => format!("{} recordings wait already", self.queue.len()),
                TrySendError::Closed(_) => "the engine has ended".into(),
            })
        })?;
        Ok(Job { shared, outcome })
    }
}

struct Worker {
    transcriber: Arc<Transcriber>,
    batcher: Batcher,
    punctuations: Option<Punctuations>,
    max_ms: u64,
    stats: Arc<Stats>,
}

impl Worker {
    fn take(&self, task: Task) {
        let Task { recording, request, progress, outcome } = task;
        self.stats.files_waiting.add(-1);
        if progress.cancelled.load(Ordering::Relaxed) {
            self.stats.files_cancelled.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.stats.files_running.add(1);
        let result = catch(|| self.transcribe(recording, request, &progress));
        self.stats.files_running.add(-1);
        let count = match &result {
            _ if progress.cancelled.load(Ordering::Relaxed) => &self.stats.files_cancelled,
            Ok(_) => &self.stats.files_done,
            Err(_) => &self.stats.files_failed,
        };
        count.fetch_add(1, Ordering::Relaxed);
        // The client may have left meanwhile.
        let _ = outcome.try_send(result);
    }

    fn transcribe(&self, recording: Recording, request: Request, progress: &Progress) -> Result<Outcome> {
        let started = Instant::now();
        let Recording { name, bytes, format } = recording;
        let rate = self.transcriber.sample_rate();
        let mut audio = match format {
            AudioFormat::Container => AudioReader::from_source(&name, bytes, rate)?,
            AudioFormat::Pcm(pcm_rate) => AudioReader::raw_pcm(&name, bytes, pcm_rate, rate)?,
        };
        let request = Arc::new(request);
        let mut host = Shared { worker: self, progress, request: request.clone(), name };
        host.limit(audio.duration_ms().unwrap_or(0))?;
        let transcript = self.transcriber.transcribe_with(&mut audio, &request, &mut host)?;
        let processing = started.elapsed();
        self.stats.file_seconds.observe_time(processing);
        Ok(Outcome { transcript, damage: audio.damage().map(|damage| damage.to_string()), processing })
    }
}

/// The host of a recording among others.
struct Shared<'a> {
    worker: &'a Worker,
    progress: &'a Progress,
    request: Arc<Request>,
    name: String,
}

impl Shared<'_> {
    fn limit(&self, ms: u64) -> Result<()> {
        if ms > self.worker.max_ms {
            let message = format!("is longer than the {} s that are taken", self.worker.max_ms / 1000);
            return Err(Error::TooLong(format!("{}: {message}", self.name)));
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        if self.progress.cancelled.load(Ordering::Relaxed) {
            return Err(Error::Failed(format!("{}: cancelled", self.name)));
        }
        Ok(())
    }
}

impl Host for Shared<'_> {
    fn heard(&mut self, ms: u64) -> Result<()> {
        let before = self.progress.heard_ms.swap(ms, Ordering::Relaxed);
        self.worker.stats.file_audio_ms.fetch_add(ms.saturating_sub(before), Ordering::Relaxed);
        self.check()?;
        self.limit(ms)
    }

    fn recognize(&mut self, segments: Vec<Vec<f32>>) -> Result<Vec<Recognition>> {
        self.check()?;
        self.worker.batcher.recognize(segments, &self.request)
    }

    fn punctuate(&mut self, model: &PunctuationModel, text: &str) -> Result<Punctuated> {
        self.check()?;
        match &self.worker.punctuations {
            Some(punctuations) => punctuations.punctuate(model, text),
            None => model.punctuate(text),
        }
    }
}
