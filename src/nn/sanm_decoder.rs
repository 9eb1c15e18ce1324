//! SANM decoder of Paraformer: feed-forward, then FSMN memory, then attention to the encoder
//! (FunASR `models/paraformer/decoder.py`). It sees all tokens at once and has no position code.

use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;
use funasr_kernels::{Attention, Visible};
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

    /// What `x` finds in `memory` and in the frames of `histories`, plus `residual`.
    fn forward_add(
        &self,
        x: &Tensor,
        residual: &Tensor,
        batch: &Batch,
        histories: Option<&mut Histories>,
    ) -> Result<Tensor> {
        let q = self.linear_q.forward(x)?;
        let kv = self.linear_k_v.forward(batch.memory)?;
        let (kv, keys) = match histories {
            Some(histories) => (histories.join(&kv)?, histories.lengths().clone()),
            None => (kv, batch.frames.clone()),
        };
        let width = q.dim(2)?;
        let attention =
            Attention { heads: self.heads, queries: batch.tokens.clone(), keys, visible: Visible::All };
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
        self.run(x, &Batch { tokens, memory, frames }, None)
    }

    fn run(&self, x: &Tensor, batch: &Batch, streams: Option<&mut StreamHistories>) -> Result<Tensor> {
        let (fsmn_past, cross_past) = match streams {
            Some(StreamHistories { attending, cross, .. }) if self.cross.is_some() => {
                (Some(attending), Some(cross))
            }
            Some(StreamHistories { plain, .. }) => (Some(plain), None),
            None => (None, None),
        };
        let mut y = self.feed_forward.forward(&self.norm1.forward(x)?)?;
        if let Some((norm2, fsmn)) = &self.memory {
            y = norm2.forward(&y)?;
            y = match fsmn_past {
                Some(past) => (x + fsmn.step(&y, past)?)?,
                None => (x + fsmn.forward(&y, batch.tokens)?)?,
            };
        }
        if let Some((norm3, cross)) = &self.cross {
            y = cross.forward_add(&norm3.forward(&y)?, &y, batch, cross_past)?;
        }
        Ok(y)
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
    /// The last `K - 1` inputs of the memories, `[layers, K - 1, D]`: of layers with attention, and of those without.
    pub fn memories(&self) -> [&History; 2] {
        [&self.attending, &self.plain]
    }

    /// Keys and values `[layers, M, 2 D]` of the last frames.
    pub fn cross(&self) -> &History {
        &self.cross
    }

    /// The last `K - 1` rows are remembered. At the start zeros stand before and behind the new rows as if they were the
    /// whole: those behind are remembered, too, as in FunASR.
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
    layers: Vec<DecoderLayer>,
    after_norm: LayerNorm,
    output_layer: Linear,
    kernel: usize,
    shift: usize,
}

impl SanmDecoder {
    /// Loads `decoders.*` (memory and attention), `decoders2.*` (memory alone), `decoders3.0` (feed-forward
    /// alone), `after_norm` and `output_layer`.
    pub fn load(width: usize, vocab: usize, config: &SanmDecoderConfig, vb: VarBuilder) -> Result<Self> {
        let kernel = config.kernel_size;
        if kernel == 0 {
            bail!("decoder: kernel_size is 0");
        }
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
        let output_layer = Linear::load(width, vocab, vb.pp("output_layer"))?;
        Ok(Self { layers, after_norm, output_layer, kernel, shift })
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
        self.run(acoustic_embeds, &Batch { tokens, memory: encoder_out, frames }, None)
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

    /// [`SanmDecoder::forward`] of the next chunk of each of some streams, at least one token each
    /// (FunASR `models/paraformer/decoder.py`, `forward_chunk`; other than there a single layer of memory alone runs,
    /// too).
    pub fn step(
        &self,
        states: &mut [&mut DecoderState],
        acoustic_embeds: &Tensor,
        tokens: &Lengths,
        encoder_out: &Tensor,
        frames: &Lengths,
    ) -> Result<Tensor> {
        let open = |past: fn(&DecoderState) -> &History, join: &dyn Fn(usize, &DecoderState) -> Join| {
            let histories: Vec<&History> = states.iter().map(|state| past(state)).collect();
            let joins: Vec<Join> = states.iter().enumerate().map(|(i, state)| join(i, state)).collect();
            Histories::open(&histories, &joins, encoder_out.device())
        };
        let memory = |left: usize| {
            move |i: usize, state: &DecoderState| state.join_memory(tokens.items()[i], self.kernel, left)
        };
        let mut histories = StreamHistories {
            attending: open(|state| &state.attending, &memory(self.memory_left()))?,
            plain: open(|state| &state.plain, &memory((self.kernel - 1) / 2))?,
            cross: open(|state| &state.cross, &|i, state| state.join_frames(frames.items()[i]))?,
        };
        let batch = Batch { tokens, memory: encoder_out, frames };
        let logits = self.run(acoustic_embeds, &batch, Some(&mut histories))?;
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

    fn run(&self, x: &Tensor, batch: &Batch, mut streams: Option<&mut StreamHistories>) -> Result<Tensor> {
        let mut x = x.clone();
        for layer in &self.layers {
            x = layer.run(&x, batch, streams.as_deref_mut())?;
        }
        self.output_layer.forward(&self.after_norm.forward(&x)?)
    }
}
