//! Texts on their way through the network: windows of words go in, their labels come back.
//!
//! A window is the next words of one text, so the windows of many texts can share a network step.

use std::ops::Range;

use super::{Mark, Punctuator};
use crate::{Error, Result};

/// New words per window.
const GROUP_WORDS: usize = 20;
/// From this length on a window without a sentence end is cut at a comma.
const LONG_WINDOW_WORDS: usize = 200;
/// Longest window: without even a comma everything in it is given out as it is. FunASR's window grows for ever.
const MAX_WINDOW_WORDS: usize = 1000;

/// A text whose labels are being found, from [`Punctuator::open`] or [`Punctuator::open_next`].
#[derive(Debug, Clone, Default)]
pub struct Labelling {
    pub(super) words: Vec<String>,
    /// Words of calls before this one.
    pub(super) known: usize,
    /// Of the words before the window.
    pub(super) labels: Vec<u32>,
    /// Where each stretch of words ends that was given out at once.
    pub(super) ends: Vec<usize>,
    ids: Vec<u32>,
    window: Range<usize>,
}

/// What the network reads at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window<'a> {
    /// Words, at least one and at most 1000, known by exact match, else `<unk>`.
    pub ids: &'a [u32],
    /// VAD index of a real-time model: how many words the call began with. FunASR leaves it the same for all windows of
    /// a call.
    pub known: usize,
}

impl Labelling {
    pub(super) fn new(words: Vec<String>, known: usize, ids: Vec<u32>) -> Self {
        let window = 0..ids.len().min(GROUP_WORDS);
        Self { words, known, labels: Vec::new(), ends: Vec::new(), ids, window }
    }

    /// The words whose labels come next; nothing if all are known.
    pub fn window(&self) -> Option<Window<'_>> {
        let ids = &self.ids[self.window.clone()];
        (!ids.is_empty()).then_some(Window { ids, known: self.known })
    }

    /// Ids of all words.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }
}

impl Punctuator {
    /// Takes the labels of the [window](Labelling::window), and goes on to the next: a word is given out once a sentence
    /// end follows it, else it comes again with the next 20.
    ///
    /// # Errors
    /// [`Error::Inference`] for another number of labels or one beyond `punc_list`; the text is as before.
    pub fn label(&self, text: &mut Labelling, mut labels: Vec<u32>) -> Result<()> {
        let Range { start, end } = text.window;
        self.check(&labels, end - start)?;
        let all = text.ids.len();
        let ready = if end == all { end - start } else { self.cut(&mut labels) };
        text.labels.extend_from_slice(&labels[..ready]);
        text.ends.extend((ready > 0).then_some(start + ready));
        text.window = start + ready..all.min(end + GROUP_WORDS);
        Ok(())
    }

    /// [`Punctuator::label`] with the labels that `network` gives each window, to the end.
    pub(super) fn label_all(
        &self,
        text: &mut Labelling,
        mut network: impl FnMut(Window) -> Result<Vec<u32>>,
    ) -> Result<()> {
        while let Some(window) = text.window() {
            let labels = network(window)?;
            self.label(text, labels)?;
        }
        Ok(())
    }

    fn check(&self, labels: &[u32], words: usize) -> Result<()> {
        if labels.len() != words {
            return Err(Error::inference(format!("{} punctuation labels for {words} words", labels.len())));
        }
        match labels.iter().find(|&&label| label as usize >= self.marks.len()) {
            Some(label) => Err(Error::inference(format!(
                "punctuation label {label}, but there are {}",
                self.marks.len()
            ))),
            None => Ok(()),
        }
    }

    /// How many words of a window that is not the last can be given out: up to its last sentence end, leaving at least
    /// one word of right context; of a long one up to its last comma, which becomes a sentence end.
    fn cut(&self, labels: &mut [u32]) -> usize {
        if let Some(end) = self.last(labels, Mark::ends_sentence) {
            return end + 1;
        }
        if labels.len() > LONG_WINDOW_WORDS
            && let Some(comma) = self.last(labels, Mark::is_comma)
        {
            labels[comma] = self.sentence_end;
            return comma + 1;
        }
        // The next window would be longer than allowed.
        if labels.len() + GROUP_WORDS > MAX_WINDOW_WORDS { labels.len() } else { 0 }
    }

    /// The last word with such a mark, but for the first two and the last one.
    pub(super) fn last(&self, labels: &[u32], is: fn(&Mark) -> bool) -> Option<usize> {
        (2..labels.len().saturating_sub(1)).rev().find(|&i| is(&self.marks[labels[i] as usize]))
    }
}
