//! CT-Transformer: one punctuation label a word.
//!
//! Word embeddings, a SANM encoder, one linear layer. Chen et al., "Controllable Time-Delay Transformer for
//! Real-Time Punctuation Prediction and Disfluency Detection", 2020; FunASR `models/ct_transformer/model.py`.
//! How text is cut into words and windows is decided in [`crate::punctuation`].

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use serde::Deserialize;

use crate::nn::{Lengths, Linear, SanmEncoder, SanmEncoderConfig};

/// Configuration, with FunASR's section names.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Model class.
    pub model: Class,
    /// Widths and labels.
    pub model_conf: ModelConf,
    /// Encoder class.
    pub encoder: EncoderClass,
    /// Encoder shape.
    pub encoder_conf: SanmEncoderConfig,
    /// Words V.
    pub vocab_size: usize,
}

/// The class this file implements.
#[derive(Debug, Clone, Copy, Deserialize)]
pub enum Class {
    /// Offline punctuation.
    CTTransformer,
}

/// Supported encoders.
#[derive(Debug, Clone, Copy, Deserialize)]
pub enum EncoderClass {
    /// See [`SanmEncoder`].
    SANMEncoder,
}

/// `model_conf`, with FunASR's key names.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConf {
    /// Width of the word embeddings.
    pub embed_unit: usize,
    /// Width of the encoder output.
    pub att_unit: usize,
    /// The labels, by id.
    pub punc_list: Vec<String>,
    /// Id of the label that ends a sentence.
    #[serde(default = "full_stop")]
    pub sentence_end_id: u32,
}

fn full_stop() -> u32 {
    3
}

/// The network.
#[derive(Debug, Clone)]
pub struct CtTransformer {
    embed: Tensor,
    encoder: SanmEncoder,
    decoder: Linear,
}

impl CtTransformer {
    /// Loads `embed.weight`, `encoder.*` and `decoder`.
    pub fn load(config: &Config, vb: VarBuilder) -> Result<Self> {
        let ModelConf { embed_unit, att_unit, ref punc_list, .. } = config.model_conf;
        Ok(Self {
            embed: vb.get((config.vocab_size, embed_unit), "embed.weight")?,
            encoder: SanmEncoder::load(embed_unit, &config.encoder_conf, vb.pp("encoder"))?,
            decoder: Linear::load(att_unit, punc_list.len(), vb.pp("decoder"))?,
        })
    }

    /// Word ids `[B, T]` (u32) of the given lengths -> `punc_logits [B, T, labels]`.
    pub fn forward(&self, words: &Tensor, lengths: &Lengths) -> Result<Tensor> {
        let (batch, time) = words.dims2()?;
        let embedded = self.embed.index_select(&words.flatten_all()?, 0)?.reshape((batch, time, ()))?;
        self.decoder.forward(&self.encoder.forward(&embedded, lengths)?)
    }
}
