//! Hotword lists: from text or a file to the token ids that a model is biased with (FunASR
//! `models/seaco_paraformer/model.py`, `generate_hotwords_list`).
//!
//! Where this differs from FunASR: a word that the vocabulary cannot spell is rejected with a reason, not
//! turned into `<unk>` and biased as such; a word given twice counts once, its first weight stands; weights
//! are read and kept, though the neural models have no use for them.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

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
/// Characters between the entries of a string.
pub const SEPARATORS: [char; 4] = ['\n', ',', '，', '、'];

/// One hotword: a word or several.
#[derive(Debug, Clone, PartialEq)]
pub struct Hotword {
    /// Its words, with a space between them.
    pub text: String,
    /// Its weight, if one was given; any finite number.
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

impl Hotwords {
    /// Reads the hotwords of a request.
    ///
    /// - A JSON object maps each hotword to its weight, a number or a string with one.
    /// - Text with commas or line ends holds an entry between each two of them: the words of one hotword, and
    ///   a trailing number is its weight (`阿里巴巴 20, hello world`).
    /// - In any other text every word is a hotword, as in FunASR, and a number is the weight of the word
    ///   before it.
    pub fn parse(text: &str) -> Self {
        let text = text.trim();
        let mut list = Collector::default();
        if text.starts_with('{') {
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

    /// Spells the hotwords in `tokens`: the ids of each accepted one, and the report. With a `seg_dict` a
    /// word is lower-cased and looked up there, and one of Chinese characters and digits that it lacks
    /// character by character; without, a word is one token or else the tokens of its characters.
    pub fn encode(&self, tokens: &TokenList, seg_dict: Option<&SegDict>) -> (Vec<Vec<u32>>, HotwordReport) {
        let mut report = HotwordReport { accepted: Vec::new(), rejected: self.rejected.clone() };
        let mut ids = Vec::new();
        for Hotword { text, .. } in &self.words {
            match spell(text, tokens, seg_dict) {
                Ok(word) => {
                    ids.push(word);
                    report.accepted.push(text.clone());
                }
                Err(why) => report.rejected.push(Rejected { word: shorten(text), why }),
            }
        }
        (ids, report)
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
            Ok(Value::Object(entries)) => {
                for (word, weight) in entries {
                    let number =
                        weight.as_str().map_or_else(|| weight.as_f64(), |text| text.trim().parse().ok());
                    match number {
                        Some(weight) => self.add(&word, Some(weight as f32)),
                        None => self.reject(&word, &format!("weight {weight} is not a number")),
                    }
                }
            }
            Ok(_) => self.reject(text, "not a JSON object"),
            Err(cause) => self.reject(text, &format!("not a JSON object: {cause}")),
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

/// Those of `words` that `text` holds, whatever their case; spaces count only between words of letters, and
/// such a word is not found inside another.
pub fn matched(words: &[String], text: &str) -> Vec<String> {
    let text = plain(text);
    words.iter().filter(|word| holds(&text, &plain(word))).cloned().collect()
}

/// Lower case, one space between two words of letters and no other.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for word in text.to_lowercase().split_whitespace() {
        if plain.chars().next_back().is_some_and(is_letter) && word.starts_with(is_letter) {
            plain.push(' ');
        }
        plain.push_str(word);
    }
    plain
}

fn holds(text: &str, word: &str) -> bool {
    let whole = |(start, found): (usize, &str)| {
        let (before, after) = (&text[..start], &text[start + found.len()..]);
        let cut_before = before.ends_with(is_letter) && word.starts_with(is_letter);
        let cut_after = after.starts_with(is_letter) && word.ends_with(is_letter);
        !cut_before && !cut_after
    };
    !word.is_empty() && text.match_indices(word).any(whole)
}

/// A letter or digit of a script that separates words with spaces.
fn is_letter(c: char) -> bool {
    c.is_alphanumeric() && !matches!(c, '\u{2e80}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..)
}
