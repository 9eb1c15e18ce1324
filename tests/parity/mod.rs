//! The models against FunASR Python on random weights, stage by stage: the first stage that differs is named.

mod bicif;
mod cif;
mod ct_transformer;
mod fsmn_vad;
mod lstm;
mod paraformer;
mod paraformer_online;

use candle_core::Tensor;

/// Best token of each of the first `tokens` rows, without blank, start and end.
pub fn kept_ids(logits: &Tensor, item: usize, tokens: usize) -> Vec<i64> {
    if tokens == 0 {
        return Vec::new();
    }
    let logits = logits.get(item).unwrap().narrow(0, 0, tokens).unwrap();
    let best: Vec<u32> = logits.argmax(1).unwrap().to_vec1().unwrap();
    best.into_iter().filter(|&id| id > 2).map(i64::from).collect()
}
