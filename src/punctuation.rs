//! Punctuation of plain text around a CT-Transformer (`funasr/models/ct_transformer/model.py`, `inference`): words,
//! windows, text. The network itself is whoever labels the windows of a [`Labelling`]. Text that goes on is in
//! [`realtime`].

mod labelling;
pub mod realtime;

use std::iter::repeat_n;
use std::ops::Range;
use std::path::Path;

use serde::Deserialize;

use crate::decode::tokens::TokenList;
use crate::text::is_space;
use crate::text::segment::Segmenter;
use crate::{Error, Result};

pub use labelling::{Labelling, Window};

/// The part of a punctuation model's configuration that concerns text.
#[derive(Debug, Clone, Deserialize)]
pub struct Config {
    /// Mark of each label, `_` for none. Taken literally: with an ASCII `,` or `?` in it, as some templates have, the
    /// rules for `，` and `？` do not apply, as in FunASR.
    pub punc_list: Vec<String>,
    /// Label of the full stop that closes every text.
    #[serde(default = "full_stop")]
    pub sentence_end_id: u32,
}

fn full_stop() -> u32 {
    3
}

/// A text with punctuation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Punctuated {
    /// Words and marks.
    pub text: String,
    /// One label per word of [`split_words`]; from a segmenter's words, one per letter of those that begin with a
    /// Chinese one, and one for each other.
    pub labels: Vec<u32>,
    /// Byte range in `text` of the mark of each label, empty if there is none.
    pub marks: Vec<Range<usize>>,
}

/// Splits on white space, and inside a piece puts every non-ASCII character and every run of ASCII on its own.
pub fn split_words(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    for piece in text.split(is_space) {
        let mut begin = 0;
        for (at, letter) in piece.char_indices().filter(|(_, letter)| !letter.is_ascii()) {
            let end = at + letter.len_utf8();
            words.extend([&piece[begin..at], &piece[at..end]]);
            begin = end;
        }
        words.push(&piece[begin..]);
    }
    words.retain(|word| !word.is_empty());
    words
}

/// Puts punctuation into text with the labels of a network.
#[derive(Debug, Clone)]
pub struct Punctuator {
    vocabulary: TokenList,
    segmenter: Option<Segmenter>,
    marks: Vec<Mark>,
    sentence_end: u32,
}

impl Punctuator {
    /// A punctuator for a model with this configuration and word list; `file` is only named in errors.
    ///
    /// # Errors
    /// [`Error::Config`] for a `punc_list` without `_`, or a `sentence_end_id` beyond it.
    pub fn new(file: impl AsRef<Path>, config: Config, vocabulary: TokenList) -> Result<Self> {
        let file = file.as_ref();
        if !config.punc_list.iter().any(|mark| mark == "_") {
            return Err(Error::config(file, "punc_list: no entry \"_\""));
        }
        if config.sentence_end_id as usize >= config.punc_list.len() {
            let (id, marks) = (config.sentence_end_id, config.punc_list.len());
            return Err(Error::config(
                file,
                format!("sentence_end_id: {id}, but punc_list has {marks} entries"),
            ));
        }
        let marks = config.punc_list.into_iter().map(Mark::new).collect();
        Ok(Self { vocabulary, segmenter: None, marks, sentence_end: config.sentence_end_id })
    }

    /// The jieba variant: splits words with `segmenter`, not with [`split_words`].
    pub fn with_segmenter(self, segmenter: Segmenter) -> Self {
        Self { segmenter: Some(segmenter), ..self }
    }

    /// Punctuates `text`. `network` labels a window; blank text needs no call and gives an empty result.
    ///
    /// Text and labels are FunASR's, but no letter is made small, a word is raised at the start of a sentence only if it
    /// has no capitals, and the text does not begin with a space.
    ///
    /// # Errors
    /// Those of `network`, and of [`Punctuator::label`].
    pub fn punctuate(
        &self,
        text: &str,
        network: impl FnMut(Window) -> Result<Vec<u32>>,
    ) -> Result<Punctuated> {
        let mut text = self.open(text);
        self.label_all(&mut text, network)?;
        Ok(self.close(&text))
    }

    /// A text before its first window, for [`Punctuator::label`] and then [`Punctuator::close`].
    pub fn open(&self, text: &str) -> Labelling {
        let words = match &self.segmenter {
            Some(segmenter) => segmenter.split(text),
            None => split_words(text).into_iter().map(str::to_owned).collect(),
        };
        self.labelling(words, 0)
    }

    /// What [`Punctuator::punctuate`] gives, once the labels of all words are known.
    pub fn close(&self, text: &Labelling) -> Punctuated {
        let mut writer = Writer { marks: &self.marks, raise: true, out: Punctuated::default() };
        let mut begin = 0;
        for &end in &text.ends {
            writer.write(&text.words[begin..end], &text.labels[begin..end]);
            begin = end;
        }
        let punctuated = writer.finish(self.sentence_end);
        if self.segmenter.is_some() { per_letter(punctuated, &text.words) } else { punctuated }
    }

    fn labelling(&self, words: Vec<String>, known: usize) -> Labelling {
        let ids = words.iter().map(|word| self.vocabulary.id(word)).collect();
        Labelling::new(words, known, ids)
    }
}

/// Labels per letter again: FunASR puts label 1 before that of a word for each letter but the last, if the word begins
/// in its range of letters.
fn per_letter(punctuated: Punctuated, words: &[String]) -> Punctuated {
    let mut out = Punctuated { text: punctuated.text, ..Punctuated::default() };
    for ((word, label), mark) in words.iter().zip(punctuated.labels).zip(punctuated.marks) {
        let letters = word.starts_with(|first| ('\u{e00}'..='\u{9fa5}').contains(&first));
        let inner = if letters { word.chars().count() - 1 } else { 0 };
        out.labels.extend(repeat_n(1, inner).chain([label]));
        out.marks.extend(repeat_n(mark.start..mark.start, inner).chain([mark]));
    }
    out
}

/// A punctuation mark as it is written.
#[derive(Debug, Clone)]
struct Mark {
    /// After a Chinese character; empty for no mark.
    text: String,
    /// After an ASCII word.
    ascii: String,
}

impl Mark {
    fn new(entry: String) -> Self {
        let text = if entry == "_" { String::new() } else { entry };
        let ascii = match text.as_str() {
            "，" => ",",
            "。" => ".",
            "？" => "?",
            other => other,
        };
        Self { ascii: ascii.to_owned(), text }
    }

    fn ends_sentence(&self) -> bool {
        self.text == "。" || self.text == "？"
    }

    fn is_comma(&self) -> bool {
        self.text == "，"
    }
}

/// Assembles the text.
struct Writer<'a> {
    marks: &'a [Mark],
    /// Whether the next word begins a sentence.
    raise: bool,
    out: Punctuated,
}

impl Writer<'_> {
    /// Appends the words of one window. The first one is set off by a space even after a Chinese character, as in FunASR.
    fn write(&mut self, words: &[String], labels: &[u32]) {
        let mut after_ascii = true;
        for (word, &label) in words.iter().zip(labels) {
            // A word of a segmenter may be mixed; its first letter decides.
            let ascii = word.starts_with(|letter: char| letter.is_ascii());
            if ascii && after_ascii && !self.out.text.is_empty() {
                self.out.text.push(' ');
            }
            self.write_word(word);
            self.write_mark(label, ascii);
            after_ascii = ascii;
        }
    }

    fn write_word(&mut self, word: &str) {
        let begin = self.out.text.len();
        self.out.text.push_str(word);
        if self.raise
            && !word.bytes().any(|byte| byte.is_ascii_uppercase())
            && let Some(first) = self.out.text.get_mut(begin..begin + 1)
        {
            first.make_ascii_uppercase();
        }
    }

    fn write_mark(&mut self, label: u32, ascii: bool) {
        let mark = &self.marks[label as usize];
        let begin = self.out.text.len();
        self.out.text.push_str(if ascii { &mark.ascii } else { &mark.text });
        self.out.labels.push(label);
        self.out.marks.push(begin..self.out.text.len());
        self.raise = mark.ends_sentence();
    }

    /// Closes the text with a full stop unless it ends in one or in a question mark; a comma gives way to it.
    fn finish(self, sentence_end: u32) -> Punctuated {
        let mut out = self.out;
        let Some(last) = out.text.chars().next_back() else { return out };
        if ['。', '？', '.', '?'].contains(&last) {
            return out;
        }
        if ['，', '、', ','].contains(&last) {
            out.text.pop();
        }
        let begin = out.text.len();
        out.text.push(if last.is_ascii() { '.' } else { '。' });
        if let (Some(label), Some(mark)) = (out.labels.last_mut(), out.marks.last_mut()) {
            (*label, *mark) = (sentence_end, begin..out.text.len());
        }
        out
    }
}
