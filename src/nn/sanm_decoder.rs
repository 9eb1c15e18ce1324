//! SANM decoder of Paraformer: feed-forward, then FSMN memory, then attention to the encoder
//! (FunASR `models/paraformer/decoder.py`). It sees all tokens at once and has no position code.

use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;
use funasr_kernels::{Attention, Softmax, Visible};
use serde::Deserialize;

use super::history::{Histories, Join};
use super::{ChunkSize, DecoderFeedForward, History, LayerNorm, Lengths, Linear, SanmMemory};

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
    /// Whether the decoder ends in logits; without, in hidden states.
    pub use_output_layer: bool,
    /// Whether the checkpoint has no token embedding, which a decoder of acoustic embeddings never reads.
    pub wo_input_layer: bool,
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
            use_output_layer: true,
            wo_input_layer: false,
        }
    }
}

impl SanmDecoderConfig {
    fn shift(&self) -> usize {
        self.sanm_shfit.unwrap_or(self.kernel_size.saturating_sub(1) / 2)
    }
}

/// What the layers share: the tokens of each item, and its encoder output with its frames.
struct Batch<'a> {
    tokens: &'a Lengths,
    memory: &'a Tensor,
    frames: &'a Lengths,
}

/// The histories of streams, for the layers of each kind.
struct StreamHistories {
    /// Inputs of the memories in layers with attention.
    attending: Histories,
    /// Inputs of the memories in layers without.
    plain: Histories,
    /// Keys and values of the attention.
    cross: Histories,
}

/// How the next rows of a stream, by its place in the step, are joined with its history.
type JoinState<'a> = dyn Fn(usize, &DecoderState) -> Join + 'a;

/// Attention of the tokens to a memory (the encoder's frames, hotwords), with the norm before it.
#[derive(Debug, Clone)]
pub struct CrossAttention {
    norm3: LayerNorm,
    linear_q: Linear,
    linear_k_v: Linear,
    linear_out: Linear,
    heads: usize,
}

impl CrossAttention {
    /// Loads `norm3` and `src_attn.{linear_q,linear_k_v,linear_out}`.
    pub fn load(width: usize, heads: usize, vb: VarBuilder) -> Result<Self> {
        let src_attn = vb.pp("src_attn");
        Ok(Self {
            norm3: LayerNorm::load(width, LayerNorm::EPS, vb.pp("norm3"))?,
            linear_q: Linear::load(width, width, src_attn.pp("linear_q"))?,
            linear_k_v: Linear::load(width, 2 * width, src_attn.pp("linear_k_v"))?,
            linear_out: Linear::load(width, width, src_attn.pp("linear_out"))?,
            heads,
        })
    }

    /// What `x [B, L, D]` of `tokens` finds in `memory [B, M, D]` of `entries`: `[B, L, D]`.
    pub fn forward(
        &self,
        x: &Tensor,
        tokens: &Lengths,
        memory: &Tensor,
        entries: &Lengths,
    ) -> Result<Tensor> {
        self.linear_out.forward(&self.attend(x, &Batch { tokens, memory, frames: entries }, None)?)
    }

    /// What `x` finds in the memory of `batch` and in the frames of `past`, plus `x`.
    fn forward_add(&self, x: &Tensor, batch: &Batch, past: Option<&mut Histories>) -> Result<Tensor> {
        self.linear_out.forward_add(&self.attend(x, batch, past)?, &[x])
    }

    fn attend(&self, x: &Tensor, batch: &Batch, past: Option<&mut Histories>) -> Result<Tensor> {
        let q = self.linear_q.forward(&self.norm3.forward(x)?)?;
        let kv = self.linear_k_v.forward(batch.memory)?;
        let (kv, keys) = match past {
            Some(past) => (past.join(&kv)?, past.lengths().clone()),
            None => (kv, batch.frames.clone()),
        };
        let width = q.dim(2)?;
        let queries = batch.tokens.clone();
        let bf16 = self.linear_q.is_int8() && self.linear_k_v.is_int8();
        let attention = Attention { heads: self.heads, queries, keys, visible: Visible::All, bf16 };
        attention.forward(&q, &kv.narrow(2, 0, width)?, &kv.narrow(2, width, width)?)
    }

    /// How `x` attends to the memory of `batch`: `[B, H, L, M]`, 0 for what is no token and next to that for
    /// what is no entry of it.
    fn weights(&self, x: &Tensor, batch: &Batch) -> Result<Tensor> {
        let q = self.linear_q.forward(&self.norm3.forward(x)?)?;
        let width = q.dim(2)?;
        let k = self.linear_k_v.forward(batch.memory)?.narrow(2, 0, width)?;
        let head_width = width / self.heads;
        let split = |x: &Tensor| {
            let (count, time, _) = x.dims3()?;
            x.reshape((count, time, self.heads, head_width))?.transpose(1, 2)?.contiguous()
        };
        let q = (q * (head_width as f64).powf(-0.5))?;
        let scores = split(&q)?.matmul(&split(&k)?.t()?)?;
        let mask = |lengths: &Lengths| lengths.mask(scores.dtype(), scores.device());
        // A distance whose exponential is zero in every format.
        let entries = mask(batch.frames)?.affine(1e4, -1e4)?.unsqueeze(1)?.unsqueeze(1)?;
        let weights = Softmax.forward(&scores.broadcast_add(&entries)?)?;
        weights.broadcast_mul(&mask(batch.tokens)?.unsqueeze(1)?.unsqueeze(3)?)
    }
}

/// One decoder layer. The feed-forward comes first and feeds the memory; the residual passes both by. Without a
/// memory there is no residual either.
#[derive(Debug, Clone)]
pub struct DecoderLayer {
    norm1: LayerNorm,
    feed_forward: DecoderFeedForward,
    memory: Option<(LayerNorm, SanmMemory)>,
    cross: Option<CrossAttention>,
}

impl DecoderLayer {
    /// A layer of `decoders`: feed-forward, memory and attention.
    pub fn load(width: usize, config: &SanmDecoderConfig, vb: VarBuilder) -> Result<Self> {
        let cross = CrossAttention::load(width, config.attention_heads, vb.clone())?;
        Ok(Self { cross: Some(cross), ..Self::load_memory(width, config, vb)? })
    }

    /// A layer of feed-forward and memory.
    pub fn load_memory(width: usize, config: &SanmDecoderConfig, vb: VarBuilder) -> Result<Self> {
        let layer = Self::load_feed_forward(width, config, vb.clone())?;
        layer.with_memory(width, config.kernel_size, config.shift(), vb)
    }

    /// The layers without attention: `decoders2.*`, which have a memory, and `decoders3.0`, which has none.
    pub fn load_tail(width: usize, config: &SanmDecoderConfig, vb: VarBuilder) -> Result<Vec<Self>> {
        let mut layers = Vec::new();
        for i in 0..config.num_blocks.saturating_sub(config.att_layer_num) {
            let vb = vb.pp(format!("decoders2.{i}"));
            let layer = Self::load_feed_forward(width, config, vb.clone())?;
            // These layers are built without the shift, whatever the configuration says.
            layers.push(layer.with_memory(width, config.kernel_size, 0, vb)?);
        }
        layers.push(Self::load_feed_forward(width, config, vb.pp("decoders3.0"))?);
        Ok(layers)
    }

    fn load_feed_forward(width: usize, config: &SanmDecoderConfig, vb: VarBuilder) -> Result<Self> {
        Ok(Self {
            norm1: LayerNorm::load(width, LayerNorm::EPS, vb.pp("norm1"))?,
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

    /// Whether it has an attention, with a memory before it.
    fn attends(&self) -> bool {
        self.cross.is_some()
    }

    /// Whether it has a memory alone.
    fn is_plain(&self) -> bool {
        self.cross.is_none() && self.memory.is_some()
    }

    /// `x [B, L, D]` of `tokens` through feed-forward and memory: what the attention asks with, `[B, L, D]`.
    fn before_attention(&self, x: &Tensor, tokens: &Lengths, past: Option<&mut Histories>) -> Result<Tensor> {
        let y = self.norm1.forward(x)?;
        let Some((norm2, fsmn)) = &self.memory else { return self.feed_forward.forward(&y) };
        let y = self.feed_forward.forward_norm(&y, norm2)?;
        match past {
            Some(past) => fsmn.step_add(&y, past, x),
            None => fsmn.forward_add(&y, tokens, &[x]),
        }
    }

    /// `x [B, L, D]` of `tokens`, `memory [B, T, D]` of `frames` -> `[B, L, D]`.
    pub fn forward(&self, x: &Tensor, tokens: &Lengths, memory: &Tensor, frames: &Lengths) -> Result<Tensor> {
        self.run(x, &Batch { tokens, memory, frames }, None)
    }

    fn run(&self, x: &Tensor, batch: &Batch, streams: Option<&mut StreamHistories>) -> Result<Tensor> {
        let (memory_past, cross_past) = match streams {
            Some(StreamHistories { attending, cross, .. }) if self.attends() => {
                (Some(attending), Some(cross))
            }
            Some(StreamHistories { plain, .. }) => (Some(plain), None),
            None => (None, None),
        };
        let y = self.before_attention(x, batch.tokens, memory_past)?;
        match &self.cross {
            Some(cross) => cross.forward_add(&y, batch, cross_past),
            None => Ok(y),
        }
    }

    /// How [`DecoderLayer::forward`] attends to the memory: `[B, H, L, M]`, 0 for what is no token and next to that for
    /// what is no entry of it.
    ///
    /// # Errors
    /// A layer without attention.
    pub fn attention_weights(
        &self,
        x: &Tensor,
        tokens: &Lengths,
        memory: &Tensor,
        frames: &Lengths,
    ) -> Result<Tensor> {
        let Some(cross) = &self.cross else { bail!("decoder: a layer without attention has no weights") };
        let y = self.before_attention(x, tokens, None)?;
        cross.weights(&y, &Batch { tokens, memory, frames })
    }
}

/// A decoder up to its hidden states: layers and final norm.
#[derive(Debug, Clone)]
pub struct DecoderStack {
    layers: Vec<DecoderLayer>,
    after_norm: LayerNorm,
}

impl DecoderStack {
    /// Loads `decoders.*` (memory and attention), `decoders2.*` (memory alone), `decoders3.0` (feed-forward
    /// alone) and `after_norm`.
    pub fn load(width: usize, config: &SanmDecoderConfig, vb: VarBuilder) -> Result<Self> {
        let attending = |i| DecoderLayer::load(width, config, vb.pp(format!("decoders.{i}")));
        let mut layers: Vec<DecoderLayer> =
            (0..config.att_layer_num).map(attending).collect::<Result<_>>()?;
        layers.extend(DecoderLayer::load_tail(width, config, vb.clone())?);
        Ok(Self { layers, after_norm: LayerNorm::load(width, LayerNorm::EPS, vb.pp("after_norm"))? })
    }

    /// The layers, for those who want to run or replace them one by one.
    pub fn layers(&self) -> &[DecoderLayer] {
        &self.layers
    }

    /// `x [B, L, D]` of `tokens`, `memory [B, T, D]` of `frames` -> hidden states `[B, L, D]`.
    pub fn forward(&self, x: &Tensor, tokens: &Lengths, memory: &Tensor, frames: &Lengths) -> Result<Tensor> {
        self.run(x, &Batch { tokens, memory, frames }, None)
    }

    fn run(&self, x: &Tensor, batch: &Batch, mut streams: Option<&mut StreamHistories>) -> Result<Tensor> {
        let mut x = x.clone();
        for layer in &self.layers {
            x = layer.run(&x, batch, streams.as_deref_mut())?;
        }
        self.after_norm.forward(&x)
    }
}

/// What a decoder carries from chunk to chunk of one stream. A chunk without tokens leaves it alone.
#[derive(Debug, Clone)]
pub struct DecoderState {
    /// Frames that the attention looks back on.
    look_back: usize,
    started: bool,
    attending: History,
    plain: History,
    cross: History,
}

impl DecoderState {
    /// The last `K - 1` inputs of the memories, `[layers, K - 1, D]`: of layers with attention, and of those
    /// without.
    pub fn memories(&self) -> [&History; 2] {
        [&self.attending, &self.plain]
    }

    /// Keys and values `[layers, M, 2 D]` of the last frames.
    pub fn cross(&self) -> &History {
        &self.cross
    }

    /// The last `K - 1` rows are remembered. At the start zeros stand before and behind the new rows as if
    /// they were the whole: those behind are remembered, too, as in FunASR.
    fn join_memory(&self, tokens: usize, kernel: usize, left: usize) -> Join {
        let [lead, trail] = if self.started { [0, 0] } else { [left, kernel - 1 - left] };
        Join { lead, fresh: tokens, trail, keep: tokens..tokens + kernel - 1 }
    }

    fn join_frames(&self, frames: usize) -> Join {
        let end = self.cross.len() + frames;
        Join { lead: 0, fresh: frames, trail: 0, keep: end.saturating_sub(self.look_back)..end }
    }
}

/// The decoder: layers, final norm, output layer.
#[derive(Debug, Clone)]
pub struct SanmDecoder {
    stack: DecoderStack,
    output_layer: Linear,
    kernel: usize,
    shift: usize,
}

impl SanmDecoder {
    /// Loads a [`DecoderStack`] and `output_layer`.
    pub fn load(width: usize, vocab: usize, config: &SanmDecoderConfig, vb: VarBuilder) -> Result<Self> {
        if !config.use_output_layer {
            bail!("decoder_conf.use_output_layer: false is not supported");
        }
        let kernel = config.kernel_size;
        if kernel == 0 {
            bail!("decoder: kernel_size is 0");
        }
        let stack = DecoderStack::load(width, config, vb.clone())?;
        let output_layer = Linear::load_coarse(width, vocab, vb.pp("output_layer"))?;
        Ok(Self { stack, output_layer, kernel, shift: config.shift() })
    }

    /// The layers, for those who want to run or replace them one by one.
    pub fn layers(&self) -> &[DecoderLayer] {
        self.stack.layers()
    }

    /// `acoustic_embeds [B, L, D]` of `tokens`, `encoder_out [B, T, D]` of `frames` -> logits `[B, L, V]`.
    pub fn forward(
        &self,
        acoustic_embeds: &Tensor,
        tokens: &Lengths,
        encoder_out: &Tensor,
        frames: &Lengths,
    ) -> Result<Tensor> {
        self.logits(&self.hidden(acoustic_embeds, tokens, encoder_out, frames)?)
    }

    /// [`SanmDecoder::forward`] up to the output layer: `[B, L, D]`.
    pub fn hidden(
        &self,
        acoustic_embeds: &Tensor,
        tokens: &Lengths,
        encoder_out: &Tensor,
        frames: &Lengths,
    ) -> Result<Tensor> {
        self.stack.forward(acoustic_embeds, tokens, encoder_out, frames)
    }

    /// Hidden states `[B, L, D]` -> logits `[B, L, V]`.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        self.output_layer.forward(hidden)
    }

    /// The state before the first chunk of a stream, which looks back on the frames of `look_back` strides.
    ///
    /// # Errors
    /// Memories that would not see the newest token.
    pub fn start(&self, size: ChunkSize, look_back: usize) -> Result<DecoderState> {
        if self.memory_left() >= self.kernel {
            bail!(
                "decoder: sanm_shfit {} is too much for a kernel of {} in a stream",
                self.shift,
                self.kernel
            );
        }
        Ok(DecoderState {
            look_back: look_back.saturating_mul(size.stride()),
            started: false,
            attending: History::default(),
            plain: History::default(),
            cross: History::default(),
        })
    }

    /// [`SanmDecoder::forward`] of the next chunk of each of some streams, at least one token each (FunASR
    /// `models/paraformer/decoder.py`, `forward_chunk`; other than there a single layer of memory alone runs,
    /// too).
    pub fn step(
        &self,
        states: &mut [&mut DecoderState],
        acoustic_embeds: &Tensor,
        tokens: &Lengths,
        encoder_out: &Tensor,
        frames: &Lengths,
    ) -> Result<Tensor> {
        let open = |past: fn(&DecoderState) -> &History, join: &JoinState, layers: usize| {
            let histories: Vec<&History> = states.iter().map(|state| past(state)).collect();
            let joins: Vec<Join> = states.iter().enumerate().map(|(i, state)| join(i, state)).collect();
            Histories::open(&histories, &joins, layers)
        };
        let memory = |left: usize| {
            move |i: usize, state: &DecoderState| state.join_memory(tokens.items()[i], self.kernel, left)
        };
        let frames_of = |i: usize, state: &DecoderState| state.join_frames(frames.items()[i]);
        let attending = self.layers().iter().filter(|layer| layer.attends()).count();
        let plain = self.layers().iter().filter(|layer| layer.is_plain()).count();
        let mut histories = StreamHistories {
            attending: open(|state| &state.attending, &memory(self.memory_left()), attending)?,
            plain: open(|state| &state.plain, &memory((self.kernel - 1) / 2), plain)?,
            cross: open(|state| &state.cross, &frames_of, attending)?,
        };
        let batch = Batch { tokens, memory: encoder_out, frames };
        let logits = self.logits(&self.stack.run(acoustic_embeds, &batch, Some(&mut histories))?)?;
        let StreamHistories { attending, plain, cross } = histories;
        let kept = attending.close()?.into_iter().zip(plain.close()?).zip(cross.close()?);
        for (state, ((attending, plain), cross)) in states.iter_mut().zip(kept) {
            **state = DecoderState { look_back: state.look_back, started: true, attending, plain, cross };
        }
        Ok(logits)
    }

    /// Taps into the past of the memories in layers with attention.
    fn memory_left(&self) -> usize {
        ((self.kernel - 1) / 2).saturating_add(self.shift)
    }
}
