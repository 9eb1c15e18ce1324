//! Layer normalisation over the last dimension, in two passes.
//!
//! Candle's own fused version takes the variance as `E[x^2] - E[x]^2`, which loses all digits on near-constant
//! rows; FunASR's eps of 1e-12 does not hide that (zero rows open every stream).

use std::mem::MaybeUninit;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp3, D, DType, Layout, Result, Shape, Tensor, bail};

#[cfg(feature = "cuda")]
use crate::cuda;
use crate::{cpu, simd};

/// Rows that one thread normalises at a time.
const BLOCK_ROWS: usize = 16;

/// `(x - mean) / sqrt(var + eps) * weight + bias`.
#[derive(Debug, Clone, Copy)]
pub struct LayerNorm {
    /// Added to the variance.
    pub eps: f64,
}

impl LayerNorm {
    /// `x [.., D]`, `weight [D]`, `bias [D]` -> shape of `x`.
    pub fn forward(&self, x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
        if !cpu::is_fast(x) {
            return self.reference(x, weight, bias);
        }
        x.contiguous()?.apply_op3_no_bwd(weight, bias, self)
    }

    /// The definition, in plain candle operations; statistics in f32 whatever the type of `x`.
    pub fn reference(&self, x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
        let wide = x.to_dtype(DType::F32)?;
        let centred = wide.broadcast_sub(&wide.mean_keepdim(D::Minus1)?)?;
        let deviation = (centred.sqr()?.mean_keepdim(D::Minus1)? + self.eps)?.sqrt()?;
        let normed = centred.broadcast_div(&deviation)?.to_dtype(x.dtype())?;
        normed.broadcast_mul(weight)?.broadcast_add(bias)
    }

    #[inline(always)]
    fn row(&self, x: &[f32], weight: &[f32], bias: &[f32], y: &mut [MaybeUninit<f32>]) {
        let count = x.len() as f32;
        let mean = simd::sum(x, |v| v) / count;
        let variance = simd::sum(x, |v| (v - mean) * (v - mean)) / count;
        let scale = 1.0 / (variance + self.eps as f32).sqrt();
        for (((y, x), w), b) in y.iter_mut().zip(x).zip(weight).zip(bias) {
            y.write((x - mean) * scale * w + b);
        }
    }
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let shape = x_layout.shape();
        let width = shape.dims().last().copied().unwrap_or(0);
        let (weight_shape, bias_shape) = (weight_layout.shape(), bias_layout.shape());
        if width == 0 || weight_shape.dims() != [width] || bias_shape.dims() != [width] {
            bail!("layer-norm: input {shape:?}, weight {weight_shape:?} and bias {bias_shape:?} do not fit");
        }
        let x = cpu::contiguous("layer-norm", x, x_layout)?;
        let weight = cpu::contiguous("layer-norm", weight, weight_layout)?;
        let bias = cpu::contiguous("layer-norm", bias, bias_layout)?;
        let y = cpu::by_blocks(x, [width, width], 1..=BLOCK_ROWS, |x, y, _| {
            simd::dispatch(
                #[inline(always)]
                || {
                    for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                        self.row(x, weight, bias, y);
                    }
                },
            );
            Ok(())
        })?;
        Ok((CpuStorage::F32(y), shape.clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        weight: &CudaStorage,
        weight_layout: &Layout,
        bias: &CudaStorage,
        bias_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        cuda::layer_norm(self, (x, x_layout), (weight, weight_layout), (bias, bias_layout))
    }
}
