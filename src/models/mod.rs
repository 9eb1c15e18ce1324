//! The models: one file each, with its `Config`, `load` and `forward` or `step`. They are immutable after loading;
//! what changes from call to call lives in a state that the caller owns.

pub mod bicif;
pub mod contextual;
pub mod ct_transformer;
pub mod fsmn_vad;
pub mod paraformer;
pub mod paraformer_online;
pub mod seaco;
pub mod sense_voice;
