//! From tokens to readable text. Time lives on tokens: every stage carries spans along, none derives them from text.

pub mod join;
pub mod marks;
pub mod pieces;
pub mod segment;
pub mod sentences;
pub mod subtitles;
pub mod tags;

use serde::{Deserialize, Serialize};

/// A token or word and when it was said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Token {
    /// As recognised; a token may carry the notation of its vocabulary (`@@`, `▁`), a word does not.
    pub text: String,
    /// Start from the beginning of the recording.
    pub start_ms: u64,
    /// End, not before the start.
    pub end_ms: u64,
    /// Probability in 0..=1 if the model gives one; a word is as sure as its least sure token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidence: Option<f32>,
}

/// White space as Python's `str.split` and `str.strip` see it: Unicode's, and the four information separators.
pub(crate) fn is_space(letter: char) -> bool {
    letter.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&letter)
}
