//! Layer normalisation with a loaded scale and shift.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use funasr_kernels::{LayerNorm as LayerNormOp, Norm};

/// Layer norm over the last dimension, with tensors `weight [D]` and `bias [D]`.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    op: LayerNormOp,
}

impl LayerNorm {
    /// eps of FunASR's encoders and decoders (`models/transformer/layer_norm.py`); SenseVoice differs.
    pub const EPS: f64 = 1e-12;

    /// Loads a norm of the given width.
    pub fn load(width: usize, eps: f64, vb: VarBuilder) -> Result<Self> {
        let op = LayerNormOp { eps };
        Ok(Self { weight: vb.get(width, "weight")?, bias: vb.get(width, "bias")?, op })
    }

    /// `[.., D]` -> `[.., D]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.as_norm().forward(x)
    }

    /// As ops take it.
    pub(super) fn as_norm(&self) -> Norm<'_> {
        Norm { op: self.op, weight: &self.weight, bias: &self.bias }
    }
}
