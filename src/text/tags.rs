//! Tags in the text of SenseVoice: `<|zh|><|HAPPY|><|Speech|><|woitn|>` before what was said.

use super::is_space;

/// Names that FunASR gives a meaning (`utils/postprocess_utils.py`, `models/sense_voice/model.py`).
const LANGUAGES: [&str; 6] = ["zh", "en", "yue", "ja", "ko", "nospeech"];
const EMOTIONS: [&str; 8] =
    ["HAPPY", "SAD", "ANGRY", "NEUTRAL", "FEARFUL", "DISGUSTED", "SURPRISED", "EMO_UNKNOWN"];
const EVENTS: [&str; 12] = [
    "Speech",
    "BGM",
    "Applause",
    "Laughter",
    "Cry",
    "Sneeze",
    "Breath",
    "Cough",
    "Sing",
    "Speech_Noise",
    "GBG",
    "Event_UNK",
];
const NORMS: [(&str, bool); 2] = [("withitn", true), ("woitn", false)];

/// What was said in one segment, and how. Names are those of the tags; what has no tag is nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tagged {
    /// `zh`, `en`, `yue`, `ja`, `ko`, or `nospeech`.
    pub language: Option<String>,
    /// Such as `HAPPY`, or `EMO_UNKNOWN`.
    pub emotion: Option<String>,
    /// Such as `Speech`, `BGM`, or `Event_UNK`.
    pub event: Option<String>,
    /// Whether the text is normalised: digits and punctuation.
    pub text_norm: Option<bool>,
    /// The text without tags, and without space around it.
    pub text: String,
}

impl Tagged {
    /// Keeps the first tag of each kind; one of unknown name says nothing.
    fn note(&mut self, tag: &str) {
        let kinds: [(&[&str], _); 3] =
            [(&LANGUAGES, &mut self.language), (&EMOTIONS, &mut self.emotion), (&EVENTS, &mut self.event)];
        for (names, field) in kinds {
            if names.contains(&tag) {
                field.get_or_insert_with(|| tag.to_owned());
            }
        }
        if let Some((_, on)) = NORMS.iter().find(|(name, _)| *name == tag) {
            self.text_norm.get_or_insert(*on);
        }
    }
}

/// Takes a text apart into its segments: each begins with a language tag, the first one with the text.
pub fn parse(text: &str) -> Vec<Tagged> {
    let mut segments: Vec<Tagged> = Vec::new();
    for part in parts(text) {
        let starts = matches!(part, Part::Tag(tag) if LANGUAGES.contains(&tag));
        if starts || segments.is_empty() {
            segments.push(Tagged::default());
        }
        match (segments.last_mut(), part) {
            (Some(segment), Part::Tag(tag)) => segment.note(tag),
            (Some(segment), Part::Text(text)) => segment.text.push_str(text),
            (None, _) => {}
        }
    }
    for segment in &mut segments {
        segment.text = segment.text.trim_matches(is_space).to_owned();
    }
    segments
}

/// `text` without every `<|...|>` that has no `|` inside.
pub fn without_tags(text: &str) -> String {
    parts(text).filter_map(|part| if let Part::Text(text) = part { Some(text) } else { None }).collect()
}

#[derive(Clone, Copy)]
enum Part<'a> {
    Text(&'a str),
    /// What stands between `<|` and `|>`.
    Tag(&'a str),
}

fn parts(mut rest: &str) -> impl Iterator<Item = Part<'_>> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        if let Some((tag, after)) = rest.strip_prefix("<|").and_then(|tag| tag.split_once('|'))
            && let Some(after) = after.strip_prefix('>')
        {
            rest = after;
            return Some(Part::Tag(tag));
        }
        // Up to the next `<|`, past one that opens no tag.
        let from = rest.chars().next().map_or(0, char::len_utf8);
        let end = rest[from..].find("<|").map_or(rest.len(), |open| from + open);
        let (text, after) = rest.split_at(end);
        rest = after;
        Some(Part::Text(text))
    })
}
