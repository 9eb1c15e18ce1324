//! Punctuation that a model wrote into its text itself, as SenseVoice does with text normalisation.

use std::ops::Range;

use super::{Token, is_space};

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

/// Removes the words of `text` that are nothing but [`marks`]; the words spell the text, white space aside.
pub fn remove_marks(words: &mut Vec<Token>, text: &str) {
    let marks = marks(text);
    let spelled = |text: &str| text.chars().filter(|&letter| !is_space(letter)).count();
    let letters = text.char_indices().filter(|&(_, letter)| !is_space(letter));
    let mut in_mark = letters.map(|(at, _)| marks.iter().any(|mark| mark.contains(&at)));
    words.retain(|word| !in_mark.by_ref().take(spelled(&word.text)).fold(true, |all, here| all & here));
}

fn is_mark(letter: char) -> bool {
    MARKS.contains(&letter)
}

fn is_word(letter: char) -> bool {
    letter.is_ascii_alphanumeric()
}

#[cfg(test)]
mod tests {
    use super::{Token, marks, remove_marks};

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
    }

    #[test]
    fn words_that_are_marks_go() {
        let word = |text: &&str| Token { text: (*text).to_owned(), start_ms: 0, end_ms: 0, confidence: None };
        let cases: [(&str, &[&str], &str); 4] = [
            ("好，见。", &["好", "，", "见", "。"], "好 见"),
            ("在12:25见。ok", &["在", "1", "2", ":", "2", "5", "见", "。", "ok"], "在 1 2 : 2 5 见 ok"),
            ("hello world.", &["hello", "world", "."], "hello world"),
            ("", &[], ""),
        ];
        for (text, words, expected) in cases {
            let mut words: Vec<Token> = words.iter().map(word).collect();
            remove_marks(&mut words, text);
            let left: Vec<String> = words.into_iter().map(|word| word.text).collect();
            assert_eq!(left.join(" "), expected, "{text}");
        }
    }
}
