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
    /// Whether numbers are written in digits: by a model that knows both (SenseVoice, which then punctuates itself), else by
    /// the rules ([`Itn`](crate::text::itn::Itn)) that the transcriber or corrector has.
    pub itn: bool,
    /// Encoded hotwords `[N, D]`; shared, since a session asks again with each segment.
    pub(super) hotwords: Option<Arc<Tensor>>,
}
