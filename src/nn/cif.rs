//! Continuous integrate-and-fire: from one weight a frame (alpha) to one acoustic embedding a token.
//!
//! Alphas add up along time; each time the sum passes an integer a token fires, and its embedding is the sum of
//! the frames since the last firing, weighted by their alphas, with the alpha of a firing frame split between the
//! two tokens. Dong and Xu, "CIF: Continuous Integrate-and-Fire for End-to-End Speech Recognition", 2020; FunASR
//! `models/paraformer/cif_predictor.py` (`CifPredictorV2`, `cif_v1`). What version 3 adds is in `cif_v3.rs`, streams
//! are in `cif_stream.rs`.

use candle_core::{DType, Device, Result, Tensor, bail};
use candle_nn::VarBuilder;
use funasr_kernels::{Cif, CifFire, CifSums, Integration, Unfold, alpha};
use serde::Deserialize;

use super::{Lengths, Linear};

/// `predictor_conf`, with FunASR's key names and defaults.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CifConfig {
    /// Width D of the encoder output.
    pub idim: usize,
    /// Frames of left context of the convolution.
    pub l_order: usize,
    /// Frames of right context of the convolution.
    pub r_order: usize,
    /// Firing threshold. Offline firing is at integers whatever stands here, so only 1 is accepted.
    #[serde(default = "one")]
    pub threshold: f64,
    /// Alphas are multiplied by this after the sigmoid.
    #[serde(default = "one")]
    pub smooth_factor: f64,
    /// Subtracted from the smoothed alphas.
    #[serde(default)]
    pub noise_threshold: f64,
    /// Weight of the frame added after the last one, which lets a nearly complete token fire; 0: no such frame.
    #[serde(default)]
    pub tail_threshold: f64,
    /// Whether the tail follows each item or only the padded batch. One at a time there is no difference.
    #[serde(default = "yes")]
    pub tail_mask: bool,
}

pub(super) fn one() -> f64 {
    1.0
}

pub(super) fn yes() -> bool {
    true
}

/// What integrate-and-fire found in one batch.
#[derive(Debug, Clone)]
pub struct CifOutput {
    /// `[B, L, D]`, L the largest token count; zero rows after an item's last token.
    pub acoustic_embeds: Tensor,
    /// Tokens of each item.
    pub token_num: Lengths,
    /// Weights of each item's frames, the tail's included.
    pub alphas: Vec<Vec<f32>>,
    /// Running sum since the last firing at each frame; where a token fired, before it took its 1.
    pub peaks: Vec<Vec<f32>>,
}

/// CIF predictor V2: a convolution and a linear layer give alphas, which add up to tokens.
#[derive(Debug, Clone)]
pub struct CifPredictor {
    /// The convolution, as a product with `taps` neighbouring frames.
    cif_conv1d: Linear,
    cif_output: Linear,
    config: CifConfig,
    integration: Integration,
}

impl CifPredictor {
    /// Loads `cif_conv1d` and `cif_output`.
    pub fn load(config: &CifConfig, vb: VarBuilder) -> Result<Self> {
        Self::load_with(config, Integration::Prefix, vb)
    }

    /// [`CifPredictor::load`] with another way to integrate.
    pub(super) fn load_with(config: &CifConfig, integration: Integration, vb: VarBuilder) -> Result<Self> {
        if config.threshold != 1.0 {
            bail!("predictor: a threshold of {} is not supported, only 1", config.threshold);
        }
        let (width, taps) = (config.idim, config.l_order + config.r_order + 1);
        let weight = vb.get((width, width, taps), "cif_conv1d.weight")?;
        Ok(Self {
            cif_conv1d: Linear::new(
                &weight.transpose(1, 2)?.reshape((width, taps * width))?,
                vb.get(width, "cif_conv1d.bias")?,
            )?,
            // Alphas add up over a recording: 16 bits of each would move the places where tokens fire.
            cif_output: Linear::load_f32(width, 1, vb.to_dtype(DType::F32).pp("cif_output"))?,
            config: config.clone(),
            integration,
        })
    }

    /// `encoder_out [B, T, D]` -> tokens. An item gives the same in any batch: what lies in the padding is not read.
    pub fn forward(&self, encoder_out: &Tensor, lengths: &Lengths) -> Result<CifOutput> {
        let tail = Some(self.tail_threshold()).filter(|&tail| tail > 0.0);
        let (lengths, scale, integration) = (lengths.clone(), self.scale(), self.integration);
        let logits = self.logits(encoder_out, &lengths)?.squeeze(2)?;
        let fired = CifFire { lengths, scale, tail, integration }.forward(&logits)?;
        let token_num = fired.token_num();
        let acoustic_embeds = CifSums { fired: &fired, tokens: token_num.max() }.forward(encoder_out)?;
        let tracks = fired.into_tracks().into_iter();
        let (alphas, peaks) = tracks.map(|Cif { alphas, peaks, .. }| (alphas, peaks)).unzip();
        Ok(CifOutput { acoustic_embeds, token_num, alphas, peaks })
    }

    /// `relu` of the convolution over the valid frames of `hidden [B, T, D]`: `[B, T, D]`.
    pub(super) fn convolve(&self, hidden: &Tensor, lengths: &Lengths) -> Result<Tensor> {
        let CifConfig { l_order: before, r_order: after, .. } = self.config;
        self.cif_conv1d.forward_relu(&Unfold { before, after, lengths: lengths.clone() }.forward(hidden)?)
    }

    /// What weights of frames are made of, `[B, T, 1]` in f32.
    fn logits(&self, hidden: &Tensor, lengths: &Lengths) -> Result<Tensor> {
        self.cif_output.forward(&self.convolve(hidden, lengths)?.to_dtype(DType::F32)?)
    }

    /// Weights of each item's valid frames.
    pub(super) fn alphas(&self, hidden: &Tensor, lengths: &Lengths) -> Result<Vec<Vec<f32>>> {
        weights(&self.logits(hidden, lengths)?, lengths, self.scale())
    }

    fn scale(&self) -> [f32; 2] {
        [self.config.smooth_factor as f32, self.config.noise_threshold as f32]
    }

    /// Weight of the frame behind the last one.
    pub(super) fn tail_threshold(&self) -> f32 {
        self.config.tail_threshold as f32
    }
}

/// Weights of each item's valid frames from `logits [B, T, 1]`.
pub(super) fn weights(logits: &Tensor, lengths: &Lengths, scale: [f32; 2]) -> Result<Vec<Vec<f32>>> {
    let logits = logits.squeeze(2)?.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.to_vec2::<f32>()?;
    let item = |(row, &n): (&Vec<f32>, &usize)| row[..n].iter().map(|&logit| alpha(logit, scale)).collect();
    Ok(logits.iter().zip(lengths.items()).map(item).collect())
}
