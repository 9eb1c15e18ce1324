//! Acoustic tokens to words and text (`funasr/utils/postprocess_utils.py`), segments to one text
//! (`_join_vad_texts` in `funasr/auto/auto_model.py`).

use std::mem;
use std::ops::RangeInclusive;

use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

use super::pieces::{PieceRules, SPACE as WORD_START, byte};
use super::tags::without_tags;
use super::{Token, is_space};

/// Tokens that are never part of a text.
const SPECIAL: [&str; 4] = ["<s>", "</s>", "<unk>", "<OOV>"];
/// Ends a piece of a word that the next token continues.
const CONTINUES: &str = "@@";

/// How the tokens of a vocabulary show where words end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notation {
    /// `hel@@ lo 你 好`: a piece says that the word goes on; Chinese stands without spaces.
    Continuation,
    /// `▁hel lo ▁world`: a piece says that a word begins.
    WordStart,
    /// `▁hel lo 你 好 <0xE4>`: so only words of ASCII letters are put together, all else is a word each (SenseVoice).
    SentencePiece,
}

impl Notation {
    /// The notation of a Paraformer's vocabulary: word-start as soon as one token begins with `▁`.
    pub fn of<'a>(vocabulary: impl IntoIterator<Item = &'a str>) -> Self {
        let marked = vocabulary.into_iter().any(|token| token.starts_with(WORD_START));
        if marked { Self::WordStart } else { Self::Continuation }
    }
}

/// A text and its words.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Joined {
    /// Words in order; spans ordered and not overlapping.
    pub words: Vec<Token>,
    /// The words with spaces where FunASR puts them.
    pub text: String,
}

/// Joins the tokens of one segment to words and text.
///
/// The text is FunASR's without timestamps, quirks included: a `@@` piece without an end is lost, an unfinished word
/// goes on after an interrupting Chinese token, and a token that is neither Chinese nor a word is lost between an
/// English word and a Chinese token. FunASR's times slip in those cases; here each word has its own tokens' span.
pub fn join(tokens: &[Token], notation: Notation) -> Joined {
    let texts: Vec<&str> = tokens.iter().map(|token| token.text.as_str()).collect();
    let parts = parts(&texts, notation);
    let text = concat(&parts);
    let mut words: Vec<Token> = Vec::new();
    for part in parts {
        if let Part::Word(word) = part
            && !word.text.is_empty()
        {
            let not_before = words.last().map_or(0, |previous| previous.end_ms);
            words.push(timed(word, tokens, not_before));
        }
    }
    Joined { words, text }
}

/// The text that [`join`] gives, for tokens without times.
pub fn join_text<S: AsRef<str>>(tokens: &[S], notation: Notation) -> String {
    let texts: Vec<&str> = tokens.iter().map(AsRef::as_ref).collect();
    concat(&parts(&texts, notation))
}

/// Text that grows with the tokens of a stream: what [`join_text`] gives for each chunk, and what belongs
/// between them.
///
/// FunASR joins every chunk alone and so loses the first half of a word that is split over two. Here a piece
/// is shown as soon as it is known and goes on in the next chunk.
#[derive(Debug, Clone)]
pub struct PartialJoin {
    notation: Notation,
    /// Whether the last token was a piece that the next one continues.
    unfinished: bool,
    /// Whether a word starts with the next letter.
    blank: bool,
    /// Last letter so far.
    last: Option<char>,
}

impl PartialJoin {
    /// Nothing shown yet.
    pub fn new(notation: Notation) -> Self {
        Self { notation, unfinished: false, blank: false, last: None }
    }

    /// Forgets what was shown: the next text stands alone.
    pub fn restart(&mut self) {
        *self = Self::new(self.notation);
    }

    /// The text to append for the tokens of the next chunk, with a space in front where it starts another
    /// word.
    pub fn push(&mut self, tokens: &[Token]) -> String {
        let kept: Vec<&str> =
            tokens.iter().map(|token| token.text.as_str()).filter(|token| !SPECIAL.contains(token)).collect();
        let mut text = String::new();
        match self.notation {
            Notation::Continuation => self.push_continued(&kept, &mut text),
            // No model that streams has tokens that are bytes.
            Notation::WordStart | Notation::SentencePiece => self.push_started(&kept, &mut text),
        }
        text
    }

    fn push_continued(&mut self, tokens: &[&str], text: &mut String) {
        let whole = |token: &&str| !token.contains(CONTINUES);
        let mut rest = tokens;
        if self.unfinished {
            let pieces = tokens.iter().position(whole).unwrap_or(tokens.len());
            // The token after the pieces ends the word, unless it is Chinese or the like and interrupts it.
            let ends = tokens.get(pieces).is_some_and(|token| kind(token) == Kind::English);
            let (head, tail) = tokens.split_at(pieces + usize::from(ends));
            self.append(&head.concat().replace(CONTINUES, ""), text);
            rest = tail;
            self.unfinished = pieces == tokens.len();
        }
        let finished = rest.iter().rposition(whole).map_or(0, |last| last + 1);
        let (words, pieces) = rest.split_at(finished);
        for part in [join_text(words, self.notation), pieces.concat().replace(CONTINUES, "")] {
            self.blank = [self.last, part.chars().next()]
                .into_iter()
                .all(|letter| letter.is_some_and(|letter| is_english(letter.encode_utf8(&mut [0; 4]))));
            self.append(&part, text);
        }
        self.unfinished |= !pieces.is_empty();
    }

    fn push_started(&mut self, tokens: &[&str], text: &mut String) {
        for token in tokens {
            self.blank |= token.contains(WORD_START) && self.last.is_some();
            self.append(&token.replace(WORD_START, ""), text);
        }
    }

    fn append(&mut self, part: &str, text: &mut String) {
        let Some(last) = part.chars().next_back() else { return };
        if mem::take(&mut self.blank) {
            text.push(' ');
        }
        text.push_str(part);
        self.last = Some(last);
    }
}

/// Joins the texts of neighbouring segments (or words): tags such as `<|zh|>` removed, nothing between two Chinese
/// characters (U+3400..=U+9FFF), else one space.
pub fn join_segments<S: AsRef<str>>(texts: &[S]) -> String {
    let chinese =
        |letter: Option<char>| letter.is_some_and(|letter| ('\u{3400}'..='\u{9fff}').contains(&letter));
    let mut joined = String::new();
    for text in texts {
        let bare = without_tags(text.as_ref());
        let text = bare.trim_matches(is_space);
        let neighbours = [joined.chars().next_back(), text.chars().next()];
        if !joined.is_empty() && !text.is_empty() && !neighbours.into_iter().all(chinese) {
            joined.push(' ');
        }
        joined.push_str(text);
    }
    joined
}

/// Joins the texts of neighbouring segments that are punctuated: a space between two ASCII characters.
pub fn join_sentences<S: AsRef<str>>(texts: &[S]) -> String {
    let mut joined = String::new();
    for text in texts {
        let text = text.as_ref().trim_matches(is_space);
        let ascii = |letter: Option<char>| letter.is_some_and(|letter| letter.is_ascii());
        if ascii(joined.chars().next_back()) && ascii(text.chars().next()) {
            joined.push(' ');
        }
        joined.push_str(text);
    }
    joined
}

/// What a text is made of; a blank stands after every English word until it proves superfluous.
enum Part {
    Blank,
    Word(Word),
}

/// A word and which of the given tokens it comes from.
struct Word {
    text: String,
    tokens: RangeInclusive<usize>,
}

fn parts(tokens: &[&str], notation: Notation) -> Vec<Part> {
    let kept: Vec<(usize, &str)> =
        tokens.iter().copied().enumerate().filter(|(_, token)| !SPECIAL.contains(token)).collect();
    match notation {
        Notation::Continuation => abbreviate(continued(&kept)),
        Notation::WordStart => started(&kept),
        Notation::SentencePiece => pieced(&kept),
    }
}

fn concat(parts: &[Part]) -> String {
    let text: String = parts
        .iter()
        .map(|part| match part {
            Part::Blank => " ",
            Part::Word(word) => word.text.as_str(),
        })
        .collect();
    text.trim_matches(is_space).to_owned()
}

/// The word with the time from its first to its last token. A word whose pieces were interrupted starts after what
/// interrupted it, so that spans stay in order.
fn timed(word: Word, tokens: &[Token], not_before: u64) -> Token {
    let own = tokens.get(word.tokens).unwrap_or_default();
    let start_ms = own.first().map_or(0, |token| token.start_ms).max(not_before);
    let end_ms = own.iter().map(|token| token.end_ms).max().unwrap_or(0).max(start_ms);
    let confidence = own.iter().filter_map(|token| token.confidence).reduce(f32::min);
    Token { text: word.text, start_ms, end_ms, confidence }
}

/// What a token is to the joining rules.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Chinese,
    Piece,
    English,
    Other,
}

/// FunASR first looks at whole tokens: a list of Chinese (or English) tokens only is taken as such. Else each token is
/// judged by its characters, which is not the same: `1st` is Chinese as a token and neither by its characters.
fn kind_of_all(tokens: &[(usize, &str)]) -> Option<Kind> {
    let all = |is: fn(&str) -> bool| !tokens.is_empty() && tokens.iter().all(|(_, token)| is(&bare(token)));
    if all(is_chinese) {
        Some(Kind::Chinese)
    } else if all(is_english) {
        Some(Kind::English)
    } else {
        None
    }
}

fn kind(token: &str) -> Kind {
    let all = |is: fn(&str) -> bool| {
        !token.is_empty() && token.chars().all(|letter| is(letter.encode_utf8(&mut [0; 4])))
    };
    if all(is_chinese) {
        Kind::Chinese
    } else if token.contains(CONTINUES) {
        Kind::Piece
    } else if all(is_english) {
        Kind::English
    } else {
        Kind::Other
    }
}

/// The token as it is classified: without spaces and special tokens inside it.
fn bare(token: &str) -> String {
    ["</s>", "<s>", "<unk>", "<OOV>"].iter().fold(token.replace(' ', ""), |text, tag| text.replace(tag, ""))
}

/// A Chinese character, digit or `@`; for longer strings, as in FunASR, by lexicographic comparison.
fn is_chinese(text: &str) -> bool {
    ("\u{4e00}"..="\u{9fff}").contains(&text) || ("0"..="9").contains(&text) || text == "@"
}

/// Letters (Python's `isalpha`: Unicode category L) that are not Chinese, or an apostrophe.
fn is_english(text: &str) -> bool {
    let letter = |letter: char| letter.general_category_group() == GeneralCategoryGroup::Letter;
    text == "'" || (!text.is_empty() && text.chars().all(letter) && !is_chinese(text))
}

/// Joins `@@` pieces and sets blanks after English words.
fn continued(tokens: &[(usize, &str)]) -> Vec<Part> {
    let kind_of_all = kind_of_all(tokens);
    let mut parts = Vec::with_capacity(tokens.len());
    let mut unfinished: Option<Word> = None;
    let mut after_english = false;
    for &(index, token) in tokens {
        let kind = kind_of_all.unwrap_or_else(|| kind(token));
        match kind {
            Kind::Chinese => {
                // Takes back the blank after the English word, or what was put after it.
                if mem::take(&mut after_english) {
                    parts.pop();
                }
                parts.push(word(token.replace(' ', ""), index));
            }
            Kind::Piece => {
                grow(&mut unfinished, &token.replace(CONTINUES, ""), index);
                after_english = false;
            }
            Kind::English => {
                grow(&mut unfinished, token, index);
                parts.extend(unfinished.take().map(Part::Word));
                parts.push(Part::Blank);
                after_english = true;
            }
            Kind::Other if token == " " => parts.push(Part::Blank),
            Kind::Other => parts.push(word(token.to_owned(), index)),
        }
    }
    parts
}

/// Joins SentencePiece tokens. FunASR also writes `I` for `i` in its word list, but not in its text; here both are as
/// recognised.
fn started(tokens: &[(usize, &str)]) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut unfinished: Option<Word> = None;
    for &(index, token) in tokens {
        if token.contains(WORD_START)
            && let Some(finished) = unfinished.take()
        {
            parts.extend([Part::Word(finished), Part::Blank]);
        }
        grow(&mut unfinished, &token.replace(WORD_START, ""), index);
    }
    parts.extend(unfinished.map(Part::Word));
    parts
}

/// SenseVoice's words (`post` in `models/sense_voice/model.py`). FunASR leaves the `▁` of the very first piece in its word
/// and joins the letters around a lone `▁`; here a word is never other than in the text.
fn pieced(tokens: &[(usize, &str)]) -> Vec<Part> {
    let is_byte = |token: &str| byte(token).is_some();
    let mut parts = Vec::new();
    for run in tokens.chunk_by(|a, b| is_byte(a.1) && is_byte(b.1)) {
        let ([(start, first), ..], [.., (end, _)]) = (run, run) else { continue };
        let decoded = PieceRules::default().decode(run.iter().map(|(_, token)| *token));
        if first.starts_with(WORD_START) {
            parts.push(Part::Blank);
        }
        match parts.last_mut() {
            _ if decoded.is_empty() => {}
            Some(Part::Word(word)) if is_letters(&word.text) && is_letters(&decoded) => {
                word.text.push_str(&decoded);
                word.tokens = *word.tokens.start()..=*end;
            }
            _ => parts.push(Part::Word(Word { text: decoded, tokens: *start..=*end })),
        }
    }
    parts
}

fn is_letters(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphabetic())
}

fn word(text: String, index: usize) -> Part {
    Part::Word(Word { text, tokens: index..=index })
}

fn grow(unfinished: &mut Option<Word>, text: &str, index: usize) {
    let word = unfinished.get_or_insert_with(|| Word { text: String::new(), tokens: index..=index });
    word.text.push_str(text);
    word.tokens = *word.tokens.start()..=index;
}

/// Writes single letters in a row as one upper-case word: `u s a` -> `USA`.
fn abbreviate(parts: Vec<Part>) -> Vec<Part> {
    let mut out: Vec<Part> = Vec::with_capacity(parts.len());
    // Whether `out` ends with a letter or an abbreviation, and perhaps the blank after it.
    let mut after_letter = false;
    for part in parts {
        let after_blank = after_letter && matches!(out.last(), Some(Part::Blank));
        after_letter = match &part {
            Part::Word(word) => is_ascii_letter(&word.text),
            Part::Blank => after_letter && !after_blank,
        };
        match part {
            Part::Word(letter) if after_letter && after_blank => {
                out.pop();
                append_letter(out.last_mut(), &letter);
            }
            other => out.push(other),
        }
    }
    out
}

fn append_letter(abbreviation: Option<&mut Part>, letter: &Word) {
    if let Some(Part::Word(word)) = abbreviation {
        word.text.push_str(&letter.text);
        word.text.make_ascii_uppercase();
        word.tokens = *word.tokens.start()..=*letter.tokens.end();
    }
}

fn is_ascii_letter(text: &str) -> bool {
    text.len() == 1 && is_letters(text)
}
