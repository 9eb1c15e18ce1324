//! Times in the grain in which FunASR's servers give them (`TimestampSmooth` in
//! `runtime/onnxruntime/src/util.cpp`).

use super::{Token, is_space};

/// The words cut as FunASR's clients count them: a Chinese character, a digit and an ASCII sign (but `&`, `'` and `-`) stand
/// alone, everything else between spaces together. Parts of a word share its time evenly, the last one has the remainder.
pub fn stamps(words: &[Token]) -> Vec<Token> {
    words.iter().flat_map(share).collect()
}

fn share(word: &Token) -> Vec<Token> {
    let parts = parts(&word.text);
    let step = (word.end_ms - word.start_ms).checked_div(parts.len() as u64).unwrap_or(0);
    let last = parts.len().saturating_sub(1);
    let part = |(i, text): (usize, &str)| {
        let start_ms = word.start_ms + step * i as u64;
        let end_ms = if i == last { word.end_ms } else { start_ms + step };
        Token { text: text.to_owned(), start_ms, end_ms, confidence: word.confidence }
    };
    parts.into_iter().enumerate().map(part).collect()
}

fn parts(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    for run in text.split(is_space) {
        let mut begin = 0;
        for (at, letter) in run.char_indices().filter(|&(_, letter)| stands_alone(letter)) {
            let end = at + letter.len_utf8();
            parts.extend([&run[begin..at], &run[at..end]]);
            begin = end;
        }
        parts.push(&run[begin..]);
    }
    parts.retain(|part| !part.is_empty());
    parts
}

fn stands_alone(letter: char) -> bool {
    let chinese = ('\u{4e00}'..='\u{9fff}').contains(&letter);
    let sign = letter.is_ascii_punctuation() && !['&', '\'', '-'].contains(&letter);
    chinese || letter.is_ascii_digit() || sign
}

#[cfg(test)]
mod tests {
    use super::{Token, stamps};

    #[test]
    fn parts_share_the_time_of_their_word() {
        let word =
            |text: &str, start_ms, end_ms| Token { text: text.into(), start_ms, end_ms, confidence: None };
        let found = stamps(&[
            word("有", 0, 90),
            word("2196", 100, 201),
            word("$5 m&m", 210, 240),
            word("it's", 300, 310),
        ]);
        let found: Vec<_> = found.iter().map(|t| (t.text.as_str(), t.start_ms, t.end_ms)).collect();
        let expected = [
            ("有", 0, 90),
            ("2", 100, 125),
            ("1", 125, 150),
            ("9", 150, 175),
            ("6", 175, 201),
            ("$", 210, 220),
            ("5", 220, 230),
            ("m&m", 230, 240),
            ("it's", 300, 310),
        ];
        assert_eq!(found, expected);
    }
}
