//! From tokens to readable text. Time lives on tokens: every stage carries spans along, none derives them from text.

pub mod edits;
pub mod itn;
pub mod join;
pub mod marks;
pub mod pieces;
pub mod segment;
pub mod sentences;
pub mod stamps;
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
    /// How sure the model is, in 0..=1, if it tells: the softmax probability of the token among all of the vocabulary, under
    /// CTC the highest of the frames that say it. A word is as sure as its least sure token. It is no promise: models are
    /// often surer than they are right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidence: Option<f32>,
}

/// How sure a model is of a stretch of words: the geometric mean of theirs, so that long stretches compare with short ones.
/// Nothing if it tells it of none.
pub fn confidence(words: &[Token]) -> Option<f32> {
    let logs: Vec<f32> = words.iter().filter_map(|word| word.confidence).map(f32::ln).collect();
    (!logs.is_empty()).then(|| (logs.iter().sum::<f32>() / logs.len() as f32).exp())
}

/// White space as Python's `str.split` and `str.strip` see it: Unicode's, and the four information separators.
pub(crate) fn is_space(letter: char) -> bool {
    letter.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&letter)
}
