//! Punctuation of a text that goes on, call by call (`funasr/models/ct_transformer_streaming/model.py`, `inference`).
//! The words of the sentence that is still open come again with each call, so a mark between two calls is decided
//! when the words after it are known.

use std::borrow::Cow;
use std::ops::Range;

use super::{Mark, Punctuator, split_words};
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
    /// Punctuates the next piece of a text whose open sentence is in `cache`. `label` is the network, as for
    /// [`Punctuator::punctuate`]; it also gets the number of words that were cached, its VAD index, which FunASR leaves
    /// the same for all windows of a call. Words are those of [`split_words`]. Marks are written as they stand in
    /// `punc_list`, after ASCII words too, and no letter is raised.
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
        mut label: impl FnMut(&[u32], usize) -> Result<Vec<u32>>,
    ) -> Result<Continuation> {
        let new = split_words(text);
        if new.is_empty() {
            return Ok(Continuation::default());
        }
        let known = cache.words.len();
        let cached = cache.words.iter().map(String::as_str);
        let words: Vec<Cow<str>> = cached.chain(new).map(Cow::Borrowed).collect();
        let mut labels = Vec::with_capacity(words.len());
        self.label(&self.ids(&words), |ids| label(ids, known), |_, ready| labels.extend_from_slice(ready))?;
        let continuation = self.continuation(&words, &labels, known);
        let open = self.last(&labels, Mark::ends_sentence).map_or(0, |end| end + 1);
        let open = open.max(words.len().saturating_sub(MAX_CACHED_WORDS));
        cache.words = words[open..].iter().map(|word| word.clone().into_owned()).collect();
        Ok(continuation)
    }

    /// The text of the words from `known` on.
    fn continuation(&self, words: &[Cow<str>], labels: &[u32], known: usize) -> Continuation {
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
