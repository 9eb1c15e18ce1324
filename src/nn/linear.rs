//! Affine layer.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use funasr_kernels::{Activation, Linear as LinearOp};

/// `x W^T + b`, with tensors `weight [out, in]` and `bias [out]`.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// Loads `weight` and `bias`.
    pub fn load(inputs: usize, outputs: usize, vb: VarBuilder) -> Result<Self> {
        Ok(Self { weight: vb.get((outputs, inputs), "weight")?, bias: Some(vb.get(outputs, "bias")?) })
    }

    /// Loads `weight` alone.
    pub fn load_no_bias(inputs: usize, outputs: usize, vb: VarBuilder) -> Result<Self> {
        Ok(Self { weight: vb.get((outputs, inputs), "weight")?, bias: None })
    }

    /// `[.., in]` -> `[.., out]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        LinearOp { activation: Activation::Identity }.forward(x, &self.weight, self.bias.as_ref())
    }

    /// [`Linear::forward`], then `max(., 0)`.
    pub fn forward_relu(&self, x: &Tensor) -> Result<Tensor> {
        LinearOp { activation: Activation::Relu }.forward(x, &self.weight, self.bias.as_ref())
    }
}
