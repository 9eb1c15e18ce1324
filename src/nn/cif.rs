//! Continuous integrate-and-fire: from one weight a frame (alpha) to one acoustic embedding a token.
//!
//! Alphas add up along time; each time the sum passes an integer a token fires, and its embedding is the sum of
//! the frames since the last firing, weighted by their alphas, with the alpha of a firing frame split between the
//! two tokens. Dong and Xu, "CIF: Continuous Integrate-and-Fire for End-to-End Speech Recognition", 2020; FunASR
//! `models/paraformer/cif_predictor.py` (`CifPredictorV2`, `cif_v1`). What version 3 adds is in `cif_v3.rs`, streams
//! are in `cif_stream.rs`.

use candle_core::{DType, Device, Result, Tensor, bail};
use candle_nn::VarBuilder;
use funasr_kernels::{CifSums, Firing};
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

/// CIF predictor V2: a convolution and a linear layer give alphas, which [`Cif`] integrates.
#[derive(Debug, Clone)]
pub struct CifPredictor {
    /// The convolution, as a product with `taps` neighbouring frames.
    cif_conv1d: Linear,
    cif_output: Linear,
    config: CifConfig,
    integrate: fn(&[f32], bool) -> Cif,
}

impl CifPredictor {
    /// Loads `cif_conv1d` and `cif_output`.
    pub fn load(config: &CifConfig, vb: VarBuilder) -> Result<Self> {
        Self::load_with(config, Cif::integrate, vb)
    }

    /// [`CifPredictor::load`] with another way to integrate.
    pub(super) fn load_with(
        config: &CifConfig,
        integrate: fn(&[f32], bool) -> Cif,
        vb: VarBuilder,
    ) -> Result<Self> {
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
            integrate,
        })
    }

    /// `encoder_out [B, T, D]` -> tokens. An item gives the same in any batch: what lies in the padding is not read.
    pub fn forward(&self, encoder_out: &Tensor, lengths: &Lengths) -> Result<CifOutput> {
        let hidden = without_padding(encoder_out, lengths)?;
        let mut alphas = self.alphas(&hidden, lengths)?;
        let tail = self.config.tail_threshold > 0.0;
        if tail {
            alphas.iter_mut().for_each(|alphas| alphas.push(self.config.tail_threshold as f32));
        }
        let tracks: Vec<Cif> = alphas.iter().map(|alphas| (self.integrate)(alphas, tail)).collect();
        let token_num = Lengths::new(tracks.iter().map(|track| track.token_num).collect::<Vec<_>>());
        let firings: Vec<Firing> = tracks.iter().map(Cif::firing).collect();
        Ok(CifOutput {
            acoustic_embeds: CifSums { items: &firings, tokens: token_num.max() }.forward(&hidden)?,
            token_num,
            alphas,
            peaks: tracks.into_iter().map(|track| track.peaks).collect(),
        })
    }

    /// `relu` of the convolution over `hidden [B, T, D]`, which is zero in the padding: `[B, T, D]`.
    pub(super) fn convolve(&self, hidden: &Tensor) -> Result<Tensor> {
        let (time, taps) = (hidden.dim(1)?, 0..=self.config.l_order + self.config.r_order);
        let padded = hidden.pad_with_zeros(1, self.config.l_order, self.config.r_order)?;
        let taps: Vec<Tensor> = taps.map(|tap| padded.narrow(1, tap, time)).collect::<Result<_>>()?;
        self.cif_conv1d.forward_relu(&Tensor::cat(&taps, 2)?)
    }

    /// Weights of each item's valid frames.
    pub(super) fn alphas(&self, hidden: &Tensor, lengths: &Lengths) -> Result<Vec<Vec<f32>>> {
        let CifConfig { smooth_factor, noise_threshold, .. } = self.config;
        let logits = self.cif_output.forward(&self.convolve(hidden)?.to_dtype(DType::F32)?)?;
        weights(&logits, lengths, [smooth_factor, noise_threshold])
    }

    /// Weight of the frame behind the last one.
    pub(super) fn tail_threshold(&self) -> f32 {
        self.config.tail_threshold as f32
    }
}

/// `[B, T, D]` with zeros in the padding.
pub(super) fn without_padding(encoder_out: &Tensor, lengths: &Lengths) -> Result<Tensor> {
    lengths.check("predictor", encoder_out)?;
    if !lengths.padded() {
        return Ok(encoder_out.clone());
    }
    let mask = lengths.mask(encoder_out.dtype(), encoder_out.device())?;
    encoder_out.broadcast_mul(&mask.unsqueeze(2)?)
}

/// `relu(sigmoid(logits) * smooth - noise)` of each item's valid frames; `logits [B, T, 1]`.
pub(super) fn weights(
    logits: &Tensor,
    lengths: &Lengths,
    [smooth, noise]: [f64; 2],
) -> Result<Vec<Vec<f32>>> {
    let logits = logits.squeeze(2)?.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.to_vec2::<f32>()?;
    let (smooth, noise) = (smooth as f32, noise as f32);
    let weigh = |x: &f32| (smooth / (1.0 + (-x).exp()) - noise).max(0.0);
    let item = |(row, &n): (&Vec<f32>, &usize)| row[..n].iter().map(weigh).collect();
    Ok(logits.iter().zip(lengths.items()).map(item).collect())
}

/// The firing track of one utterance.
#[derive(Debug, Clone, PartialEq)]
pub struct Cif {
    /// Tokens, as FunASR counts them: from the f32 sum of the alphas, not from the firings.
    pub token_num: usize,
    /// Running sum since the last firing at each frame; where a token fired, before it took its 1.
    pub peaks: Vec<f32>,
    /// Per firing: its frame and the part of that frame's alpha that goes to the next token.
    fires: Vec<(usize, f32)>,
    alphas: Vec<f32>,
}

impl Cif {
    /// Integrates the alphas of one utterance. With a tail the token count is the whole part of their sum, without
    /// one their sum rounded half to even.
    pub fn integrate(alphas: &[f32], tail: bool) -> Self {
        let (mut sum, mut floor_before) = (0f64, 0f32);
        let mut peaks = Vec::with_capacity(alphas.len());
        let mut fires = Vec::new();
        for (frame, &alpha) in alphas.iter().enumerate() {
            sum += f64::from(alpha);
            let prefix = sum as f32;
            let fired = prefix.floor() > floor_before;
            // In this order, since the first addition rounds.
            let peak = (f32::from(fired) + prefix) - prefix.floor();
            if fired {
                fires.push((frame, peak - peak.floor()));
            }
            peaks.push(peak);
            floor_before = prefix.floor();
        }
        Self { token_num: count(sum, tail), peaks, fires, alphas: alphas.to_vec() }
    }

    /// [`Cif::integrate`] as version 3 does it (`models/bicif_paraformer/cif_predictor.py`, `cif`): the sum is
    /// kept in f32 and loses 1 with each firing, so that a frame fires once at most.
    pub fn integrate_stepwise(alphas: &[f32], tail: bool) -> Self {
        let mut sum = 0f32;
        let mut peaks = Vec::with_capacity(alphas.len());
        let mut fires = Vec::new();
        for (frame, &alpha) in alphas.iter().enumerate() {
            let missing = 1.0 - sum;
            sum += alpha;
            peaks.push(sum);
            if sum >= 1.0 {
                fires.push((frame, alpha - missing));
                sum -= 1.0;
            }
        }
        let total = alphas.iter().map(|&alpha| f64::from(alpha)).sum();
        Self { token_num: count(total, tail), peaks, fires, alphas: alphas.to_vec() }
    }

    /// Frames at which a token fired.
    pub fn fire_frames(&self) -> impl Iterator<Item = usize> + '_ {
        self.fires.iter().map(|&(frame, _)| frame)
    }

    /// The firings that make tokens.
    fn firing(&self) -> Firing<'_> {
        Firing { alphas: &self.alphas, fires: &self.fires[..self.fires.len().min(self.token_num)] }
    }
}

/// Tokens in a sum of alphas.
fn count(sum: f64, tail: bool) -> usize {
    let sum = sum as f32;
    (if tail { sum.floor() } else { sum.round_ties_even() }) as usize
}
