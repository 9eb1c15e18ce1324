//! The best of each row, and how likely it is.

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp1, D, DType, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

#[cfg(feature = "cuda")]
use crate::cuda;
use crate::softmax::exp;
use crate::{cpu, simd};

/// Of each row its largest value with its place, the first of equal ones, and the natural log of its softmax.
#[derive(Debug, Clone, Copy)]
pub struct Best;

impl Best {
    /// `x [.., V]` -> `[.., 3]` in f32: place, value, log-probability. The last is NaN if a value is NaN or the largest is
    /// infinite.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if x.dims().last().is_none_or(|&width| width == 0 || width > 1 << 24) {
            bail!("best: no place in rows of {:?} is a number in f32", x.shape());
        }
        if !cpu::is_fast(x) {
            return self.reference(x);
        }
        x.contiguous()?.apply_op1_no_bwd(self)
    }

    /// The definition, in plain candle operations, for finite values.
    pub fn reference(&self, x: &Tensor) -> Result<Tensor> {
        let x = x.to_dtype(DType::F32)?;
        let place = x.argmax_keepdim(D::Minus1)?.to_dtype(DType::F32)?;
        let largest = x.max_keepdim(D::Minus1)?;
        let sums = x.broadcast_sub(&largest)?.exp()?.sum_keepdim(D::Minus1)?;
        Tensor::cat(&[&place, &largest, &sums.log()?.neg()?], D::Minus1)
    }
}

/// Place, value and log-probability of the best of `row`.
#[inline(always)]
fn best(row: &[f32]) -> [f32; 3] {
    let max = simd::max(row);
    let place = row.iter().position(|&value| value == max).unwrap_or(0);
    // A NaN anywhere ends up in the sum.
    let sum = simd::sum(row, |value| exp(value - max));
    [place as f32, max, if max.is_finite() { -sum.ln() } else { f32::NAN }]
}

impl CustomOp1 for Best {
    fn name(&self) -> &'static str {
        "best"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let width = layout.dims().last().copied().unwrap_or(0);
        let rows = cpu::contiguous("best", x, layout)?.par_chunks_exact(width.max(1));
        let y = rows.flat_map_iter(|row| {
            simd::dispatch(
                #[inline(always)]
                || best(row),
            )
        });
        let y = y.collect();
        Ok((CpuStorage::F32(y), cpu::with_width(layout.shape(), 3)))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        cuda::best((x, layout))
    }
}
