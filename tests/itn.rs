//! Inverse text normalisation against WeTextProcessing's `wetext` (`golden/itn.py`), what becomes of times, idioms, and
//! files that are no rules.
// Helpers are test code too, but clippy recognises only #[test] functions as such.

use std::fs;
use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::sync::LazyLock;

use flate2::read::GzDecoder;
use funasr_candle::text::Token;
use funasr_candle::text::edits::{Editor, letters_before};
use funasr_candle::text::itn::{Idioms, Itn, Language, Normalized, Transducer};
use funasr_candle::text::sentences::sentences;
use proptest::prelude::*;

/// Spoken and written texts of a language.
fn golden(language: &str) -> Vec<(String, String)> {
    let golden: serde_json::Value = serde_json::from_str(include_str!("golden/itn.json")).unwrap();
    serde_json::from_value(golden[language].clone()).unwrap()
}

fn guarded() -> &'static Itn {
    static ITN: LazyLock<Itn> = LazyLock::new(|| Itn::embedded().unwrap());
    &ITN
}

/// Without idioms.
fn rules() -> &'static Itn {
    static RULES: LazyLock<Itn> = LazyLock::new(|| guarded().clone().with_idioms(None));
    &RULES
}

fn list() -> Vec<&'static str> {
    include_str!("../src/text/itn/idioms.txt")
        .lines()
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
        .collect()
}

/// Fails unless the spans are in order and leave out nothing but white space, of either text.
fn assert_covered(text: &str, written: &Normalized) {
    let check = |text: &str, ranges: &mut dyn Iterator<Item = Range<usize>>| {
        let mut from = 0;
        for range in ranges {
            assert!(from <= range.start && range.start < range.end, "{range:?} in {text:?}");
            assert_eq!(text[from..range.start].trim(), "", "before {range:?} in {text:?}");
            from = range.end;
        }
        assert_eq!(text[from..].trim(), "", "at the end of {text:?}");
    };
    check(text, &mut written.spans.iter().map(|span| span.spoken.clone()));
    check(&written.text, &mut written.spans.iter().map(|span| span.written.clone()));
}

#[test]
fn equals_wetext() {
    for language in [Language::Chinese, Language::English] {
        let (rules, cases) = (rules(), golden(language.code()));
        assert!(cases.len() >= 300);
        let mut changed = 0;
        for (spoken, expected) in &cases {
            let written = rules.normalize(spoken, Some(language));
            assert_eq!(written.text, *expected, "{spoken}");
            assert_covered(spoken, &written);
            changed += usize::from(spoken != expected);
        }
        assert!(changed > 200, "only {changed} texts are written otherwise");
    }
}

#[test]
fn spans_say_what_became_of_what() {
    let cases: [(&str, &[(&str, &str)]); 6] = [
        (
            "二零二二年五月二十号下午三点四十五分",
            &[("二零二二年五月二十号", "2022/05/20"), ("下午三点四十五分", "3:45p.m.")],
        ),
        ("三分之二的人花了一百二十块五毛", &[("三分之二", "2/3"), ("一百二十块五毛", "120块5毛")]),
        ("你好，负三十二摄氏度 ok", &[("负三十二摄氏度", "-32°C")]),
        (
            "it was nineteen ninety nine at three thirty p m",
            &[("nineteen ninety nine", "1999"), ("three thirty p m", "03:30 p.m.")],
        ),
        (
            "call one two three four five six seven eight nine oh now",
            &[("one two three four five six seven eight nine oh", "123-456-7890")],
        ),
        ("twenty three dollars and fifty cents", &[("twenty three dollars and fifty cents", "$23.50")]),
    ];
    for (text, expected) in cases {
        let written = rules().normalize(text, None);
        let pairs = written
            .spans
            .iter()
            .map(|span| (&text[span.spoken.clone()], &written.text[span.written.clone()]));
        assert_eq!(pairs.filter(|(spoken, written)| spoken != written).collect::<Vec<_>>(), expected);
    }
}

/// WeTextProcessing doubles them.
#[test]
fn quotes_and_backslashes_stay() {
    for text in ["他说\"五十\"\\n", "say \"hello\" \\ there"] {
        assert_eq!(rules().normalize(text, None).text, text.replace("五十", "50"));
    }
}

#[test]
fn what_cannot_be_read_stays() {
    for (text, expected) in
        [("", ""), (" \n", ""), ("\0五十", "\0五十"), ("  你\u{1F600}好 ", "你\u{1F600}好"), ("안녕", "안녕")]
    {
        let written = rules().normalize(text, None);
        assert_eq!(written.text, expected);
        assert_covered(text, &written);
    }
}

#[test]
fn long_texts_are_written_sentence_by_sentence() {
    let sentence = "公司有二千一百九十六名员工。";
    let text = sentence.repeat(2000);
    let written = rules().normalize(&text, None);
    assert_eq!(written.text, "公司有2196名员工。".repeat(2000));
    assert_covered(&text, &written);
    let text = "一".repeat(5000);
    assert_covered(&text, &rules().normalize(&text, None));
}

#[test]
fn idioms_stay_and_need_to_be_listed() {
    for idiom in list() {
        let text =
            if idiom.is_ascii() { format!("it was {idiom} then") } else { format!("我们{idiom}吧") };
        assert_ne!(rules().normalize(&text, None).text, text, "the rules leave {idiom} alone");
        assert_eq!(guarded().normalize(&text, None).text, text);
    }
}

#[test]
fn numbers_beside_idioms_are_written() {
    let cases = [
        ("十分感谢你们五十个人", "十分感谢你们50个人"),
        ("二十分感谢", "20分感谢"),
        ("一起去，万一下雨呢，星期一见", "一起去，万一下雨呢，星期一见"),
        ("等了十分钟", "等了10min"),
        ("First of all twenty three people", "First of all 23 people"),
        ("the twenty first of all", "the 21st of all"),
        ("sixty first class seats", "61st class seats"),
    ];
    for (text, expected) in cases {
        let written = guarded().normalize(text, None);
        assert_eq!(written.text, expected);
        assert_covered(text, &written);
    }
    let own = rules().clone().with_idioms(Some(Idioms::parse("五十个 # all of them\n\n#\n").unwrap()));
    assert_eq!(own.normalize("十分感谢你们五十个人", None).text, "10分感谢你们五十个人");
}

mod times {
    use super::*;

    /// Word i lasts from 100 i to 100 i + 90 ms.
    fn timed(words: &[&str]) -> Vec<Token> {
        let token = |(i, text): (u64, &&str)| Token {
            text: (*text).to_owned(),
            start_ms: 100 * i,
            end_ms: 100 * i + 90,
            confidence: Some(1.0 / (i + 1) as f32),
        };
        (0..).zip(words).map(token).collect()
    }

    fn brief(words: &[Token]) -> Vec<(&str, u64, u64)> {
        words.iter().map(|word| (word.text.as_str(), word.start_ms, word.end_ms)).collect()
    }

    #[test]
    fn a_number_lasts_as_long_as_its_words() {
        type Timed<'a> = &'a [(&'a str, u64, u64)];
        let cases: [(&[&str], &str, Timed); 5] = [
            (
                &["有", "二", "百", "零", "六", "名"],
                "有206名",
                &[("有", 0, 90), ("206", 100, 490), ("名", 500, 590)],
            ),
            (
                &["it", "was", "twenty", "five", "dollars", "ok"],
                "it was $25 ok",
                &[("it", 0, 90), ("was", 100, 190), ("$25", 200, 490), ("ok", 500, 590)],
            ),
            (&["the", "fourth"], "the 4th", &[("the", 0, 90), ("4th", 100, 190)]),
            (&["三", "分", "之", "二"], "2/3", &[("2/3", 0, 390)]),
            (&["你", "好"], "你好", &[("你", 0, 90), ("好", 100, 190)]),
        ];
        for (words, written, expected) in cases {
            let text = if words[0].is_ascii() { words.join(" ") } else { words.concat() };
            let edits = rules().edits(&text, 0, &[]);
            assert_eq!(Editor::new(&edits).text(&text, &[]).0, written);
            assert_eq!(brief(&Editor::new(&edits).words(&timed(words))), expected);
        }
    }

    #[test]
    fn a_word_that_becomes_part_of_a_number_is_as_sure_as_the_least_sure() {
        let edits = rules().edits("二百零六名", 0, &[]);
        let words = Editor::new(&edits).words(&timed(&["二", "百", "零", "六", "名"]));
        assert_eq!(words.iter().map(|word| word.confidence.unwrap()).collect::<Vec<_>>(), [0.25, 0.2]);
    }

    #[test]
    fn nothing_is_written_across_marks_and_segments() {
        let punctuated = "二十，十五个。Twenty three dollars.";
        let marks = [6..9, 18..21, punctuated.len() - 1..punctuated.len()];
        let breaks = letters_before(punctuated, &marks);
        assert_eq!(breaks, [2, 5, 23]);
        let (first, second) = ("二十十五个", "twenty three dollars");
        let mut edits = rules().edits(first, 0, &breaks);
        edits.extend(rules().edits(second, 5, &breaks));
        let (text, marks) = Editor::new(&edits).text(punctuated, &marks);
        assert_eq!(text, "20，15个。$23.");
        assert_eq!(marks.iter().map(|mark| &text[mark.clone()]).collect::<Vec<_>>(), ["，", "。", "."]);
        let mut editor = Editor::new(&edits);
        assert_eq!(editor.text(first, &[]).0, "2015个");
        assert_eq!(editor.text(second, &[]).0, "$23");
    }

    fn spell(text: &str) -> String {
        text.split_whitespace().collect()
    }

    fn word() -> impl Strategy<Value = String> {
        let chinese = "[零一二三四五六七八九十百千万两点分之年月日号元个第负你我好]";
        let english =
            "(one|two|five|twenty|thirty|hundred|point|dollars|percent|second|hello|i'm|pm|and|of|may)";
        prop_oneof![4 => chinese, 2 => english, 1 => "[a-c0-9.%$]{1,3}", 1 => "\\PC{1,2}"]
    }

    proptest! {
        /// For any words and any marks behind them: spans are in order, apart and inside the segment, the words spell the
        /// text, and sentences cover both.
        #[test]
        fn times_hold(drawn in prop::collection::vec((word(), 0usize..12, 1u64..400, 0u64..300), 1..24)) {
            let mut at = 70;
            let mut words = Vec::new();
            let (mut text, mut punctuated, mut marks) = (String::new(), String::new(), Vec::new());
            for (word, mark, length, gap) in &drawn {
                let space = if word.is_ascii() && text.ends_with(|c: char| c.is_ascii()) { " " } else { "" };
                let token = Token { text: word.clone(), start_ms: at, end_ms: at + length, confidence: Some(0.5) };
                words.push(token);
                at += length + gap;
                text.extend([space, word]);
                punctuated.extend([space, word]);
                let begin = punctuated.len();
                punctuated.push_str(["，", "。", "、", ","].get(*mark).unwrap_or(&""));
                marks.extend(Some(begin..punctuated.len()).filter(|mark| !mark.is_empty()));
            }
            let edits = guarded().edits(&text, 0, &letters_before(&punctuated, &marks));
            prop_assert!(edits.windows(2).all(|pair| pair[0].letters.end <= pair[1].letters.start), "{:?}", edits);
            let written = Editor::new(&edits).words(&words);
            let (bare, _) = Editor::new(&edits).text(&text, &[]);
            let (full, moved) = Editor::new(&edits).text(&punctuated, &marks);
            let spans: Vec<u64> = written.iter().flat_map(|word| [word.start_ms, word.end_ms]).collect();
            prop_assert!(spans.is_sorted(), "{:?}", spans);
            prop_assert!(spans.iter().all(|&ms| (70..=at).contains(&ms)));
            let spelled: String = written.iter().map(|word| spell(&word.text)).collect();
            prop_assert_eq!(&spelled, &spell(&bare));
            let marked = |text: &str, marks: &[Range<usize>]| marks.iter().map(|m| text[m.clone()].to_owned()).collect::<Vec<_>>();
            prop_assert_eq!(marked(&full, &moved), marked(&punctuated, &marks));
            let cut = sentences(&written, &full, &moved);
            let text_of_sentences: String = cut.iter().map(|sentence| spell(&sentence.text)).collect();
            prop_assert_eq!(text_of_sentences, spell(&full));
            prop_assert!(cut.windows(2).all(|pair| pair[0].end_ms <= pair[1].start_ms || pair[0].words.end > pair[1].words.start));
            let indices: Vec<usize> = cut.iter().flat_map(|sentence| sentence.words.clone()).collect();
            prop_assert!((0..written.len()).all(|word| indices.contains(&word)));
        }
    }
}

mod files {
    use super::*;

    fn packed(name: &str) -> Vec<u8> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/itn").join(format!("{name}.fst.gz"));
        let mut bytes = Vec::new();
        GzDecoder::new(fs::File::open(path).unwrap()).read_to_end(&mut bytes).unwrap();
        bytes
    }

    /// An OpenFST file: states with a final weight and arcs of input, output, weight and target.
    type State<'a> = (f32, &'a [(i32, i32, f32, i32)]);
    fn fst(kind: &str, arcs: &str, start: i64, states: &[State]) -> Vec<u8> {
        let mut out = 2_125_659_606i32.to_le_bytes().to_vec();
        for name in [kind, arcs] {
            out.extend((name.len() as i32).to_le_bytes());
            out.extend(name.as_bytes());
        }
        out.extend(2i32.to_le_bytes());
        out.extend([0; 4]);
        out.extend(3u64.to_le_bytes());
        let count: usize = states.iter().map(|(_, arcs)| arcs.len()).sum();
        for number in [start, states.len() as i64, count as i64] {
            out.extend(number.to_le_bytes());
        }
        for (weight, arcs) in states {
            out.extend(weight.to_le_bytes());
            out.extend((arcs.len() as i64).to_le_bytes());
            for (input, output, weight, next) in *arcs {
                out.extend(input.to_le_bytes());
                out.extend(output.to_le_bytes());
                out.extend(weight.to_le_bytes());
                out.extend(next.to_le_bytes());
            }
        }
        out
    }

    #[test]
    fn what_is_no_transducer_of_bytes_is_refused() {
        let none = f32::INFINITY;
        let end: State = (0.0, &[]);
        let tagger = packed("en_itn_tagger");
        let cases: [(Vec<u8>, &str); 13] = [
            (Vec::new(), "not an OpenFST file"),
            (b"{\"vocab\": []}".to_vec(), "not an OpenFST file"),
            (tagger[..6].to_vec(), "a truncated or damaged OpenFST file"),
            (tagger[..40].to_vec(), "a truncated or damaged OpenFST file"),
            (tagger[..tagger.len() - 1].to_vec(), "a truncated or damaged OpenFST file"),
            (
                fst("compact_acceptor", "standard", 0, &[end]),
                "an OpenFST file of type `compact_acceptor`; `vector` and `const` are read",
            ),
            (
                fst("vector", "log", 0, &[end]),
                "an OpenFST file with arcs of type `log`; `standard` ones are read",
            ),
            (fst("vector", "standard", -1, &[end]), "no start state"),
            (fst("vector", "standard", 7, &[end]), "no start state"),
            (
                fst("vector", "standard", 0, &[(none, &[(300, 1, 0.0, 1)]), end]),
                "label 300 at state 0 is no byte",
            ),
            (
                fst("vector", "standard", 0, &[(none, &[(97, 1, 0.0, 2)]), end]),
                "state 0 leads to state 2 of 2",
            ),
            (fst("vector", "standard", 0, &[(none, &[(97, 1, f32::NAN, 1)]), end]), "weight NaN at state 0"),
            (
                fst(
                    "vector",
                    "standard",
                    0,
                    &[(none, &[(97, 0, 0.0, 1)]), (none, &[(0, 98, 0.0, 2)]), (0.0, &[(0, 0, 0.0, 1)])],
                ),
                "state 1 leads back to itself without reading anything",
            ),
        ];
        for (bytes, cause) in cases {
            let error = Transducer::parse("dir/zh_itn_tagger.fst", &bytes).unwrap_err();
            assert_eq!(error.to_string(), format!("dir/zh_itn_tagger.fst: {cause}"));
        }
    }

    #[test]
    fn damaged_files_are_refused_or_read() {
        let bytes = packed("en_itn_tagger");
        for length in (0..bytes.len()).step_by(9973) {
            assert!(Transducer::parse("a.fst", &bytes[..length]).is_err(), "{length}");
        }
        // Whatever a flipped byte makes of it: no panic, no endless search.
        for at in (0..200).chain((200..bytes.len()).step_by(31_013)) {
            let mut bytes = bytes.clone();
            bytes[at] ^= 0x41;
            let _ = Transducer::parse("a.fst", &bytes);
        }
    }

    #[test]
    fn folders_of_both_layouts_are_read() {
        let parts = ["tagger", "verbalizer"];
        let folder = tempfile::tempdir().unwrap();
        let error = |folder: &Path| Itn::open(folder).unwrap_err().to_string();
        assert!(
            error(folder.path())
                .ends_with("no zh_itn_tagger.fst, zh/itn/tagger.fst, en_itn_tagger.fst or en/itn/tagger.fst")
        );
        fs::create_dir_all(folder.path().join("en/itn")).unwrap();
        for part in parts {
            fs::write(folder.path().join(format!("en/itn/{part}.fst")), packed(&format!("en_itn_{part}")))
                .unwrap();
        }
        let itn = Itn::open(folder.path()).unwrap();
        assert_eq!(itn.normalize("twenty three", None).text, "23");
        assert_eq!(itn.normalize("二十三", None).text, "二十三");
        fs::write(folder.path().join("zh_itn_tagger.fst"), packed("zh_itn_tagger")).unwrap();
        assert!(error(folder.path()).contains("zh_itn_verbalizer.fst: "), "{}", error(folder.path()));
        fs::write(folder.path().join("zh_itn_verbalizer.fst"), &packed("zh_itn_verbalizer")[..100_000])
            .unwrap();
        assert!(error(folder.path()).ends_with("zh_itn_verbalizer.fst: a truncated or damaged OpenFST file"));
        fs::write(folder.path().join("zh_itn_verbalizer.fst"), packed("zh_itn_verbalizer")).unwrap();
        assert_eq!(Itn::open(folder.path()).unwrap().normalize("二十三", None).text, "23");
    }
}
