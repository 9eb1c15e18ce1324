//! Affine layer.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use funasr_kernels::{Activation, Linear as LinearOp};

/// `x W^T + b`, with tensors `weight [out, in]` and `bias [out]`.
#[derive(Debug, Clone)]
pub struct Linear {
    /// `[in, out]`, turned round once: see [`LinearOp`].
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    /// Loads `weight` and `bias`.
    pub fn load(inputs: usize, outputs: usize, vb: VarBuilder) -> Result<Self> {
        Self::new(&vb.get((outputs, inputs), "weight")?, vb.get(outputs, "bias")?)
    }

    /// Loads `weight` alone.
    pub fn load_no_bias(inputs: usize, outputs: usize, vb: VarBuilder) -> Result<Self> {
        let weight = vb.get((outputs, inputs), "weight")?;
        let bias = Tensor::zeros(outputs, weight.dtype(), weight.device())?;
        Self::new(&weight, bias)
    }

    /// From `weight [out, in]` and `bias [out]`.
    pub fn new(weight: &Tensor, bias: Tensor) -> Result<Self> {
        Ok(Self { weight: weight.t()?.contiguous()?, bias })
    }

    /// `[.., in]` -> `[.., out]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_add(x, &[])
    }

    /// [`Linear::forward`] plus `addends`, which have the shape of the result.
    pub fn forward_add(&self, x: &Tensor, addends: &[&Tensor]) -> Result<Tensor> {
        LinearOp { activation: Activation::Identity, addends }.forward(x, &self.weight, &self.bias)
    }

    /// [`Linear::forward`], then `max(., 0)`.
    pub fn forward_relu(&self, x: &Tensor) -> Result<Tensor> {
        LinearOp { activation: Activation::Relu, addends: &[] }.forward(x, &self.weight, &self.bias)
    }
}
