//! n-gram models in ARPA files, as SRILM, KenLM and the like write them.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use crate::{Error, Result};

/// Words of an ARPA file that are no words.
pub const BEGIN: &str = "<s>";
/// End of a sentence.
pub const END: &str = "</s>";
/// What stands for words that the model does not know.
pub const UNKNOWN: &str = "<unk>";
/// Longest line.
const MAX_LINE: u64 = 1 << 16;
/// Most words of an n-gram.
const MAX_ORDER: usize = 16;
/// The n-gram of no words.
pub const ROOT: u32 = 0;

/// One n-gram.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ngram {
    /// Its words but the last.
    pub history: u32,
    /// Its last word.
    pub word: u32,
    /// -ln of the word's probability after the history.
    pub cost: f32,
    /// -ln of what backing off from this n-gram, as a history, costs.
    pub backoff: f32,
    /// The longest listed n-gram that ends it and is shorter.
    pub suffix: u32,
    /// Whether another n-gram begins with it.
    pub is_history: bool,
}

/// An n-gram model. Entry [`ROOT`] of the n-grams is the empty one, and histories come before what continues them.
#[derive(Debug, Clone)]
pub struct Arpa {
    /// The words; n-grams name them by index.
    pub words: Vec<Box<str>>,
    /// The n-grams.
    pub ngrams: Vec<Ngram>,
}

impl Arpa {
    /// Reads an ARPA file.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read; [`Error::Config`], naming the line, if it is broken: counts that do not hold, a
    /// probability above one or that is no number, an n-gram whose beginning or last word is not listed, no end mark.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        let mut lines = Lines { input: BufReader::new(file), number: 0, line: String::new() };
        let mut parser = Parser::default();
        loop {
            let more = lines.next().map_err(|e| Error::io(path, e))?;
            let at = |message: String| Error::config(path, format!("line {}: {message}", lines.number));
            if !more {
                return Err(at("the file ends without \\end\\".into()));
            }
            if parser.line(lines.line.trim()).map_err(at)? {
                return Ok(Self { words: parser.words, ngrams: parser.ngrams });
            }
        }
    }
}

/// Lines of bounded length; what is not UTF-8 becomes a word that nothing spells.
struct Lines {
    input: BufReader<File>,
    number: usize,
    line: String,
}

impl Lines {
    fn next(&mut self) -> std::io::Result<bool> {
        let mut bytes = Vec::new();
        let read = (&mut self.input).take(MAX_LINE).read_until(b'\n', &mut bytes)?;
        self.line = String::from_utf8_lossy(&bytes).into_owned();
        self.number += usize::from(read > 0);
        Ok(read > 0)
    }
}

#[derive(Default)]
struct Parser {
    words: Vec<Box<str>>,
    ids: HashMap<Box<str>, u32>,
    ngrams: Vec<Ngram>,
    /// By history and word.
    index: HashMap<(u32, u32), u32>,
    /// How many n-grams of each order are announced.
    counts: Vec<usize>,
    /// Order of the section that is being read, 0 in `\data\`; nothing before.
    section: Option<usize>,
    /// N-grams of the section so far.
    read: usize,
}

impl Parser {
    /// Takes one line; true at the end.
    fn line(&mut self, line: &str) -> std::result::Result<bool, String> {
        match (self.section, line) {
            (_, "") => {}
            (None, "\\data\\") => {
                self.section = Some(0);
                let root =
                    Ngram { history: ROOT, word: 0, cost: 0.0, backoff: 0.0, suffix: ROOT, is_history: true };
                self.ngrams.push(root);
            }
            // What comes before the data is a comment.
            (None, _) => {}
            (Some(_), "\\end\\") => {
                self.close_section()?;
                return match self.section == Some(self.counts.len()) && !self.counts.is_empty() {
                    true => Ok(true),
                    false => Err(format!("ends before the {}-grams that are announced", self.counts.len())),
                };
            }
            (Some(order), _) if line.starts_with('\\') => {
                self.close_section()?;
                if line != format!("\\{}-grams:", order + 1) || order >= self.counts.len() {
                    return Err(format!("unexpected section {line:?}"));
                }
                (self.section, self.read) = (Some(order + 1), 0);
            }
            (Some(0), _) => self.count(line)?,
            (Some(order), _) => self.ngram(order, line)?,
        }
        Ok(false)
    }

    fn close_section(&self) -> std::result::Result<(), String> {
        let Some(order @ 1..) = self.section else { return Ok(()) };
        let (announced, read) = (self.counts[order - 1], self.read);
        if announced == read {
            Ok(())
        } else {
            Err(format!("{read} {order}-grams, but {announced} are announced"))
        }
    }

    /// `ngram N=COUNT`.
    fn count(&mut self, line: &str) -> std::result::Result<(), String> {
        let count = line.strip_prefix("ngram").and_then(|rest| rest.split_once('='));
        let count = count.and_then(|(order, count)| {
            let order: usize = order.trim().parse().ok()?;
            (order == self.counts.len() + 1 && order <= MAX_ORDER).then_some(count.trim().parse().ok()?)
        });
        self.counts.push(count.ok_or_else(|| format!("no count of n-grams in order: {line:?}"))?);
        Ok(())
    }

    /// `LOG10_PROBABILITY WORD.. [LOG10_BACKOFF]`.
    fn ngram(&mut self, order: usize, line: &str) -> std::result::Result<(), String> {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        if fields.len() != order + 1 && fields.len() != order + 2 {
            return Err(format!(
                "{} fields, where a {order}-gram has {} or {}",
                fields.len(),
                order + 1,
                order + 2
            ));
        }
        let cost = cost(fields[0]).filter(|cost| *cost >= 0.0);
        let cost = cost.ok_or_else(|| format!("{:?} is no logarithm of a probability", fields[0]))?;
        let backoff = fields.get(order + 1).map_or(Some(0.0), |field| self::cost(field));
        let backoff = backoff.ok_or_else(|| format!("back-off {:?} is no number", fields[order + 1]))?;
        let [beginning @ .., last] = &fields[1..=order] else { return Err("no words".into()) };
        let word = if order == 1 { self.add_word(last) } else { self.word(last)? };
        let history = beginning.iter().try_fold(ROOT, |history, word| self.child(history, word))?;
        if self.index.insert((history, word), self.ngrams.len() as u32).is_some() {
            return Err(format!("{:?} is listed twice", fields[1..=order].join(" ")));
        }
        let suffix = self.suffix(history, word);
        self.ngrams[history as usize].is_history = true;
        self.ngrams.push(Ngram { history, word, cost, backoff, suffix, is_history: false });
        self.read += 1;
        Ok(())
    }

    fn add_word(&mut self, word: &str) -> u32 {
        let next = self.words.len() as u32;
        let id = *self.ids.entry(word.into()).or_insert(next);
        if id == next {
            self.words.push(word.into());
        }
        id
    }

    fn word(&self, word: &str) -> std::result::Result<u32, String> {
        self.ids.get(word).copied().ok_or_else(|| format!("{word:?} is no 1-gram"))
    }

    fn child(&self, history: u32, word: &str) -> std::result::Result<u32, String> {
        let id = self.word(word)?;
        self.index
            .get(&(history, id))
            .copied()
            .ok_or_else(|| format!("its words up to {word:?} are no n-gram"))
    }

    /// The longest shorter n-gram that ends with `word` after the end of `history`.
    fn suffix(&self, history: u32, word: u32) -> u32 {
        let mut shorter = history;
        while shorter != ROOT {
            shorter = self.ngrams[shorter as usize].suffix;
            if let Some(&suffix) = self.index.get(&(shorter, word)) {
                return suffix;
            }
        }
        ROOT
    }
}

/// -ln of what is written as log10; infinite for a probability of 0.
fn cost(field: &str) -> Option<f32> {
    let log10: f64 = field.parse().ok()?;
    let cost = (-log10 * std::f64::consts::LN_10) as f32;
    (!cost.is_nan() && cost > f32::NEG_INFINITY).then_some(if cost == 0.0 { 0.0 } else { cost })
}
