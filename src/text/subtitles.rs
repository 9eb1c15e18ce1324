//! Subtitle files from sentences: SubRip, WebVTT and tab-separated values.

use std::fmt::Write;

use super::is_space;
use super::sentences::Sentence;

/// A SubRip file: numbered cues, `HH:MM:SS,mmm`.
pub fn srt(sentences: &[Sentence]) -> String {
    let mut out = String::new();
    for (number, cue) in (1..).zip(cues(sentences)) {
        let (start, end) = (Clock(cue.start_ms, ','), Clock(cue.end_ms, ','));
        let _ = write!(out, "{number}\n{start} --> {end}\n{}\n\n", cue.text);
    }
    out
}

/// A WebVTT file: `HH:MM:SS.mmm`, with `&`, `<` and `>` escaped, so that no text can look like a tag or an arrow.
pub fn vtt(sentences: &[Sentence]) -> String {
    let mut out = String::from("WEBVTT\n\n");
    for cue in cues(sentences) {
        let (start, end) = (Clock(cue.start_ms, '.'), Clock(cue.end_ms, '.'));
        let text = cue.text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let _ = write!(out, "{start} --> {end}\n{text}\n\n");
    }
    out
}

/// Lines of start in ms, end in ms and text, separated by tabs, under a header.
pub fn tsv(sentences: &[Sentence]) -> String {
    let mut out = String::from("start\tend\ttext\n");
    for cue in cues(sentences) {
        let _ = writeln!(out, "{}\t{}\t{}", cue.start_ms, cue.end_ms, cue.text);
    }
    out
}

/// One line of text on screen.
struct Cue {
    start_ms: u64,
    end_ms: u64,
    text: String,
}

/// Cues in order, none before the end of the one before, each at least 1 ms long and with a text of one line: players
/// drop or misplace what breaks these rules.
fn cues(sentences: &[Sentence]) -> impl Iterator<Item = Cue> {
    let mut free_from_ms = 0;
    sentences.iter().filter_map(move |sentence| {
        let words: Vec<&str> = sentence.text.split(is_unprintable).filter(|word| !word.is_empty()).collect();
        let text = words.join(" ");
        let start_ms = sentence.start_ms.max(free_from_ms);
        let end_ms = sentence.end_ms.max(start_ms.saturating_add(1));
        (!text.is_empty()).then(|| {
            free_from_ms = end_ms;
            Cue { start_ms, end_ms, text }
        })
    })
}

fn is_unprintable(letter: char) -> bool {
    is_space(letter) || letter.is_control()
}

/// A time in ms and the sign before its milliseconds; hours grow beyond two digits.
struct Clock(u64, char);

impl std::fmt::Display for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(ms, point) = *self;
        let (seconds, minutes, hours) = (ms / 1000 % 60, ms / 60_000 % 60, ms / 3_600_000);
        write!(f, "{hours:02}:{minutes:02}:{seconds:02}{point}{:03}", ms % 1000)
    }
}
