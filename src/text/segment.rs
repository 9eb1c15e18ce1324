//! Word segmentation of the jieba variant of CT-Transformer (`split_words` in `funasr/models/ct_transformer/utils.py`,
//! and jieba 0.42.1 as it calls it: exact mode without HMM). The `jieba-rs` crate is not used: it counts the total
//! frequency and the frequency of user words by other rules, and so cuts some texts elsewhere.

use std::collections::HashMap;
use std::path::Path;

use super::is_space;
use crate::{Error, Result};

/// Longest word of a dictionary, in characters; every one of its beginnings is stored.
const MAX_WORD_LETTERS: usize = 100;

/// A word list with frequencies; cuts text into its most probable words.
#[derive(Clone, Default)]
pub struct Segmenter {
    /// Words, and with frequency 0 the beginnings of words.
    frequencies: HashMap<String, u64>,
    /// Of all entries read, repeated ones included.
    total: u64,
}

impl std::fmt::Debug for Segmenter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Segmenter").field("total", &self.total).finish_non_exhaustive()
    }
}

impl Segmenter {
    /// Reads jieba's main dictionary, lines of `word frequency tag`; `file` is only named in errors.
    ///
    /// # Errors
    /// [`Error::Config`] for a line that is none, or a dictionary without any.
    pub fn new(file: impl AsRef<Path>, dictionary: &str) -> Result<Self> {
        let mut segmenter = Self::default();
        for (number, line) in (1..).zip(dictionary.lines()) {
            let mut fields = line.trim().split(' ');
            let frequency =
                fields.next().zip(fields.next()).and_then(|(word, f)| Some((word, f.parse().ok()?)));
            let (word, frequency): (&str, u32) =
                frequency.ok_or_else(|| at_line(&file, number, "not `word frequency tag`"))?;
            segmenter.add(word, u64::from(frequency)).map_err(|cause| at_line(&file, number, cause))?;
        }
        if segmenter.total == 0 { Err(Error::config(file, "no words")) } else { Ok(segmenter) }
    }

    /// Adds a user dictionary, lines of `word [frequency] [tag]`. A word without a frequency gets one that makes it win
    /// against its parts.
    ///
    /// # Errors
    /// [`Error::Config`] for a word over 100 characters or a frequency over 32 bits.
    pub fn add_user_words(&mut self, file: impl AsRef<Path>, text: &str) -> Result<()> {
        for (number, line) in (1..).zip(text.split('\n')) {
            let line = line.trim_matches([' ', '\t', '\r', '\u{b}', '\u{c}']).trim_start_matches('\u{feff}');
            if line.is_empty() {
                continue;
            }
            let (rest, _tag) = split_field(line, |byte| byte.is_ascii_lowercase());
            let (word, digits) = split_field(rest, |byte| byte.is_ascii_digit());
            let frequency = match digits.map(str::parse::<u32>) {
                Some(Ok(frequency)) => u64::from(frequency),
                Some(Err(cause)) => return Err(at_line(&file, number, cause)),
                None => self.suggest(word),
            };
            self.add(word, frequency).map_err(|cause| at_line(&file, number, cause))?;
        }
        Ok(())
    }

    /// Splits `text`: a piece of Latin letters and apostrophes between white space is a word, everything between two
    /// such is joined and cut by the dictionary.
    pub fn split(&self, text: &str) -> Vec<String> {
        let mut words = Vec::new();
        let mut joined = String::new();
        for piece in text.split(is_space).filter(|piece| !piece.is_empty()) {
            if piece.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'\'') {
                words.extend(self.cut(&joined).into_iter().map(str::to_owned));
                words.push(piece.to_owned());
                joined.clear();
            } else {
                joined.push_str(piece);
            }
        }
        words.extend(self.cut(&joined).into_iter().map(str::to_owned));
        words
    }

    /// As jieba's `add_word`: the total grows by a repeated word, too.
    fn add(&mut self, word: &str, frequency: u64) -> std::result::Result<(), String> {
        if word.chars().nth(MAX_WORD_LETTERS).is_some() {
            return Err(format!("a word of over {MAX_WORD_LETTERS} characters"));
        }
        for (end, _) in word.char_indices().skip(1) {
            if !self.frequencies.contains_key(&word[..end]) {
                self.frequencies.insert(word[..end].to_owned(), 0);
            }
        }
        self.frequencies.insert(word.to_owned(), frequency);
        self.total = self.total.saturating_add(frequency);
        Ok(())
    }

    /// As jieba's `suggest_freq`, to the order of its float operations.
    fn suggest(&self, word: &str) -> u64 {
        let frequency = |word: &str| self.frequencies.get(word).copied().unwrap_or(1);
        let total = self.total as f64;
        let together: f64 = self.cut(word).into_iter().map(|part| frequency(part) as f64 / total).product();
        frequency(word).max((together * total) as u64 + 1)
    }

    fn cut<'a>(&self, text: &'a str) -> Vec<&'a str> {
        let mut words = Vec::new();
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let end = match rest.find(|letter| !is_in_words(letter)).unwrap_or(rest.len()) {
                0 => first.len_utf8(),
                end => end,
            };
            let (block, after) = rest.split_at(end);
            if is_in_words(first) {
                self.cut_block(block, &mut words)
            } else {
                words.push(block)
            }
            rest = after;
        }
        words
    }

    /// Appends the most probable words of `block`; single Latin letters and digits in a row stay together.
    fn cut_block<'a>(&self, block: &'a str, words: &mut Vec<&'a str>) {
        let starts: Vec<usize> = block.char_indices().map(|(at, _)| at).chain([block.len()]).collect();
        let ends = self.word_ends(block, &starts);
        let (mut run, mut at) = (0, 0);
        while at < ends.len() {
            let end = ends[at];
            if end > at + 1 || !block.as_bytes()[starts[at]].is_ascii_alphanumeric() {
                let both = [&block[starts[run]..starts[at]], &block[starts[at]..starts[end]]];
                words.extend(both.into_iter().filter(|word| !word.is_empty()));
                run = end;
            }
            at = end;
        }
        words.extend(Some(&block[starts[run]..]).filter(|word| !word.is_empty()));
    }

    /// For each character the end of the word that begins with it on the best way to the end of the block.
    fn word_ends(&self, block: &str, starts: &[usize]) -> Vec<usize> {
        let letters = starts.len() - 1;
        let log_total = (self.total as f64).ln();
        let mut best = vec![(0.0, letters); letters + 1];
        for at in (0..letters).rev() {
            let frequency = |end| self.frequencies.get(&block[starts[at]..starts[end]]);
            let score =
                |(end, frequency): (usize, u64)| ((frequency as f64).ln() - log_total + best[end].0, end);
            best[at] = (at + 1..=letters)
                .map_while(|end| Some((end, *frequency(end)?)))
                .filter(|&(_, frequency)| frequency > 0)
                .map(score)
                .max_by(|one, other| one.0.total_cmp(&other.0))
                .unwrap_or_else(|| score((at + 1, 1)));
        }
        best.pop();
        best.into_iter().map(|(_, end)| end).collect()
    }
}

/// Characters that the dictionary is asked about; every other one is a word.
fn is_in_words(letter: char) -> bool {
    matches!(letter, '\u{4e00}'..='\u{9fd5}' | '+' | '#' | '&' | '.' | '_' | '%' | '-')
        || letter.is_ascii_alphanumeric()
}

/// Takes the last field off a line if all its bytes are `kind`.
fn split_field(line: &str, kind: fn(&u8) -> bool) -> (&str, Option<&str>) {
    match line.rsplit_once(' ') {
        Some((rest, field)) if !rest.is_empty() && !field.is_empty() && field.as_bytes().iter().all(kind) => {
            (rest, Some(field))
        }
        _ => (line, None),
    }
}

fn at_line(file: impl AsRef<Path>, number: usize, cause: impl std::fmt::Display) -> Error {
    Error::config(file, format!("line {number}: {cause}"))
}
