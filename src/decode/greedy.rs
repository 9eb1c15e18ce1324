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

/// The best of one row of logits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Best {
    /// Its place. Of equal logits the lowest id wins, as in torch.
    pub id: u32,
    /// Its logit.
    pub logit: f32,
    /// Natural log of its softmax; NaN if a logit is NaN or the largest is infinite.
    pub log_prob: f32,
}

impl Best {
    /// The best of each row of `logits` ([N, V] row-major, V = `vocab`).
    pub fn of_rows(logits: &[f32], vocab: usize) -> impl Iterator<Item = Self> + '_ {
        logits.chunks_exact(vocab.max(1)).map(Self::of)
    }

    /// The best of one row.
    pub fn of(row: &[f32]) -> Self {
        let (mut id, mut logit) = (0, f32::NEG_INFINITY);
        for (i, &value) in (0u32..).zip(row) {
            if value > logit {
                (id, logit) = (i, value);
            }
        }
        // f64: an f32 sum over a vocabulary of thousands would lose the small terms. A NaN anywhere ends up in the sum.
        let sum: f64 = row.iter().map(|&value| f64::from(value - logit).exp()).sum();
        Self { id, logit, log_prob: if logit.is_finite() { -sum.ln() as f32 } else { f32::NAN } }
    }
}

/// Picks the best token of each of the first `token_num` rows of `logits` ([L, V] row-major, V = `vocab`) and drops
/// blank, `<s>` and `</s>` (ids 0, 1, 2) wherever they are.
///
/// # Errors
/// [`Error::Inference`] if there are fewer than `token_num` rows or a row has no finite maximum (NaN, infinity).
pub fn greedy(logits: &[f32], vocab: usize, token_num: usize) -> Result<Vec<Emission>> {
    let rows: Vec<Best> = Best::of_rows(logits, vocab).take(token_num).collect();
    greedy_of(&rows, token_num)
}

/// [`greedy`] from the best of each row.
///
/// # Errors
/// As there.
pub fn greedy_of(rows: &[Best], token_num: usize) -> Result<Vec<Emission>> {
    if rows.len() < token_num {
        let rows = rows.len();
        return Err(Error::inference(format!("decoder gave {rows} rows of logits for {token_num} tokens")));
    }
    let mut emissions = Vec::with_capacity(token_num);
    for (position, &Best { id, log_prob, .. }) in rows.iter().take(token_num).enumerate() {
        if !log_prob.is_finite() {
            return Err(Error::inference(format!("decoder logits of token {position} are not finite")));
        }
        if ![BLANK, SOS, EOS].contains(&id) {
            emissions.push(Emission { id, position, log_prob });
        }
    }
    Ok(emissions)
}
