//! The token list of a model: `tokens.json`, a JSON list whose index is the id.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use crate::{Error, Result};

/// Id of the blank symbol, never part of a text.
pub const BLANK: u32 = 0;
/// Id of the start symbol `<s>`.
pub const SOS: u32 = 1;
/// Id of the end symbol `</s>`.
pub const EOS: u32 = 2;

/// What every unknown word is mapped to.
pub(super) const UNK: &str = "<unk>";

/// Token strings by id and ids by token string.
#[derive(Debug, Clone)]
pub struct TokenList {
    tokens: Vec<Arc<str>>,
    ids: HashMap<Arc<str>, u32>,
    unk: u32,
}

impl TokenList {
    /// Reads the JSON list `json`; `file` is only named in errors.
    ///
    /// # Errors
    /// [`Error::Config`] if it is not a list of strings, holds a token twice or lacks `<unk>`.
    pub fn from_json(file: impl AsRef<Path>, json: &str) -> Result<Self> {
        let file = file.as_ref();
        let tokens: Vec<Arc<str>> = serde_json::from_str::<Vec<String>>(json)
            .map_err(|cause| Error::config(file, format!("not a JSON list of tokens: {cause}")))?
            .into_iter()
            .map(Arc::from)
            .collect();
        let mut ids = HashMap::with_capacity(tokens.len());
        for (id, token) in (0u32..).zip(&tokens) {
            if let Some(first) = ids.insert(token.clone(), id) {
                return Err(Error::config(file, format!("token {token:?} is entry {first} and entry {id}")));
            }
        }
        let unk = *ids.get(UNK).ok_or_else(|| Error::config(file, format!("no entry {UNK:?}")))?;
        Ok(Self { tokens, ids, unk })
    }

    /// Number of tokens: the vocabulary size V of the model.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Always false: a list holds at least `<unk>`.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The token with this id, if the list is long enough.
    pub fn token(&self, id: u32) -> Option<&str> {
        self.tokens.get(id as usize).map(|token| &**token)
    }

    /// The id of exactly this token (case matters), if it is listed.
    pub fn find(&self, token: &str) -> Option<u32> {
        self.ids.get(token).copied()
    }

    /// The id of exactly this token, else the id of `<unk>`.
    pub fn id(&self, token: &str) -> u32 {
        self.find(token).unwrap_or(self.unk)
    }

    /// All tokens in id order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.tokens.iter().map(|token| &**token)
    }
}
