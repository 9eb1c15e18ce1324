//! Paraformer: non-autoregressive speech recognition.
//!
//! The encoder turns feature rows into hidden states, CIF cuts them into one embedding a token, and the decoder
//! names all tokens at once. Gao et al., "Paraformer: Fast and Accurate Parallel Transformer for
//! Non-autoregressive End-to-End Speech Recognition", 2022; FunASR `models/paraformer/model.py`.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use serde::Deserialize;

use crate::nn::{
    CifConfig, CifOutput, CifPredictor, Lengths, SanmDecoder, SanmDecoderConfig, SanmEncoder,
    SanmEncoderConfig,
};

/// Configuration, with FunASR's section names.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Model class.
    pub model: Class,
    /// Options of the class; all of them concern training.
    #[serde(default)]
    pub model_conf: ModelConf,
    /// Encoder class.
    pub encoder: EncoderClass,
    /// Encoder shape.
    pub encoder_conf: SanmEncoderConfig,
    /// Decoder class.
    pub decoder: DecoderClass,
    /// Decoder shape.
    pub decoder_conf: SanmDecoderConfig,
    /// Predictor class.
    pub predictor: PredictorClass,
    /// Predictor shape.
    pub predictor_conf: CifConfig,
    /// Tokens V.
    pub vocab_size: usize,
}

/// The class this file implements.
#[derive(Debug, Clone, Copy, Deserialize)]
pub enum Class {
    /// Offline Paraformer.
    Paraformer,
}

/// Options of the class that inference reads: none.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConf {}

/// Supported encoders.
#[derive(Debug, Clone, Copy, Deserialize)]
pub enum EncoderClass {
    /// See [`SanmEncoder`].
    SANMEncoder,
}

/// Supported decoders.
#[derive(Debug, Clone, Copy, Deserialize)]
pub enum DecoderClass {
    /// See [`SanmDecoder`].
    ParaformerSANMDecoder,
}

/// Supported predictors.
#[derive(Debug, Clone, Copy, Deserialize)]
pub enum PredictorClass {
    /// See [`CifPredictor`].
    CifPredictorV2,
}

/// Every stage of one batch.
#[derive(Debug, Clone)]
pub struct Output {
    /// `[B, T, D]`.
    pub encoder_out: Tensor,
    /// Alphas, peaks, token counts and acoustic embeddings.
    pub cif: CifOutput,
    /// `[B, L, V]`, L the largest token count.
    pub decoder_logits: Tensor,
}

/// The model.
#[derive(Debug, Clone)]
pub struct Paraformer {
    encoder: SanmEncoder,
    predictor: CifPredictor,
    decoder: SanmDecoder,
    vocab: usize,
}

impl Paraformer {
    /// Loads `encoder.*`, `predictor.*` and `decoder.*`; `speech_width` is the width of a feature row.
    pub fn load(speech_width: usize, config: &Config, vb: VarBuilder) -> Result<Self> {
        let width = config.encoder_conf.output_size;
        if config.predictor_conf.idim != width {
            let idim = config.predictor_conf.idim;
            candle_core::bail!("predictor_conf.idim is {idim}, encoder_conf.output_size is {width}");
        }
        let vocab = config.vocab_size;
        // `decoder.embed` takes part in training alone.
        if vb.contains_tensor("decoder.embed.0.weight") {
            vb.get_unchecked("decoder.embed.0.weight")?;
        }
        Ok(Self {
            encoder: SanmEncoder::load(speech_width, &config.encoder_conf, vb.pp("encoder"))?,
            predictor: CifPredictor::load(&config.predictor_conf, vb.pp("predictor"))?,
            decoder: SanmDecoder::load(width, vocab, &config.decoder_conf, vb.pp("decoder"))?,
            vocab,
        })
    }

    /// The encoder.
    pub fn encoder(&self) -> &SanmEncoder {
        &self.encoder
    }

    /// The predictor.
    pub fn predictor(&self) -> &CifPredictor {
        &self.predictor
    }

    /// The decoder.
    pub fn decoder(&self) -> &SanmDecoder {
        &self.decoder
    }

    /// Normalised features `[B, T, speech_width]` of the given lengths -> every stage.
    pub fn forward(&self, speech: &Tensor, lengths: &Lengths) -> Result<Output> {
        lengths.check("paraformer", speech)?;
        let encoder_out = self.encoder.forward(speech, lengths)?;
        let cif = self.predictor.forward(&encoder_out, lengths)?;
        let decoder_logits = if cif.token_num.max() == 0 {
            Tensor::zeros((lengths.batch(), 0, self.vocab), speech.dtype(), speech.device())?
        } else {
            self.decoder.forward(&cif.acoustic_embeds, &cif.token_num, &encoder_out, lengths)?
        };
        Ok(Output { encoder_out, cif, decoder_logits })
    }
}
