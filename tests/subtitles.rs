//! Subtitles: cues in order and of limited size, by the words' own times.
// Helpers are test code too, but clippy recognises only #[test] functions as such.

use funasr_candle::text::Token;
use funasr_candle::text::sentences::{Sentence, sentences};
use funasr_candle::text::subtitles::{Cue, Layout, cues, srt, tsv, vtt};
use proptest::prelude::*;
use unicode_width::UnicodeWidthStr;

fn sentence(text: &str, start_ms: u64, end_ms: u64) -> Sentence {
    Sentence { text: text.to_owned(), start_ms, end_ms, ..Sentence::default() }
}

/// Word i lasts from 500 i to 500 i + 400 ms.
fn timed<S: AsRef<str>>(words: &[S]) -> Vec<Token> {
    let token = |(i, word): (u64, &S)| Token {
        text: word.as_ref().to_owned(),
        start_ms: 500 * i,
        end_ms: 500 * i + 400,
        confidence: None,
    };
    (0..).zip(words).map(token).collect()
}

fn plain(list: &[Sentence]) -> Vec<Cue> {
    cues(list, &[], &Layout::default())
}

#[test]
fn three_formats() {
    let list = plain(&[sentence("你好，", 0, 1050), sentence("a <b> & c --> d", 3_723_004, 3_723_999)]);
    assert_eq!(
        srt(&list),
        "1\n00:00:00,000 --> 00:00:01,050\n你好，\n\n2\n01:02:03,004 --> 01:02:03,999\na <b> & c --> d\n\n"
    );
    assert_eq!(
        vtt(&list),
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.050\n你好，\n\n\
         01:02:03.004 --> 01:02:03.999\na &lt;b&gt; &amp; c --&gt; d\n\n"
    );
    assert_eq!(tsv(&list), "start\tend\ttext\n0\t1050\t你好，\n3723004\t3723999\ta <b> & c --> d\n");
    assert_eq!(
        (srt(&[]), vtt(&[]), tsv(&[])),
        (String::new(), "WEBVTT\n\n".into(), "start\tend\ttext\n".into())
    );
}

#[test]
fn cues_are_single_lines_of_some_length_in_order() {
    let list = plain(&[
        sentence("two\nlines\tand\r\n\n a\u{0} tab", 10, 10),
        sentence(" \n ", 11, 20),
        sentence("b", 0, 40),
        sentence("c", 5, 30),
        sentence("late", 360_000_000, 360_000_000),
    ]);
    assert_eq!(
        tsv(&list),
        "start\tend\ttext\n10\t11\ttwo lines and a tab\n11\t40\tb\n40\t41\tc\n360000000\t360000001\tlate\n"
    );
    assert!(srt(&list).ends_with("4\n100:00:00,000 --> 100:00:00,001\nlate\n\n"));
}

#[test]
fn long_sentences_are_cut_where_lines_may_break() {
    type Expected<'a> = &'a [(u64, u64, &'a str)];
    let cases: [(&str, &str, Layout, Expected); 6] = [
        // A Chinese character takes two columns; a closing mark does not begin a line, an opening one does not end it.
        (
            "今 天 天 气 好",
            "今天天气好。",
            Layout { line_width: Some(6), lines: 1, cue_ms: None },
            &[(0, 1400, "今天天"), (1500, 2400, "气好。")],
        ),
        (
            "今 天 天 气 好",
            "今天天气好。",
            Layout { line_width: Some(10), lines: 1, cue_ms: None },
            &[(0, 1900, "今天天气"), (2000, 2400, "好。")],
        ),
        (
            "他 说 「你 好」",
            "他说「你好」。",
            Layout { line_width: Some(6), lines: 2, cue_ms: None },
            &[(0, 1400, "他说|「你"), (1500, 1900, "好」。")],
        ),
        (
            "we are on the way home",
            "We are on the way home.",
            Layout { line_width: Some(10), lines: 2, cue_ms: None },
            &[(0, 2400, "We are on|the way"), (2500, 2900, "home.")],
        ),
        (
            "we are on the way home",
            "We are on the way home.",
            Layout { line_width: None, lines: 2, cue_ms: Some(1400) },
            &[(0, 1400, "We are on"), (1500, 2900, "the way home.")],
        ),
        (
            "internationalisation now",
            "internationalisation now",
            Layout { line_width: Some(8), lines: 2, cue_ms: None },
            &[(0, 400, "internat|ionalisa"), (400, 900, "tion now")],
        ),
    ];
    for (words, text, layout, expected) in cases {
        let words = timed(&words.split(' ').collect::<Vec<_>>());
        let mark = text.len() - text.chars().next_back().unwrap().len_utf8();
        let marks = if text.ends_with(['。', '.']) { vec![mark..text.len()] } else { vec![] };
        let found = cues(&sentences(&words, text, &marks), &words, &layout);
        let found: Vec<_> = found.iter().map(|cue| (cue.start_ms, cue.end_ms, cue.lines.join("|"))).collect();
        let expected: Vec<_> =
            expected.iter().map(|&(start, end, text)| (start, end, text.to_owned())).collect();
        assert_eq!(found, expected, "{layout:?}");
    }
}

#[test]
fn a_cue_of_one_long_word_ends_in_time() {
    let words = [Token { text: "a".into(), start_ms: 0, end_ms: 9000, confidence: None }];
    let layout = Layout { cue_ms: Some(2000), ..Layout::default() };
    let found = cues(&sentences(&words, "a", &[]), &words, &layout);
    assert_eq!(found, [Cue { start_ms: 0, end_ms: 2000, lines: vec!["a".into()] }]);
}

proptest! {
    #[test]
    fn any_sentences_give_cues_within_bounds(
        drawn in prop::collection::vec(("([a-z]{1,12}|[你我好天]|[0-9]{1,4}|\\PC)", 0usize..5), 1..30),
        width in prop::option::of(2usize..20),
        lines in 1usize..4,
        cue_ms in prop::option::of(1u64..5000),
    ) {
        let words = timed(&drawn.iter().map(|(word, _)| word.clone()).collect::<Vec<_>>());
        let (mut text, mut marks) = (String::new(), Vec::new());
        for (word, mark) in &drawn {
            if text.ends_with(|c: char| c.is_ascii()) && word.is_ascii() {
                text.push(' ');
            }
            text.push_str(word);
            if let Some(mark) = ["，", "。"].get(*mark) {
                marks.push(text.len()..text.len() + mark.len());
                text.push_str(mark);
            }
        }
        let layout = Layout { line_width: width, lines, cue_ms };
        let found = cues(&sentences(&words, &text, &marks), &words, &layout);
        let spell = |text: &str| text.chars().filter(|c| !c.is_whitespace() && !c.is_control()).collect::<String>();
        let shown: String = found.iter().flat_map(|cue| &cue.lines).map(|line| spell(line)).collect();
        prop_assert_eq!(shown, spell(&text));
        prop_assert!(found.iter().all(|cue| cue.start_ms < cue.end_ms && (1..=lines.max(1)).contains(&cue.lines.len())));
        prop_assert!(found.windows(2).all(|pair| pair[0].end_ms <= pair[1].start_ms));
        for cue in &found {
            prop_assert!(cue_ms.is_none_or(|ms| cue.end_ms - cue.start_ms <= ms), "{:?}", cue);
            for line in &cue.lines {
                let one = line.chars().count() == 1;
                prop_assert!(!line.trim().is_empty() && (one || width.is_none_or(|width| line.width() <= width)), "{:?}", cue);
            }
        }
    }
}
