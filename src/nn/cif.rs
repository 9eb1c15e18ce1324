//! Continuous integrate-and-fire: from one weight a frame (alpha) to one acoustic embedding a token.
//!
//! Alphas add up along time; each time the sum passes an integer a token fires, and its embedding is the sum of
//! the frames since the last firing, weighted by their alphas, with the alpha of a firing frame split between the
//! two tokens. Dong and Xu, "CIF: Continuous Integrate-and-Fire for End-to-End Speech Recognition", 2020; FunASR
//! `models/paraformer/cif_predictor.py` (`CifPredictorV2`, `cif_v1`).

use candle_core::{DType, Device, Result, Tensor, bail};
use candle_nn::VarBuilder;
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

fn one() -> f64 {
    1.0
}

fn yes() -> bool {
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
    /// Fractional part of the running sum at each frame, plus 1 where a token fired.
    pub peaks: Vec<Vec<f32>>,
}

/// CIF predictor V2: a convolution and a linear layer give alphas, which [`Cif`] integrates.
#[derive(Debug, Clone)]
pub struct CifPredictor {
    /// The convolution, as a product with `taps` neighbouring frames.
    cif_conv1d: Linear,
    cif_output: Linear,
    config: CifConfig,
}

impl CifPredictor {
    /// Loads `cif_conv1d` and `cif_output`.
    pub fn load(config: &CifConfig, vb: VarBuilder) -> Result<Self> {
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
            cif_output: Linear::load(width, 1, vb.pp("cif_output"))?,
            config: config.clone(),
        })
    }

    /// `encoder_out [B, T, D]` -> tokens. An item gives the same in any batch: what lies in the padding is not read.
    pub fn forward(&self, encoder_out: &Tensor, lengths: &Lengths) -> Result<CifOutput> {
        lengths.check("predictor", encoder_out)?;
        let hidden = if lengths.padded() {
            let mask = lengths.mask(encoder_out.dtype(), encoder_out.device())?;
            encoder_out.broadcast_mul(&mask.unsqueeze(2)?)?
        } else {
            encoder_out.clone()
        };
        let alphas = self.alphas(&hidden, lengths)?;
        let tail = self.config.tail_threshold > 0.0;
        let tracks: Vec<Cif> = alphas.iter().map(|alphas| Cif::integrate(alphas, tail)).collect();
        let token_num = Lengths::new(tracks.iter().map(|track| track.token_num).collect::<Vec<_>>());
        Ok(CifOutput {
            acoustic_embeds: embeds(&tracks, &hidden, &token_num)?,
            token_num,
            alphas,
            peaks: tracks.into_iter().map(|track| track.peaks).collect(),
        })
    }

    /// Weights of each item's valid frames, followed by the tail's.
    fn alphas(&self, hidden: &Tensor, lengths: &Lengths) -> Result<Vec<Vec<f32>>> {
        let config = &self.config;
        let time = hidden.dim(1)?;
        let padded = hidden.pad_with_zeros(1, config.l_order, config.r_order)?;
        let taps: Vec<Tensor> = (0..=config.l_order + config.r_order)
            .map(|tap| padded.narrow(1, tap, time))
            .collect::<Result<_>>()?;
        let conv = self.cif_conv1d.forward_relu(&Tensor::cat(&taps, 2)?)?;
        let logits = self.cif_output.forward(&conv)?.squeeze(2)?.to_device(&Device::Cpu)?;
        let logits = logits.to_dtype(DType::F32)?.to_vec2::<f32>()?;
        let (smooth, noise) = (config.smooth_factor as f32, config.noise_threshold as f32);
        let weigh = |x: &f32| (smooth / (1.0 + (-x).exp()) - noise).max(0.0);
        let tail = (config.tail_threshold > 0.0).then_some(config.tail_threshold as f32);
        let item = |(row, &n): (&Vec<f32>, &usize)| row[..n].iter().map(weigh).chain(tail).collect();
        Ok(logits.iter().zip(lengths.items()).map(item).collect())
    }
}

/// The firing track of one utterance.
#[derive(Debug, Clone, PartialEq)]
pub struct Cif {
    /// Tokens, as FunASR counts them: from the f32 sum of the alphas, not from the firings.
    pub token_num: usize,
    /// Fractional part of the running sum, plus 1 where a token fired.
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
        let total = sum as f32;
        let token_num = if tail { total.floor() } else { total.round_ties_even() };
        Self { token_num: token_num as usize, peaks, fires, alphas: alphas.to_vec() }
    }

    /// Frames at which a token fired.
    pub fn fire_frames(&self) -> impl Iterator<Item = usize> + '_ {
        self.fires.iter().map(|&(frame, _)| frame)
    }

    /// Adds to `weights` (`[tokens, frames]`, zero) what each frame gives to each token.
    fn fill_weights(&self, weights: &mut [f32], frames: usize) {
        let mut start = 0;
        let mut carried = None;
        for (row, &(fire, rest)) in weights.chunks_exact_mut(frames).zip(&self.fires).take(self.token_num) {
            if let Some((frame, part)) = carried.filter(|&(frame, _)| frame < frames) {
                row[frame] = part;
            }
            // The tail frame lies behind the last one and its hidden state is zero: it has no column.
            let end = (fire + 1).min(frames);
            row[start..end].copy_from_slice(&self.alphas[start..end]);
            if fire < frames {
                row[fire] -= rest;
            }
            (start, carried) = (end, Some((fire, rest)));
        }
    }
}

/// Weighted sums of frames as one product: `[B, L, T] x [B, T, D]`. It runs on any device, and the hidden states
/// never leave theirs.
fn embeds(tracks: &[Cif], hidden: &Tensor, token_num: &Lengths) -> Result<Tensor> {
    let (batch, frames, width) = hidden.dims3()?;
    let tokens = token_num.max();
    if tokens == 0 || frames == 0 {
        return Tensor::zeros((batch, tokens, width), hidden.dtype(), hidden.device());
    }
    let mut weights = vec![0f32; batch * tokens * frames];
    for (track, weights) in tracks.iter().zip(weights.chunks_exact_mut(tokens * frames)) {
        track.fill_weights(weights, frames);
    }
    let weights = Tensor::from_vec(weights, (batch, tokens, frames), hidden.device())?;
    weights.to_dtype(hidden.dtype())?.matmul(&hidden.contiguous()?)
}
