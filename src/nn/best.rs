//! What greedy decoding reads of scores: much less than all of them, which may lie on a GPU.

use candle_core::{Result, Tensor};
use funasr_kernels::Best;

/// Logits `[.., V]` -> of each row the place of its largest, that logit, and its log-probability: `[.., 3]` in f32.
pub fn best_of_rows(logits: &Tensor) -> Result<Tensor> {
    Best.forward(logits)
}

/// The logits of some ids: `logits [T, V]` -> `[T, ids]`.
pub fn columns(logits: &Tensor, ids: &[u32]) -> Result<Tensor> {
    logits.index_select(&Tensor::new(ids, logits.device())?, 1)
}
