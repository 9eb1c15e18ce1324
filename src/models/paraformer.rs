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

/// Configuration, with FunASR's section names, of a class `C` with a predictor `P` of shape `S` and an encoder `E`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config<C = Class, P = PredictorClass, S = CifConfig, E = EncoderClass> {
    /// Model class.
    pub model: C,
    /// Options of the class; all of them concern training.
    #[serde(default)]
    pub model_conf: ModelConf,
    /// Encoder class.
    pub encoder: E,
    /// Encoder shape.
    pub encoder_conf: SanmEncoderConfig,
    /// Decoder class.
    pub decoder: DecoderClass,
    /// Decoder shape.
    pub decoder_conf: SanmDecoderConfig,
    /// Predictor class.
    pub predictor: P,
    /// Predictor shape.
    pub predictor_conf: S,
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

/// Encoder and decoder, with any predictor between them.
#[derive(Debug, Clone)]
pub(super) struct Body {
    pub(super) encoder: SanmEncoder,
    pub(super) decoder: SanmDecoder,
    vocab: usize,
}

impl Body {
    /// Loads `encoder.*` and `decoder.*` around a predictor of width `idim`.
    pub(super) fn load<C, P, S>(
        speech_width: usize,
        config: &Config<C, P, S>,
        idim: usize,
        vb: &VarBuilder,
    ) -> Result<Self> {
        let (width, vocab) = (config.encoder_conf.output_size, config.vocab_size);
        if idim != width {
            candle_core::bail!("predictor_conf.idim is {idim}, encoder_conf.output_size is {width}");
        }
        // `decoder.embed` takes part in training alone.
        if vb.contains_tensor("decoder.embed.0.weight") {
            vb.get_unchecked("decoder.embed.0.weight")?;
        }
        Ok(Self {
            encoder: SanmEncoder::load(speech_width, &config.encoder_conf, vb.pp("encoder"))?,
            decoder: SanmDecoder::load(width, vocab, &config.decoder_conf, vb.pp("decoder"))?,
            vocab,
        })
    }

    /// Logits `[B, L, V]` of the tokens that the predictor found.
    pub(super) fn decode(&self, cif: &CifOutput, encoder_out: &Tensor, lengths: &Lengths) -> Result<Tensor> {
        if cif.token_num.max() == 0 {
            let shape = (lengths.batch(), 0, self.vocab);
            return Tensor::zeros(shape, encoder_out.dtype(), encoder_out.device());
        }
        self.decoder.forward(&cif.acoustic_embeds, &cif.token_num, encoder_out, lengths)
    }
}

/// The model.
#[derive(Debug, Clone)]
pub struct Paraformer {
    body: Body,
    predictor: CifPredictor,
}

impl Paraformer {
    /// Loads `encoder.*`, `predictor.*` and `decoder.*`; `speech_width` is the width of a feature row.
    pub fn load(speech_width: usize, config: &Config, vb: VarBuilder) -> Result<Self> {
        Ok(Self {
            body: Body::load(speech_width, config, config.predictor_conf.idim, &vb)?,
            predictor: CifPredictor::load(&config.predictor_conf, vb.pp("predictor"))?,
        })
    }

    /// The encoder.
    pub fn encoder(&self) -> &SanmEncoder {
        &self.body.encoder
    }

    /// The predictor.
    pub fn predictor(&self) -> &CifPredictor {
        &self.predictor
    }

    /// The decoder.
    pub fn decoder(&self) -> &SanmDecoder {
        &self.body.decoder
    }

    /// Normalised features `[B, T, speech_width]` of the given lengths -> every stage.
    pub fn forward(&self, speech: &Tensor, lengths: &Lengths) -> Result<Output> {
        lengths.check("paraformer", speech)?;
        let encoder_out = self.body.encoder.forward(speech, lengths)?;
        let cif = self.predictor.forward(&encoder_out, lengths)?;
        let decoder_logits = self.body.decode(&cif, &encoder_out, lengths)?;
        Ok(Output { encoder_out, cif, decoder_logits })
    }
}
