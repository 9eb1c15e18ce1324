//! Words that hold a number and mean none: they stay as they are spoken.

use std::ops::Range;

use aho_corasick::AhoCorasick;

use crate::{Error, Result};

/// One a line; `#` begins a remark.
const EMBEDDED: &str = include_str!("idioms.txt");

/// A list of such words.
#[derive(Debug, Clone)]
pub struct Idioms {
    words: AhoCorasick,
}

impl Idioms {
    /// The list that is compiled in, `src/text/itn/idioms.txt`.
    ///
    /// # Errors
    /// None: the list was tested.
    pub fn embedded() -> Result<Self> {
        Self::parse(EMBEDDED)
    }

    /// Reads a list of words, one a line; empty lines and what follows a `#` are skipped. ASCII letters stand for both
    /// cases.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the list is too long to be searched for.
    pub fn parse(list: &str) -> Result<Self> {
        let words = list.lines().filter_map(|line| line.split('#').next()).map(str::trim);
        let words = AhoCorasick::builder()
            .ascii_case_insensitive(true)
            .build(words.filter(|word| !word.is_empty()))
            .map_err(|e| Error::Unsupported(format!("list of idioms: {e}")))?;
        Ok(Self { words })
    }

    /// Where in `text` one of the words stands, overlapping ones included; English ones only as whole words.
    pub(super) fn find(&self, text: &str) -> Vec<Range<usize>> {
        let found = self.words.find_overlapping_iter(text).map(|found| found.range());
        found.filter(|range| !continues(text, range.start) && !continues(text, range.end)).collect()
    }
}

/// Whether a word of ASCII letters goes on at byte `at`.
fn continues(text: &str, at: usize) -> bool {
    let letter = |letter: Option<&u8>| letter.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    letter(at.checked_sub(1).and_then(|before| bytes.get(before))) && letter(bytes.get(at))
}
