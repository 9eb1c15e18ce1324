//! Contextual Paraformer (CLAS): a Paraformer whose last decoder layer with attention also attends to
//! hotwords.
//!
//! Pundak et al., "Deep Context: End-to-End Contextual Speech Recognition", 2018, for the idea; FunASR
//! `models/contextual_paraformer/{model,decoder}.py`.

use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;
use serde::Deserialize;

use super::paraformer::{EncoderClass, PredictorClass};
use crate::nn::{
    BiasEncoder, BiasEncoderType, CifConfig, CifOutput, CifPredictor, CrossAttention, DecoderLayer,
    LayerNorm, Lengths, Linear, SanmDecoderConfig, SanmEncoder, SanmEncoderConfig, pad_hotwords,
};

/// Configuration, with FunASR's section names.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Model class.
    pub model: Class,
    /// Options of the hotword encoder.
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
    /// Offline Paraformer with hotwords.
    ContextualParaformer,
}

/// Supported decoders.
#[derive(Debug, Clone, Copy, Deserialize)]
pub enum DecoderClass {
    /// See [`ContextualDecoder`].
    ContextualParaformerDecoder,
}

/// `model_conf`, with FunASR's key names and defaults.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelConf {
    /// Width of the hotword encoder: the decoder's, or nothing fits.
    pub inner_dim: usize,
    /// Kind of hotword encoder.
    pub bias_encoder_type: BiasEncoderType,
    /// Whether hotwords are embedded by `decoder.embed` and not by an embedding of their own.
    pub use_decoder_embedding: bool,
}

impl Default for ModelConf {
    fn default() -> Self {
        Self { inner_dim: 256, bias_encoder_type: BiasEncoderType::Lstm, use_decoder_embedding: false }
    }
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

/// A SANM decoder of which one layer looks at the encoder and, beside it, at the hotwords.
#[derive(Debug, Clone)]
pub struct ContextualDecoder {
    layers: Vec<DecoderLayer>,
    /// Feed-forward and memory of the layer that sees the hotwords, and its attention to the encoder.
    last_decoder: (DecoderLayer, CrossAttention),
    bias_decoder: CrossAttention,
    /// The 1x1 convolution over both findings.
    bias_output: Linear,
    tail: Vec<DecoderLayer>,
    after_norm: LayerNorm,
    output_layer: Linear,
}

/// A padded batch of memory entries and the valid ones of each item.
type Memory<'a> = (&'a Tensor, &'a Lengths);

impl ContextualDecoder {
    /// Loads `decoders.*` (one less than `att_layer_num`), `last_decoder`, `bias_decoder`, `bias_output`,
    /// `decoders2.*`, `decoders3.0`, `after_norm` and `output_layer`.
    pub fn load(width: usize, vocab: usize, config: &SanmDecoderConfig, vb: VarBuilder) -> Result<Self> {
        if config.att_layer_num < 2 {
            bail!("decoder_conf.att_layer_num is {}, at least 2 are needed", config.att_layer_num);
        }
        let layer = |i| DecoderLayer::load(width, config, vb.pp(format!("decoders.{i}")));
        let attention = |name: &str| CrossAttention::load(width, config.attention_heads, vb.pp(name));
        let last = DecoderLayer::load_memory(width, config, vb.pp("last_decoder"))?;
        let bias_output = vb.get((width, 2 * width, 1), "bias_output.weight")?.squeeze(2)?;
        let no_bias = Tensor::zeros(width, bias_output.dtype(), bias_output.device())?;
        Ok(Self {
            layers: (0..config.att_layer_num - 1).map(layer).collect::<Result<_>>()?,
            last_decoder: (last, attention("last_decoder")?),
            bias_decoder: attention("bias_decoder")?,
            bias_output: Linear::new(&bias_output, no_bias)?,
            tail: DecoderLayer::load_tail(width, config, vb.clone())?,
            after_norm: LayerNorm::load(width, LayerNorm::EPS, vb.pp("after_norm"))?,
            output_layer: Linear::load_coarse(width, vocab, vb.pp("output_layer"))?,
        })
    }

    /// The layers before the one that sees the hotwords.
    pub fn layers(&self) -> &[DecoderLayer] {
        &self.layers
    }

    /// The layer whose attention to the encoder is joined with that to the hotwords: what comes before, and
    /// it.
    pub fn last_decoder(&self) -> &(DecoderLayer, CrossAttention) {
        &self.last_decoder
    }

    /// The attention to the hotwords.
    pub fn bias_decoder(&self) -> &CrossAttention {
        &self.bias_decoder
    }

    /// `acoustic_embeds [B, L, D]` of `tokens`, encoder output `[B, T, D]` and hotwords `[B, N, D]` -> logits
    /// `[B, L, V]`.
    pub fn forward(
        &self,
        acoustic_embeds: &Tensor,
        tokens: &Lengths,
        (encoder_out, frames): Memory<'_>,
        (hotwords, counts): Memory<'_>,
    ) -> Result<Tensor> {
        let mut x = acoustic_embeds.clone();
        for layer in &self.layers {
            x = layer.forward(&x, tokens, encoder_out, frames)?;
        }
        let (last, attention) = &self.last_decoder;
        let own = last.forward(&x, tokens, encoder_out, frames)?;
        let heard = attention.forward(&own, tokens, encoder_out, frames)?;
        let known = self.bias_decoder.forward(&own, tokens, hotwords, counts)?;
        x = self.bias_output.forward_add(&Tensor::cat(&[heard, known], 2)?, &[&own])?;
        for layer in &self.tail {
            x = layer.forward(&x, tokens, encoder_out, frames)?;
        }
        self.output_layer.forward(&self.after_norm.forward(&x)?)
    }
}

/// The model.
#[derive(Debug, Clone)]
pub struct ContextualParaformer {
    encoder: SanmEncoder,
    predictor: CifPredictor,
    decoder: ContextualDecoder,
    bias_encoder: BiasEncoder,
    /// What an utterance without hotwords attends to.
    no_hotwords: Tensor,
    vocab: usize,
}

impl ContextualParaformer {
    /// Loads `encoder.*`, `predictor.*`, `decoder.*`, `bias_encoder.*` and `bias_embed`; `speech_width` is
    /// the width of a feature row.
    pub fn load(speech_width: usize, config: &Config, vb: VarBuilder) -> Result<Self> {
        let (width, vocab) = (config.encoder_conf.output_size, config.vocab_size);
        let widths = [
            ("predictor_conf.idim", config.predictor_conf.idim),
            ("model_conf.inner_dim", config.model_conf.inner_dim),
        ];
        if let Some((key, found)) = widths.into_iter().find(|&(_, found)| found != width) {
            bail!("{key} is {found}, encoder_conf.output_size is {width}");
        }
        let [used, unused] = match config.model_conf.use_decoder_embedding {
            true => ["decoder.embed.0.weight", "bias_embed.weight"],
            false => ["bias_embed.weight", "decoder.embed.0.weight"],
        };
        if vb.contains_tensor(unused) {
            vb.get_unchecked(unused)?;
        }
        let bias_encoder = BiasEncoder::load(vb.get((vocab, width), used)?, 1, false, vb.clone())?;
        Ok(Self {
            encoder: SanmEncoder::load(speech_width, &config.encoder_conf, vb.pp("encoder"))?,
            predictor: CifPredictor::load(&config.predictor_conf, vb.pp("predictor"))?,
            decoder: ContextualDecoder::load(width, vocab, &config.decoder_conf, vb.pp("decoder"))?,
            no_hotwords: bias_encoder.forward(&[])?,
            bias_encoder,
            vocab,
        })
    }

    /// The encoder.
    pub fn encoder(&self) -> &SanmEncoder {
        &self.encoder
    }

    /// The decoder.
    pub fn decoder(&self) -> &ContextualDecoder {
        &self.decoder
    }

    /// Token ids of each hotword -> `[N + 1, D]`, the last for "no hotword". Once a request.
    ///
    /// # Errors
    /// A hotword without tokens or with an unknown one.
    pub fn encode_hotwords(&self, ids: &[Vec<u32>]) -> Result<Tensor> {
        self.bias_encoder.forward(ids)
    }

    /// Normalised features `[B, T, speech_width]` of the given lengths, and each item's
    /// [hotwords](Self::encode_hotwords) -> every stage.
    pub fn forward(
        &self,
        speech: &Tensor,
        lengths: &Lengths,
        hotwords: &[Option<&Tensor>],
    ) -> Result<Output> {
        lengths.check("contextual paraformer", speech)?;
        if hotwords.len() != lengths.batch() {
            bail!("contextual paraformer: {} hotword lists for {} items", hotwords.len(), lengths.batch());
        }
        let encoder_out = self.encoder.forward(speech, lengths)?;
        let cif = self.predictor.forward(&encoder_out, lengths)?;
        let decoder_logits = if cif.token_num.max() == 0 {
            Tensor::zeros((lengths.batch(), 0, self.vocab), speech.dtype(), speech.device())?
        } else {
            let lists: Vec<_> = hotwords.iter().map(|list| list.or(Some(&self.no_hotwords))).collect();
            let (memory, counts) = pad_hotwords(&lists, &cif.acoustic_embeds)?;
            let encoder = (&encoder_out, lengths);
            self.decoder.forward(&cif.acoustic_embeds, &cif.token_num, encoder, (&memory, &counts))?
        };
        Ok(Output { encoder_out, cif, decoder_logits })
    }
}
