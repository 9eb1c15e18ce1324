//! The sums of continuous integrate-and-fire: one acoustic embedding a token, from weighted frames.
//!
//! A token is the sum of the frames since the one before fired, weighted by their alphas, with the alpha of a frame in which a
//! token fires split between the two. Where tokens fire is decided before: see `Cif` of the models.

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use crate::cpu;
#[cfg(feature = "cuda")]
use crate::cuda;

/// The weights of one item's frames, and where its tokens fire.
#[derive(Debug, Clone, Copy)]
pub struct Firing<'a> {
    /// Weight of each frame. One more than there are frames is that of the tail, whose hidden state is zero.
    pub alphas: &'a [f32],
    /// For each token the frame in which it fires, in order, and the part of that frame's weight that goes to the next token.
    pub fires: &'a [(usize, f32)],
}

/// The sums of one batch.
#[derive(Debug, Clone, Copy)]
pub struct CifSums<'a> {
    /// One an item.
    pub items: &'a [Firing<'a>],
    /// Tokens L of the result, at least as many as any item has.
    pub tokens: usize,
}

impl CifSums<'_> {
    /// `x [B, T, D]` -> `[B, L, D]`; rows after an item's last token are zero.
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
        for (item, weights) in self.items.iter().zip(weights.chunks_exact_mut(self.tokens * frames)) {
            item.fill_weights(weights, frames);
        }
        let weights = Tensor::from_vec(weights, (batch, self.tokens, frames), x.device())?;
        weights.to_dtype(x.dtype())?.matmul(&x.contiguous()?)
    }

    pub(crate) fn check(&self, shape: &Shape) -> Result<()> {
        let (batch, frames, _) = shape.dims3()?;
        let fits = |item: &Firing| {
            item.fires.len() <= self.tokens
                && item.fires.iter().all(|&(frame, _)| frame < item.alphas.len())
                && item.fires.windows(2).all(|pair| pair[0].0 < pair[1].0)
                && item.alphas.len() <= frames + 1
        };
        if self.items.len() != batch || !self.items.iter().all(fits) {
            let (items, tokens) = (self.items.len(), self.tokens);
            bail!("cif-sums: {items} items of at most {tokens} tokens do not fit the input {shape:?}");
        }
        Ok(())
    }
}

impl Firing<'_> {
    /// Adds to `weights` (`[tokens, frames]`, zero) what each frame gives to each token.
    fn fill_weights(&self, weights: &mut [f32], frames: usize) {
        let mut start = 0;
        let mut carried = None;
        for (row, &(fire, rest)) in weights.chunks_exact_mut(frames).zip(self.fires) {
            if let Some((frame, part)) = carried.filter(|&(frame, _)| frame < frames) {
                row[frame] = part;
            }
            // The tail frame lies behind the last one and its hidden state is zero: it has no column.
            let end = (fire + 1).min(frames);
            row[start..end].copy_from_slice(&self.alphas[start..end]);
            if fire < frames {
                row[fire] -= rest;
            }
            (start, carried) = (end, Some((fire, rest)));
        }
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
