//! What is known about one recording after transcription.

use serde::Serialize;

use super::Recognition;
use crate::text::Token;
use crate::text::sentences::Sentence;
use crate::text::subtitles::{Cue, Layout, cues};
use crate::text::tags::Tagged;

/// A stretch of speech.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Segment {
    /// Start from the beginning of the recording.
    pub start_ms: u64,
    /// End.
    pub end_ms: u64,
    /// What was said, without punctuation unless the model writes it itself; with digits if they were asked for.
    pub text: String,
    /// Its words with their times from the beginning of the recording.
    pub tokens: Vec<Token>,
    /// What a model that tells more than words says.
    #[serde(flatten)]
    pub tags: Tags,
    /// The text with the tags of such a model.
    #[serde(skip)]
    pub tagged_text: Option<String>,
    /// Whether the text holds the model's own punctuation.
    #[serde(skip)]
    pub punctuated: bool,
}

/// Language, emotion and event, by the names of SenseVoice's tags.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Tags {
    /// Such as `zh`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// Such as `HAPPY`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub emotion: Option<String>,
    /// Such as `Speech`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
}

impl From<Tagged> for Tags {
    fn from(tags: Tagged) -> Self {
        Self { language: tags.language, emotion: tags.emotion, event: tags.event }
    }
}

impl Segment {
    /// The segment of a recording from `start_ms` to `end_ms`; the times of its recognition count from its start.
    pub(super) fn new(start_ms: u64, end_ms: u64, recognition: Recognition) -> Self {
        let punctuated = recognition.is_punctuated();
        let Recognition { joined, tagging, .. } = recognition.within(start_ms, end_ms);
        let (tagged_text, tags) = tagging.map(|tagging| (tagging.text, tagging.tags)).unzip();
        let tags = tags.map_or_else(Tags::default, Tags::from);
        let (text, tokens) = (joined.text, joined.words);
        Self { start_ms, end_ms, text, tokens, tags, tagged_text, punctuated }
    }
}

/// The transcript of one recording.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Transcript {
    /// Length of the recording.
    pub duration_ms: u64,
    /// The whole text, punctuated if there is a punctuation model or the model punctuates itself.
    pub text: String,
    /// The text before numbers were written in digits, if rules did that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spoken_text: Option<String>,
    /// The language of most of the speech, if the model tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// Speech segments in order.
    pub segments: Vec<Segment>,
    /// Sentences in order; without punctuation, one a segment. Their words are those of [`Transcript::words`].
    pub sentences: Vec<Sentence>,
}

impl Transcript {
    /// The words of all segments.
    pub fn words(&self) -> Vec<Token> {
        self.segments.iter().flat_map(|segment| segment.tokens.iter().cloned()).collect()
    }

    /// The sentences as subtitles.
    pub fn cues(&self, layout: &Layout) -> Vec<Cue> {
        cues(&self.sentences, &self.words(), layout)
    }

    /// Puts the model's tags back into all texts, as FunASR gives them; a text without tags stays as it is.
    pub fn keep_tags(&mut self) {
        for segment in &mut self.segments {
            if let Some(tagged) = &segment.tagged_text {
                segment.text.clone_from(tagged);
            }
        }
        if self.segments.iter().any(|segment| segment.tagged_text.is_some()) {
            let texts: Vec<&str> = self.segments.iter().map(|segment| segment.text.as_str()).collect();
            self.text = texts.join(" ");
        }
    }
}

/// The language that was spoken longest.
pub(super) fn main_language(segments: &[Segment]) -> Option<String> {
    let spoken_ms = |language: &str| -> u64 {
        let of = |segment: &&Segment| segment.tags.language.as_deref() == Some(language);
        segments.iter().filter(of).map(|segment| segment.end_ms - segment.start_ms).sum()
    };
    let languages = segments.iter().filter_map(|segment| segment.tags.language.as_deref());
    languages.max_by_key(|language| spoken_ms(language)).map(str::to_owned)
}
