//! What is asked of a recogniser with each utterance.

/// Choices of one request.
#[derive(Debug, Clone, Default)]
pub struct Request {}
