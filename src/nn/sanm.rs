//! SANM encoder: self-attention with an FSMN memory on its values.
//!
//! Gao et al., "SAN-M: Memory Equipped Self-Attention for End-to-End Speech Recognition", 2020; FunASR
//! `models/sanm/{attention,encoder}.py`.

use candle_core::{DType, Device, Result, Tensor, bail};
use candle_nn::VarBuilder;
use funasr_kernels::{Attention, FsmnMemory, Visible};
use serde::Deserialize;

use super::history::{Histories, Join};
use super::{Chunk, ChunkSize, FeedForward, History, LayerNorm, Lengths, Linear, SinusoidalPositionEncoder};

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
    /// Where the input comes from; features with a position code are the only published ones.
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
    /// Layers after `after_norm`, of SenseVoice alone; this encoder refuses them.
    pub tp_blocks: usize,
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
            tp_blocks: 0,
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
    /// The same, counted on from chunk to chunk.
    PeOnline,
}

/// Supported `pos_enc_class`.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub enum PositionCode {
    /// See [`SinusoidalPositionEncoder`](super::SinusoidalPositionEncoder).
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
        self.forward_add(x, lengths, &[])
    }

    /// [`SanmMemory::forward`] plus `addends`.
    pub(super) fn forward_add(&self, x: &Tensor, lengths: &Lengths, addends: &[&Tensor]) -> Result<Tensor> {
        let offset = -(self.left as isize);
        let memory = FsmnMemory { offset, dilation: 1, skip: true, first: 0, lengths: lengths.clone() };
        memory.forward_add(x, &self.taps, addends)
    }

    /// The next rows of streams, `[B, T, D]` -> `[B, T, D]`, plus `residual`. Each has `K - 1` rows more once joined with its
    /// history.
    pub(super) fn step_add(
        &self,
        x: &Tensor,
        histories: &mut Histories,
        residual: &Tensor,
    ) -> Result<Tensor> {
        let joined = histories.join(x)?;
        let past = self.taps.dim(0)? - 1;
        let lengths = histories.lengths().clone();
        let offset = -(past as isize);
        let memory = FsmnMemory { offset, dilation: 1, skip: false, first: past, lengths };
        memory.forward_add(&joined, &self.taps, &[x, residual])
    }
}

/// What a layer may look at.
struct Frames<'a> {
    /// Frames of each item.
    lengths: &'a Lengths,
    /// Which of the keys a frame attends to.
    visible: Visible,
    /// Keys and values from before, which all frames attend to as well.
    histories: Option<&'a mut Histories>,
}

impl Frames<'_> {
    /// For one more layer.
    fn again(&mut self) -> Frames<'_> {
        let histories = self.histories.as_deref_mut();
        Frames { lengths: self.lengths, visible: self.visible.clone(), histories }
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

    /// `[B, T, in]` -> `[B, T, D]`, plus `residual` if there is one, and the norm of that. The memory sees the chunk alone.
    fn forward_norm(
        &self,
        x: &Tensor,
        residual: Option<&Tensor>,
        frames: Frames,
        norm: &LayerNorm,
    ) -> Result<[Tensor; 2]> {
        let Frames { lengths, visible, histories } = frames;
        let qkv = self.linear_q_k_v.forward(x)?;
        let width = qkv.dim(2)? / 3;
        let (q, kv) = (qkv.narrow(2, 0, width)?, qkv.narrow(2, width, 2 * width)?);
        let memory = self.memory.forward(&kv.narrow(2, width, width)?, lengths)?;
        let (kv, keys) = match histories {
            Some(histories) => (histories.join(&kv)?, histories.lengths().clone()),
            None => (kv, lengths.clone()),
        };
        let (k, v) = (kv.narrow(2, 0, width)?, kv.narrow(2, width, width)?);
        let attention = Attention {
            heads: self.heads,
            queries: lengths.clone(),
            keys,
            visible,
            bf16: self.linear_q_k_v.is_int8(),
        };
        let addends: Vec<&Tensor> = [&memory].into_iter().chain(residual).collect();
        self.linear_out.forward_add_norm(&attention.forward(&q, &k, &v)?, &addends, norm)
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
    /// Loads a layer for inputs of width `inputs`, with norms of this `eps`.
    pub fn load(inputs: usize, config: &SanmEncoderConfig, eps: f64, vb: VarBuilder) -> Result<Self> {
        let width = config.output_size;
        Ok(Self {
            norm1: LayerNorm::load(inputs, eps, vb.pp("norm1"))?,
            self_attn: SanmAttention::load(inputs, config, vb.pp("self_attn"))?,
            norm2: LayerNorm::load(width, eps, vb.pp("norm2"))?,
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
        let normed = self.norm1.forward(x)?;
        let [x, normed] = self.attend([x, &normed], Frames { lengths, visible, histories: None })?;
        self.feed_forward.forward_add(&normed, &x)
    }

    /// `x` and its `norm1` through the attention: the result and its `norm2`.
    fn attend(&self, [x, normed]: [&Tensor; 2], frames: Frames) -> Result<[Tensor; 2]> {
        self.self_attn.forward_norm(normed, self.residual.then_some(x), frames, &self.norm2)
    }

    /// Layers, one after the other, and the norm after the last one: `[B, T, in]` -> `[B, T, D]`.
    pub fn forward_all(
        layers: &[Self],
        after_norm: &LayerNorm,
        x: &Tensor,
        lengths: &Lengths,
    ) -> Result<Tensor> {
        Self::run_all(layers, after_norm, x, Frames { lengths, visible: Visible::All, histories: None })
    }

    /// The same; the norm before a layer comes with the layer before that.
    fn run_all(layers: &[Self], after_norm: &LayerNorm, x: &Tensor, mut frames: Frames) -> Result<Tensor> {
        let norm = |i: usize| layers.get(i).map_or(after_norm, |layer| &layer.norm1);
        let [mut x, mut normed] = [x.clone(), norm(0).forward(x)?];
        for (i, layer) in layers.iter().enumerate() {
            [x, normed] = layer.attend([&x, &normed], frames.again())?;
            [x, normed] = layer.feed_forward.forward_add_norm(&normed, &x, norm(i + 1))?;
        }
        Ok(normed)
    }
}

/// What an encoder carries from chunk to chunk of one stream.
#[derive(Debug, Clone)]
pub struct EncoderState {
    size: ChunkSize,
    look_back: Option<usize>,
    position: usize,
    context: Vec<f32>,
    history: History,
}

impl EncoderState {
    /// Rows coded so far, which is where the next ones count from.
    pub fn position(&self) -> usize {
        self.position
    }

    /// The last rows, scaled and with position code, that the next chunk begins with; zero before the first
    /// chunk.
    pub fn context(&self) -> &[f32] {
        &self.context
    }

    /// Keys and values `[layers, M, 2 D]` that the next chunk looks back on.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// What is remembered of a chunk of `fresh` rows: all but its right context. FunASR does not cut the
    /// first chunk to the look-back, and remembers nothing where there is no right context, its slice `[:-0]`
    /// being empty.
    fn join(&self, fresh: usize) -> Join {
        let (past, right) = (self.history.len(), self.size.right());
        let end = (past + fresh).saturating_sub(right);
        let start = match self.look_back {
            Some(0) => end,
            _ if right == 0 => end,
            Some(chunks) if past > 0 => end.saturating_sub(chunks.saturating_mul(self.size.stride())),
            _ => 0,
        };
        Join { lead: 0, fresh, trail: 0, keep: start..end }
    }
}

/// The encoder: scale and position code, layers, final norm.
#[derive(Debug, Clone)]
pub struct SanmEncoder {
    layers: Vec<EncoderLayer>,
    after_norm: LayerNorm,
    scale: f64,
    positions: SinusoidalPositionEncoder,
    inputs: usize,
    device: Device,
    dtype: DType,
}

impl SanmEncoder {
    /// Loads `encoders0.0`, `encoders.*` and `after_norm`; `inputs` is the feature width.
    pub fn load(inputs: usize, config: &SanmEncoderConfig, vb: VarBuilder) -> Result<Self> {
        if config.tp_blocks != 0 {
            candle_core::bail!("encoder: tp_blocks is {}, which this class does not have", config.tp_blocks);
        }
        Self::load_with_eps(inputs, config, LayerNorm::EPS, vb)
    }

    /// As [`SanmEncoder::load`], with norms of this `eps` and no regard for `tp_blocks`.
    pub fn load_with_eps(
        inputs: usize,
        config: &SanmEncoderConfig,
        eps: f64,
        vb: VarBuilder,
    ) -> Result<Self> {
        if config.num_blocks == 0 {
            bail!("encoder: num_blocks is 0");
        }
        let (device, dtype) = (vb.device().clone(), vb.dtype());
        let width = config.output_size;
        let mut layers = vec![EncoderLayer::load(inputs, config, eps, vb.pp("encoders0.0"))?];
        for i in 0..config.num_blocks - 1 {
            layers.push(EncoderLayer::load(width, config, eps, vb.pp(format!("encoders.{i}")))?);
        }
        let after_norm = LayerNorm::load(width, eps, vb.pp("after_norm"))?;
        // The root of the output width, also where the input is wider (560): as FunASR has it.
        let scale = (width as f64).sqrt();
        let positions = SinusoidalPositionEncoder::new(inputs)?;
        Ok(Self { layers, after_norm, scale, positions, inputs, device, dtype })
    }

    /// Scaled features with position code, `[B, T, in]`: the input of the first layer.
    pub fn embed(&self, x: &Tensor) -> Result<Tensor> {
        self.positions.forward(&(x * self.scale)?)
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
        EncoderLayer::forward_all(&self.layers, &self.after_norm, &self.embed(x)?, lengths)
    }

    /// The state before the first chunk of a stream. `look_back` is how many chunks the attention looks back
    /// on; `None`: all of them, and the state grows.
    pub fn start(&self, size: ChunkSize, look_back: Option<usize>) -> EncoderState {
        let context = vec![0.0; size.context() * self.inputs];
        EncoderState { size, look_back, position: 0, context, history: History::default() }
    }

    /// The next chunk of each of some streams -> `encoder_out [B, T, D]` and the frames of each: the context
    /// and the new rows. The streams may be anywhere, and each gets what it gets alone (FunASR
    /// `models/scama/encoder.py`, `forward_chunk`).
    pub fn step(&self, states: &mut [&mut EncoderState], chunks: &[Chunk]) -> Result<(Tensor, Lengths)> {
        let inputs = states.iter_mut().zip(chunks).map(|(state, &chunk)| self.input(state, chunk));
        let inputs = inputs.collect::<Result<Vec<_>>>()?;
        let frames = Lengths::new(inputs.iter().map(|rows| rows.len() / self.inputs).collect::<Vec<_>>());
        let x = self.pad(&inputs, &frames)?;
        let joins: Vec<Join> = states.iter().zip(frames.items()).map(|(s, &n)| s.join(n)).collect();
        let past: Vec<&History> = states.iter().map(|state| &state.history).collect();
        let mut histories = Histories::open(&past, &joins, self.layers.len())?;
        let seen = Frames { lengths: &frames, visible: Visible::All, histories: Some(&mut histories) };
        let y = EncoderLayer::run_all(&self.layers, &self.after_norm, &x, seen)?;
        for (state, history) in states.iter_mut().zip(histories.close()?) {
            state.history = history;
        }
        Ok((y, frames))
    }

    /// The rows that the layers see of one chunk; the state moves on behind them.
    fn input(&self, state: &mut EncoderState, chunk: Chunk) -> Result<Vec<f32>> {
        let scale = self.scale as f32;
        if chunk == Chunk::Tail {
            // FunASR scales the context in place, although it is scaled already.
            state.context.iter_mut().for_each(|x| *x *= scale);
            state.position += state.size.context();
            return Ok(state.context.clone());
        }
        let mut rows: Vec<f32> = chunk.rows().iter().map(|x| x * scale).collect();
        if rows.is_empty() {
            bail!("encoder: a chunk without rows");
        }
        self.positions.add_to_rows(&mut rows, state.position)?;
        state.position += rows.len() / self.inputs;
        let input = [state.context.as_slice(), &rows].concat();
        state.context = input[input.len() - state.context.len()..].to_vec();
        Ok(input)
    }

    /// `[B, T, in]`, zero after the end of each item.
    fn pad(&self, items: &[Vec<f32>], lengths: &Lengths) -> Result<Tensor> {
        let mut values = Vec::with_capacity(items.len() * lengths.max() * self.inputs);
        for (i, item) in items.iter().enumerate() {
            values.extend_from_slice(item);
            values.resize((i + 1) * lengths.max() * self.inputs, 0.0);
        }
        let shape = (items.len(), lengths.max(), self.inputs);
        Tensor::from_vec(values, shape, &self.device)?.to_dtype(self.dtype)
    }
}
