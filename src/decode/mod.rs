//! From network outputs to tokens and their times: pure host code on slices, no tensors, no device.

pub mod ctc;
pub mod greedy;
pub mod hotwords;
pub mod lm;
pub mod search;
pub mod spelling;
pub mod timestamps;
pub mod tokens;
