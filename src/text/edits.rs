//! Replacements in a text whose words have times. Places are counted in letters, which is all but white space and marks:
//! words, bare text and punctuated text of the same speech agree on them.

use std::ops::Range;

use super::{Token, is_space};

/// Other text for a stretch of letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// Counted from the beginning of the first text; not empty.
    pub letters: Range<usize>,
    /// What stands there instead.
    pub text: String,
}

/// Makes edits in texts, or in words, that follow one another.
#[derive(Debug)]
pub struct Editor<'a> {
    /// In order and apart from each other; those that are done are gone.
    edits: &'a [Edit],
    /// Letters read so far.
    letter: usize,
}

impl<'a> Editor<'a> {
    /// At the beginning of the first text. The edits are in order and do not overlap.
    pub fn new(edits: &'a [Edit]) -> Self {
        Self { edits, letter: 0 }
    }

    /// The next text with its edits made, and where its `marks` (ascending, not empty) stand then.
    pub fn text(&mut self, text: &str, marks: &[Range<usize>]) -> (String, Vec<Range<usize>>) {
        let mut out = String::with_capacity(text.len());
        let mut moved: Vec<Range<usize>> = Vec::with_capacity(marks.len());
        let mut marks = marks.iter().peekable();
        for (at, letter) in text.char_indices() {
            while marks.next_if(|mark| mark.end <= at).is_some() {}
            match marks.peek().filter(|mark| mark.start <= at) {
                Some(mark) => {
                    if mark.start == at {
                        moved.push(out.len()..out.len());
                    }
                    out.push(letter);
                    moved.last_mut().into_iter().for_each(|mark| mark.end = out.len());
                }
                None => self.read(letter, &mut out),
            }
        }
        (out, moved)
    }

    /// The next words with their edits made. Those that an edit touches become one, from the start of the first to the end
    /// of the last and as sure as the least sure; one of which nothing is left is gone.
    pub fn words(&mut self, words: &[Token]) -> Vec<Token> {
        let mut out: Vec<Token> = Vec::with_capacity(words.len());
        for word in words {
            let goes_on = self.edits.first().is_some_and(|edit| edit.letters.start < self.letter);
            let mut text = String::with_capacity(word.text.len());
            word.text.chars().for_each(|letter| self.read(letter, &mut text));
            match out.last_mut().filter(|_| goes_on) {
                Some(last) => {
                    last.text.push_str(&text);
                    last.end_ms = last.end_ms.max(word.end_ms);
                    last.confidence =
                        [last.confidence, word.confidence].into_iter().flatten().reduce(f32::min);
                }
                None => out.push(Token { text, ..*word }),
            }
        }
        out.retain(|word| !word.text.is_empty());
        out
    }

    /// Reads a letter or a space; writes it, or what stands in its place.
    fn read(&mut self, letter: char, out: &mut String) {
        let here = self.letter;
        let edit = self.edits.first().filter(|edit| edit.letters.start <= here);
        if is_space(letter) {
            if edit.is_none_or(|edit| edit.letters.start == here) {
                out.push(letter);
            }
            return;
        }
        self.letter += 1;
        match edit {
            None => out.push(letter),
            Some(edit) => {
                if edit.letters.start == here {
                    out.push_str(&edit.text);
                }
                if edit.letters.end <= self.letter {
                    self.edits = &self.edits[1..];
                }
            }
        }
    }
}

/// Number of letters before each of the `marks` of a text.
pub fn letters_before(text: &str, marks: &[Range<usize>]) -> Vec<usize> {
    let mut count = 0;
    let mut from = 0;
    let before = |mark: &Range<usize>| {
        count += text.get(from..mark.start).map_or(0, letters);
        from = mark.end;
        count
    };
    marks.iter().map(before).collect()
}

/// Number of characters that are not white space.
pub(super) fn letters(text: &str) -> usize {
    text.chars().filter(|&letter| !is_space(letter)).count()
}
