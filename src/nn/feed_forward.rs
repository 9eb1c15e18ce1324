//! Position-wise feed-forward layers.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

use super::{LayerNorm, Linear};

/// Encoder feed-forward: `w_2(relu(w_1(x)))`.
#[derive(Debug, Clone)]
pub struct FeedForward {
    w_1: Linear,
    w_2: Linear,
}

impl FeedForward {
    /// Loads `w_1 [units, D]` and `w_2 [D, units]`.
    pub fn load(width: usize, units: usize, vb: VarBuilder) -> Result<Self> {
        let w_1 = Linear::load(width, units, vb.pp("w_1"))?;
        Ok(Self { w_1, w_2: Linear::load(units, width, vb.pp("w_2"))? })
    }

    /// `x` and `residual [B, T, D]` -> their sum after the layer, `[B, T, D]`.
    pub fn forward_add(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        self.w_2.forward_add(&self.w_1.forward_relu(x)?, &[residual])
    }

    /// The same and the norm of that sum.
    pub fn forward_add_norm(&self, x: &Tensor, residual: &Tensor, norm: &LayerNorm) -> Result<[Tensor; 2]> {
        self.w_2.forward_add_norm(&self.w_1.forward_relu(x)?, &[residual], norm)
    }
}

/// Decoder feed-forward: `w_2(norm(relu(w_1(x))))`, a norm inside and no bias at the end
/// (FunASR `models/sanm/positionwise_feed_forward.py`).
#[derive(Debug, Clone)]
pub struct DecoderFeedForward {
    w_1: Linear,
    norm: LayerNorm,
    w_2: Linear,
}

impl DecoderFeedForward {
    /// Loads `w_1 [units, D]`, `norm [units]` and `w_2 [D, units]`.
    pub fn load(width: usize, units: usize, vb: VarBuilder) -> Result<Self> {
        Ok(Self {
            w_1: Linear::load(width, units, vb.pp("w_1"))?,
            norm: LayerNorm::load(units, LayerNorm::EPS, vb.pp("norm"))?,
            w_2: Linear::load_no_bias(units, width, vb.pp("w_2"))?,
        })
    }

    /// `[B, L, D]` -> `[B, L, D]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.w_2.forward(&self.w_1.forward_relu_norm(x, &self.norm)?)
    }

    /// The norm of that.
    pub fn forward_norm(&self, x: &Tensor, norm: &LayerNorm) -> Result<Tensor> {
        let [_, normed] =
            self.w_2.forward_add_norm(&self.w_1.forward_relu_norm(x, &self.norm)?, &[], norm)?;
        Ok(normed)
    }
}
