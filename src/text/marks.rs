//! Punctuation that a model wrote into its text itself, as SenseVoice does with text normalisation.

use std::ops::Range;

const MARKS: [char; 14] = ['，', '。', '？', '！', '、', '；', '：', ',', '.', '?', '!', ';', ':', '…'];

/// Byte ranges of the punctuation marks of `text`, ascending; marks in a row are one. A sign between two ASCII letters or
/// digits is part of a word: `12:30`, `44.7`, `e.g`.
pub fn marks(text: &str) -> Vec<Range<usize>> {
    let mut found: Vec<Range<usize>> = Vec::new();
    let mut before = None;
    let mut letters = text.char_indices().peekable();
    while let Some((at, letter)) = letters.next() {
        let after = letters.peek().map(|&(_, next)| next);
        let inside = letter.is_ascii() && [before, after].iter().all(|side| side.is_some_and(is_word));
        if is_mark(letter) && !inside {
            let end = at + letter.len_utf8();
            match found.last_mut() {
                Some(last) if last.end == at => last.end = end,
                _ => found.push(at..end),
            }
        }
        before = Some(letter);
    }
    found
}

/// Whether a token is nothing but punctuation.
pub fn is_punctuation(token: &str) -> bool {
    !token.is_empty() && token.chars().all(is_mark)
}

fn is_mark(letter: char) -> bool {
    MARKS.contains(&letter)
}

fn is_word(letter: char) -> bool {
    letter.is_ascii_alphanumeric()
}

#[cfg(test)]
mod tests {
    use super::{is_punctuation, marks};

    #[test]
    fn marks_stand_outside_words() {
        let cases: [(&str, &[&str]); 7] = [
            ("", &[]),
            ("你好，我们12:25见。", &["，", "。"]),
            ("增长44.7%，ok", &["，"]),
            ("Hello, world. e.g. this", &[",", ".", "."]),
            ("什么？！好…", &["？！", "…"]),
            ("。", &["。"]),
            ("3.", &["."]),
        ];
        for (text, expected) in cases {
            let found: Vec<&str> = marks(text).into_iter().map(|mark| &text[mark]).collect();
            assert_eq!(found, expected, "{text}");
        }
        assert!(is_punctuation("？！") && !is_punctuation("") && !is_punctuation("a."));
    }
}
