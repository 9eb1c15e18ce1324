//! What is known about one recording after transcription.

use serde::{Deserialize, Serialize};

use crate::text::Token;
use crate::text::sentences::Sentence;

/// A stretch of speech.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Segment {
    /// Start from the beginning of the recording.
    pub start_ms: u64,
    /// End.
    pub end_ms: u64,
    /// What was said, without punctuation.
    pub text: String,
    /// Its words with their times from the beginning of the recording.
    pub tokens: Vec<Token>,
}

/// The transcript of one recording.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Transcript {
    /// Length of the recording.
    pub duration_ms: u64,
    /// The whole text, punctuated if there is a punctuation model.
    pub text: String,
    /// Speech segments in order.
    pub segments: Vec<Segment>,
    /// Sentences in order; without punctuation model, one a segment.
    pub sentences: Vec<Sentence>,
}
