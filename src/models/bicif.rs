//! BiCIF Paraformer: a Paraformer with a second, finer weight track that tells when each token was said.
//!
//! Shi et al., "Achieving Timestamp Prediction While Recognizing with Non-Autoregressive End-to-End ASR Model",
//! 2023; FunASR `models/bicif_paraformer/model.py`.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use serde::Deserialize;

use super::paraformer::{self, Body};
use crate::nn::{CifOutput, CifPredictorV3, CifV3Config, Lengths, SanmDecoder, SanmEncoder};

/// Configuration: that of the plain Paraformer but for class and predictor.
pub type Config = paraformer::Config<Class, PredictorClass, CifV3Config>;

/// The class this file implements.
#[derive(Debug, Clone, Copy, Deserialize)]
pub enum Class {
    /// Offline Paraformer with a timestamp head.
    BiCifParaformer,
}

/// Supported predictors.
#[derive(Debug, Clone, Copy, Deserialize)]
pub enum PredictorClass {
    /// See [`CifPredictorV3`].
    CifPredictorV3,
}

/// Every stage of one batch.
#[derive(Debug, Clone)]
pub struct Output {
    /// `[B, T, D]`.
    pub encoder_out: Tensor,
    /// Alphas, peaks, token counts and acoustic embeddings.
    pub cif: CifOutput,
    /// Weights of the timestamp head, `upsample_times` for each frame of an item.
    pub us_alphas: Vec<Vec<f32>>,
    /// `[B, L, V]`, L the largest token count.
    pub decoder_logits: Tensor,
}

/// The model.
#[derive(Debug, Clone)]
pub struct BiCifParaformer {
    body: Body,
    predictor: CifPredictorV3,
}

impl BiCifParaformer {
    /// Loads `encoder.*`, `predictor.*` and `decoder.*`; `speech_width` is the width of a feature row.
    pub fn load(speech_width: usize, config: &Config, vb: VarBuilder) -> Result<Self> {
        Ok(Self {
            body: Body::load(speech_width, config, config.predictor_conf.cif.idim, &vb)?,
            predictor: CifPredictorV3::load(&config.predictor_conf, vb.pp("predictor"))?,
        })
    }

    /// The encoder.
    pub fn encoder(&self) -> &SanmEncoder {
        &self.body.encoder
    }

    /// The predictor.
    pub fn predictor(&self) -> &CifPredictorV3 {
        &self.predictor
    }

    /// The decoder.
    pub fn decoder(&self) -> &SanmDecoder {
        &self.body.decoder
    }

    /// Normalised features `[B, T, speech_width]` of the given lengths -> every stage.
    pub fn forward(&self, speech: &Tensor, lengths: &Lengths) -> Result<Output> {
        lengths.check("bicif paraformer", speech)?;
        let encoder_out = self.body.encoder.forward(speech, lengths)?;
        let cif = self.predictor.forward(&encoder_out, lengths)?;
        let decoder_logits = self.body.decode(&cif, &encoder_out, lengths)?;
        // Behind the decoder, which a GPU so has to do while the host waits for these.
        let us_alphas = self.predictor.us_alphas(&encoder_out, lengths, &cif.token_num)?;
        Ok(Output { encoder_out, cif, us_alphas, decoder_logits })
    }
}
