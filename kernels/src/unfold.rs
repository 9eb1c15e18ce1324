//! Each frame beside its neighbours, so that a convolution over time is one product.

use std::mem::MaybeUninit;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

#[cfg(feature = "cuda")]
use crate::cuda;
use crate::{Lengths, cpu};

/// Rows that one thread writes at a time.
const BLOCK_ROWS: usize = 64;

/// The `before` frames in front of each, the frame, and the `after` frames behind it.
#[derive(Debug, Clone)]
pub struct Unfold {
    /// Frames in front.
    pub before: usize,
    /// Frames behind.
    pub after: usize,
    /// Valid frames of each item; all others count as zero.
    pub lengths: Lengths,
}

impl Unfold {
    /// `x [B, T, D]` -> `[B, T, K D]`, `K = before + 1 + after`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.lengths.check("unfold", x)?;
        if !cpu::is_fast(x) || x.elem_count() == 0 {
            return self.reference(x);
        }
        let x = if x.stride()[2] == 1 { x.clone() } else { x.contiguous()? };
        x.apply_op1_no_bwd(self)
    }

    /// The definition, in plain candle operations.
    pub fn reference(&self, x: &Tensor) -> Result<Tensor> {
        let time = x.dim(1)?;
        let mask = self.lengths.mask(x.dtype(), x.device())?.unsqueeze(2)?;
        // Not a product with the mask: what is no number stays none.
        let valid = mask.broadcast_as(x.shape())?.ne(0f64)?.where_cond(x, &x.zeros_like()?)?;
        let padded = valid.pad_with_zeros(1, self.before, self.after)?;
        let taps = (0..self.taps()).map(|tap| padded.narrow(1, tap, time)).collect::<Result<Vec<_>>>()?;
        Tensor::cat(&taps, 2)
    }

    /// K.
    pub(crate) fn taps(&self) -> usize {
        self.before + 1 + self.after
    }
}

impl CustomOp1 for Unfold {
    fn name(&self) -> &'static str {
        "unfold"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = cpu::Rows::new("unfold", x, layout)?;
        let (time, width, taps) = (x.time, x.width, self.taps());
        let y = cpu::filled([x.batch * time, taps * width], 1..=BLOCK_ROWS, |y, first| {
            for (i, row) in (first..).zip(y.chunks_exact_mut(taps * width)) {
                let (b, t) = (i / time, i % time);
                for (tap, y) in row.chunks_exact_mut(width).enumerate() {
                    match (t + tap).checked_sub(self.before).filter(|&t| t < self.lengths.items()[b]) {
                        Some(t) => {
                            y.write_copy_of_slice(x.row(b, t));
                        }
                        None => y.fill(MaybeUninit::new(0.0)),
                    }
                }
            }
            Ok(())
        })?;
        Ok((CpuStorage::F32(y), Shape::from((x.batch, time, taps * width))))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        cuda::unfold(self, (x, layout))
    }
}
