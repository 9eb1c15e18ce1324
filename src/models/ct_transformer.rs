//! CT-Transformer: one punctuation label a word.
//!
//! Word embeddings, a SANM encoder, one linear layer. Chen et al., "Controllable Time-Delay Transformer for
//! Real-Time Punctuation Prediction and Disfluency Detection", 2020; FunASR `models/ct_transformer/model.py` and
//! `models/ct_transformer_streaming/{model,encoder}.py`. How text is cut into words and windows is decided in
//! [`crate::punctuation`].

use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;
use serde::Deserialize;

use crate::nn::{Lengths, Linear, SanmEncoder, SanmEncoderConfig, Visible};

/// Configuration, with FunASR's section names.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Model class.
    pub model: Class,
    /// Widths and labels.
    pub model_conf: ModelConf,
    /// Encoder class, that of the model class.
    pub encoder: EncoderClass,
    /// Encoder shape.
    pub encoder_conf: SanmEncoderConfig,
    /// Words V.
    pub vocab_size: usize,
}

/// The classes this file implements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Class {
    /// Whole texts: a word sees all others.
    CTTransformer,
    /// Text that goes on: a word sees those before it, and in the last layer some of those after it.
    CTTransformerStreaming,
}

impl Class {
    /// The encoder of this class.
    pub fn encoder(self) -> EncoderClass {
        match self {
            Self::CTTransformer => EncoderClass::SANMEncoder,
            Self::CTTransformerStreaming => EncoderClass::SANMVadEncoder,
        }
    }
}

/// Supported encoders: the layers of [`SanmEncoder`], which differ in what a word sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum EncoderClass {
    /// Everything.
    SANMEncoder,
    /// See [`CtTransformer::visible`].
    SANMVadEncoder,
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
    class: Class,
    embed: Tensor,
    encoder: SanmEncoder,
    decoder: Linear,
}

impl CtTransformer {
    /// Loads `embed.weight`, `encoder.*` and `decoder`.
    pub fn load(config: &Config, vb: VarBuilder) -> Result<Self> {
        let (class, encoder) = (config.model, config.encoder);
        if encoder != class.encoder() {
            bail!("encoder is {encoder:?}, but a {class:?} has a {:?}", class.encoder());
        }
        let ModelConf { embed_unit, att_unit, ref punc_list, .. } = config.model_conf;
        Ok(Self {
            class,
            embed: vb.get((config.vocab_size, embed_unit), "embed.weight")?,
            encoder: SanmEncoder::load(embed_unit, &config.encoder_conf, vb.pp("encoder"))?,
            decoder: Linear::load_f32(att_unit, punc_list.len(), vb.pp("decoder"))?,
        })
    }

    /// The class it was loaded as.
    pub fn class(&self) -> Class {
        self.class
    }

    /// The encoder.
    pub fn encoder(&self) -> &SanmEncoder {
        &self.encoder
    }

    /// The encoder's input of word ids `[B, T]` (u32): `[B, T, embed_unit]`, scaled, with position code.
    pub fn embed(&self, words: &Tensor) -> Result<Tensor> {
        let (batch, time) = words.dims2()?;
        let embedded = self.embed.index_select(&words.flatten_all()?, 0)?.reshape((batch, time, ()))?;
        self.encoder.embed(&embedded)
    }

    /// Which words a word sees in the encoder layer of this index. In real time each sees the past, so that a label
    /// does not wait for words to come; in the last layer also the words after it, but those before the last known one
    /// see no new ones. `vad_indexes` holds for each item how many words are known.
    pub fn visible(&self, layer: usize, vad_indexes: &[usize]) -> Visible {
        match self.class {
            Class::CTTransformer => Visible::All,
            // A first layer that is the only one sees the past, as in FunASR.
            Class::CTTransformerStreaming if layer > 0 && layer + 1 == self.encoder.layers().len() => {
                Visible::Split(vad_indexes.into())
            }
            Class::CTTransformerStreaming => Visible::Past,
        }
    }

    /// Word ids `[B, T]` (u32) of the given lengths -> `punc_logits [B, T, labels]`. For the `vad_indexes` of a
    /// real-time model see [`CtTransformer::visible`]; the other reads none.
    pub fn forward(&self, words: &Tensor, lengths: &Lengths, vad_indexes: &[usize]) -> Result<Tensor> {
        let mut x = self.embed(words)?;
        for (i, layer) in self.encoder.layers().iter().enumerate() {
            x = layer.forward_visible(&x, lengths, self.visible(i, vad_indexes))?;
        }
        self.decoder.forward(&self.encoder.after_norm().forward(&x)?)
    }
}
