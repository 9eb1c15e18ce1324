//! Punctuation of a text that goes on, call by call (`funasr/models/ct_transformer_streaming/model.py`, `inference`).
//! The words of the sentence that is still open come again with each call, so a mark between two calls is decided
//! when the words after it are known.

use std::ops::Range;

use super::{Labelling, Mark, Punctuator, Window, split_words};
use crate::Result;

/// Most words that are kept for the next call; each call reads them again, in windows that grow by a group, so time is
/// quadratic in this. More than the 220 at which a window is cut at a comma. FunASR's cache grows for ever.
const MAX_CACHED_WORDS: usize = 400;

/// What is kept from call to call: the words since the last sentence end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cache {
    words: Vec<String>,
}

impl Cache {
    /// The words, at most 400: the oldest are forgotten where no sentence ends.
    pub fn words(&self) -> &[String] {
        &self.words
    }
}

/// What one call adds to a text. FunASR's result is `before` and `text`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Continuation {
    /// The mark after the last word of the call before, now that it is known what follows; empty for none.
    pub before: String,
    /// The new words with the marks between them. It begins with a space if two ASCII words meet.
    pub text: String,
    /// The mark after the last word if the text ends here: the next call decides anew, in its `before`.
    pub after: String,
    /// One label per new word of [`split_words`].
    pub labels: Vec<u32>,
    /// Byte range of the mark of each label, empty if there is none, in `text` followed by `after`.
    pub marks: Vec<Range<usize>>,
}

impl Continuation {
    /// The new words as they stand if nothing follows for now: with the mark after the last one.
    pub fn so_far(mut self) -> (String, Vec<Range<usize>>) {
        self.text.push_str(&self.after);
        (self.text, self.marks)
    }

    /// The new words as the end of the text: closed by a full stop unless a question mark does, as FunASR's server does
    /// with the last segment. No words stay no text.
    pub fn closed(self) -> (String, Vec<Range<usize>>) {
        let (mut text, mut marks) = self.so_far();
        let Some(last) = marks.last_mut() else { return (text, marks) };
        if !text.ends_with(['。', '？', '.', '?']) {
            text.truncate(last.start);
            text.push('。');
            *last = last.start..text.len();
        }
        (text, marks)
    }
}

impl Punctuator {
    /// Punctuates the next piece of a text whose open sentence is in `cache`. `network` labels a window. Words are those of
    /// [`split_words`]. Marks are written as they stand in `punc_list`, after ASCII words too, and no letter is raised.
    ///
    /// Blank text needs no call, gives an empty result and leaves the cache as it is, as does an error; FunASR fails on
    /// it. A last word that itself ends in a mark keeps it, where FunASR cuts it off.
    ///
    /// # Errors
    /// As [`Punctuator::punctuate`].
    pub fn punctuate_next(
        &self,
        cache: &mut Cache,
        text: &str,
        network: impl FnMut(Window) -> Result<Vec<u32>>,
    ) -> Result<Continuation> {
        let mut text = self.open_next(cache, text);
        self.label_all(&mut text, network)?;
        Ok(self.close_next(cache, &text))
    }

    /// The next piece of a text, with the open sentence in `cache`, before its first window: for [`Punctuator::label`] and
    /// then [`Punctuator::close_next`].
    pub fn open_next(&self, cache: &Cache, text: &str) -> Labelling {
        let new = split_words(text);
        if new.is_empty() {
            return Labelling::default();
        }
        let known = cache.words.len();
        let words = cache.words.iter().cloned().chain(new.into_iter().map(str::to_owned));
        self.labelling(words.collect(), known)
    }

    /// What [`Punctuator::punctuate_next`] gives, once the labels of all words are known.
    pub fn close_next(&self, cache: &mut Cache, text: &Labelling) -> Continuation {
        let Labelling { words, labels, known, .. } = text;
        if words.is_empty() {
            return Continuation::default();
        }
        let open = self.last(labels, Mark::ends_sentence).map_or(0, |end| end + 1);
        let open = open.max(words.len().saturating_sub(MAX_CACHED_WORDS));
        cache.words = words[open..].to_vec();
        self.continuation(words, labels, *known)
    }

    /// The text of the words from `known` on.
    fn continuation(&self, words: &[String], labels: &[u32], known: usize) -> Continuation {
        let mark = |i: usize| self.marks[labels[i] as usize].text.as_str();
        let mut out = Continuation::default();
        if known > 0 {
            out.before.push_str(mark(known - 1));
        }
        let mut last = 0;
        for (i, word) in words.iter().enumerate().skip(known) {
            if i > 0 && word.is_ascii() && words[i - 1].is_ascii() {
                out.text.push(' ');
            }
            out.text.push_str(word);
            last = out.text.len();
            out.text.push_str(mark(i));
            out.marks.push(last..out.text.len());
        }
        out.after = out.text.split_off(last);
        out.labels.extend_from_slice(&labels[known..]);
        out
    }
}
