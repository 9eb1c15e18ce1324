//! What a real-time session says, and how FunASR's servers write it.

use serde_json::{Map, Value, json};

use super::Tags;
use crate::text::Token;
use crate::text::sentences::Sentence;
use crate::text::stamps as grain;

/// One message of a [`Session`](super::Session).
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Sentence it belongs to, counted from 0.
    pub index: u64,
    /// The text: to append to the sentence's text so far, or to put in its place.
    pub text: String,
    /// Which of the two passes it comes from.
    pub pass: Pass,
    /// Whether it is the last one of its session.
    pub is_final: bool,
}

/// The pass a message comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum Pass {
    /// Streaming text of a sentence that goes on.
    Streaming {
        /// Whether it is the first of its sentence.
        first: bool,
        /// Start of its speech segment from the beginning of the stream.
        start_ms: u64,
    },
    /// The corrected, punctuated text of a whole speech segment.
    Corrected(Correction),
}

/// A speech segment after the second pass.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Correction {
    /// Start of the segment from the beginning of the stream.
    pub start_ms: u64,
    /// End of the segment.
    pub end_ms: u64,
    /// Its words, with times from the beginning of the stream.
    pub words: Vec<Token>,
    /// Its text cut at punctuation marks; their `words` are indices into the words above.
    pub sentences: Vec<Sentence>,
    /// What a model that tells more than words says.
    pub tags: Tags,
    /// The text before numbers were written in digits, if rules did that.
    pub spoken_text: Option<String>,
}

impl Message {
    /// The message with the field names of FunASR's 2pass server (`websocket-server-2pass.cpp`), and `language`, `emotion`
    /// and `event` from a model that tells them, and `spoken_text` where rules wrote digits.
    pub fn to_json(&self, wav_name: &str) -> Value {
        let mut json = Map::from_iter([
            ("wav_name".to_owned(), wav_name.into()),
            ("text".to_owned(), self.text.as_str().into()),
            ("is_final".to_owned(), self.is_final.into()),
            ("index".to_owned(), self.index.into()),
        ]);
        let (mode, slice_type) = match &self.pass {
            Pass::Streaming { first: true, .. } => ("2pass-online", 0),
            Pass::Streaming { first: false, .. } => ("2pass-online", 1),
            Pass::Corrected(correction) => {
                json.extend(correction.to_json());
                ("2pass-offline", 2)
            }
        };
        json.insert("mode".to_owned(), mode.into());
        json.insert("slice_type".to_owned(), slice_type.into());
        json.into()
    }
}

impl Correction {
    fn to_json(&self) -> Map<String, Value> {
        let mut json = Map::from_iter([
            ("start_time".to_owned(), self.start_ms.into()),
            ("end_time".to_owned(), self.end_ms.into()),
        ]);
        let Tags { language, emotion, event } = &self.tags;
        for (name, tag) in [("language", language), ("emotion", emotion), ("event", event)] {
            json.extend(tag.as_deref().map(|tag| (name.to_owned(), tag.into())));
        }
        json.extend(self.spoken_text.as_deref().map(|text| ("spoken_text".to_owned(), text.into())));
        json.extend(stamps(&self.words, &self.sentences));
        json
    }
}

/// `timestamp` and `stamp_sents` of FunASR's servers, for words with the sentences that name them by index; nothing without
/// words. `timestamp` is a string that holds a JSON list, as its clients expect; times are in the grain of
/// [`grain::stamps`].
pub fn stamps(words: &[Token], sentences: &[Sentence]) -> Map<String, Value> {
    if words.is_empty() {
        return Map::new();
    }
    let stamped = |sentence: &Sentence| {
        let words = grain::stamps(words.get(sentence.words.clone()).unwrap_or_default());
        let texts: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
        json!({
            "text_seg": texts.join(" "),
            "punc": sentence.punctuation,
            "start": sentence.start_ms,
            "end": sentence.end_ms,
            "ts_list": spans(&words),
        })
    };
    Map::from_iter([
        ("timestamp".to_owned(), Value::from(spans(&grain::stamps(words))).to_string().into()),
        ("stamp_sents".to_owned(), sentences.iter().map(stamped).collect()),
    ])
}

fn spans(words: &[Token]) -> Vec<Value> {
    words.iter().map(|word| json!([word.start_ms, word.end_ms])).collect()
}
