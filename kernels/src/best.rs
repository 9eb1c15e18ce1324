//! The best of each row, and how likely it is.

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp1, D, DType, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

#[cfg(feature = "cuda")]
use crate::cuda;
use crate::softmax::exp;
use crate::{cpu, simd};

/// Of each row its largest values with their places, in order, of equal ones the first before the others; and the natural log of
/// the softmax of the largest.
#[derive(Debug, Clone, Copy)]
pub struct Best {
    /// Values K of a row, at least one; all of a row that is no wider.
    pub count: usize,
}

impl Best {
    /// `x [.., V]` -> `[.., 2 K + 1]` in f32: places, values, log-probability. The last is NaN if a value of the row is NaN or
    /// the largest is infinite; its places then mean nothing.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let count = self.of(x.shape())?;
        if !cpu::is_fast(x) {
            return self.reference(x);
        }
        x.contiguous()?.apply_op1_no_bwd(&Self { count })
    }

    /// The definition, in plain candle operations, for finite values. It leaves open in which order equal ones come.
    pub fn reference(&self, x: &Tensor) -> Result<Tensor> {
        let count = self.of(x.shape())?;
        let x = x.to_dtype(DType::F32)?;
        let all = Tensor::arange(0, x.dim(D::Minus1)? as u32, x.device())?;
        let nothing = Tensor::full(f32::NEG_INFINITY, x.shape(), x.device())?;
        let (mut places, mut values, mut rest) = (Vec::new(), Vec::new(), x.clone());
        for _ in 0..count {
            let place = rest.argmax_keepdim(D::Minus1)?;
            values.push(rest.max_keepdim(D::Minus1)?);
            rest = all.broadcast_eq(&place)?.where_cond(&nothing, &rest)?;
            places.push(place.to_dtype(DType::F32)?);
        }
        let sums = x.broadcast_sub(&values[0])?.exp()?.sum_keepdim(D::Minus1)?;
        let parts: Vec<Tensor> = places.into_iter().chain(values).chain([sums.log()?.neg()?]).collect();
        Tensor::cat(&parts, D::Minus1)
    }

    /// K of rows of this shape.
    fn of(&self, shape: &Shape) -> Result<usize> {
        match shape.dims().last() {
            Some(&width) if (1..=1 << 24).contains(&width) && self.count > 0 => Ok(self.count.min(width)),
            _ => bail!("best: {} places in rows of {shape:?} are no numbers in f32", self.count),
        }
    }

    /// Writes what is said of `row` to `y`.
    #[inline(always)]
    fn row(&self, row: &[f32], y: &mut [f32]) {
        let max = simd::max(row);
        // A NaN anywhere ends up in the sum.
        let sum = simd::sum(row, |value| exp(value - max));
        y[2 * self.count] = if max.is_finite() { -sum.ln() } else { f32::NAN };
        let (places, values) = y.split_at_mut(self.count);
        // The largest, which is known, is all that the greedy search asks for.
        if self.count == 1 {
            places[0] = row.iter().position(|&value| value == max).unwrap_or(0) as f32;
            values[0] = max;
            return;
        }
        let mut found = 0;
        for (place, &value) in row.iter().enumerate() {
            if found == self.count && values[found - 1] >= value {
                continue;
            }
            let at = values[..found].partition_point(|&other| other >= value);
            found = (found + 1).min(self.count);
            places[at..found].rotate_right(1);
            values[at..found].rotate_right(1);
            (places[at], values[at]) = (place as f32, value);
        }
    }
}

impl CustomOp1 for Best {
    fn name(&self) -> &'static str {
        "best"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let width = layout.dims().last().copied().unwrap_or(0);
        let rows = cpu::contiguous("best", x, layout)?.par_chunks_exact(width.max(1));
        let mut y = vec![0.0; rows.len() * (2 * self.count + 1)];
        y.par_chunks_exact_mut(2 * self.count + 1).zip(rows).for_each(|(y, row)| {
            simd::dispatch(
                #[inline(always)]
                || self.row(row, y),
            );
        });
        Ok((CpuStorage::F32(y), cpu::with_width(layout.shape(), 2 * self.count + 1)))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        cuda::best(self, (x, layout))
    }
}
