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

/// The same text with English marks for Chinese ones, and where they stand then.
pub fn english(text: &str, marks: &[Range<usize>]) -> (String, Vec<Range<usize>>) {
    let mut out = String::with_capacity(text.len());
    let mut moved = Vec::with_capacity(marks.len());
    let mut from = 0;
    for mark in marks {
        let (Some(before), Some(signs)) = (text.get(from..mark.start), text.get(mark.clone())) else {
            continue;
        };
        out.push_str(before);
        let begin = out.len();
        out.extend(signs.chars().map(|sign| match sign {
            '，' | '、' => ',',
            '。' => '.',
            '？' => '?',
            '！' => '!',
            other => other,
        }));
        moved.push(begin..out.len());
        from = mark.end;
    }
    out.push_str(text.get(from..).unwrap_or_default());
    (out, moved)
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
    use super::{Token, english, marks, remove_marks};

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
    fn english_marks_stand_where_chinese_ones_did() {
        let (text, moved) = english("hello、world。 ok？", &[5..8, 13..16, 19..22]);
        assert_eq!(text, "hello,world. ok?");
        assert_eq!(moved, [5..6, 11..12, 15..16]);
        // Ranges that are not in the text are left out.
        assert_eq!(english("a", &[3..4, 5..6]), ("a".to_owned(), vec![]));
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
