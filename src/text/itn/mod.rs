//! Inverse text normalisation: `二零二二年五月` -> `2022/05`, `twenty three dollars` -> `$23`.
//!
//! A pair of transducers does it, as in WeTextProcessing and FunASR (`runtime/onnxruntime/src/itn-processor.cpp`): a tagger
//! finds and classifies what is to be written otherwise, the members of each tag are put in order, a verbalizer writes
//! them. What each stretch of the written text was made of is read off the paths through both.

mod idioms;
mod tagged;
mod transducer;

use std::ops::Range;
use std::path::{Path, PathBuf};

pub use idioms::Idioms;
pub use transducer::Transducer;

use super::edits::{Edit, Editor, letters, letters_before};
use super::{Token, is_space};
use crate::{Error, Result};

/// Texts are normalised in pieces of at most this many bytes, cut at the end of a sentence if there is one: time is linear
/// in the length of a text, and memory does not depend on it.
const MAX_PIECE_BYTES: usize = 1200;
/// Where a long text is cut, best first.
const CUTS: [&[char]; 2] = [&['。', '？', '！', '.', '?', '!', '\n'], &['，', '、', '；', ',', ';', ' ']];

/// Languages that there are rules for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// Chinese, and whatever is mixed into it.
    Chinese,
    /// English.
    English,
}

impl Language {
    const ALL: [Self; 2] = [Self::Chinese, Self::English];

    /// Chinese if there is a Chinese character, else English.
    pub fn of(text: &str) -> Self {
        let chinese = text.contains(|letter| ('\u{4e00}'..='\u{9fff}').contains(&letter));
        if chinese { Self::Chinese } else { Self::English }
    }

    /// `zh` or `en`.
    pub fn code(self) -> &'static str {
        match self {
            Self::Chinese => "zh",
            Self::English => "en",
        }
    }
}

impl std::str::FromStr for Language {
    type Err = String;

    fn from_str(code: &str) -> std::result::Result<Self, String> {
        let known = Self::ALL.into_iter().find(|language| language.code() == code);
        known.ok_or_else(|| format!("no text normalisation for {code:?}; there is one for zh and en"))
    }
}

/// Rules for one or both languages, and the idioms that they leave alone. It is immutable and can be shared.
#[derive(Debug, Clone)]
pub struct Itn {
    /// In the order of [`Language::ALL`].
    rules: [Option<Rules>; 2],
    idioms: Option<Idioms>,
}

/// The rules of one language.
#[derive(Debug, Clone)]
struct Rules {
    tagger: Transducer,
    verbalizer: Transducer,
}

/// A text as it is written, and where each stretch of it comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Normalized {
    /// The written text, without space around it.
    pub text: String,
    /// What both texts are made of, in order. All that is in neither is space.
    pub spans: Vec<Span>,
}

/// A stretch of a spoken text and how it is written, as byte ranges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Where it stands in the spoken text.
    pub spoken: Range<usize>,
    /// Where it stands in the written text.
    pub written: Range<usize>,
}

impl Itn {
    /// The rules of WeTextProcessing for Chinese and English that are compiled in (feature `embedded-itn`).
    ///
    /// # Errors
    /// [`Error::Unsupported`] in a build without them.
    #[cfg(not(feature = "embedded-itn"))]
    pub fn embedded() -> Result<Self> {
        let message =
            "this build holds no rules for text normalisation (feature embedded-itn); name a folder of them";
        Err(Error::Unsupported(message.into()))
    }

    /// The rules of WeTextProcessing for Chinese and English that are compiled in (feature `embedded-itn`).
    ///
    /// # Errors
    /// None; without the feature [`Error::Unsupported`].
    #[cfg(feature = "embedded-itn")]
    pub fn embedded() -> Result<Self> {
        macro_rules! rules {
            ($language:literal) => {
                Rules {
                    tagger: embedded(
                        concat!($language, "_itn_tagger.fst"),
                        include_bytes!(concat!("../../../models/itn/", $language, "_itn_tagger.fst.gz")),
                    )?,
                    verbalizer: embedded(
                        concat!($language, "_itn_verbalizer.fst"),
                        include_bytes!(concat!("../../../models/itn/", $language, "_itn_verbalizer.fst.gz")),
                    )?,
                }
            };
        }
        Ok(Self { rules: [Some(rules!("zh")), Some(rules!("en"))], idioms: Some(Idioms::embedded()?) })
    }

    /// Reads the rules of a folder: for each language that it has, `zh_itn_tagger.fst` and `zh_itn_verbalizer.fst` (FunASR,
    /// WeTextProcessing) or `zh/itn/tagger.fst` and `zh/itn/verbalizer.fst` (the package `wetext`).
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Config`] with the file that is missing, unreadable or no transducer of bytes.
    pub fn open(folder: &Path) -> Result<Self> {
        let [chinese, english] = Language::ALL.map(|language| Rules::open(folder, language.code()));
        let rules = [chinese?, english?];
        if rules.iter().all(Option::is_none) {
            let message = "no zh_itn_tagger.fst, zh/itn/tagger.fst, en_itn_tagger.fst or en/itn/tagger.fst";
            return Err(Error::config(folder, message));
        }
        Ok(Self { rules, idioms: Some(Idioms::embedded()?) })
    }

    /// The same with other idioms, or without any: then the text is what the rules alone give.
    pub fn with_idioms(self, idioms: Option<Idioms>) -> Self {
        Self { idioms, ..self }
    }

    /// Writes `text` by the rules of `language`, or of the language that it is in ([`Language::of`]). Without rules for it,
    /// or where they cannot read the text, it stays as it is.
    pub fn normalize(&self, text: &str, language: Option<Language>) -> Normalized {
        let language = language.unwrap_or_else(|| Language::of(text));
        let Some(rules) = &self.rules[language as usize] else { return Normalized::unchanged(text) };
        let written = rules.normalize(text);
        match &self.idioms {
            Some(idioms) => written.keep(text, idioms),
            None => written,
        }
    }
}

impl Itn {
    /// Writes the segments of a speech, each a bare text and its words, and the punctuated text of them all, whose `marks`
    /// (ascending, not empty) move along.
    pub fn rewrite(
        &self,
        segments: &mut [(&mut String, &mut Vec<Token>)],
        text: &mut String,
        marks: &mut Vec<Range<usize>>,
    ) {
        let breaks = letters_before(text, marks);
        let mut edits = Vec::new();
        let mut first = 0;
        for (text, _) in segments.iter() {
            edits.extend(self.edits(text, first, &breaks));
            first += letters(text);
        }
        let [mut bare, mut timed] = [Editor::new(&edits), Editor::new(&edits)];
        for (text, words) in segments {
            **text = bare.text(text, &[]).0;
            **words = timed.words(words);
        }
        (*text, *marks) = Editor::new(&edits).text(text, marks);
    }

    /// What changes in the bare text of a segment. Its letters are counted from `first`; nothing is written across the
    /// `breaks`, numbers of letters (ascending) behind which a mark stands. What the spoken and the written text begin or
    /// end with in common stays as it is, with its own time.
    pub fn edits(&self, text: &str, first: usize, breaks: &[usize]) -> Vec<Edit> {
        let language = Some(Language::of(text));
        let mut edits = Vec::new();
        for (begin, unit) in units(text, first, breaks) {
            let written = self.normalize(unit, language);
            for Span { spoken, written: range } in written.spans {
                let (spoken, text) = difference(unit, spoken, &written.text[range]);
                let first = begin + letters(&unit[..spoken.start]);
                let edit = Edit { letters: first..first + letters(&unit[spoken]), text: text.to_owned() };
                edits.extend(Some(edit).filter(|edit| !edit.letters.is_empty()));
            }
        }
        edits
    }
}

/// The stretches of a text between breaks, each with the number of letters before it.
fn units<'a>(text: &'a str, first: usize, breaks: &[usize]) -> Vec<(usize, &'a str)> {
    let mut units = Vec::new();
    let (mut begin, mut count, mut before) = (0, first, first);
    for (at, _) in text.char_indices().filter(|&(_, letter)| !is_space(letter)) {
        if count > before && breaks.binary_search(&count).is_ok() {
            units.push((before, &text[begin..at]));
            (begin, before) = (at, count);
        }
        count += 1;
    }
    units.push((before, &text[begin..]));
    units
}

/// The part of `spoken`, a range of `text`, that is written otherwise, and how; an empty range if there is none.
fn difference<'a>(text: &str, spoken: Range<usize>, written: &'a str) -> (Range<usize>, &'a str) {
    let old = &text[spoken.clone()];
    let common = |pairs: &mut dyn Iterator<Item = (char, char)>| -> usize {
        pairs.take_while(|(old, new)| old == new).map(|(letter, _)| letter.len_utf8()).sum()
    };
    let head = common(&mut old.chars().zip(written.chars()));
    if head == old.len() && head == written.len() {
        return (spoken.start..spoken.start, "");
    }
    let tail = common(&mut old[head..].chars().rev().zip(written[head..].chars().rev()));
    let changed = head..old.len() - tail;
    if letters(&old[changed.clone()]) == 0 {
        // Something is added: what stands before or after it has to lend it its time.
        return (spoken, written);
    }
    (spoken.start + changed.start..spoken.start + changed.end, &written[head..written.len() - tail])
}

impl Rules {
    fn open(folder: &Path, language: &str) -> Result<Option<Self>> {
        let flat = |part: &str| folder.join(format!("{language}_itn_{part}.fst"));
        let nested = |part: &str| folder.join(language).join("itn").join(format!("{part}.fst"));
        let layouts: [&dyn Fn(&str) -> PathBuf; 2] = [&flat, &nested];
        let layout = layouts.into_iter().find(|path| path("tagger").exists() || path("verbalizer").exists());
        let Some(path) = layout else { return Ok(None) };
        let [tagger, verbalizer] = ["tagger", "verbalizer"].map(|part| Transducer::read(&path(part)));
        Ok(Some(Self { tagger: tagger?, verbalizer: verbalizer? }))
    }

    fn normalize(&self, text: &str) -> Normalized {
        let mut out = Normalized::default();
        for piece in pieces(text) {
            let written = self.normalize_piece(&text[piece.clone()]);
            out.append(written.unwrap_or_else(|| Normalized::unchanged(&text[piece.clone()])), piece.start);
        }
        out
    }

    /// Nothing if the rules cannot read the text.
    fn normalize_piece(&self, text: &str) -> Option<Normalized> {
        let tagging = Writing::new(&self.tagger, text)?;
        let tags = tagged::parse(&tagging.text)?;
        let (mut ordered, mut ends) = (String::with_capacity(tagging.text.len()), Vec::new());
        for tag in &tags {
            ordered.push_str(if ordered.is_empty() { "" } else { " " });
            tag.write(&mut ordered);
            ends.push(ordered.len());
        }
        let writing = Writing::new(&self.verbalizer, &ordered)?;
        let spoken = tagging.sources(text, tags.iter().map(|tag| tag.range.end));
        let spans = spoken.into_iter().zip(writing.results(&ends));
        let spans = spans.filter(|(spoken, written)| !spoken.is_empty() || !written.is_empty());
        let spans = spans.map(|(spoken, written)| Span { spoken, written }).collect();
        Some(Normalized { text: writing.text, spans })
    }
}

impl Normalized {
    fn unchanged(text: &str) -> Self {
        let spoken = trimmed(text, 0..text.len());
        let written = 0..spoken.len();
        Self { text: text[spoken.clone()].to_owned(), spans: vec![Span { spoken, written }] }
    }

    /// Appends what became of a piece that begins at byte `begin` of the spoken text.
    fn append(&mut self, piece: Self, begin: usize) {
        let kept = trimmed(&piece.text, 0..piece.text.len());
        let ascii = |letter: Option<char>| letter.is_some_and(|letter| letter.is_ascii());
        if ascii(self.text.chars().next_back()) && ascii(piece.text[kept.clone()].chars().next()) {
            self.text.push(' ');
        }
        let offset = self.text.len();
        self.text.push_str(&piece.text[kept.clone()]);
        self.spans.extend(piece.spans.into_iter().map(|Span { spoken, written }| {
            let place = |at: usize| at.clamp(kept.start, kept.end) - kept.start + offset;
            Span {
                spoken: spoken.start + begin..spoken.end + begin,
                written: place(written.start)..place(written.end),
            }
        }));
    }

    /// Takes back what was written for a part of an idiom.
    fn keep(self, text: &str, idioms: &Idioms) -> Self {
        let changed = |span: &&Span| text[span.spoken.clone()] != self.text[span.written.clone()];
        let spans: Vec<&Span> = self.spans.iter().filter(changed).collect();
        if spans.is_empty() {
            return self;
        }
        let kept = idioms.find(text);
        let is_kept =
            |span: &Range<usize>| kept.iter().any(|idiom| idiom.start <= span.start && span.end <= idiom.end);
        let mut out = Self::default();
        let mut from = 0;
        for Span { spoken, written } in &self.spans {
            out.text.push_str(&self.text[from..written.start]);
            let begin = out.text.len();
            out.text.push_str(if is_kept(spoken) {
                &text[spoken.clone()]
            } else {
                &self.text[written.clone()]
            });
            out.spans.push(Span { spoken: spoken.clone(), written: begin..out.text.len() });
            from = written.end;
        }
        out.text.push_str(&self.text[from..]);
        out
    }
}

/// What a transducer writes for a text.
struct Writing {
    text: String,
    /// For each byte of it, how much of the given text was read before and after it was written.
    read: Vec<[usize; 2]>,
}

impl Writing {
    fn new(transducer: &Transducer, text: &str) -> Option<Self> {
        let (mut bytes, mut read, mut done) = (Vec::new(), Vec::new(), 0);
        for step in transducer.best_path(text.as_bytes())? {
            let before = done;
            done += usize::from(step.reads);
            if let Some(byte) = step.writes {
                bytes.push(byte);
                read.push([before, done]);
            }
        }
        Some(Self { text: String::from_utf8(bytes).ok()?, read })
    }

    /// The stretches of the text read that the stretches of the text written with these ends come from. A stretch begins
    /// with the first byte that is written after the one before.
    fn sources(&self, text: &str, ends: impl Iterator<Item = usize>) -> Vec<Range<usize>> {
        let mut begin = 0;
        let stretch = |end: usize| {
            let end = self.read.get(end).map_or(text.len(), |&[before, _]| text.floor_char_boundary(before));
            let source = begin..end.max(begin);
            begin = source.end;
            trimmed(text, source)
        };
        ends.map(stretch).collect()
    }

    /// What was written for the stretches of the text read with these ends; a space between two of them belongs to the
    /// first, and what is written at a place to what was read last.
    fn results(&self, ends: &[usize]) -> Vec<Range<usize>> {
        let mut begin = 0;
        let stretch = |&end: &usize| {
            let written = self.read.partition_point(|&[_, after]| after <= end + 1);
            let result = begin..self.text.floor_char_boundary(written).max(begin);
            begin = result.end;
            trimmed(&self.text, result)
        };
        ends.iter().map(stretch).collect()
    }
}

/// `range` without the space at its ends.
fn trimmed(text: &str, range: Range<usize>) -> Range<usize> {
    let inside = &text[range.clone()];
    let from = inside.len() - inside.trim_start_matches(is_space).len();
    let kept = inside.trim_matches(is_space).len();
    range.start + from..range.start + from + kept
}

/// Cuts a long text; the pieces have no space around them, and none is empty.
fn pieces(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut rest = trimmed(text, 0..text.len());
    while !rest.is_empty() {
        let end = if rest.len() <= MAX_PIECE_BYTES { rest.end } else { cut(text, rest.start) };
        found.push(trimmed(text, rest.start..end));
        rest = trimmed(text, end..rest.end);
    }
    found
}

/// Where a long text that begins at `begin` is cut.
fn cut(text: &str, begin: usize) -> usize {
    let end = text.floor_char_boundary(begin + MAX_PIECE_BYTES);
    let piece = &text[begin..end];
    let after = |at: usize| begin + at + piece[at..].chars().next().map_or(0, char::len_utf8);
    CUTS.iter().find_map(|signs| piece.rfind(*signs)).map_or(end, after)
}

#[cfg(feature = "embedded-itn")]
fn embedded(file: &str, packed: &[u8]) -> Result<Transducer> {
    use std::io::Read;

    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(packed).read_to_end(&mut bytes).map_err(|e| Error::io(file, e))?;
    Transducer::parse(file, &bytes)
}
