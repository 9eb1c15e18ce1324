//! SANM encoder: self-attention with an FSMN memory on its values.
//!
//! Gao et al., "SAN-M: Memory Equipped Self-Attention for End-to-End Speech Recognition", 2020; FunASR
//! `models/sanm/{attention,encoder}.py`.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use funasr_kernels::{Attention, FsmnMemory, Visible};
use serde::Deserialize;

use super::{FeedForward, LayerNorm, Lengths, Linear, add_positions};

/// `encoder_conf` of a SANM encoder, with FunASR's key names and defaults.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SanmEncoderConfig {
    /// Model width D.
    pub output_size: usize,
    /// Heads H.
    pub attention_heads: usize,
    /// Width of the feed-forward layers.
    pub linear_units: usize,
    /// Number of layers, the first one (of input width) included.
    pub num_blocks: usize,
    /// Taps K of the memory.
    pub kernel_size: usize,
    /// Frames by which the memory looks further back than ahead.
    pub sanm_shfit: usize,
    /// Where the input comes from; the position code is the only published one.
    pub input_layer: InputLayer,
    /// Kind of position code.
    pub pos_enc_class: PositionCode,
    /// Kind of attention.
    pub selfattention_layer_type: SelfAttention,
    /// Norms before the sub-layers; `false` is refused.
    pub normalize_before: PreNorm,
    /// Width of the input; follows from the front end for speech, given for text.
    pub input_size: Option<usize>,
    /// Padding id of text models; no published encoder embeds text itself.
    pub padding_idx: Option<i64>,
}

impl Default for SanmEncoderConfig {
    fn default() -> Self {
        Self {
            output_size: 256,
            attention_heads: 4,
            linear_units: 2048,
            num_blocks: 6,
            kernel_size: 11,
            sanm_shfit: 0,
            input_layer: InputLayer::default(),
            pos_enc_class: PositionCode::default(),
            selfattention_layer_type: SelfAttention::default(),
            normalize_before: PreNorm,
            input_size: None,
            padding_idx: None,
        }
    }
}

/// Supported `input_layer`.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InputLayer {
    /// Position code on the features.
    #[default]
    Pe,
}

/// Supported `pos_enc_class`.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub enum PositionCode {
    /// See [`add_positions`].
    #[default]
    SinusoidalPositionEncoder,
}

/// Supported `selfattention_layer_type`.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SelfAttention {
    /// Attention with FSMN memory.
    #[default]
    Sanm,
}

/// `normalize_before: true`, the only supported value.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(try_from = "bool")]
pub struct PreNorm;

impl TryFrom<bool> for PreNorm {
    type Error = &'static str;

    fn try_from(value: bool) -> std::result::Result<Self, Self::Error> {
        if value { Ok(Self) } else { Err("normalize_before: false (post-norm) is not supported") }
    }
}

/// The memory of a SANM layer: `memory(v) + v` over time.
#[derive(Debug, Clone)]
pub struct SanmMemory {
    /// `[K, D]`, contiguous: one row a tap.
    taps: Tensor,
    left: usize,
}

impl SanmMemory {
    /// Loads `weight [D, 1, K]`; `shift` moves the taps towards the past.
    pub fn load(width: usize, kernel: usize, shift: usize, vb: VarBuilder) -> Result<Self> {
        let taps = vb.get((width, 1, kernel), "weight")?.squeeze(1)?.t()?.contiguous()?;
        Ok(Self { taps, left: (kernel - 1) / 2 + shift })
    }

    /// `[B, T, D]` -> `[B, T, D]`; padding is read as zero and comes out as zero.
    pub fn forward(&self, x: &Tensor, lengths: &Lengths) -> Result<Tensor> {
        let offset = -(self.left as isize);
        FsmnMemory { offset, dilation: 1, skip: true, lengths: lengths.clone() }.forward(x, &self.taps)
    }
}

/// Self-attention plus memory: `linear_out(attention(q, k, v)) + memory(v)`.
#[derive(Debug, Clone)]
struct SanmAttention {
    linear_q_k_v: Linear,
    linear_out: Linear,
    memory: SanmMemory,
    heads: usize,
}

impl SanmAttention {
    fn load(inputs: usize, config: &SanmEncoderConfig, vb: VarBuilder) -> Result<Self> {
        let width = config.output_size;
        Ok(Self {
            linear_q_k_v: Linear::load(inputs, 3 * width, vb.pp("linear_q_k_v"))?,
            linear_out: Linear::load(width, width, vb.pp("linear_out"))?,
            memory: SanmMemory::load(width, config.kernel_size, config.sanm_shfit, vb.pp("fsmn_block"))?,
            heads: config.attention_heads,
        })
    }

    /// `[B, T, in]` -> `[B, T, D]`, plus `residual` if there is one.
    fn forward(
        &self,
        x: &Tensor,
        residual: Option<&Tensor>,
        lengths: &Lengths,
        visible: Visible,
    ) -> Result<Tensor> {
        let qkv = self.linear_q_k_v.forward(x)?;
        let width = qkv.dim(2)? / 3;
        let [q, k, v] = [0, 1, 2].map(|i| qkv.narrow(2, i * width, width));
        let (q, k, v) = (q?, k?, v?);
        let memory = self.memory.forward(&v, lengths)?;
        let (queries, keys) = (lengths.clone(), lengths.clone());
        let attention = Attention { heads: self.heads, queries, keys, visible };
        let addends: Vec<&Tensor> = [&memory].into_iter().chain(residual).collect();
        self.linear_out.forward_add(&attention.forward(&q, &k, &v)?, &addends)
    }
}

/// One pre-norm encoder layer. Around the attention there is a residual only if input and output are equally
/// wide: the first layer of a speech encoder (560 -> 512) has none.
#[derive(Debug, Clone)]
pub struct EncoderLayer {
    norm1: LayerNorm,
    self_attn: SanmAttention,
    norm2: LayerNorm,
    feed_forward: FeedForward,
    residual: bool,
}

impl EncoderLayer {
    fn load(inputs: usize, config: &SanmEncoderConfig, vb: VarBuilder) -> Result<Self> {
        let width = config.output_size;
        Ok(Self {
            norm1: LayerNorm::load(inputs, LayerNorm::EPS, vb.pp("norm1"))?,
            self_attn: SanmAttention::load(inputs, config, vb.pp("self_attn"))?,
            norm2: LayerNorm::load(width, LayerNorm::EPS, vb.pp("norm2"))?,
            feed_forward: FeedForward::load(width, config.linear_units, vb.pp("feed_forward"))?,
            residual: inputs == width,
        })
    }

    /// `[B, T, in]` -> `[B, T, D]`.
    pub fn forward(&self, x: &Tensor, lengths: &Lengths) -> Result<Tensor> {
        self.forward_visible(x, lengths, Visible::All)
    }

    /// The same where the attention of a frame may be limited; the memory is not.
    pub fn forward_visible(&self, x: &Tensor, lengths: &Lengths, visible: Visible) -> Result<Tensor> {
        let residual = self.residual.then_some(x);
        let x = self.self_attn.forward(&self.norm1.forward(x)?, residual, lengths, visible)?;
        self.feed_forward.forward_add(&self.norm2.forward(&x)?, &x)
    }
}

/// The encoder: scale and position code, layers, final norm.
#[derive(Debug, Clone)]
pub struct SanmEncoder {
    layers: Vec<EncoderLayer>,
    after_norm: LayerNorm,
    scale: f64,
}

impl SanmEncoder {
    /// Loads `encoders0.0`, `encoders.*` and `after_norm`; `inputs` is the feature width.
    pub fn load(inputs: usize, config: &SanmEncoderConfig, vb: VarBuilder) -> Result<Self> {
        if config.num_blocks == 0 {
            candle_core::bail!("encoder: num_blocks is 0");
        }
        let mut layers = vec![EncoderLayer::load(inputs, config, vb.pp("encoders0.0"))?];
        for i in 0..config.num_blocks - 1 {
            layers.push(EncoderLayer::load(config.output_size, config, vb.pp(format!("encoders.{i}")))?);
        }
        let after_norm = LayerNorm::load(config.output_size, LayerNorm::EPS, vb.pp("after_norm"))?;
        // The root of the output width, also where the input is wider (560): as FunASR has it.
        Ok(Self { layers, after_norm, scale: (config.output_size as f64).sqrt() })
    }

    /// Scaled features with position code, `[B, T, in]`: the input of the first layer.
    pub fn embed(&self, x: &Tensor) -> Result<Tensor> {
        add_positions(&(x * self.scale)?, 0)
    }

    /// The layers, for those who want to run or replace them one by one.
    pub fn layers(&self) -> &[EncoderLayer] {
        &self.layers
    }

    /// The norm after the last layer.
    pub fn after_norm(&self) -> &LayerNorm {
        &self.after_norm
    }

    /// `[B, T, in]` -> `encoder_out [B, T, D]`; padded frames hold no meaning.
    pub fn forward(&self, x: &Tensor, lengths: &Lengths) -> Result<Tensor> {
        let mut x = self.embed(x)?;
        for layer in &self.layers {
            x = layer.forward(&x, lengths)?;
        }
        self.after_norm.forward(&x)
    }
}
