//! Subtitle files from sentences: SubRip, WebVTT and tab-separated values.

use std::fmt::Write;

use unicode_linebreak::linebreaks;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::edits::letters;
use super::sentences::Sentence;
use super::{Token, is_space};

/// How much is shown at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Columns of a line; a Chinese character takes two. Nothing for lines of any length.
    pub line_width: Option<usize>,
    /// Lines of a cue, at least one.
    pub lines: usize,
    /// Longest time that a cue is shown. Nothing for any time.
    pub cue_ms: Option<u64>,
}

impl Default for Layout {
    /// A sentence is a cue of one line.
    fn default() -> Self {
        Self { line_width: None, lines: 2, cue_ms: None }
    }
}

/// What is shown at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cue {
    /// Not before the end of the cue before.
    pub start_ms: u64,
    /// After the start.
    pub end_ms: u64,
    /// At least one, none of them empty.
    pub lines: Vec<String>,
}

/// The cues of sentences, whose `words` are indices into these. Cues are in order, none begins before the end of the one
/// before, each is at least 1 ms long and has a text: players drop or misplace what breaks these rules.
///
/// A sentence that is too long is cut where the Unicode line breaking rules (UAX 14) allow it: at spaces, and between
/// Chinese characters, but not before a closing mark or after an opening one; a word that is longer than a line anywhere.
/// A part is timed by the words that it spells.
pub fn cues(sentences: &[Sentence], words: &[Token], layout: &Layout) -> Vec<Cue> {
    let mut cues = Vec::new();
    let mut free_from_ms = 0;
    for sentence in sentences {
        let own = words.get(sentence.words.clone()).unwrap_or_default();
        for mut cue in cut(sentence, own, layout) {
            cue.start_ms = cue.start_ms.max(free_from_ms);
            let longest = layout.cue_ms.map_or(u64::MAX, |ms| cue.start_ms.saturating_add(ms));
            cue.end_ms = cue.end_ms.min(longest).max(cue.start_ms.saturating_add(1));
            free_from_ms = cue.end_ms;
            cues.push(cue);
        }
    }
    cues
}

/// A SubRip file: numbered cues, `HH:MM:SS,mmm`.
pub fn srt(cues: &[Cue]) -> String {
    let mut out = String::new();
    for (number, cue) in (1..).zip(cues) {
        let (start, end) = (Clock(cue.start_ms, ','), Clock(cue.end_ms, ','));
        let _ = write!(out, "{number}\n{start} --> {end}\n{}\n\n", cue.lines.join("\n"));
    }
    out
}

/// A WebVTT file: `HH:MM:SS.mmm`, with `&`, `<` and `>` escaped, so that no text can look like a tag or an arrow.
pub fn vtt(cues: &[Cue]) -> String {
    let mut out = String::from("WEBVTT\n\n");
    for cue in cues {
        let (start, end) = (Clock(cue.start_ms, '.'), Clock(cue.end_ms, '.'));
        let text = cue.lines.join("\n").replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let _ = write!(out, "{start} --> {end}\n{text}\n\n");
    }
    out
}

/// Lines of start in ms, end in ms and text, separated by tabs, under a header.
pub fn tsv(cues: &[Cue]) -> String {
    let mut out = String::from("start\tend\ttext\n");
    for cue in cues {
        let _ = writeln!(out, "{}\t{}\t{}", cue.start_ms, cue.end_ms, cue.lines.join(" "));
    }
    out
}

/// The cues of one sentence.
fn cut(sentence: &Sentence, words: &[Token], layout: &Layout) -> Vec<Cue> {
    let text: Vec<&str> = sentence.text.split(is_unprintable).filter(|word| !word.is_empty()).collect();
    let text = text.join(" ");
    let end_ms = sentence.end_ms.max(sentence.start_ms);
    let mut reader = Reader { words, letters: 0 };
    let mut cues: Vec<Cue> = Vec::new();
    for part in parts(&text, layout) {
        let [start, end] = reader.read(part).map(|ms| ms.clamp(sentence.start_ms, end_ms));
        let in_time = |cue: &&mut Cue| layout.cue_ms.is_none_or(|ms| end <= cue.start_ms.saturating_add(ms));
        match cues.last_mut().filter(in_time).and_then(|cue| cue.take(part, layout)) {
            Some(cue) => cue.end_ms = end,
            None => cues.push(Cue { start_ms: start, end_ms: end, lines: vec![part.to_owned()] }),
        }
    }
    // The sentence knows best where it begins and ends.
    cues.first_mut().into_iter().for_each(|cue| cue.start_ms = sentence.start_ms);
    cues.last_mut().into_iter().for_each(|cue| cue.end_ms = end_ms);
    for line in cues.iter_mut().flat_map(|cue| &mut cue.lines) {
        line.truncate(line.trim_end().len());
    }
    cues
}

impl Cue {
    /// Appends a part of a text, if there is room for it.
    fn take(&mut self, part: &str, layout: &Layout) -> Option<&mut Self> {
        let line = self.lines.last_mut()?;
        if layout.line_width.is_none_or(|width| line.width() + part.trim_end().width() <= width) {
            line.push_str(part);
        } else if self.lines.len() < layout.lines {
            self.lines.push(part.to_owned());
        } else {
            return None;
        }
        Some(self)
    }
}

/// What stays together of a text, with the space behind it: all of it if it may have any length, else what the line
/// breaking rules keep together and a line can hold.
fn parts<'a>(text: &'a str, layout: &Layout) -> Vec<&'a str> {
    let width = match layout {
        _ if text.is_empty() => return Vec::new(),
        Layout { line_width: None, cue_ms: None, .. } => return vec![text],
        Layout { line_width, .. } => line_width.unwrap_or(usize::MAX),
    };
    let mut cuts = vec![0];
    for (end, _) in linebreaks(text) {
        let begin = cuts[cuts.len() - 1];
        let mut taken = 0;
        for (at, letter) in text[begin..end].trim_end().char_indices() {
            let columns = letter.width().unwrap_or(0);
            if at > 0 && taken + columns > width {
                cuts.push(begin + at);
                taken = 0;
            }
            taken += columns;
        }
        cuts.push(end);
    }
    cuts.dedup();
    cuts.windows(2).map(|cut| &text[cut[0]..cut[1]]).collect()
}

/// Walks over the words of a sentence as its text is read; the marks at its end are in no word.
struct Reader<'a> {
    /// From the word that is read next or was read in part.
    words: &'a [Token],
    /// Letters of it that were read.
    letters: usize,
}

impl Reader<'_> {
    /// From when to when the letters of `text` were said; those behind the last word with it.
    fn read(&mut self, text: &str) -> [u64; 2] {
        let mut left = letters(text);
        let start_ms = self.words.first().map_or(u64::MAX, |word| word.start_ms);
        let mut end_ms = start_ms;
        while left > 0
            && let Some(word) = self.words.first()
        {
            let unread = letters(&word.text).saturating_sub(self.letters);
            let taken = unread.min(left);
            (left, end_ms) = (left - taken, word.end_ms);
            if taken < unread {
                self.letters += taken;
                break;
            }
            // The last one stays, for what stands behind it.
            if self.words.len() == 1 {
                self.letters += taken;
                break;
            }
            (self.words, self.letters) = (&self.words[1..], 0);
        }
        [start_ms, end_ms]
    }
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
