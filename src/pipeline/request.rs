//! What is asked of a recogniser with each utterance.

use std::sync::Arc;

use candle_core::Tensor;

/// Choices of one request.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Encoded hotwords `[N, D]`; shared, since a session asks again with each segment.
    pub(super) hotwords: Option<Arc<Tensor>>,
}
