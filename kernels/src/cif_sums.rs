//! The sums of continuous integrate-and-fire: one acoustic embedding a token, from weighted frames.
//!
//! A token is the sum of the frames since the one before fired, weighted by their alphas, with the alpha of a frame in which a
//! token fires split between the two. Where tokens fire is decided before, by [`CifFire`](crate::CifFire).

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use crate::cpu;
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::{Cif, Fired};

/// The sums of one batch.
#[derive(Debug, Clone, Copy)]
pub struct CifSums<'a> {
    /// The tracks, one an item.
    pub fired: &'a Fired,
    /// Tokens L of the result, at least as many as any item has.
    pub tokens: usize,
}

impl CifSums<'_> {
    /// `x [B, T, D]` -> `[B, L, D]`; rows after an item's last token are zero. Frames behind an item's last one count as zero.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.check(x.shape())?;
        // On the CPU the definition is the fast version: one product.
        if !x.device().is_cuda() || !cpu::is_fast(x) || self.tokens == 0 || x.elem_count() == 0 {
            return self.reference(x);
        }
        x.contiguous()?.apply_op1_no_bwd(self)
    }

    /// The definition, in plain candle operations: one banded product, `[B, L, T] x [B, T, D]`.
    pub fn reference(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, frames, width) = x.dims3()?;
        if self.tokens == 0 || frames == 0 {
            return Tensor::zeros((batch, self.tokens, width), x.dtype(), x.device());
        }
        let mut weights = vec![0f32; batch * self.tokens * frames];
        let items = self.fired.tracks().iter().zip(weights.chunks_exact_mut(self.tokens * frames));
        items.for_each(|(track, weights)| fill_weights(track, weights, frames));
        let weights = Tensor::from_vec(weights, (batch, self.tokens, frames), x.device())?;
        weights.to_dtype(x.dtype())?.matmul(&x.contiguous()?)
    }

    pub(crate) fn check(&self, shape: &Shape) -> Result<()> {
        let (batch, frames, _) = shape.dims3()?;
        let fits = |track: &Cif| {
            track.tokens().len() <= self.tokens
                && track.fire_frames().all(|frame| frame < track.alphas.len())
                && track.fires.windows(2).all(|pair| pair[0].0 < pair[1].0)
                && track.frames <= frames
                && (track.frames..=track.frames + 1).contains(&track.alphas.len())
        };
        let tracks = self.fired.tracks();
        if tracks.len() != batch || !tracks.iter().all(fits) {
            let (items, tokens) = (tracks.len(), self.tokens);
            bail!("cif-sums: {items} items of at most {tokens} tokens do not fit the input {shape:?}");
        }
        Ok(())
    }
}

/// Adds to `weights` (`[tokens, frames]`, zero) what each frame of an item gives to each token.
fn fill_weights(track: &Cif, weights: &mut [f32], frames: usize) {
    let mut start = 0;
    let mut carried = None;
    for (row, &(fire, rest)) in weights.chunks_exact_mut(frames).zip(track.tokens()) {
        if let Some((frame, part)) = carried.filter(|&(frame, _)| frame < track.frames) {
            row[frame] = part;
        }
        // The tail lies behind the last frame and its hidden state is zero: it has no column.
        let end = (fire + 1).min(track.frames);
        row[start..end].copy_from_slice(&track.alphas[start..end]);
        if fire < track.frames {
            row[fire] -= rest;
        }
        (start, carried) = (end, Some((fire, rest)));
    }
}

impl CustomOp1 for CifSums<'_> {
    fn name(&self) -> &'static str {
        "cif-sums"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        bail!("cif-sums: on the CPU the definition is the fast version")
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        cuda::cif_sums(self, (x, layout))
    }
}
