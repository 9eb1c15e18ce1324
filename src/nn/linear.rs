//! Affine layer.

use candle_core::{DType, Result, Tensor};
use candle_nn::VarBuilder;
use funasr_kernels::{
    Activation, FloatWeight, Int8Weight, Linear as LinearOp, LinearInt8 as LinearInt8Op, Rounded,
};

use super::LayerNorm;
use crate::device::{BF16_MARK, INT8_MARK, STORED_SCALE};

/// `x W^T + b`, with tensors `weight [out, in]` and `bias [out]`.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Weight,
    bias: Tensor,
}

#[derive(Debug, Clone)]
enum Weight {
    Float(FloatWeight),
    /// Rounded at load or in the file; there are no floats.
    Int8(Int8Weight),
}

impl Linear {
    /// Loads `weight` and `bias`, and rounds the weight to 8 bits if `vb` has an [`INT8_MARK`].
    pub fn load(inputs: usize, outputs: usize, vb: VarBuilder) -> Result<Self> {
        let weight = Weight::load(inputs, outputs, &vb)?;
        Ok(Self { weight, bias: vb.get(outputs, "bias")? })
    }

    /// [`Linear::load`] for a layer that 8 bits would cost too much accuracy, or that is too small to gain: it
    /// computes in floats always.
    pub fn load_f32(inputs: usize, outputs: usize, vb: VarBuilder) -> Result<Self> {
        Self::new(&vb.get((outputs, inputs), "weight")?, vb.get(outputs, "bias")?)
    }

    /// [`Linear::load`] for a layer that 8 bits would cost too much accuracy, but bf16 does not, like the one over the vocabulary:
    /// where others take 8 bits (`vb` has a [`BF16_MARK`]), it takes bf16 if this is a CPU that multiplies those faster.
    pub fn load_coarse(inputs: usize, outputs: usize, vb: VarBuilder) -> Result<Self> {
        Ok(Self { weight: Weight::coarse(inputs, outputs, &vb)?, bias: vb.get(outputs, "bias")? })
    }

    /// [`Linear::load_coarse`] of `weight` alone.
    pub fn load_coarse_no_bias(inputs: usize, outputs: usize, vb: VarBuilder) -> Result<Self> {
        Self::without_bias(Weight::coarse(inputs, outputs, &vb)?, outputs, &vb)
    }

    /// [`Linear::load`] of `weight` alone.
    pub fn load_no_bias(inputs: usize, outputs: usize, vb: VarBuilder) -> Result<Self> {
        Self::without_bias(Weight::load(inputs, outputs, &vb)?, outputs, &vb)
    }

    fn without_bias(weight: Weight, outputs: usize, vb: &VarBuilder) -> Result<Self> {
        Ok(Self { weight, bias: Tensor::zeros(outputs, vb.dtype(), vb.device())? })
    }

    /// From `weight [out, in]` and `bias [out]`, in floats.
    pub fn new(weight: &Tensor, bias: Tensor) -> Result<Self> {
        Ok(Self { weight: Weight::float(weight)?, bias })
    }

    /// [`Linear::new`], rounded to 8 bits.
    pub fn new_int8(weight: &Tensor, bias: Tensor) -> Result<Self> {
        Ok(Self { weight: Weight::Int8(Int8Weight::quantize(weight)?), bias })
    }

    /// Whether it multiplies in 8 bits.
    pub fn is_int8(&self) -> bool {
        matches!(self.weight, Weight::Int8(_))
    }

    /// `[.., in]` -> `[.., out]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_add(x, &[])
    }

    /// [`Linear::forward`] plus `addends`, which have the shape of the result.
    pub fn forward_add(&self, x: &Tensor, addends: &[&Tensor]) -> Result<Tensor> {
        self.run(x, Activation::Identity, addends)
    }

    /// [`Linear::forward`], then `max(., 0)`.
    pub fn forward_relu(&self, x: &Tensor) -> Result<Tensor> {
        self.run(x, Activation::Relu, &[])
    }

    /// [`Linear::forward_add`] and the norm of that: `[.., out]` both.
    pub fn forward_add_norm(&self, x: &Tensor, addends: &[&Tensor], norm: &LayerNorm) -> Result<[Tensor; 2]> {
        self.run_norm(x, Activation::Identity, addends, norm)
    }

    /// The norm of [`Linear::forward_relu`].
    pub fn forward_relu_norm(&self, x: &Tensor, norm: &LayerNorm) -> Result<Tensor> {
        let [_, normed] = self.run_norm(x, Activation::Relu, &[], norm)?;
        Ok(normed)
    }

    fn run_norm(
        &self,
        x: &Tensor,
        activation: Activation,
        addends: &[&Tensor],
        norm: &LayerNorm,
    ) -> Result<[Tensor; 2]> {
        if let Weight::Float(weight) = &self.weight {
            let op = LinearOp { activation, addends };
            return op.forward_norm(x, weight, &self.bias, &norm.as_norm());
        }
        let y = self.run(x, activation, addends)?;
        let normed = norm.forward(&y)?;
        Ok([y, normed])
    }

    fn run(&self, x: &Tensor, activation: Activation, addends: &[&Tensor]) -> Result<Tensor> {
        match &self.weight {
            Weight::Float(weight) => LinearOp { activation, addends }.forward(x, weight, &self.bias),
            Weight::Int8(weight) => LinearInt8Op { activation, addends }.forward(x, weight, &self.bias),
        }
    }
}

impl Weight {
    /// Floats or stored steps, whichever the file has, as what `vb` says that the layer computes in.
    fn load(inputs: usize, outputs: usize, vb: &VarBuilder) -> Result<Self> {
        let int8 = vb.contains_tensor(INT8_MARK);
        if vb.contains_tensor(STORED_SCALE) {
            let steps =
                vb.get_with_hints_dtype((outputs, inputs), "weight", Default::default(), DType::U8)?;
            let scales = vb.get_with_hints_dtype(outputs, STORED_SCALE, Default::default(), DType::F32)?;
            let steps = steps.flatten_all()?.to_vec1::<u8>()?.into_iter().map(u8::cast_signed).collect();
            let rounded = Rounded::from_steps(steps, scales.to_vec1()?)?;
            return Ok(match int8 {
                true => Self::Int8(Int8Weight::pack(&rounded)),
                false => Self::float(&rounded.to_float()?.to_device(vb.device())?.to_dtype(vb.dtype())?)?,
            });
        }
        let weight = vb.get((outputs, inputs), "weight")?;
        Ok(if int8 { Self::Int8(Int8Weight::quantize(&weight)?) } else { Self::float(&weight)? })
    }

    /// Floats, of fewer digits where `vb` says that they may have.
    fn coarse(inputs: usize, outputs: usize, vb: &VarBuilder) -> Result<Self> {
        let weight = vb.get((outputs, inputs), "weight")?;
        match vb.contains_tensor(BF16_MARK) {
            true => Ok(Self::Float(FloatWeight::coarse(&weight)?)),
            false => Self::float(&weight),
        }
    }

    fn float(weight: &Tensor) -> Result<Self> {
        Ok(Self::Float(FloatWeight::new(weight)?))
    }
}
