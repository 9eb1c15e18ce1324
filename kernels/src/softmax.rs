//! Softmax over the last dimension.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use crate::{cpu, simd};

/// Rows that one thread does at a time.
const BLOCK_ROWS: usize = 32;

/// `e^x / sum(e^x)` of each row.
#[derive(Debug, Clone, Copy)]
pub struct Softmax;

impl Softmax {
    /// `x [.., V]` -> the same shape.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if !cpu::is_f32_on_cpu(x) || !cpu::is_fast(x) {
            return self.reference(x);
        }
        x.contiguous()?.apply_op1_no_bwd(self)
    }

    /// Candle's, which has a kernel for GPUs.
    pub fn reference(&self, x: &Tensor) -> Result<Tensor> {
        candle_nn::ops::softmax_last_dim(&x.contiguous()?)
    }
}

impl CustomOp1 for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let width = layout.dims().last().copied().unwrap_or(0).max(1);
        let x = cpu::contiguous("softmax", x, layout)?;
        let y = cpu::by_blocks(x, [width, width], 1..=BLOCK_ROWS, |x, y, _| {
            simd::dispatch(
                #[inline(always)]
                || {
                    for row in y.write_copy_of_slice(x).chunks_exact_mut(width) {
                        softmax_row(row);
                    }
                },
            );
            Ok(())
        })?;
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }
}

/// Makes a row its softmax. NaN makes all of it NaN.
#[inline(always)]
pub(crate) fn softmax_row(row: &mut [f32]) {
    let scale = 1.0 / exp_row(row, row.len());
    row.iter_mut().for_each(|v| *v *= scale);
}

/// Makes the first `len` values of a row their softmax times a number, which is returned: 0 for no values, and NaN if one is. What is
/// behind them becomes zero.
#[inline(always)]
pub(crate) fn exp_row(row: &mut [f32], len: usize) -> f32 {
    const LANES: usize = 16;
    // Whole vectors, as far as there is room: a rest is computed value by value, which takes longer than all before it.
    let end = len.next_multiple_of(LANES).min(row.len());
    row[len..end].fill(f32::NEG_INFINITY);
    let max = simd::max(&row[..end]);
    let (vectors, rest) = row[..end].as_chunks_mut::<LANES>();
    for vector in vectors {
        for v in vector {
            *v = exp(*v - max);
        }
    }
    rest.iter_mut().for_each(|v| *v = exp(*v - max));
    row[len..].fill(0.0);
    simd::sum(&row[..end], |v| v)
}

/// `e^x` for `x <= 0`, to 2 units in the last place, without a branch or, on processors with fused multiply-add, a call: the loop
/// over it vectorises. Below -87, where f32 ends, it is `e^-87`; NaN stays NaN.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    /// Adding 1.5 * 2^23 leaves the nearest integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let x = if x < -87.0 { -87.0 } else { x };
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    // ln 2 in two parts, so that the remainder in [-0.35, 0.35] keeps its digits.
    let r = n.mul_add(2.121_944_4e-4, n.mul_add(-0.693_359_4, x));
    // The Taylor series has the digits of f32 on that interval with its term of seventh degree.
    let series = [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];
    let mut value: f32 = 1.0 / 5040.0;
    for term in series {
        value = value.mul_add(r, term);
    }
    let exponent = (shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127)) << 23;
    value * f32::from_bits(exponent)
}
