//! Hotword lists: from text or a file to the token ids that a model is biased with (FunASR
//! `models/seaco_paraformer/model.py`, `generate_hotwords_list`).
//!
//! Where this differs from FunASR: a word that the vocabulary cannot spell is rejected with a reason, not
//! turned into `<unk>` and biased as such; a word given twice counts once, its first weight stands; weights
//! are read and kept for the [`graph`], though the neural models have no use for them.

pub mod graph;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::spelling::Speller;
use super::tokens::{TokenList, UNK};
use crate::{Error, Result};

/// Entries that are read; what follows them is rejected together.
pub const MAX_HOTWORDS: usize = 10_000;
/// Tokens of the longest hotword.
pub const MAX_TOKENS: usize = 50;
/// Characters of the longest entry.
const MAX_CHARS: usize = 200;
/// Size of the largest file.
const MAX_BYTES: u64 = 4 << 20;
/// Weights of hotwords, positive or negative, are at most this.
pub const MAX_WEIGHT: f32 = 10_000.0;
/// Weight of a hotword in a graph if none is given.
pub const DEFAULT_WEIGHT: f32 = 10.0;
/// Characters between the entries of a string.
pub const SEPARATORS: [char; 4] = ['\n', ',', '，', '、'];

/// One hotword: a word or several.
#[derive(Debug, Clone, PartialEq)]
pub struct Hotword {
    /// Its words, with a space between them.
    pub text: String,
    /// Its weight, if one was given; at most [`MAX_WEIGHT`] up or down.
    pub weight: Option<f32>,
}

/// A hotword that is not used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rejected {
    /// As it was given, cut if it is long.
    pub word: String,
    /// The reason, naming the line if it comes from a file.
    pub why: String,
}

/// A hotword list as it was given, before any model has seen it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Hotwords {
    /// What can be used, in order, each text once.
    pub words: Vec<Hotword>,
    /// What cannot.
    pub rejected: Vec<Rejected>,
}

/// What became of a hotword list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct HotwordReport {
    /// Hotwords that the model is biased with.
    pub accepted: Vec<String>,
    /// Hotwords that it is not biased with.
    pub rejected: Vec<Rejected>,
}

impl HotwordReport {
    /// What is used in this way, in `other`, or in both.
    pub fn or(mut self, other: Self) -> Self {
        let known: HashSet<String> = self.accepted.iter().cloned().collect();
        self.accepted.extend(other.accepted.into_iter().filter(|word| !known.contains(word)));
        let accepted: HashSet<&str> = self.accepted.iter().map(String::as_str).collect();
        self.rejected.retain(|rejected| !accepted.contains(rejected.word.as_str()));
        self
    }
}

impl Hotwords {
    /// Reads the hotwords of a request.
    ///
    /// - A JSON object maps each hotword to its weight: a number, a string with one, or a list of one of these.
    /// - A JSON list holds such objects, pairs of hotword and weight, and strings as in a text with commas.
    /// - Text with commas or line ends holds an entry between each two of them: the words of one hotword, and
    ///   a trailing number is its weight (`阿里巴巴 20, hello world`).
    /// - In any other text every word is a hotword, as in FunASR, and a number is the weight of the word
    ///   before it.
    pub fn parse(text: &str) -> Self {
        let text = text.trim();
        let mut list = Collector::default();
        if text.starts_with(['{', '[']) {
            list.add_json(text);
        } else if text.contains(SEPARATORS) {
            text.split(SEPARATORS).for_each(|entry| list.add_entry(entry));
        } else {
            let mut words = text.split_whitespace().peekable();
            while let Some(word) = words.next() {
                let weight = words.next_if(|next| number(next).is_some()).and_then(number);
                list.add(word, weight);
            }
        }
        list.finish()
    }

    /// Reads a file with one hotword a line: its words, and a trailing number is its weight. A bad line is
    /// rejected by its number and the others are used.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read, [`Error::Config`] if it is larger than 4 MiB.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(|cause| Error::io(path, cause))?;
        file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|cause| Error::io(path, cause))?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(Error::config(
                path,
                format!("larger than {MAX_BYTES} bytes: not a list of hotwords"),
            ));
        }
        let mut list = Collector::default();
        for (number, line) in (1..).zip(bytes.split(|&byte| byte == b'\n')) {
            list.line = Some(number);
            match std::str::from_utf8(line) {
                Ok(line) => list.add_entry(line.trim_start_matches('\u{feff}')),
                Err(_) => list.reject(&String::from_utf8_lossy(line), "not UTF-8 text"),
            }
        }
        Ok(list.finish())
    }

    /// These hotwords, and those of `others` that are not among them. What is rejected of `others` was told when they were
    /// read.
    pub fn over(&self, others: &Self) -> Self {
        let known: HashSet<&str> = self.words.iter().map(|word| word.text.as_str()).collect();
        let added = others.words.iter().filter(|word| !known.contains(word.text.as_str())).cloned();
        Self { words: self.words.iter().cloned().chain(added).collect(), rejected: self.rejected.clone() }
    }

    /// Spells the hotwords for a [`graph`]: tokens and weight of each accepted one, and the report.
    pub fn spell(&self, speller: &Speller) -> (Vec<(Vec<u32>, f32)>, HotwordReport) {
        let spell = |hotword: &Hotword| {
            let tokens = speller.spell(&hotword.text)?;
            Ok((tokens, hotword.weight.unwrap_or(DEFAULT_WEIGHT)))
        };
        self.accept(spell)
    }

    /// Spells the hotwords in `tokens`: the ids of each accepted one, and the report. With a `seg_dict` a
    /// word is lower-cased and looked up there, and one of Chinese characters and digits that it lacks
    /// character by character; without, a word is one token or else the tokens of its characters.
    pub fn encode(&self, tokens: &TokenList, seg_dict: Option<&SegDict>) -> (Vec<Vec<u32>>, HotwordReport) {
        self.accept(|hotword| spell(&hotword.text, tokens, seg_dict))
    }

    fn accept<T>(
        &self,
        spell: impl Fn(&Hotword) -> std::result::Result<T, String>,
    ) -> (Vec<T>, HotwordReport) {
        let mut report = HotwordReport { accepted: Vec::new(), rejected: self.rejected.clone() };
        let mut spelled = Vec::new();
        for word in &self.words {
            match spell(word) {
                Ok(spelling) => {
                    spelled.push(spelling);
                    report.accepted.push(word.text.clone());
                }
                Err(why) => report.rejected.push(Rejected { word: shorten(&word.text), why }),
            }
        }
        (spelled, report)
    }
}

/// A list in the making.
#[derive(Default)]
struct Collector {
    list: Hotwords,
    seen: HashSet<String>,
    /// Number of the line that is being read, if it is a file.
    line: Option<usize>,
    /// First of the entries beyond [`MAX_HOTWORDS`], and how many there are.
    beyond: Option<(String, usize)>,
}

impl Collector {
    fn add_json(&mut self, text: &str) {
        match serde_json::from_str(text) {
            Ok(Value::Object(entries)) => self.add_weighted(entries),
            Ok(Value::Array(entries)) => entries.into_iter().for_each(|entry| self.add_listed(entry)),
            Ok(_) => self.reject(text, "neither a JSON object nor a list"),
            Err(cause) => self.reject(text, &format!("not JSON: {cause}")),
        }
    }

    fn add_weighted(&mut self, entries: serde_json::Map<String, Value>) {
        for (word, weight) in entries {
            match json_number(&weight) {
                Some(weight) => self.add(&word, Some(weight as f32)),
                None => {
                    self.reject(&word, &format!("weight {} is not a number", shorten(&weight.to_string())))
                }
            }
        }
    }

    fn add_listed(&mut self, entry: Value) {
        match entry {
            Value::String(entry) => self.add_entry(&entry),
            Value::Object(entries) => self.add_weighted(entries),
            Value::Array(pair) => match pair.as_slice() {
                [Value::String(word), weight] => {
                    self.add_weighted([(word.clone(), weight.clone())].into_iter().collect());
                }
                [Value::String(word)] => self.add(word, None),
                _ => self.reject(&Value::Array(pair).to_string(), "not a pair of a word and a weight"),
            },
            other => self.reject(&other.to_string(), "not a word"),
        }
    }

    /// Words with or without a weight after them.
    fn add_entry(&mut self, entry: &str) {
        let entry = entry.trim();
        let (words, last) = entry.rsplit_once(char::is_whitespace).unwrap_or((entry, ""));
        match number(last) {
            Some(weight) => self.add(words, Some(weight)),
            None => self.add(entry, None),
        }
    }

    fn add(&mut self, words: &str, weight: Option<f32>) {
        let text = words.split_whitespace().collect::<Vec<_>>().join(" ");
        if text.chars().count() > MAX_CHARS {
            self.reject(&text, &format!("longer than {MAX_CHARS} characters"));
        } else if weight.is_some_and(|weight| !weight.is_finite()) {
            self.reject(&text, "the weight is not a finite number");
        } else if weight.is_some_and(|weight| weight.abs() > MAX_WEIGHT) {
            self.reject(&text, &format!("the weight is not between -{MAX_WEIGHT} and {MAX_WEIGHT}"));
        } else if !text.is_empty() && !self.seen.contains(&text) && self.has_room(&text) {
            self.seen.insert(text.clone());
            self.list.words.push(Hotword { text, weight });
        }
    }

    fn reject(&mut self, word: &str, why: &str) {
        if self.has_room(word) {
            let why = self.line.map_or_else(|| why.to_owned(), |line| format!("line {line}: {why}"));
            self.list.rejected.push(Rejected { word: shorten(word.trim()), why });
        }
    }

    /// Counts `word` as beyond the limit if it is.
    fn has_room(&mut self, word: &str) -> bool {
        let room = self.list.words.len() + self.list.rejected.len() < MAX_HOTWORDS;
        if !room {
            self.beyond.get_or_insert_with(|| (shorten(word), 0)).1 += 1;
        }
        room
    }

    fn finish(mut self) -> Hotwords {
        if let Some((word, count)) = self.beyond {
            let why = format!("the first of {count} beyond the limit of {MAX_HOTWORDS} hotwords");
            self.list.rejected.push(Rejected { word, why });
        }
        self.list
    }
}

/// A number, a string with one, or a list of one of these.
fn json_number(value: &Value) -> Option<f64> {
    match value {
        Value::String(text) => text.trim().parse().ok(),
        Value::Array(list) => match list.as_slice() {
            [Value::Array(_)] => None,
            [one] => json_number(one),
            _ => None,
        },
        value => value.as_f64(),
    }
}

/// The number that `text` is written as; `nan` and `inf` are numbers, `infinity` is a word.
fn number(text: &str) -> Option<f32> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let written = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        || ["nan", "inf"].iter().any(|name| digits.eq_ignore_ascii_case(name));
    if written { text.parse().ok() } else { None }
}

/// At most 40 characters of a word, for a report.
fn shorten(word: &str) -> String {
    match word.char_indices().nth(40) {
        Some((end, _)) => format!("{}…", &word[..end]),
        None => word.to_owned(),
    }
}

fn spell(
    text: &str,
    tokens: &TokenList,
    seg_dict: Option<&SegDict>,
) -> std::result::Result<Vec<u32>, String> {
    let mut ids = Vec::new();
    for word in text.split_whitespace() {
        match seg_dict {
            Some(seg_dict) => seg_dict.spell(word, tokens, &mut ids)?,
            None => spell_plain(word, tokens, &mut ids)?,
        }
    }
    match ids.len() {
        0 => Err("spelled with no tokens".to_owned()),
        n if n > MAX_TOKENS => Err(format!("too long: {n} tokens, at most {MAX_TOKENS}")),
        _ => Ok(ids),
    }
}

fn spell_plain(word: &str, tokens: &TokenList, ids: &mut Vec<u32>) -> std::result::Result<(), String> {
    if let Ok(id) = known(word, tokens).or_else(|_| known(&word.to_lowercase(), tokens)) {
        ids.push(id);
        return Ok(());
    }
    if !word.chars().all(is_chinese_or_digit) {
        return Err(unknown(word));
    }
    for char in word.chars() {
        ids.push(known(char.encode_utf8(&mut [0; 4]), tokens)?);
    }
    Ok(())
}

fn known(piece: &str, tokens: &TokenList) -> std::result::Result<u32, String> {
    tokens.find(piece).filter(|_| piece != UNK).ok_or_else(|| unknown(piece))
}

fn unknown(piece: &str) -> String {
    format!("out of vocabulary: '{}'", shorten(piece))
}

/// The characters that FunASR spells one by one.
fn is_chinese_or_digit(c: char) -> bool {
    matches!(c, '\u{4e00}'..='\u{9fa5}' | '0'..='9')
}

/// A model's dictionary from words to the tokens they are spelled with (`seg_dict`).
#[derive(Debug, Clone, Default)]
pub struct SegDict {
    pieces: HashMap<Box<str>, Box<str>>,
}

impl SegDict {
    /// Reads `word piece piece ..` a line; the last line of a word counts.
    pub fn parse(text: &str) -> Self {
        let entry = |line: &str| {
            let line = line.trim();
            let (word, pieces) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            (Box::from(word), Box::from(pieces.trim_start()))
        };
        Self { pieces: text.lines().filter(|line| !line.trim().is_empty()).map(entry).collect() }
    }

    /// The pieces of a word, with spaces between them.
    pub fn pieces(&self, word: &str) -> Option<&str> {
        self.pieces.get(word).map(|pieces| &**pieces)
    }

    fn spell(&self, word: &str, tokens: &TokenList, ids: &mut Vec<u32>) -> std::result::Result<(), String> {
        let word = word.to_lowercase();
        if self.spell_entry(&word, tokens, ids)? {
            return Ok(());
        }
        if !word.chars().all(is_chinese_or_digit) {
            return Err(unknown(&word));
        }
        for char in word.chars() {
            let char = char.to_string();
            if !self.spell_entry(&char, tokens, ids)? {
                return Err(unknown(&char));
            }
        }
        Ok(())
    }

    /// False if there is no such entry.
    fn spell_entry(
        &self,
        entry: &str,
        tokens: &TokenList,
        ids: &mut Vec<u32>,
    ) -> std::result::Result<bool, String> {
        let Some(pieces) = self.pieces.get(entry) else { return Ok(false) };
        for piece in pieces.split_whitespace() {
            ids.push(known(piece, tokens).map_err(|_| unknown(entry))?);
        }
        Ok(true)
    }
}

/// A hotword in what was said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Match {
    /// The hotword, as it was given.
    pub word: String,
    /// When it begins.
    pub start_ms: u64,
    /// When it ends.
    pub end_ms: u64,
}

/// Where `hotwords` are in the words of a segment, given as text, start and end; in the order of their starts. Case does not
/// matter, spaces count only between words of letters, and such a word is not found inside another.
pub fn matches<'a>(hotwords: &[String], spoken: impl IntoIterator<Item = (&'a str, u64, u64)>) -> Vec<Match> {
    let mut text = String::new();
    // Where the text of each spoken word ends, and its times.
    let mut ends: Vec<(usize, u64, u64)> = Vec::new();
    for (word, start_ms, end_ms) in spoken {
        append_plain(&mut text, word);
        ends.push((text.len(), start_ms, end_ms));
    }
    let word_at = |byte: usize| ends[ends.partition_point(|(end, ..)| *end <= byte).min(ends.len() - 1)];
    let mut matches = Vec::new();
    for word in hotwords {
        let mut plain = String::new();
        append_plain(&mut plain, word);
        for at in occurrences(&text, &plain) {
            let ((_, start_ms, _), (_, _, end_ms)) = (word_at(at), word_at(at + plain.len() - 1));
            matches.push(Match { word: word.clone(), start_ms, end_ms });
        }
    }
    matches.sort_by_key(|found| found.start_ms);
    matches
}

/// Adds words in lower case, with a space between two words of letters and no other.
fn append_plain(plain: &mut String, text: &str) {
    for word in text.to_lowercase().split_whitespace() {
        if plain.chars().next_back().is_some_and(is_letter) && word.starts_with(is_letter) {
            plain.push(' ');
        }
        plain.push_str(word);
    }
}

/// Where `word` is in `text` and not inside another word.
fn occurrences<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let whole = |(start, found): &(usize, &str)| {
        let (before, after) = (&text[..*start], &text[start + found.len()..]);
        let cut_before = before.ends_with(is_letter) && found.starts_with(is_letter);
        let cut_after = after.starts_with(is_letter) && found.ends_with(is_letter);
        !cut_before && !cut_after
    };
    let found = if word.is_empty() { None } else { Some(text.match_indices(word)) };
    found.into_iter().flatten().filter(whole).map(|(start, _)| start)
}

/// A letter or digit of a script that separates words with spaces.
fn is_letter(c: char) -> bool {
    c.is_alphanumeric() && !matches!(c, '\u{2e80}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..)
}
