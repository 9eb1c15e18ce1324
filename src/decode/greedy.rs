//! Greedy decoding of a non-autoregressive decoder (`funasr/models/paraformer/model.py`, `inference`).

use super::tokens::{BLANK, EOS, SOS};
use crate::{Error, Result};

/// One decoded token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Emission {
    /// Index into the token list.
    pub id: u32,
    /// Row of the model's output: the index of the CIF fire the token starts at, or its first frame under CTC. It survives
    /// the removal of special tokens, so that a token keeps its own time.
    pub position: usize,
    /// Natural log of the softmax probability, <= 0.
    pub log_prob: f32,
}

/// Picks the best token of each of the first `token_num` rows of `logits` ([L, V] row-major, V = `vocab`) and drops
/// blank, `<s>` and `</s>` (ids 0, 1, 2) wherever they are. Of equal logits the lowest id wins, as in torch.
///
/// # Errors
/// [`Error::Inference`] if there are fewer than `token_num` rows or a row has no finite maximum (NaN, infinity).
pub fn greedy(logits: &[f32], vocab: usize, token_num: usize) -> Result<Vec<Emission>> {
    let rows = logits.len().checked_div(vocab).unwrap_or(0);
    if rows < token_num {
        return Err(Error::inference(format!(
            "decoder gave {rows} rows of {vocab} logits for {token_num} tokens"
        )));
    }
    let mut emissions = Vec::with_capacity(token_num);
    for (position, row) in logits.chunks_exact(vocab.max(1)).take(token_num).enumerate() {
        let (id, log_prob) = best(row)
            .ok_or_else(|| Error::inference(format!("decoder logits of token {position} are not finite")))?;
        if ![BLANK, SOS, EOS].contains(&id) {
            emissions.push(Emission { id, position, log_prob });
        }
    }
    Ok(emissions)
}

/// Arg max of one row and its log-softmax, or nothing if any logit is NaN or the largest is infinite.
pub(super) fn best(row: &[f32]) -> Option<(u32, f32)> {
    let (mut id, mut max) = (0, f32::NEG_INFINITY);
    for (i, &logit) in (0u32..).zip(row) {
        if logit > max {
            (id, max) = (i, logit);
        }
    }
    // f64: an f32 sum over a vocabulary of thousands would lose the small terms. A NaN anywhere ends up in the sum.
    let sum: f64 = row.iter().map(|&logit| f64::from(logit - max).exp()).sum();
    let log_prob = -sum.ln() as f32;
    (max.is_finite() && log_prob.is_finite()).then_some((id, log_prob))
}
