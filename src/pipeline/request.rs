//! What is asked of a recogniser with each utterance.

use std::sync::Arc;

use candle_core::Tensor;

pub use crate::models::sense_voice::Language;

/// Choices of one request. [`Recognizer::check`](super::Recognizer::check) tells whether a model can meet them,
/// [`Recognizer::bias`](super::Recognizer::bias) adds hotwords.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Language of the speech, for models that are told.
    pub language: Language,
    /// Whether a model that knows both writes digits and punctuation (SenseVoice).
    pub itn: bool,
    /// Encoded hotwords `[N, D]`; shared, since a session asks again with each segment.
    pub(super) hotwords: Option<Arc<Tensor>>,
}

impl Request {
    /// Listens for the hotwords of another request instead of its own; they were encoded by the same model.
    pub fn share_hotwords(&mut self, other: &Self) {
        self.hotwords.clone_from(&other.hotwords);
    }
}
