//! What decoding without a language model reads of scores: much less than all of them, which may lie on a GPU.

use candle_core::{Result, Tensor};
use funasr_kernels::Best;

/// Logits `[.., V]` -> of each row the places of its `count` largest, or of all if there are no more, those K logits, and the
/// log-probability of the first: `[.., 2 K + 1]` in f32.
pub fn best_of_rows(logits: &Tensor, count: usize) -> Result<Tensor> {
    Best { count }.forward(logits)
}

/// The logits of some ids: `logits [T, V]` -> `[T, ids]`.
pub fn columns(logits: &Tensor, ids: &[u32]) -> Result<Tensor> {
    logits.index_select(&Tensor::new(ids, logits.device())?, 1)
}
