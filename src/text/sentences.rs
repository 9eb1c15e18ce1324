//! Sentences with times: a punctuated text cut at its marks, each piece with the span of the words it spells.
//!
//! FunASR pairs labels, times and space-separated words by index (`timestamp_sentence` in
//! `funasr/utils/timestamp_tools.py`), which slips where two segments were joined without a space and drops words after
//! the last mark. Here words are found by counting letters, which joins and splits do not change.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::edits::letters;
use super::{Token, confidence, is_space};

/// A stretch of text up to and including a punctuation mark.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Sentence {
    /// As in the punctuated text, with its mark.
    pub text: String,
    /// The closing mark; empty after the last mark of a text.
    pub punctuation: String,
    /// Start of the first word.
    pub start_ms: u64,
    /// End of the last word.
    pub end_ms: u64,
    /// How sure the model is of its words ([`confidence`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidence: Option<f32>,
    /// Which of the given words it spells; a word that a mark splits belongs to both sides.
    #[serde(skip)]
    pub words: Range<usize>,
}

/// Cuts `text` at its `marks` (ascending byte ranges; empty ones are no mark) and times each piece by the `words` that
/// it spells, white space and case aside. All sentences together are the whole text and cover all words; with no marks
/// that is one sentence. A word that marks split lends its whole span to every part.
pub fn sentences(words: &[Token], text: &str, marks: &[Range<usize>]) -> Vec<Sentence> {
    let mut reader = Reader { words, next: 0, letters_left: None, last_end_ms: 0 };
    let mut found: Vec<Sentence> = Vec::new();
    let mut begin = 0;
    let rest = text.len()..text.len();
    for mark in marks.iter().filter(|mark| !mark.is_empty()).chain([&rest]) {
        let (Some(spoken), Some(punctuation)) = (text.get(begin..mark.start), text.get(mark.clone())) else {
            continue;
        };
        let spoken = spoken.trim_matches(is_space);
        if spoken.is_empty() && (punctuation.is_empty() || !found.is_empty()) {
            // A mark after a mark closes no sentence of its own.
            if let Some(before) = found.last_mut() {
                before.text.push_str(punctuation);
            }
            begin = mark.end;
            continue;
        }
        let (read, [start_ms, end_ms]) = reader.read(letters(spoken));
        let text = format!("{spoken}{punctuation}");
        let punctuation = punctuation.to_owned();
        found.push(Sentence { text, punctuation, start_ms, end_ms, confidence: None, words: read });
        begin = mark.end;
    }
    if let (Some(sentence), Some(word)) = (found.last_mut(), words.last()) {
        sentence.end_ms = sentence.end_ms.max(word.end_ms);
        sentence.words.end = words.len();
    }
    for sentence in &mut found {
        sentence.confidence = confidence(words.get(sentence.words.clone()).unwrap_or_default());
    }
    found
}

/// Walks over words letter by letter.
struct Reader<'a> {
    words: &'a [Token],
    /// The word that is read next.
    next: usize,
    /// Letters of that word that were not read yet; nothing if it was not begun.
    letters_left: Option<usize>,
    last_end_ms: u64,
}

impl Reader<'_> {
    /// Reads `count` letters: in which words they stand, and from when to when those were said; past the last word, its
    /// end.
    fn read(&mut self, mut count: usize) -> (Range<usize>, [u64; 2]) {
        let first = self.next;
        let mut end = first;
        let mut start_ms = None;
        while count > 0
            && let Some(word) = self.words.get(self.next)
        {
            let left = self.letters_left.unwrap_or_else(|| letters(&word.text));
            let taken = left.min(count);
            count -= taken;
            end = self.next + 1;
            if taken > 0 {
                start_ms.get_or_insert(word.start_ms);
                self.last_end_ms = word.end_ms;
            }
            self.letters_left = Some(left - taken);
            if left == taken {
                (self.next, self.letters_left) = (self.next + 1, None);
            }
        }
        let start_ms = start_ms.unwrap_or(self.last_end_ms);
        (first..end, [start_ms, self.last_end_ms.max(start_ms)])
    }
}
