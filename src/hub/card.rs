//! Model cards: what the registry knows about each published model, compiled in from `models/<name>/model.toml`.

use std::path::{Component, Path};

use serde::Deserialize;

use crate::Error;

/// What the registry knows about one published model. Unknown keys are errors.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Card {
    /// Registry name, `[a-z0-9-]+`.
    pub name: String,
    /// Other names the model answers to, besides its repository ids.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// What it does, in one line.
    pub description: String,
    /// FunASR class. The downloaded `config.yaml` has the last word.
    pub class: String,
    /// ISO 639 codes.
    pub languages: Vec<String>,
    /// Sample rate of the audio in Hz; none for text models.
    pub sample_rate: Option<u32>,
    /// Size of the download in MB, where one is published or follows from the parameter count.
    pub approximate_mb: Option<u32>,
    /// Terms of the weights.
    pub licence: Licence,
    /// Repository on Hugging Face.
    pub huggingface: Option<Repo>,
    /// Repository on ModelScope.
    pub modelscope: Option<Repo>,
    /// What to fetch.
    #[serde(rename = "file")]
    pub files: Vec<CardFile>,
}

/// Terms under which a model is published.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Licence {
    /// Its name.
    pub name: String,
    /// Where its text is.
    pub url: String,
}

/// A repository of one hub.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Repo {
    /// `owner/name`.
    pub repo: String,
    /// Branch, tag or commit.
    pub revision: String,
}

/// One file of a model.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CardFile {
    /// Path inside the repository, and inside the download.
    pub path: String,
    /// Name to try when the repository has no `path` (older uploads name some files differently).
    pub alternative: Option<String>,
    /// Whether a repository without this file is complete.
    #[serde(default)]
    pub optional: bool,
    /// Expected sha256 in lower-case hex, where it is known. The first download records it in the lock file otherwise.
    pub sha256: Option<String>,
}

macro_rules! cards {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../models/", $name, "/model.toml")))),*]
    };
}

const CARDS: &[(&str, &str)] = cards![
    "paraformer-zh",
    "paraformer-large",
    "paraformer-zh-timestamps",
    "paraformer-zh-contextual",
    "paraformer-en",
    "paraformer-zh-streaming",
    "paraformer-zh-streaming-small",
    "paraformer-zh-8k",
    "sensevoice-small",
    "fsmn-vad",
    "fsmn-vad-8k",
    "ct-punc",
    "ct-punc-c",
    "ct-punc-realtime",
];

/// Every card of the registry, in the order of the documentation.
///
/// # Errors
/// [`Error::Config`] if a card compiled into this build is malformed.
pub fn cards() -> Result<Vec<Card>, Error> {
    CARDS.iter().map(|(name, text)| Card::parse(&format!("models/{name}/model.toml"), text)).collect()
}

impl Card {
    /// Reads a card from the TOML text of `file`, a name that only appears in errors.
    ///
    /// # Errors
    /// [`Error::Config`] for an unknown or missing key, a name that is not `[a-z0-9-]+`, a path that leaves the
    /// model's directory, a malformed sha256, or a card without a repository or files.
    pub fn parse(file: &str, text: &str) -> Result<Self, Error> {
        let card: Self = toml::from_str(text).map_err(|e| Error::config(file, one_line(e.message())))?;
        card.check().map_err(|cause| Error::config(file, cause))?;
        Ok(card)
    }

    /// Whether the model answers to `name`: its own name, an alias or a repository id, in any case.
    pub fn answers_to(&self, name: &str) -> bool {
        let repos = [&self.huggingface, &self.modelscope].into_iter().flatten().map(|r| &r.repo);
        std::iter::once(&self.name).chain(&self.aliases).chain(repos).any(|n| n.eq_ignore_ascii_case(name))
    }

    fn check(&self) -> Result<(), String> {
        if self.name.is_empty()
            || !self.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        {
            return Err(format!("name `{}` is not made of a-z, 0-9 and -", self.name));
        }
        if self.huggingface.is_none() && self.modelscope.is_none() {
            return Err("neither huggingface nor modelscope is given".into());
        }
        if self.files.is_empty() {
            return Err("no file is listed".into());
        }
        self.files.iter().try_for_each(CardFile::check)
    }
}

impl CardFile {
    /// The names this file may have in a repository, the preferred one first.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.path.as_str()).chain(self.alternative.as_deref())
    }

    fn check(&self) -> Result<(), String> {
        if let Some(path) = self.names().find(|path| !is_inside(path)) {
            return Err(format!("file path `{path}` is not a plain relative path"));
        }
        match &self.sha256 {
            Some(hash) if !is_sha256(hash) => Err(format!("sha256 `{hash}` is not 64 lower-case hex digits")),
            _ => Ok(()),
        }
    }
}

/// Whether `path` stays inside the directory it is joined to, on every platform.
pub(super) fn is_inside(path: &str) -> bool {
    let plain = !path.contains(['\\', ':', '\0']);
    plain && !path.is_empty() && Path::new(path).components().all(|c| matches!(c, Component::Normal(_)))
}

pub(super) fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The known names nearest to `name`, best first, at most three; empty if nothing is near.
pub(super) fn near_names<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let wanted = name.to_ascii_lowercase();
    let mut ranked: Vec<(usize, &str)> = known
        .filter_map(|candidate| {
            let contained = wanted.len() >= 3 && candidate.contains(&wanted);
            let distance = if contained { 1 } else { edit_distance(&wanted, candidate) };
            (distance <= 1 + candidate.len() / 4).then_some((distance, candidate))
        })
        .collect();
    ranked.sort();
    ranked.into_iter().take(3).map(|(_, candidate)| candidate).collect()
}

/// Levenshtein distance over bytes. A name far longer than `b` is not measured: its distance is its length.
fn edit_distance(a: &str, b: &str) -> usize {
    if a.len() > 2 * b.len() {
        return a.len();
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edit_distances() {
        for (a, b, expected) in
            [("", "abc", 3), ("abc", "abc", 0), ("kitten", "sitting", 3), ("ct-punk", "ct-punc", 1)]
        {
            assert_eq!(edit_distance(a, b), expected, "{a} {b}");
        }
    }

    #[test]
    fn near_names_are_ranked_and_bounded() {
        let known =
            ["paraformer-zh", "paraformer-en", "paraformer-large", "ct-punc", "ct-punc-c", "fsmn-vad"];
        for (name, expected) in [
            ("parafomer-zh", vec!["paraformer-zh", "paraformer-en"]),
            ("ct-punk", vec!["ct-punc", "ct-punc-c"]),
            ("vad", vec!["fsmn-vad"]),
            ("whisper", vec![]),
            ("", vec![]),
        ] {
            assert_eq!(near_names(name, known.into_iter()), expected, "{name}");
        }
        let long = "x".repeat(1 << 20);
        assert!(near_names(&long, known.into_iter()).is_empty());
    }

    #[test]
    fn only_plain_relative_paths_are_inside() {
        for path in ["model.pt", "a/b.json"] {
            assert!(is_inside(path), "{path}");
        }
        for path in ["", "/etc/passwd", "../x", "a/../../x", ".", "a\\b", "C:x", "a\0b"] {
            assert!(!is_inside(path), "{path:?}");
        }
    }
}
