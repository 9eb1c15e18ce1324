//! Words as the tokens of a vocabulary: for hotword graphs and language models.

use super::hotwords::SegDict;
use super::tokens::{BLANK, EOS, SOS, TokenList, UNK};

/// Ends a piece of a word that the next token continues.
pub const CONTINUES: &str = "@@";
/// Begins a word.
pub const WORD_START: char = '\u{2581}';

/// Spells words in the tokens that a model would say for them.
#[derive(Debug, Clone, Copy)]
pub struct Speller<'a> {
    tokens: &'a TokenList,
    seg_dict: Option<&'a SegDict>,
    /// Whether pieces say where words begin, and not where they go on.
    marks_starts: bool,
}

impl<'a> Speller<'a> {
    /// For this vocabulary, with the dictionary of words to pieces that comes with it, if any.
    pub fn new(tokens: &'a TokenList, seg_dict: Option<&'a SegDict>) -> Self {
        let marks_starts = tokens.iter().any(|token| token.starts_with(WORD_START));
        Self { tokens, seg_dict, marks_starts }
    }

    /// The tokens of a text of one or several words. A word is looked up in the dictionary, as a token, and in lower case;
    /// else its letters outside ASCII are tokens each and what is between them is put together from pieces.
    ///
    /// # Errors
    /// What has no token.
    pub fn spell(&self, text: &str) -> Result<Vec<u32>, String> {
        let mut ids = Vec::new();
        for word in text.split_whitespace() {
            let lower = word.to_lowercase();
            let spelling = self.word(word).or_else(|_| self.word(&lower));
            ids.extend(spelling.map_err(|piece| format!("out of vocabulary: '{piece}'"))?);
        }
        if ids.is_empty() { Err("spelled with no tokens".into()) } else { Ok(ids) }
    }

    /// The tokens of one word, or what of it has none.
    fn word(&self, word: &str) -> Result<Vec<u32>, String> {
        if let Some(pieces) = self.seg_dict.and_then(|seg_dict| seg_dict.pieces(word)) {
            return pieces
                .split_whitespace()
                .map(|piece| self.find(piece).ok_or_else(|| piece.to_owned()))
                .collect();
        }
        let mut ids = Vec::new();
        let mut rest = word;
        while let Some(letter) = rest.chars().next() {
            let ascii = rest.find(|c: char| !c.is_ascii()).unwrap_or(rest.len());
            let run = &rest[..ascii.max(letter.len_utf8())];
            match self.find(run) {
                Some(id) if ascii == 0 => ids.push(id),
                _ if ascii == 0 => return Err(run.to_owned()),
                _ if self.marks_starts => ids.extend(self.merge(run)?),
                Some(id) => ids.push(id),
                None => ids.extend(self.longest_pieces(run)?),
            }
            rest = &rest[run.len()..];
        }
        Ok(ids)
    }

    fn find(&self, token: &str) -> Option<u32> {
        self.tokens.find(token).filter(|id| token != UNK && ![BLANK, SOS, EOS].contains(id))
    }

    /// Byte pair encoding: of all neighbours the pair that is the earliest token is joined, until none is one. In a
    /// SentencePiece model of that kind pieces stand in the order in which they were learnt.
    fn merge(&self, word: &str) -> Result<Vec<u32>, String> {
        let mut pieces: Vec<String> =
            [WORD_START].into_iter().chain(word.chars()).map(String::from).collect();
        let joined = |pair: &[String]| self.find(&pair.concat());
        let earliest = |pieces: &[String]| {
            let pairs = pieces.windows(2).enumerate().filter_map(|(i, pair)| Some((joined(pair)?, i)));
            pairs.min().map(|(_, i)| i)
        };
        while let Some(i) = earliest(&pieces) {
            let second = pieces.remove(i + 1);
            pieces[i].push_str(&second);
        }
        pieces.into_iter().map(|piece| self.find(&piece).ok_or(piece)).collect()
    }

    /// The longest piece that begins the word, then the longest that goes on, to the end.
    fn longest_pieces(&self, word: &str) -> Result<Vec<u32>, String> {
        let mut ids = Vec::new();
        let mut rest = word;
        while !rest.is_empty() {
            let whole = self.find(rest).map(|id| (id, rest.len()));
            let piece = |end: usize| Some((self.find(&format!("{}{CONTINUES}", &rest[..end]))?, end));
            let (id, end) =
                whole.or_else(|| (1..rest.len()).rev().find_map(piece)).ok_or_else(|| rest.to_owned())?;
            ids.push(id);
            rest = &rest[end..];
        }
        Ok(ids)
    }
}
