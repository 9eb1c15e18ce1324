//! Samples -> speech segments.

use std::borrow::Cow;

use candle_core::{DType, Tensor};
use funasr_kernels::{LfrCmvn, on_pool};
use rayon::prelude::*;

use super::batch::{confined, only, pad_f32};
use super::open_frontend;
use crate::audio::Resampler;
use crate::device::Compute;
use crate::error::{Result, catch};
use crate::frontend::{Features, Frames, Frontend, OnlineFrontend, OnlineState};
use crate::models::fsmn_vad::{Config, FsmnVad, State};
use crate::vad::{EndSilence, Endpointer, Event, VadConfig};
use crate::weights::ModelFiles;

/// Streams whose network steps are one batch.
const MAX_BATCH: usize = 32;
/// Frames whose activations, 250 wide in the published models, stay in a core's cache.
const CACHED: usize = 512;

/// A voice activity detector: front end, network and the rules for segments. It is immutable and can be shared; each
/// stream has a [`DetectorStream`].
#[derive(Debug)]
pub struct VoiceDetector {
    frontend: Frontend,
    /// From its frames to the rows of the network, of which each frame is in several.
    stack: LfrCmvn,
    model: FsmnVad,
    /// Where each stream starts.
    start: State,
    config: VadConfig,
    /// Classes that are silence.
    silence_ids: Tensor,
    compute: Compute,
}

impl VoiceDetector {
    /// Loads an FSMN-VAD.
    ///
    /// # Errors
    /// Files that are incomplete or do not fit each other, naming the key or tensor.
    pub fn load(files: &ModelFiles, compute: &Compute) -> Result<Self> {
        files.expect_class("FsmnVADStreaming")?;
        let frontend = open_frontend(files)?;
        let config: VadConfig = files.section("model_conf")?;
        config.validate(&files.origin)?;
        let network: Config = files.config(&[
            "frontend",
            "frontend_conf",
            "model_conf",
            "vocab_size",
            "tokenizer",
            "tokenizer_conf",
        ])?;
        let model = files.build(compute, |vb| FsmnVad::load(&network, vb))?;
        let classes = network.encoder_conf.output_dim;
        if let Some(id) = config.sil_pdf_ids.iter().find(|&&id| id >= classes) {
            let message = format!("model_conf.sil_pdf_ids: {id}, but the network has {classes} classes");
            return Err(files.config_error(message));
        }
        let ids: Vec<u32> = config.sil_pdf_ids.iter().map(|&id| id as u32).collect();
        let silence_ids = Tensor::new(ids, &compute.device)?;
        let start = model.start()?;
        let stack = stack(&frontend, compute)?;
        Ok(Self { frontend, stack, model, start, config, silence_ids, compute: compute.clone() })
    }

    /// Sample rate of the model.
    pub fn sample_rate(&self) -> u32 {
        self.frontend.config().fs
    }

    /// Silence that ends a segment by the fixed rule, if nobody asks for another.
    pub fn max_end_silence_ms(&self) -> u32 {
        self.config.max_end_silence_time
    }

    /// The front end.
    pub fn frontend(&self) -> &Frontend {
        &self.frontend
    }

    /// A detector at the start of a stream whose samples come at `sample_rate`.
    ///
    /// # Errors
    /// [`crate::Error::Config`] if the segment rules of the model are unusable.
    pub fn stream(&self, sample_rate: u32, end_silence: EndSilence) -> Result<DetectorStream> {
        let resampler = (sample_rate != self.sample_rate())
            .then(|| Resampler::new(sample_rate, self.sample_rate()))
            .transpose()?;
        Ok(DetectorStream {
            resampler,
            online: OnlineState::default(),
            network: self.start.clone(),
            endpointer: Endpointer::new(&self.config, end_silence)?,
        })
    }

    /// Takes the next samples of a stream; `last` ends it and closes the open segment. The events are in order.
    ///
    /// # Errors
    /// [`crate::Error::Inference`], with the op that failed.
    pub fn push(&self, stream: &mut DetectorStream, samples: &[f32], last: bool) -> Result<Vec<Event>> {
        only(self.push_each(vec![Push { stream, samples, last }]).into_iter().collect::<Result<_>>()?)
    }

    /// The same for several streams, whose network steps are batched, with a result for each: none fails for another.
    pub fn push_each(&self, pushes: Vec<Push<'_>>) -> Vec<Result<Vec<Event>>> {
        let heard = pushes.into_par_iter().map(|push| catch(|| Ok(self.hear(push))));
        let mut heard: Vec<Result<Heard>> = heard.collect();
        let mut due: Vec<&mut Heard> = heard.iter_mut().filter_map(|heard| heard.as_mut().ok()).collect();
        due.sort_by_key(|heard| heard.frames.rows);
        let batches = due.chunk_by_mut(|a, b| a.frames.rows == b.frames.rows);
        let batches: Vec<&mut [&mut Heard]> =
            batches.flat_map(|same| same.chunks_mut(batch(same.len()))).collect();
        let score = |batch: &mut [&mut Heard]| {
            let scores = confined(batch, &|batch: &mut [&mut Heard]| self.step(batch));
            batch.iter_mut().zip(scores).for_each(|(heard, scores)| heard.scores = scores);
        };
        on_pool(|| batches.into_par_iter().for_each(score));
        heard.into_iter().map(|heard| catch(|| heard?.decide(&self.start))).collect()
    }

    /// The frames of what was pushed.
    fn hear<'a>(&self, push: Push<'a>) -> Heard<'a> {
        let Push { stream, samples, last } = push;
        let samples = match &mut stream.resampler {
            Some(resampler) => {
                let mut resampled = Vec::new();
                resampler.push(samples, &mut resampled);
                if let Some(resampler) = stream.resampler.take_if(|_| last) {
                    resampler.finish(&mut resampled);
                }
                Cow::Owned(resampled)
            }
            None => Cow::Borrowed(samples),
        };
        let frames = OnlineFrontend::new(&self.frontend).push_frames(&mut stream.online, &samples, last);
        Heard { stream, samples, last, frames, scores: Ok(Vec::new()) }
    }

    /// Scores as many new frames of each stream, one or more, and moves their states on.
    fn step(&self, batch: &mut [&mut Heard]) -> Result<Vec<Vec<f32>>> {
        let rows = batch.first().map_or(0, |heard| heard.frames.rows);
        let mut silence = vec![Vec::with_capacity(rows); batch.len()];
        if rows == 0 {
            return Ok(silence);
        }
        let mut states: Vec<State> = batch.iter().map(|heard| heard.stream.network.clone()).collect();
        let fbank: Vec<&Features> = batch.iter().map(|heard| &heard.frames.fbank).collect();
        let (fbank, frames) = pad_f32(&fbank, &self.compute)?;
        let most = self.rows_at_once(batch.len()).unwrap_or(rows).max(1);
        for first in (0..rows).step_by(most) {
            let rows = first..rows.min(first + most);
            let speech = self.stack.forward(&fbank, &frames, rows)?.to_dtype(self.compute.dtype)?;
            let scored = self.silence(&self.model.step(&mut states, &speech)?)?;
            silence.iter_mut().zip(scored).for_each(|(silence, scored)| silence.extend(scored));
        }
        batch.iter_mut().zip(states).for_each(|(heard, state)| heard.stream.network = state);
        Ok(silence)
    }

    /// Rows of so many streams that go through the network together: on a processor as many as stay in the caches from layer to
    /// layer, if there is a number that changes no score.
    fn rows_at_once(&self, streams: usize) -> Option<usize> {
        let divides = self.compute.device.is_cpu() && !self.model.looks_ahead();
        divides.then(|| (CACHED * rayon::current_num_threads() / streams.max(1)).max(1))
    }

    /// `vad_scores [1, T, classes]` of the feature rows of a whole recording.
    ///
    /// # Errors
    /// [`crate::Error::Inference`], with the op that failed.
    pub fn scores(&self, features: Features) -> Result<Tensor> {
        let shape = [1, features.frames(), features.width];
        let speech = self.compute.input(shape, |rows| rows.copy_from_slice(&features.values))?;
        Ok(self.model.step(&mut [self.start.clone()], &speech.to_dtype(self.compute.dtype)?)?)
    }

    /// Probability of silence of each frame of each item of `vad_scores [B, T, classes]`: the classes named by
    /// `sil_pdf_ids` together.
    ///
    /// # Errors
    /// [`crate::Error::Inference`], with the op that failed.
    pub fn silence(&self, scores: &Tensor) -> Result<Vec<Vec<f32>>> {
        Ok(scores.to_dtype(DType::F32)?.index_select(&self.silence_ids, 2)?.sum(2)?.to_vec2()?)
    }
}

/// What makes a detector's frames rows.
fn stack(frontend: &Frontend, compute: &Compute) -> Result<LfrCmvn> {
    let (lfr, width) = (frontend.lfr(), frontend.config().feature_width());
    let (shift, scale) = match frontend.cmvn() {
        Some(cmvn) => (cmvn.shift(), cmvn.scale()),
        None => (&vec![0.0; width][..], &vec![1.0; width][..]),
    };
    Ok(LfrCmvn::new([lfr.stack, lfr.stride], shift, scale, &compute.device)?)
}

/// Streams of a batch out of so many: each thread has some, and what a batch computes stays in a core's cache.
fn batch(streams: usize) -> usize {
    streams.div_ceil(rayon::current_num_threads().max(1)).clamp(1, MAX_BATCH)
}

/// The next samples of a stream, for [`VoiceDetector::push_each`].
#[derive(Debug)]
pub struct Push<'a> {
    /// The stream.
    pub stream: &'a mut DetectorStream,
    /// Its samples.
    pub samples: &'a [f32],
    /// Whether it ends with them and its open segment is closed.
    pub last: bool,
}

/// A push on its way.
struct Heard<'a> {
    stream: &'a mut DetectorStream,
    /// At the model's rate.
    samples: Cow<'a, [f32]>,
    last: bool,
    /// What the rows that they completed are made of.
    frames: Frames,
    /// Probability of silence of each row.
    scores: Result<Vec<f32>>,
}

impl Heard<'_> {
    fn decide(self, start: &State) -> Result<Vec<Event>> {
        let DetectorStream { endpointer, network, .. } = self.stream;
        let mut events = endpointer.push(&self.samples, &self.scores?);
        if self.last {
            events.extend(endpointer.finish());
            *network = start.clone();
        }
        Ok(events)
    }
}

/// The state of one stream. It does not grow.
#[derive(Debug)]
pub struct DetectorStream {
    resampler: Option<Resampler>,
    online: OnlineState,
    network: State,
    endpointer: Endpointer,
}

impl DetectorStream {
    /// Audio before this time is in no segment still to end.
    pub fn needed_from_ms(&self) -> u64 {
        self.endpointer.needed_from_ms()
    }
}
