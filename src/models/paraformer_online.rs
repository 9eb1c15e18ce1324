//! Streaming Paraformer: the same network on overlapping chunks, and what is carried between them.
//!
//! A chunk also sees some frames on both sides of those that it decides about; attention looks back on some
//! chunks, the decoder's memory on some tokens. One step takes one chunk of each of many streams, so that the
//! weights are read once for all of them. FunASR `models/paraformer_streaming/model.py`; Zhang et al.,
//! "Streaming Chunk-Aware Multihead Attention for Online End-to-End Speech Recognition", 2020.

use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;
use serde::Deserialize;

use super::paraformer::{self, PredictorClass};
use crate::nn::{
    Chunk, ChunkSize, CifConfig, CifPredictor, CifState, CifStep, Decided, DecoderState, EncoderState,
    Lengths, SanmDecoder, SanmEncoder,
};

/// Configuration: that of the plain Paraformer but for class and encoder. The chunks it was trained with are not
/// part of it: a request says how its stream is cut.
pub type Config = paraformer::Config<Class, PredictorClass, CifConfig, EncoderClass>;

/// The class this file implements.
#[derive(Debug, Clone, Copy, Deserialize)]
pub enum Class {
    /// Online Paraformer.
    ParaformerStreaming,
}

/// Supported encoders.
#[derive(Debug, Clone, Copy, Deserialize)]
pub enum EncoderClass {
    /// See [`SanmEncoder::step`].
    SANMEncoderChunkOpt,
}

/// How a stream is cut and how far it looks back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamOptions {
    /// Frames of a chunk.
    pub chunk_size: ChunkSize,
    /// Chunks that the encoder's attention looks back on; `None` is all of them, and the state grows.
    pub encoder_look_back: Option<usize>,
    /// Chunks that the decoder's attention looks back on.
    pub decoder_look_back: usize,
}

impl Default for StreamOptions {
    /// The chunks of FunASR's demonstrations: `[0, 10, 5]`, looking back 4 in the encoder and 1 in the
    /// decoder (its `generate` alone would not look back).
    fn default() -> Self {
        Self { chunk_size: ChunkSize::default(), encoder_look_back: Some(4), decoder_look_back: 1 }
    }
}

/// What one stream carries from chunk to chunk.
#[derive(Debug, Clone)]
pub struct State {
    chunk_size: ChunkSize,
    encoder: EncoderState,
    cif: CifState,
    decoder: DecoderState,
}

impl State {
    /// What the encoder carries.
    pub fn encoder(&self) -> &EncoderState {
        &self.encoder
    }

    /// What the predictor carries.
    pub fn cif(&self) -> &CifState {
        &self.cif
    }

    /// What the decoder carries.
    pub fn decoder(&self) -> &DecoderState {
        &self.decoder
    }
}

/// Every stage of one step.
#[derive(Debug, Clone)]
pub struct Output {
    /// `[B, T, D]`.
    pub encoder_out: Tensor,
    /// Frames of each stream, the context at both sides included.
    pub frames: Lengths,
    /// Number, counted from the start of its stream, of the first of those frames: negative where it is the
    /// silence before the start.
    pub first_frames: Vec<i64>,
    /// Alphas, fires and acoustic embeddings.
    pub cif: CifStep,
    /// The streams with at least one token: the decoder ran for them alone.
    pub fired: Vec<usize>,
    /// `[streams with a token, L, V]`; none if no token fired.
    pub decoder_logits: Option<Tensor>,
}

/// The model.
#[derive(Debug, Clone)]
pub struct ParaformerStreaming {
    encoder: SanmEncoder,
    predictor: CifPredictor,
    decoder: SanmDecoder,
}

impl ParaformerStreaming {
    /// Loads `encoder.*`, `predictor.*` and `decoder.*`; `speech_width` is the width of a feature row.
    pub fn load(speech_width: usize, config: &Config, vb: VarBuilder) -> Result<Self> {
        let width = config.encoder_conf.output_size;
        if config.predictor_conf.idim != width {
            let idim = config.predictor_conf.idim;
            bail!("predictor_conf.idim is {idim}, encoder_conf.output_size is {width}");
        }
        // `decoder.embed` takes part in training alone.
        if vb.contains_tensor("decoder.embed.0.weight") {
            vb.get_unchecked("decoder.embed.0.weight")?;
        }
        let decoder = SanmDecoder::load(width, config.vocab_size, &config.decoder_conf, vb.pp("decoder"))?;
        Ok(Self {
            encoder: SanmEncoder::load(speech_width, &config.encoder_conf, vb.pp("encoder"))?,
            predictor: CifPredictor::load(&config.predictor_conf, vb.pp("predictor"))?,
            decoder,
        })
    }

    /// The state before the first chunk of a stream.
    ///
    /// # Errors
    /// A decoder whose memory is shifted beyond its kernel.
    pub fn start(&self, options: &StreamOptions) -> Result<State> {
        Ok(State {
            chunk_size: options.chunk_size,
            encoder: self.encoder.start(options.chunk_size, options.encoder_look_back),
            cif: CifState::default(),
            decoder: self.decoder.start(options.chunk_size, options.decoder_look_back)?,
        })
    }

    /// The next chunk of each of some streams -> every stage. The streams may be anywhere and cut
    /// differently; each gets what it gets alone.
    ///
    /// # Errors
    /// Rows of a wrong width, no rows, a failed operation. The states are then of no further use.
    pub fn step(&self, states: &mut [&mut State], chunks: &[Chunk]) -> Result<Output> {
        if states.len() != chunks.len() || states.is_empty() {
            bail!("paraformer: {} chunks for {} streams", chunks.len(), states.len());
        }
        let first = |state: &&mut State| state.encoder.position() as i64 - state.chunk_size.context() as i64;
        let first_frames = states.iter().map(first).collect();
        let mut parts: Vec<_> = states.iter_mut().map(|state| &mut state.encoder).collect();
        let (encoder_out, frames) = self.encoder.step(&mut parts, chunks)?;

        let decided = states.iter().zip(chunks).zip(frames.items());
        let decided: Vec<Decided> = decided.map(|((s, chunk), &n)| s.decided(*chunk, n)).collect();
        let mut parts: Vec<_> = states.iter_mut().map(|state| &mut state.cif).collect();
        let cif = self.predictor.step(&mut parts, &encoder_out, &frames, &decided)?;

        let fired: Vec<usize> = (0..states.len()).filter(|&i| cif.tokens.items()[i] > 0).collect();
        let mut output = Output { encoder_out, frames, first_frames, cif, fired, decoder_logits: None };
        let parts = states.iter_mut().zip(output.cif.tokens.items()).filter(|(_, tokens)| **tokens > 0);
        let mut parts: Vec<_> = parts.map(|(state, _)| &mut state.decoder).collect();
        if !parts.is_empty() {
            output.decoder_logits = Some(self.decode(&mut parts, &output)?);
        }
        Ok(output)
    }

    /// The decoder, on the streams that fired: those that did not keep its state.
    fn decode(&self, states: &mut [&mut DecoderState], output: &Output) -> Result<Tensor> {
        let Output { encoder_out, frames, cif, fired, .. } = output;
        if fired.len() == frames.batch() {
            return self.decoder.step(states, &cif.acoustic_embeds, &cif.tokens, encoder_out, frames);
        }
        let rows = Tensor::new(fired.iter().map(|&i| i as u32).collect::<Vec<_>>(), encoder_out.device())?;
        let pick = |all: &Lengths| Lengths::new(fired.iter().map(|&i| all.items()[i]).collect::<Vec<_>>());
        let (tokens, frames) = (pick(&cif.tokens), pick(frames));
        let cut = |x: &Tensor, to: &Lengths| x.index_select(&rows, 0)?.narrow(1, 0, to.max())?.contiguous();
        let (embeds, encoder_out) = (cut(&cif.acoustic_embeds, &tokens)?, cut(encoder_out, &frames)?);
        self.decoder.step(states, &embeds, &tokens, &encoder_out, &frames)
    }
}

impl State {
    /// Left context is decided already; right context has its turn in the next chunk, if there is one.
    fn decided(&self, chunk: Chunk, frames: usize) -> Decided {
        let left = self.chunk_size.left();
        let end = if chunk.is_last() { frames } else { left + self.chunk_size.stride() };
        Decided { frames: left..end, last: chunk.is_last() }
    }
}
