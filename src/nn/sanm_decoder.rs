//! SANM decoder of Paraformer: feed-forward, then FSMN memory, then attention to the encoder
//! (FunASR `models/paraformer/decoder.py`). It sees all tokens at once and has no position code.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use funasr_kernels::{Attention, Visible};
use serde::Deserialize;

use super::{DecoderFeedForward, LayerNorm, Lengths, Linear, SanmMemory};

/// `decoder_conf` of a SANM decoder, with FunASR's key names and defaults.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SanmDecoderConfig {
    /// Heads H of the attention to the encoder.
    pub attention_heads: usize,
    /// Width of the feed-forward layers.
    pub linear_units: usize,
    /// Layers in all; those beyond `att_layer_num` have no attention.
    pub num_blocks: usize,
    /// Layers with attention to the encoder.
    pub att_layer_num: usize,
    /// Taps K of the memory.
    pub kernel_size: usize,
    /// Frames by which the memory looks further back than ahead; `null` means half the kernel.
    pub sanm_shfit: Option<usize>,
}

impl Default for SanmDecoderConfig {
    fn default() -> Self {
        Self {
            attention_heads: 4,
            linear_units: 2048,
            num_blocks: 6,
            att_layer_num: 6,
            kernel_size: 21,
            sanm_shfit: Some(0),
        }
    }
}

/// Attention of the tokens to the encoder's frames.
#[derive(Debug, Clone)]
struct CrossAttention {
    linear_q: Linear,
    linear_k_v: Linear,
    linear_out: Linear,
    heads: usize,
}

impl CrossAttention {
    fn load(width: usize, heads: usize, vb: VarBuilder) -> Result<Self> {
        Ok(Self {
            linear_q: Linear::load(width, width, vb.pp("linear_q"))?,
            linear_k_v: Linear::load(width, 2 * width, vb.pp("linear_k_v"))?,
            linear_out: Linear::load(width, width, vb.pp("linear_out"))?,
            heads,
        })
    }

    /// What `x` finds in `memory`, plus `residual`.
    fn forward_add(
        &self,
        x: &Tensor,
        residual: &Tensor,
        tokens: &Lengths,
        memory: &Tensor,
        frames: &Lengths,
    ) -> Result<Tensor> {
        let q = self.linear_q.forward(x)?;
        let kv = self.linear_k_v.forward(memory)?;
        let width = q.dim(2)?;
        let attention = Attention {
            heads: self.heads,
            queries: tokens.clone(),
            keys: frames.clone(),
            visible: Visible::All,
        };
        let attended = attention.forward(&q, &kv.narrow(2, 0, width)?, &kv.narrow(2, width, width)?)?;
        self.linear_out.forward_add(&attended, &[residual])
    }
}

/// One decoder layer. The feed-forward comes first and feeds the memory; the residual passes both by. Without a
/// memory there is no residual either.
#[derive(Debug, Clone)]
pub struct DecoderLayer {
    norm1: LayerNorm,
    feed_forward: DecoderFeedForward,
    memory: Option<(LayerNorm, SanmMemory)>,
    cross: Option<(LayerNorm, CrossAttention)>,
}

impl DecoderLayer {
    fn load(width: usize, config: &SanmDecoderConfig, vb: VarBuilder) -> Result<Self> {
        let norm = |name: &str| LayerNorm::load(width, LayerNorm::EPS, vb.pp(name));
        Ok(Self {
            norm1: norm("norm1")?,
            feed_forward: DecoderFeedForward::load(width, config.linear_units, vb.pp("feed_forward"))?,
            memory: None,
            cross: None,
        })
    }

    fn with_memory(mut self, width: usize, kernel: usize, shift: usize, vb: VarBuilder) -> Result<Self> {
        let norm = LayerNorm::load(width, LayerNorm::EPS, vb.pp("norm2"))?;
        self.memory = Some((norm, SanmMemory::load(width, kernel, shift, vb.pp("self_attn.fsmn_block"))?));
        Ok(self)
    }

    fn with_cross(mut self, width: usize, heads: usize, vb: VarBuilder) -> Result<Self> {
        let norm = LayerNorm::load(width, LayerNorm::EPS, vb.pp("norm3"))?;
        self.cross = Some((norm, CrossAttention::load(width, heads, vb.pp("src_attn"))?));
        Ok(self)
    }

    /// `x [B, L, D]` of `tokens`, `memory [B, T, D]` of `frames` -> `[B, L, D]`.
    pub fn forward(&self, x: &Tensor, tokens: &Lengths, memory: &Tensor, frames: &Lengths) -> Result<Tensor> {
        let mut y = self.feed_forward.forward(&self.norm1.forward(x)?)?;
        if let Some((norm2, fsmn)) = &self.memory {
            y = (x + fsmn.forward(&norm2.forward(&y)?, tokens)?)?;
        }
        if let Some((norm3, cross)) = &self.cross {
            y = cross.forward_add(&norm3.forward(&y)?, &y, tokens, memory, frames)?;
        }
        Ok(y)
    }
}

/// The decoder: layers, final norm, output layer.
#[derive(Debug, Clone)]
pub struct SanmDecoder {
    layers: Vec<DecoderLayer>,
    after_norm: LayerNorm,
    output_layer: Linear,
}

impl SanmDecoder {
    /// Loads `decoders.*` (memory and attention), `decoders2.*` (memory alone), `decoders3.0` (feed-forward
    /// alone), `after_norm` and `output_layer`.
    pub fn load(width: usize, vocab: usize, config: &SanmDecoderConfig, vb: VarBuilder) -> Result<Self> {
        let kernel = config.kernel_size;
        let shift = config.sanm_shfit.unwrap_or((kernel - 1) / 2);
        let mut layers = Vec::new();
        for i in 0..config.att_layer_num {
            let vb = vb.pp(format!("decoders.{i}"));
            let layer = DecoderLayer::load(width, config, vb.clone())?;
            let layer = layer.with_memory(width, kernel, shift, vb.clone())?;
            layers.push(layer.with_cross(width, config.attention_heads, vb)?);
        }
        for i in 0..config.num_blocks.saturating_sub(config.att_layer_num) {
            let vb = vb.pp(format!("decoders2.{i}"));
            // These layers are built without the shift, whatever the configuration says.
            layers.push(DecoderLayer::load(width, config, vb.clone())?.with_memory(width, kernel, 0, vb)?);
        }
        layers.push(DecoderLayer::load(width, config, vb.pp("decoders3.0"))?);
        let after_norm = LayerNorm::load(width, LayerNorm::EPS, vb.pp("after_norm"))?;
        Ok(Self { layers, after_norm, output_layer: Linear::load(width, vocab, vb.pp("output_layer"))? })
    }

    /// The layers, for those who want to run or replace them one by one.
    pub fn layers(&self) -> &[DecoderLayer] {
        &self.layers
    }

    /// `acoustic_embeds [B, L, D]` of `tokens`, `encoder_out [B, T, D]` of `frames` -> logits `[B, L, V]`.
    pub fn forward(
        &self,
        acoustic_embeds: &Tensor,
        tokens: &Lengths,
        encoder_out: &Tensor,
        frames: &Lengths,
    ) -> Result<Tensor> {
        let mut x = acoustic_embeds.clone();
        for layer in &self.layers {
            x = layer.forward(&x, tokens, encoder_out, frames)?;
        }
        self.output_layer.forward(&self.after_norm.forward(&x)?)
    }
}
