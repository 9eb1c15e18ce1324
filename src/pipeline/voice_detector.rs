//! Samples -> speech segments.

use candle_core::{DType, Tensor};

use super::open_frontend;
use crate::audio::Resampler;
use crate::device::Compute;
use crate::error::Result;
use crate::frontend::{Features, Frontend, OnlineFrontend, OnlineState};
use crate::models::fsmn_vad::{Config, FsmnVad, State};
use crate::vad::{EndSilence, Endpointer, Event, VadConfig};
use crate::weights::ModelFiles;

/// A voice activity detector: front end, network and the rules for segments. It is immutable and can be shared; each
/// stream has a [`DetectorStream`].
#[derive(Debug)]
pub struct VoiceDetector {
    frontend: Frontend,
    model: FsmnVad,
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
        let model = files.build(&compute.in_floats(), |vb| FsmnVad::load(&network, vb))?;
        let classes = network.encoder_conf.output_dim;
        if let Some(id) = config.sil_pdf_ids.iter().find(|&&id| id >= classes) {
            let message = format!("model_conf.sil_pdf_ids: {id}, but the network has {classes} classes");
            return Err(files.config_error(message));
        }
        let ids: Vec<u32> = config.sil_pdf_ids.iter().map(|&id| id as u32).collect();
        let silence_ids = Tensor::new(ids, &compute.device)?;
        Ok(Self { frontend, model, config, silence_ids, compute: compute.clone() })
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
            network: State::default(),
            endpointer: Endpointer::new(&self.config, end_silence)?,
        })
    }

    /// Takes the next samples of a stream; `last` ends it and closes the open segment. The events are in order.
    ///
    /// # Errors
    /// [`crate::Error::Inference`], with the op that failed.
    pub fn push(&self, stream: &mut DetectorStream, samples: &[f32], last: bool) -> Result<Vec<Event>> {
        let mut resampled = Vec::new();
        let samples = match &mut stream.resampler {
            Some(resampler) => {
                resampler.push(samples, &mut resampled);
                if let Some(resampler) = stream.resampler.take_if(|_| last) {
                    resampler.finish(&mut resampled);
                }
                &resampled
            }
            None => samples,
        };
        let features = OnlineFrontend::new(&self.frontend).push(&mut stream.online, samples, last);
        let scores = match features.frames() {
            0 => Vec::new(),
            _ => self.silence(&self.scores(&mut stream.network, features)?)?,
        };
        let mut events = stream.endpointer.push(samples, &scores);
        if last {
            events.extend(stream.endpointer.finish());
            stream.network = State::default();
        }
        Ok(events)
    }

    /// `vad_scores [1, T, classes]` of the next feature rows.
    ///
    /// # Errors
    /// [`crate::Error::Inference`], with the op that failed.
    pub fn scores(&self, state: &mut State, features: Features) -> Result<Tensor> {
        let shape = (1, features.frames(), features.width);
        let speech = Tensor::from_vec(features.values, shape, &self.compute.device)?;
        Ok(self.model.step(state, &speech.to_dtype(self.compute.dtype)?)?)
    }

    /// Probability of silence of each frame of `vad_scores [1, T, classes]`: the classes named by `sil_pdf_ids`
    /// together.
    ///
    /// # Errors
    /// [`crate::Error::Inference`], with the op that failed.
    pub fn silence(&self, scores: &Tensor) -> Result<Vec<f32>> {
        let scores = scores.squeeze(0)?.to_dtype(DType::F32)?;
        Ok(scores.index_select(&self.silence_ids, 1)?.sum(1)?.to_vec1()?)
    }
}

/// The state of one stream, for [`VoiceDetector::push`]. It does not grow.
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
