//! SenseVoiceSmall: non-autoregressive recognition of several languages, with language, emotion and event.
//!
//! Four queries stand before the speech: the language asked for, event, emotion, and whether the text is to be
//! normalised. The encoder answers all of them in one pass, and a CTC head names a token a frame; those of the first
//! four frames are tags. An et al., "FunAudioLLM", 2024; FunASR `models/sense_voice/model.py`.

use std::fmt;
use std::str::FromStr;

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use serde::Deserialize;

use crate::nn::{EncoderLayer, LayerNorm, Lengths, Linear, SanmEncoder, SanmEncoderConfig};

/// Frames of the output that answer the queries; the speech follows.
pub const QUERY_FRAMES: usize = 4;

/// Rows of the query embedding.
const EMBEDDINGS: usize = 16;
const EVENT: u32 = 1;
const EMOTION: u32 = 2;
/// eps of this model's norms, unlike that of all others.
const EPS: f64 = 1e-5;

/// Configuration, with FunASR's section names.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Model class.
    pub model: Class,
    /// Options of the class.
    #[serde(default)]
    pub model_conf: ModelConf,
    /// Encoder class.
    pub encoder: EncoderClass,
    /// Encoder shape.
    pub encoder_conf: SanmEncoderConfig,
    /// Tokens V.
    pub vocab_size: usize,
}

/// The class this file implements.
#[derive(Debug, Clone, Copy, Deserialize)]
pub enum Class {
    /// SenseVoice with a CTC head.
    SenseVoiceSmall,
}

/// Options of the class that inference reads: none.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConf {}

/// Supported encoders.
#[derive(Debug, Clone, Copy, Deserialize)]
pub enum EncoderClass {
    /// See [`Encoder`].
    SenseVoiceEncoderSmall,
}

/// The language that is asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Language {
    /// Whichever is heard.
    #[default]
    Auto,
    /// Mandarin.
    Chinese,
    /// English.
    English,
    /// Cantonese.
    Cantonese,
    /// Japanese.
    Japanese,
    /// Korean.
    Korean,
    /// No speech at all.
    NoSpeech,
}

impl Language {
    /// Language, name and row of the query embedding.
    const ALL: [(Self, &str, u32); 7] = [
        (Self::Auto, "auto", 0),
        (Self::Chinese, "zh", 3),
        (Self::English, "en", 4),
        (Self::Cantonese, "yue", 7),
        (Self::Japanese, "ja", 11),
        (Self::Korean, "ko", 12),
        (Self::NoSpeech, "nospeech", 13),
    ];

    fn entry(self) -> (&'static str, u32) {
        let found = Self::ALL.iter().find(|(language, ..)| *language == self);
        found.map_or(("auto", 0), |&(_, name, row)| (name, row))
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.entry().0)
    }
}

impl FromStr for Language {
    type Err = crate::Error;

    /// Reads a name such as `zh`. FunASR takes any other for `auto`; here it is an error that lists the names.
    fn from_str(text: &str) -> crate::Result<Self> {
        let found = Self::ALL.iter().find(|(_, name, _)| *name == text);
        found.map(|&(language, ..)| language).ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.iter().map(|&(_, name, _)| name).collect();
            crate::Error::Unsupported(format!("language {text:?} (known: {})", known.join(", ")))
        })
    }
}

/// What is asked of the model for one utterance. The default is FunASR's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Query {
    /// The language to write.
    pub language: Language,
    /// Text with digits and punctuation (`withitn`) instead of spoken words alone (`woitn`).
    pub text_norm: bool,
}

impl Query {
    /// Rows of the embedding, in the order in which they stand before the speech.
    fn rows(self) -> [u32; QUERY_FRAMES] {
        [self.language.entry().1, EVENT, EMOTION, if self.text_norm { 14 } else { 15 }]
    }
}

/// The encoder: a [`SanmEncoder`], and more layers of its kind after its norm.
#[derive(Debug, Clone)]
pub struct Encoder {
    encoder: SanmEncoder,
    tp_encoders: Vec<EncoderLayer>,
    tp_norm: LayerNorm,
}

impl Encoder {
    /// Loads `encoders0.0`, `encoders.*`, `after_norm`, `tp_encoders.*` and `tp_norm`.
    pub fn load(inputs: usize, config: &SanmEncoderConfig, vb: VarBuilder) -> Result<Self> {
        let width = config.output_size;
        let tp_layer = |i: usize| EncoderLayer::load(width, config, EPS, vb.pp(format!("tp_encoders.{i}")));
        Ok(Self {
            encoder: SanmEncoder::load_with_eps(inputs, config, EPS, vb.clone())?,
            tp_encoders: (0..config.tp_blocks).map(tp_layer).collect::<Result<_>>()?,
            tp_norm: LayerNorm::load(width, EPS, vb.pp("tp_norm"))?,
        })
    }

    /// The first part, up to its `after_norm`.
    pub fn first(&self) -> &SanmEncoder {
        &self.encoder
    }

    /// The layers after that, for those who want to run them one by one.
    pub fn tp_layers(&self) -> &[EncoderLayer] {
        &self.tp_encoders
    }

    /// The norm at the end, also where there are no tp layers.
    pub fn tp_norm(&self) -> &LayerNorm {
        &self.tp_norm
    }

    /// `[B, T, in]` -> `[B, T, D]`; padded frames hold no meaning.
    pub fn forward(&self, x: &Tensor, lengths: &Lengths) -> Result<Tensor> {
        let x = self.encoder.forward(x, lengths)?;
        EncoderLayer::forward_all(&self.tp_encoders, &self.tp_norm, &x, lengths)
    }
}

/// Every stage of one batch.
#[derive(Debug, Clone)]
pub struct Output {
    /// `[B, 4 + T, D]`: four frames for the queries, then the speech.
    pub encoder_out: Tensor,
    /// `[B, 4 + T, V]`.
    pub ctc_logits: Tensor,
    /// Frames of each item, its queries included.
    pub lengths: Lengths,
}

/// The model.
#[derive(Debug, Clone)]
pub struct SenseVoice {
    /// `[16, in]`.
    queries: Tensor,
    encoder: Encoder,
    ctc: Linear,
}

impl SenseVoice {
    /// Loads `embed`, `encoder.*` and `ctc.*`; `speech_width` is the width of a feature row.
    pub fn load(speech_width: usize, config: &Config, vb: VarBuilder) -> Result<Self> {
        let width = config.encoder_conf.output_size;
        Ok(Self {
            queries: vb.get((EMBEDDINGS, speech_width), "embed.weight")?,
            encoder: Encoder::load(speech_width, &config.encoder_conf, vb.pp("encoder"))?,
            ctc: Linear::load_coarse(width, config.vocab_size, vb.pp("ctc.ctc_lo"))?,
        })
    }

    /// The encoder.
    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// Puts the queries, one an item, before normalised features `[B, T, speech_width]`: the input of the encoder and
    /// its lengths, each four more.
    pub fn ask(&self, speech: &Tensor, lengths: &Lengths, queries: &[Query]) -> Result<(Tensor, Lengths)> {
        lengths.check("sense_voice", speech)?;
        if queries.len() != lengths.batch() {
            candle_core::bail!("sense_voice: {} queries for {} utterances", queries.len(), lengths.batch());
        }
        let rows: Vec<u32> = queries.iter().flat_map(|query| query.rows()).collect();
        let rows = Tensor::new(rows, speech.device())?;
        let width = speech.dim(2)?;
        let asked = self.queries.index_select(&rows, 0)?.reshape((queries.len(), QUERY_FRAMES, width))?;
        let longer: Vec<usize> = lengths.items().iter().map(|frames| frames + QUERY_FRAMES).collect();
        Ok((Tensor::cat(&[&asked, speech], 1)?, Lengths::new(longer)))
    }

    /// Normalised features `[B, T, speech_width]` of the given lengths and a query for each -> every stage.
    pub fn forward(&self, speech: &Tensor, lengths: &Lengths, queries: &[Query]) -> Result<Output> {
        let (x, lengths) = self.ask(speech, lengths, queries)?;
        let encoder_out = self.encoder.forward(&x, &lengths)?;
        let ctc_logits = self.ctc.forward(&encoder_out)?;
        Ok(Output { encoder_out, ctc_logits, lengths })
    }
}
