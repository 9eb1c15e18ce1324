//! n-gram language models as decoding graphs: FunASR's directories of `TLG.fst`, `config.yaml` and `lexicon.txt`.
//!
//! The graph reads tokens (label = id + 1) and writes words (the index in `config.yaml`). It is composed of the tokens T, which
//! may last and have blanks between them (CTC), the lexicon L and the n-gram model G.

pub mod arpa;
pub mod build;
pub mod fst;

use std::collections::HashMap;
use std::path::Path;

use self::fst::{EPSILON, Fst};
use super::tokens::TokenList;
use crate::{Error, Result};

/// File names of a directory.
pub const GRAPH: &str = "TLG.fst";
/// Words by output label.
pub const WORDS: &str = "config.yaml";
/// What words are spelled with.
pub const LEXICON: &str = "lexicon.txt";
/// Arcs that are looked at to tell whether a graph is for a vocabulary.
const MAX_PROBES: usize = 2000;

/// A language model that fits a vocabulary.
#[derive(Debug)]
pub struct LanguageModel {
    graph: Fst,
    vocab: usize,
}

impl LanguageModel {
    /// Opens a directory for a model with these tokens.
    ///
    /// # Errors
    /// A file that is missing, unreadable or broken; a graph with labels that the tokens or the words lack, or whose words
    /// are not spelled with the tokens they are read from: it was made for another token list.
    pub fn open(directory: impl AsRef<Path>, tokens: &TokenList) -> Result<Self> {
        let directory = directory.as_ref();
        let words = read_words(&directory.join(WORDS))?;
        let lexicon = Lexicon::read(directory.join(LEXICON))?;
        let path = directory.join(GRAPH);
        let graph = Fst::read(&path)?;
        check(&graph, tokens, &words, &lexicon).map_err(|message| Error::config(&path, message))?;
        Ok(Self { graph, vocab: tokens.len() })
    }

    /// Number of tokens of the vocabulary that it was opened for.
    pub fn vocab(&self) -> usize {
        self.vocab
    }

    /// The decoding graph.
    pub fn graph(&self) -> &Fst {
        &self.graph
    }
}

fn check(
    graph: &Fst,
    tokens: &TokenList,
    words: &[String],
    lexicon: &Lexicon,
) -> std::result::Result<(), String> {
    let arcs = graph.all_arcs();
    if let Some(arc) = arcs.iter().find(|arc| arc.ilabel as usize > tokens.len()) {
        let (label, count) = (arc.ilabel, tokens.len());
        return Err(format!("reads label {label}, but the model has {count} tokens: made for another model"));
    }
    if let Some(arc) = arcs.iter().find(|arc| arc.olabel as usize >= words.len()) {
        return Err(format!("writes label {}, but {WORDS} lists {} words", arc.olabel, words.len()));
    }
    // A word is written while it is read.
    let names_both = |arc: &&fst::Arc| arc.ilabel != EPSILON && arc.olabel != EPSILON;
    let named = arcs.iter().filter(names_both).filter_map(|arc| {
        let (token, word) = (tokens.token(arc.ilabel - 1)?, words.get(arc.olabel as usize)?);
        Some((token, word, lexicon.may_hold(word, token)?))
    });
    let (mut right, mut wrong) = (0, Vec::new());
    for (token, word, fits) in named.take(MAX_PROBES) {
        if fits { right += 1 } else { wrong.push((token, word)) }
    }
    match wrong.first() {
        Some((token, word)) if wrong.len() > right => Err(format!(
            "reads token {token:?} for the word {word:?}, which {LEXICON} spells otherwise: made for another token list"
        )),
        _ => Ok(()),
    }
}

/// `token_list:`, then a line `- "word"` each. FunASR writes words unescaped, so it is not always YAML.
fn read_words(path: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
    let lines = text.lines().skip_while(|line| line.trim_end() != "token_list:").skip(1);
    let word = |line: &str| {
        let word = line.trim().strip_prefix('-')?.trim();
        let plain = word.strip_prefix('"').and_then(|word| word.strip_suffix('"'));
        Some(plain.unwrap_or(word).to_owned())
    };
    let words: Vec<String> = lines.map_while(word).collect();
    if words.is_empty() { Err(Error::config(path, "no words under token_list:")) } else { Ok(words) }
}

/// Words and their spellings: a line with the word and its tokens each. A word may have several.
#[derive(Debug, Clone, Default)]
pub struct Lexicon {
    spellings: HashMap<Box<str>, Vec<Box<str>>>,
}

impl Lexicon {
    /// Reads a file.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Config`], naming the line, for a word without tokens.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
        let mut spellings: HashMap<Box<str>, Vec<Box<str>>> = HashMap::new();
        for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
            let entry = line.trim().split_once(char::is_whitespace);
            let (word, tokens) =
                entry.ok_or_else(|| Error::config(path, format!("line {number}: {line:?} has no tokens")))?;
            spellings.entry(word.into()).or_default().push(tokens.trim().into());
        }
        Ok(Self { spellings })
    }

    /// The spellings of a word, as tokens with spaces between them.
    pub fn spellings(&self, word: &str) -> &[Box<str>] {
        self.spellings.get(word).map_or(&[], Vec::as_slice)
    }

    /// Whether a spelling of `word` has `token`; nothing if the lexicon cannot tell. A word that it lacks is spelled letter by
    /// letter.
    fn may_hold(&self, word: &str, token: &str) -> Option<bool> {
        let has =
            |word: &str| self.spellings(word).iter().any(|tokens| tokens.split(' ').any(|t| t == token));
        if self.spellings.contains_key(word) {
            return Some(has(word));
        }
        let letters: Vec<String> = word.chars().map(String::from).collect();
        let known = letters.iter().all(|letter| self.spellings.contains_key(letter.as_str()));
        known.then(|| letters.iter().any(|letter| has(letter)))
    }
}
