//! The models against FunASR Python on random weights, stage by stage: the first stage that differs is named.

mod bicif;
mod cif;
mod contextual;
mod ct_transformer;
mod fsmn_vad;
mod lstm;
mod paraformer;
mod paraformer_online;
mod seaco;
mod sense_voice;

use candle_core::Tensor;
use funasr_candle::nn::Lengths;

/// Best token of each of the first `tokens` rows, without blank, start and end.
pub fn kept_ids(logits: &Tensor, item: usize, tokens: usize) -> Vec<i64> {
    if tokens == 0 {
        return Vec::new();
    }
    let logits = logits.get(item).unwrap().narrow(0, 0, tokens).unwrap();
    let best: Vec<u32> = logits.argmax(1).unwrap().to_vec1().unwrap();
    best.into_iter().filter(|&id| id > 2).map(i64::from).collect()
}

/// The hotword lists of `seaco.py`: name and number of hotwords, none if no list is given.
pub const HOTWORD_LISTS: [(&str, Option<usize>); 7] = [
    ("none", None),
    ("empty", Some(0)),
    ("one", Some(1)),
    ("three", Some(3)),
    ("fifty", Some(50)),
    ("sixty", Some(60)),
    ("thousand", Some(1000)),
];

/// `count` hotwords of 1 to 5 token ids, those of `seaco.py`.
pub fn hotword_ids(count: usize, vocab: u64) -> Vec<Vec<u32>> {
    let mut state: u64 = 1;
    let mut next = || {
        state = (state * 1_103_515_245 + 12_345) % (1 << 31);
        (3 + (state >> 16) % (vocab - 3)) as u32
    };
    (0..count).map(|k| (0..=k % 5).map(|_| next()).collect()).collect()
}

/// Utterances `[1, T, D]` padded to one batch.
pub fn padded(items: &[&Tensor]) -> (Tensor, Lengths) {
    let lengths = Lengths::new(items.iter().map(|x| x.dim(1).unwrap()).collect::<Vec<_>>());
    let pad = |x: &&Tensor| x.pad_with_zeros(1, 0, lengths.max() - x.dim(1).unwrap()).unwrap();
    let padded: Vec<Tensor> = items.iter().map(pad).collect();
    (Tensor::cat(&padded, 0).unwrap(), lengths)
}

/// The first `steps` rows of one item of a batch, `[1, steps, D]`.
pub fn item_rows(x: &Tensor, item: usize, steps: usize) -> Tensor {
    x.narrow(0, item, 1).unwrap().narrow(1, 0, steps).unwrap()
}
