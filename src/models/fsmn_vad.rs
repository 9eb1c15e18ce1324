//! FSMN-VAD: per frame, how likely silence is.
//!
//! Two linear layers, a stack of FSMN blocks, two linear layers, softmax; no activation between paired linear
//! layers and no residual between blocks. FunASR `models/fsmn_vad_streaming/encoder.py`. What the scores mean for
//! segments is decided in [`crate::vad`].

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use funasr_kernels::Softmax;
use serde::Deserialize;

use crate::nn::{FsmnBlockConfig, FsmnStack, History, Linear};

/// Configuration, with FunASR's section names.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Model class.
    pub model: Class,
    /// Network class.
    pub encoder: EncoderClass,
    /// Network shape.
    pub encoder_conf: EncoderConfig,
}

/// The class this file implements.
#[derive(Debug, Clone, Copy, Deserialize)]
pub enum Class {
    /// Offline and online are the same network.
    FsmnVADStreaming,
}

/// Supported networks.
#[derive(Debug, Clone, Copy, Deserialize)]
pub enum EncoderClass {
    /// An [`FsmnStack`].
    FSMN,
}

/// `encoder_conf`, with FunASR's key names.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncoderConfig {
    /// Width of a feature row.
    pub input_dim: usize,
    /// Width after the first linear layer.
    pub input_affine_dim: usize,
    /// Number of blocks.
    pub fsmn_layers: usize,
    /// Width between blocks.
    pub linear_dim: usize,
    /// Width of the memories.
    pub proj_dim: usize,
    /// Taps into the past.
    pub lorder: usize,
    /// Taps into the future.
    pub rorder: usize,
    /// Frames between taps into the past.
    pub lstride: usize,
    /// Frames between taps into the future.
    pub rstride: usize,
    /// Width before the last linear layer.
    pub output_affine_dim: usize,
    /// Classes.
    pub output_dim: usize,
    /// Scores as probabilities; `false` is refused.
    #[serde(default = "yes")]
    pub use_softmax: bool,
}

fn yes() -> bool {
    true
}

/// What one stream remembers: the memory of each block.
pub type State = History;

/// The network.
#[derive(Debug, Clone)]
pub struct FsmnVad {
    in_linear1: Linear,
    in_linear2: Linear,
    blocks: FsmnStack,
    out_linear1: Linear,
    out_linear2: Linear,
}

impl FsmnVad {
    /// Loads `encoder.*`.
    pub fn load(config: &Config, vb: VarBuilder) -> Result<Self> {
        let conf = &config.encoder_conf;
        if !conf.use_softmax {
            candle_core::bail!("encoder_conf.use_softmax: false is not supported");
        }
        let vb = vb.pp("encoder");
        let block = FsmnBlockConfig {
            linear_dim: conf.linear_dim,
            proj_dim: conf.proj_dim,
            lorder: conf.lorder,
            rorder: conf.rorder,
            lstride: conf.lstride,
            rstride: conf.rstride,
        };
        let linear =
            |inputs, outputs, name: &str| Linear::load_coarse(inputs, outputs, vb.pp(name).pp("linear"));
        Ok(Self {
            in_linear1: linear(conf.input_dim, conf.input_affine_dim, "in_linear1")?,
            in_linear2: linear(conf.input_affine_dim, conf.linear_dim, "in_linear2")?,
            blocks: FsmnStack::load(conf.fsmn_layers, &block, vb.clone())?,
            out_linear1: linear(conf.linear_dim, conf.output_affine_dim, "out_linear1")?,
            out_linear2: linear(conf.output_affine_dim, conf.output_dim, "out_linear2")?,
        })
    }

    /// The state of a stream at its start.
    pub fn start(&self) -> Result<State> {
        self.blocks.start()
    }

    /// Whether frames depend on those behind them in their chunk, so that it matters where chunks end. Not in the published models.
    pub fn looks_ahead(&self) -> bool {
        self.blocks.looks_ahead()
    }

    /// The next chunk of each stream, `[B, T, input_dim]` of normalised features -> `vad_scores [B, T, output_dim]`. After
    /// an error the states are of no use.
    pub fn step(&self, states: &mut [State], speech: &Tensor) -> Result<Tensor> {
        let x = self.in_linear1.forward(speech)?;
        let x = self.blocks.step(&self.in_linear2.forward_relu(&x)?, states)?;
        Softmax.forward(&self.out_linear2.forward(&self.out_linear1.forward(&x)?)?)
    }
}
