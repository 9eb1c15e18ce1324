//! Decoding, text, punctuation and subtitles against FunASR's own functions (`golden/text.py`) and by their rules.
// Helpers are test code too, but clippy recognises only #[test] functions as such.

use std::ops::Range;
use std::path::Path;

use funasr_candle::decode::greedy::greedy;
use funasr_candle::decode::timestamps::{CifTrack, cif_wo_hidden, token_spans, ts_prediction_lfr6_standard};
use funasr_candle::decode::tokens::TokenList;
use funasr_candle::device::Compute;
use funasr_candle::pipeline::PunctuationModel;
use funasr_candle::punctuation::{Config, Labelling, Punctuated, Punctuator, Window, split_words};
use funasr_candle::text::Token;
use funasr_candle::text::join::{Notation, join, join_segments, join_text};
use funasr_candle::text::segment::Segmenter;
use funasr_candle::text::sentences::{Sentence, sentences};
use funasr_candle::weights::ModelFiles;
use funasr_candle::{Error, Result};
use proptest::prelude::*;
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    vocabulary: Vec<String>,
    join: Vec<JoinCase>,
    pieces: Vec<JoinCase>,
    decoded: Vec<DecodedCase>,
    segments: Vec<SegmentCase>,
    timestamps: Vec<StampCase>,
    punctuation: Vec<PunctuationCase>,
    demo_punctuation: Vec<PunctuationCase>,
    sentences: Vec<SentenceCase>,
    jieba: Jieba,
}

/// FunASR's jieba variant; `dictionary` is the part of jieba's that matters for the texts.
#[derive(Deserialize)]
struct Jieba {
    dictionary: String,
    user: String,
    vocabulary: Vec<String>,
    /// Words joined by `|`.
    cuts: Vec<String>,
    texts: Vec<PunctuationCase>,
}

impl Jieba {
    fn segmenter(&self) -> Segmenter {
        let mut segmenter = Segmenter::new("dict.txt", &self.dictionary).unwrap();
        segmenter.add_user_words("user", &self.user).unwrap();
        segmenter
    }
}

#[derive(Deserialize)]
struct JoinCase {
    tokens: Vec<String>,
    text: String,
    words: Vec<String>,
    times: Option<Vec<[u64; 2]>>,
}

#[derive(Deserialize)]
struct DecodedCase {
    tokens: Vec<String>,
    text: String,
}

#[derive(Deserialize)]
struct SegmentCase {
    texts: Vec<String>,
    joined: String,
}

#[derive(Deserialize)]
struct StampCase {
    rate: u32,
    /// In thousandths.
    alphas: Vec<u16>,
    fires: Vec<usize>,
    tokens: usize,
    eos: bool,
    offset: f64,
    times: Option<Vec<[i64; 2]>>,
}

#[derive(Deserialize)]
struct PunctuationCase {
    input: String,
    text: String,
    labels: String,
    #[serde(default)]
    ascii_list: bool,
    #[serde(default)]
    calls: Vec<String>,
}

#[derive(Deserialize)]
struct SentenceCase {
    words: Vec<String>,
    labels: String,
    sentences: Vec<(String, u64, u64)>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("golden/text.json")).unwrap()
}

/// Token i lasts from 120 i to 120 i + 100 ms, as in the golden file.
fn timed(texts: &[impl AsRef<str>]) -> Vec<Token> {
    let token = |(i, text): (u64, &str)| Token {
        text: text.to_owned(),
        start_ms: 120 * i,
        end_ms: 120 * i + 100,
        confidence: Some(1.0 / (i + 1) as f32),
    };
    (0..).zip(texts.iter().map(AsRef::as_ref)).map(token).collect()
}

fn labels(digits: &str) -> Vec<u32> {
    digits.chars().map(|digit| digit.to_digit(10).unwrap()).collect()
}

fn assert_ordered(spans: impl IntoIterator<Item = [u64; 2]>) {
    let flat: Vec<u64> = spans.into_iter().flatten().collect();
    assert!(flat.is_sorted(), "{flat:?}");
}

mod joining {
    use super::*;

    #[test]
    fn equals_sentence_postprocess() {
        for case in golden().join {
            let tokens = &case.tokens;
            let joined = join(&timed(tokens), Notation::Continuation);
            let words: Vec<&str> = joined.words.iter().map(|word| word.text.as_str()).collect();
            assert_eq!(joined.text, case.text, "{tokens:?}");
            assert_eq!(join_text(tokens, Notation::Continuation), case.text, "{tokens:?}");
            assert_eq!(words, case.words, "{tokens:?}");
            let spans: Vec<[u64; 2]> = joined.words.iter().map(|word| [word.start_ms, word.end_ms]).collect();
            // Where FunASR's times slip (dropped, verbatim or interrupted tokens) the file has none.
            if let Some(times) = case.times {
                assert_eq!(spans, times, "{tokens:?}");
            }
            assert_ordered(spans);
        }
    }

    #[test]
    fn equals_sentence_postprocess_sentencepiece() {
        for case in golden().pieces {
            let joined = join(&timed(&case.tokens), Notation::WordStart);
            let words: Vec<String> = joined.words.into_iter().map(|word| word.text.to_lowercase()).collect();
            assert_eq!(joined.text, case.text, "{:?}", case.tokens);
            // FunASR's word list, unlike its text, writes I for i; and has one empty word where there is none.
            let expected: Vec<String> =
                case.words.iter().map(|w| w.to_lowercase()).filter(|w| !w.is_empty()).collect();
            assert_eq!(words, expected, "{:?}", case.tokens);
        }
    }

    /// A Paraformer with a sentencepiece model; spaces at the ends are ours to drop.
    #[test]
    fn equals_the_text_of_a_sentencepiece_model() {
        for case in golden().decoded {
            assert_eq!(join_text(&case.tokens, Notation::WordStart), case.text.trim(), "{:?}", case.tokens);
        }
    }

    #[test]
    fn spans_follow_their_tokens_past_dropped_and_interrupted_ones() {
        type TimedWords<'a> = &'a [(&'a str, u64, u64)];
        let cases: [(&[&str], TimedWords); 6] = [
            (&["hel@@", "<unk>", "lo", "world"], &[("hello", 0, 340), ("world", 360, 460)]),
            (&["你", "<unk>", "好"], &[("你", 0, 100), ("好", 240, 340)]),
            (&["hel@@", "lo", "</s>"], &[("hello", 0, 220)]),
            (&["hel@@", "你", "lo"], &[("你", 120, 220), ("hello", 220, 340)]),
            (&["好", "1st", "u", "s"], &[("好", 0, 100), ("1st", 120, 220), ("US", 240, 460)]),
            (&["你", "hel@@"], &[("你", 0, 100)]),
        ];
        for (tokens, expected) in cases {
            let words = join(&timed(tokens), Notation::Continuation).words;
            let found: Vec<_> = words.iter().map(|w| (w.text.as_str(), w.start_ms, w.end_ms)).collect();
            assert_eq!(found, expected, "{tokens:?}");
        }
    }

    #[test]
    fn a_word_is_as_sure_as_its_least_sure_token() {
        let words = join(&timed(&["hel@@", "lo", "你"]), Notation::Continuation).words;
        assert_eq!(words.iter().map(|word| word.confidence.unwrap()).collect::<Vec<_>>(), [0.5, 1.0 / 3.0]);
    }

    #[test]
    fn the_vocabulary_decides_the_notation() {
        assert_eq!(Notation::of(["<blank>", "hel@@", "你"]), Notation::Continuation);
        assert_eq!(Notation::of(["<blank>", "▁hel", "lo"]), Notation::WordStart);
    }

    #[test]
    fn segments_join_as_in_funasr() {
        for case in golden().segments {
            assert_eq!(join_segments(&case.texts), case.joined, "{:?}", case.texts);
        }
    }

    proptest! {
        #[test]
        fn any_tokens_give_ordered_words_that_spell_the_text(
            tokens in prop::collection::vec("(\\PC|@@|▁|[a-c]|你| ){0,4}", 0..12),
            word_start: bool,
        ) {
            let notation = if word_start { Notation::WordStart } else { Notation::Continuation };
            let joined = join(&timed(&tokens), notation);
            assert_ordered(joined.words.iter().map(|word| [word.start_ms, word.end_ms]));
            let spell = |text: &str| text.split_whitespace().collect::<String>();
            let spelled: String = joined.words.iter().map(|word| spell(&word.text)).collect();
            prop_assert_eq!(spelled, spell(&joined.text));
            prop_assert_eq!(join_text(&tokens, notation), joined.text);
        }

        #[test]
        fn any_segments_join(texts in prop::collection::vec("(\\PC|<\\||\\|>|你){0,6}", 0..6)) {
            join_segments(&texts);
        }
    }
}

mod decoding {
    use super::*;

    fn load(json: &str) -> Result<TokenList> {
        TokenList::from_json("dir/tokens.json", json)
    }

    #[test]
    fn token_list_maps_both_ways() {
        let list = load(r#"["<blank>", "<s>", "</s>", "你", "hel@@", "<unk>"]"#).unwrap();
        assert_eq!((list.len(), list.token(4), list.token(6)), (6, Some("hel@@"), None));
        assert_eq!((list.find("你"), list.find("Hel@@")), (Some(3), None));
        assert_eq!((list.id("你"), list.id("Hel@@")), (3, 5));
        assert_eq!(list.iter().nth(1), Some("<s>"));
    }

    #[test]
    fn token_list_refuses_what_is_no_list_of_distinct_tokens() {
        let cases = [
            ("[\"a\", \"<unk>\", \"a\"]", "dir/tokens.json: token \"a\" is entry 0 and entry 2"),
            ("[\"a\"]", "dir/tokens.json: no entry \"<unk>\""),
            ("[1]", "dir/tokens.json: not a JSON list of tokens: "),
            ("{\"a\": 1}", "dir/tokens.json: not a JSON list of tokens: "),
            ("[\"a\"", "dir/tokens.json: not a JSON list of tokens: "),
        ];
        for (json, message) in cases {
            let error = load(json).unwrap_err();
            assert!(
                matches!(error, Error::Config { .. }) && error.to_string().starts_with(message),
                "{error}"
            );
            assert_eq!(error.to_string().lines().count(), 1);
        }
    }

    #[test]
    fn greedy_keeps_positions_of_what_is_left() {
        // Rows: 3; 2 (dropped); a tie of 3 and 4; 1 (dropped); 4; beyond token_num.
        let logits: Vec<f32> = [
            [0., 0., 0., 2., 0.],
            [0., 0., 9., 0., 0.],
            [0., 0., 0., 1., 1.],
            [0., 5., 0., 0., 0.],
            [f32::NEG_INFINITY, 0., 0., 0., 3.],
            [0., 0., 0., 9., 0.],
        ]
        .concat();
        let found = greedy(&logits, 5, 5).unwrap();
        assert_eq!(found.iter().map(|e| (e.id, e.position)).collect::<Vec<_>>(), [(3, 0), (3, 2), (4, 4)]);
        let expected = [
            2.0 - (4.0 + 2f32.exp()).ln(),
            1.0 - (3.0 + 2.0 * 1f32.exp()).ln(),
            3.0 - (3.0 + 3f32.exp()).ln(),
        ];
        for (emission, log_prob) in found.iter().zip(expected) {
            assert!((emission.log_prob - log_prob).abs() < 1e-6, "{emission:?}, not {log_prob}");
        }
    }

    #[test]
    fn greedy_refuses_what_is_not_finite_or_missing() {
        let bad = [f32::NAN, f32::INFINITY];
        for value in bad {
            let error = greedy(&[0.0, 1.0, 0.0, value, 0.0, 2.0], 3, 2).unwrap_err();
            assert_eq!(error.to_string(), "inference failed: decoder logits of token 1 are not finite");
        }
        assert!(greedy(&[f32::NEG_INFINITY; 3], 3, 1).is_err());
        let error = greedy(&[0.0; 7], 3, 3).unwrap_err();
        assert_eq!(error.to_string(), "inference failed: decoder gave 2 rows of logits for 3 tokens");
        assert!(greedy(&[], 0, 1).is_err());
        assert_eq!(greedy(&[], 0, 0).unwrap(), []);
        assert_eq!(greedy(&[], 3, 0).unwrap(), []);
    }

    fn track(case: &StampCase) -> (Vec<f32>, Vec<f32>) {
        let alphas: Vec<f32> = case.alphas.iter().map(|&alpha| f32::from(alpha) / 1000.0).collect();
        let mut peaks = vec![0.25; alphas.len()];
        for &fire in &case.fires {
            peaks[fire] = 1.0;
        }
        (alphas, peaks)
    }

    #[test]
    fn timestamps_equal_ts_prediction() {
        let mut exact = 0;
        for case in golden().timestamps {
            let (alphas, peaks) = track(&case);
            let track = CifTrack { alphas: &alphas, peaks: &peaks, upsample_rate: case.rate };
            let count = case.tokens - usize::from(case.eos);
            let found = ts_prediction_lfr6_standard(track, count, case.offset);
            assert_eq!(found.len(), count);
            assert!(found.iter().flatten().is_sorted(), "{found:?}");
            // FunASR raises, or gives fewer times than tokens, if weights are too short for them.
            if let Some(times) = case.times.filter(|times| times.len() == count) {
                assert_eq!(found, times, "{:?}", case.fires);
                exact += 1;
            }
        }
        assert!(exact > 100, "only {exact} cases compared");
    }

    #[test]
    fn a_dropped_token_in_the_middle_moves_no_neighbour() {
        let mut peaks = vec![0.0; 40];
        for fire in [0, 5, 9, 14, 20] {
            peaks[fire] = 1.0;
        }
        let alphas = [0.1; 40];
        let track = CifTrack { alphas: &alphas, peaks: &peaks, upsample_rate: 3 };
        let all = token_spans(track, &[0, 1, 2, 3]);
        // The first fire is 1.5 frames before frame 0: FunASR says -30 ms.
        assert_eq!(ts_prediction_lfr6_standard(track, 4, 0.0)[0], [-30, 70]);
        assert_eq!(all, [[0, 70], [70, 150], [150, 250], [250, 585]]);
        assert_eq!(token_spans(track, &[0, 2, 3]), [all[0], all[2], all[3]]);
        assert_eq!(token_spans(track, &[]), [] as [[u64; 2]; 0]);
    }

    #[test]
    fn missing_fires_are_spread_over_the_rest() {
        let silent = CifTrack { alphas: &[0.0; 12], peaks: &[0.0; 12], upsample_rate: 1 };
        assert_eq!(token_spans(silent, &[0, 1, 2]), [[0, 240], [240, 480], [480, 720]]);
        let empty = CifTrack { alphas: &[], peaks: &[], upsample_rate: 1 };
        assert_eq!(token_spans(empty, &[0, 1]), [[0, 0], [0, 0]]);
    }

    #[test]
    fn cif_fires_where_the_weight_is_full() {
        assert_eq!(cif_wo_hidden(&[0.5, 0.5, 0.25, 2.0, 0.0], 1.0), [0.5, 1.0, 0.25, 2.25, 1.25]);
    }

    proptest! {
        #[test]
        fn any_weights_give_ordered_spans_within_the_frames(
            frames in prop::collection::vec((prop::num::f32::ANY, 0.0f32..1.2), 0..60),
            positions in prop::collection::btree_set(0usize..30, 0..12),
            fine: bool,
        ) {
            let (alphas, peaks): (Vec<f32>, Vec<f32>) = frames.into_iter().unzip();
            let positions: Vec<usize> = positions.into_iter().collect();
            let upsample_rate = if fine { 3 } else { 1 };
            let spans = token_spans(CifTrack { alphas: &alphas, peaks: &peaks, upsample_rate }, &positions);
            prop_assert_eq!(spans.len(), positions.len());
            assert_ordered(spans.iter().copied());
            prop_assert!(spans.iter().all(|span| span[1] <= 60 * peaks.len() as u64 / u64::from(upsample_rate)));
        }
    }
}

mod segmenting {
    use super::*;

    #[test]
    fn cuts_as_jieba() {
        let jieba = golden().jieba;
        let segmenter = jieba.segmenter();
        for cut in &jieba.cuts {
            assert_eq!(segmenter.split(&cut.replace('|', "")).join("|"), *cut);
        }
    }

    #[test]
    fn malformed_dictionaries_are_refused() {
        let long = format!("a 1\n{} 3", "好".repeat(101));
        let cases = [
            ("", "dict.txt: no words"),
            ("好 1 n\n好", "dict.txt: line 2: not `word frequency tag`"),
            ("好 -1", "dict.txt: line 1: not `word frequency tag`"),
            (&long, "dict.txt: line 2: a word of over 100 characters"),
        ];
        for (text, message) in cases {
            assert_eq!(Segmenter::new("dict.txt", text).unwrap_err().to_string(), message);
        }
        let mut segmenter = Segmenter::new("dict.txt", "好 1").unwrap();
        let cases = [
            ("你好\n好 99999999999", "user: line 2: number too large to fit in target type"),
            (&long, "user: line 2: a word of over 100 characters"),
        ];
        for (text, message) in cases {
            assert_eq!(segmenter.add_user_words("user", text).unwrap_err().to_string(), message);
        }
    }

    proptest! {
        #[test]
        fn no_letter_is_lost(text in "(\\PC|[a-c0-2A-C .]|[你好我们]){0,60}") {
            let words = golden_segmenter().split(&text);
            prop_assert_eq!(words.concat(), text.split_whitespace().collect::<String>());
            prop_assert!(words.iter().all(|word| !word.is_empty()));
        }
    }

    fn golden_segmenter() -> &'static Segmenter {
        static SEGMENTER: std::sync::LazyLock<Segmenter> =
            std::sync::LazyLock::new(|| golden().jieba.segmenter());
        &SEGMENTER
    }
}

mod punctuating {
    use super::*;

    fn config(ascii_list: bool) -> Config {
        let comma = if ascii_list { "," } else { "，" };
        let question = if ascii_list { "?" } else { "？" };
        let punc_list = ["<unk>", "_", comma, "。", question, "、"].map(str::to_owned).to_vec();
        Config { punc_list, sentence_end_id: 3 }
    }

    fn vocabulary(words: &[String]) -> TokenList {
        TokenList::from_json("tokens.json", &serde_json::to_string(words).unwrap()).unwrap()
    }

    fn punctuator(words: &[String], ascii_list: bool) -> Punctuator {
        Punctuator::new("config.json", config(ascii_list), vocabulary(words)).unwrap()
    }

    fn without_capitals(punctuator: &Punctuator, text: &str) -> Punctuated {
        punctuator.punctuate(text, |window| Ok(vec![1; window.ids.len()])).unwrap()
    }

    /// FunASR's text with the documented differences: no space in front. Capitals are compared apart.
    fn assert_text(found: &str, upstream: &str, words: &[String]) {
        let upstream = upstream.strip_prefix(' ').unwrap_or(upstream);
        assert_eq!(found.to_lowercase(), upstream.to_lowercase());
        let capitals = |text: &str| text.chars().any(|letter| letter.is_ascii_uppercase());
        if !words.iter().any(|word| capitals(word)) {
            assert_eq!(found, upstream);
        }
        // FunASR lower-cases GPU and iPhone at the start of a sentence; a word with capitals stays as it is.
        let mut rest = found;
        for word in words.iter().filter(|word| capitals(word)) {
            let at = rest.find(word).unwrap_or_else(|| panic!("{word} is not in {found:?}"));
            rest = &rest[at + word.len()..];
        }
    }

    #[test]
    fn equals_funasr_with_scripted_labels() {
        let golden = golden();
        for case in &golden.punctuation {
            let punctuator = punctuator(&golden.vocabulary, case.ascii_list);
            assert_scripted(&punctuator, case, &default_words(&case.input));
        }
    }

    #[test]
    fn equals_funasr_with_jieba_and_scripted_labels() {
        let jieba = golden().jieba;
        let segmenter = jieba.segmenter();
        let punctuator = punctuator(&jieba.vocabulary, false).with_segmenter(segmenter.clone());
        for case in &jieba.texts {
            assert_scripted(&punctuator, case, &segmenter.split(&case.input));
        }
    }

    fn default_words(text: &str) -> Vec<String> {
        split_words(text).into_iter().map(str::to_owned).collect()
    }

    fn assert_scripted(punctuator: &Punctuator, case: &PunctuationCase, words: &[String]) {
        let ids = punctuator.open(&case.input).ids().to_vec();
        assert_eq!(ids.len(), words.len());
        let mut calls = case.calls.iter();
        let mut seen = 0;
        let found = punctuator
            .punctuate(&case.input, |window| {
                let script = labels(calls.next().expect("more windows than FunASR"));
                seen = ids.len().min(seen + 20);
                assert_eq!(window.ids, &ids[seen - script.len()..seen], "another window than FunASR's");
                Ok(script)
            })
            .unwrap();
        assert_eq!(calls.next(), None, "fewer windows than FunASR");
        assert_eq!(found.labels, labels(&case.labels), "{}", case.input);
        assert_eq!(found.marks.len(), found.labels.len());
        assert_text(&found.text, &case.text, words);
    }

    #[test]
    fn equals_the_demo_model() {
        let words = ["<unk>".to_owned()];
        for case in golden().demo_punctuation {
            let script = labels(&case.labels);
            let mut begin = 0;
            let mut end = 0;
            let found = punctuator(&words, false)
                .punctuate(&case.input, |Window { ids, .. }| {
                    end = script.len().min(end + 20);
                    begin = end - ids.len();
                    Ok(script[begin..end].to_vec())
                })
                .unwrap();
            assert_eq!(found.labels, script, "{}", case.input);
            assert_text(&found.text, &case.text, &default_words(&case.input));
        }
    }

    /// More words than one padded batch of the CPU has.
    #[test]
    fn texts_together_are_as_each_alone() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo-punc");
        let model = PunctuationModel::load(&ModelFiles::open(&folder).unwrap(), &Compute::cpu()).unwrap();
        let texts: Vec<String> = golden().demo_punctuation.into_iter().map(|case| case.input).collect();
        let texts = [texts.clone(), vec![String::new(), texts.concat()]].concat();
        let mut open: Vec<Labelling> = texts.iter().map(|text| model.open(text)).collect();
        assert!(open.iter().map(|text| text.ids().len()).sum::<usize>() > 256);
        let results = model.label_each(&mut open.iter_mut().collect::<Vec<_>>());
        assert!(results.into_iter().all(|result| result.is_ok()));
        for (text, labelled) in texts.iter().zip(&open) {
            assert_eq!(model.close(labelled), model.punctuate(text).unwrap(), "{text}");
        }
    }

    #[test]
    fn first_letters_are_raised_only_in_small_words() {
        let punctuator = punctuator(&["<unk>".to_owned()], false);
        let cases = [
            ("iPhone", "iPhone."),
            ("GPU", "GPU."),
            ("hello world", "Hello world."),
            (" i'm here", "I'm here."),
            ("你好hello", "你好hello."),
            ("", ""),
            (" \u{3000}\n", ""),
        ];
        for (input, text) in cases {
            assert_eq!(without_capitals(&punctuator, input).text, text);
        }
    }

    #[test]
    fn marks_point_at_the_marks() {
        let punctuator = punctuator(&["<unk>".to_owned()], false);
        let found = punctuator.punctuate("ok你好 吗", |_| Ok(vec![2, 1, 5, 2])).unwrap();
        assert_eq!(found.text, "Ok,你好、吗。");
        assert_eq!(found.labels, [2, 1, 5, 3]);
        let marks: Vec<&str> = found.marks.iter().map(|mark| &found.text[mark.clone()]).collect();
        assert_eq!(marks, [",", "", "、", "。"]);
    }

    #[test]
    fn every_mark_and_mixed_text_are_written() {
        let punctuator = punctuator(&["<unk>".to_owned()], false);
        let cases: [(&str, &[u32], &str); 4] = [
            ("苹果香蕉和梨", &[1, 5, 1, 2, 1, 4], "苹果、香蕉，和梨？"),
            ("我用 iphone 手机 on wifi 吗", &[1, 1, 1, 1, 3, 1, 2, 4], "我用iphone手机。On wifi,吗？"),
            ("see you at ten", &[2, 1, 1, 4], "See, you at ten?"),
            ("ok好hello world", &[3, 2, 1, 3], "Ok.好，hello world."),
        ];
        for (text, labels, expected) in cases {
            assert_eq!(punctuator.punctuate(text, |_| Ok(labels.to_vec())).unwrap().text, expected);
        }
    }

    #[test]
    fn a_text_without_any_mark_is_labelled_in_bounded_windows() {
        let punctuator = punctuator(&["<unk>".to_owned()], false);
        let (mut longest, mut labelled) = (0, 0);
        let found = punctuator
            .punctuate(&"好".repeat(10_000), |Window { ids, .. }| {
                longest = longest.max(ids.len());
                labelled += ids.len();
                Ok(vec![1; ids.len()])
            })
            .unwrap();
        assert_eq!((longest, found.labels.len()), (1000, 10_000));
        assert!(labelled <= 30 * 10_000, "{labelled}");
        assert_eq!(found.text.chars().count(), 10_001);
    }

    #[test]
    fn wrong_labels_and_configurations_are_refused() {
        let words = ["<unk>".to_owned()];
        let ready = punctuator(&words, false);
        let cases: [(Vec<u32>, &str); 2] = [
            (vec![1], "inference failed: 1 punctuation labels for 2 words"),
            (vec![1, 6], "inference failed: punctuation label 6, but there are 6"),
        ];
        for (labels, message) in cases {
            assert_eq!(ready.punctuate("你 好", |_| Ok(labels.clone())).unwrap_err().to_string(), message);
        }
        let failing = ready.punctuate("你", |_| Err(Error::Overloaded("busy".into())));
        assert!(matches!(failing, Err(Error::Overloaded(_))));

        type Edit = fn(&mut Config);
        let edits: [(Edit, &str); 2] = [
            (|c| c.sentence_end_id = 6, "c.json: sentence_end_id: 6, but punc_list has 6 entries"),
            (|c| c.punc_list[1] = "-".into(), "c.json: punc_list: no entry \"_\""),
        ];
        for (edit, message) in edits {
            let mut config = config(false);
            edit(&mut config);
            let error = Punctuator::new("c.json", config, vocabulary(&words)).unwrap_err();
            assert_eq!(error.to_string(), message);
        }
    }

    #[test]
    fn a_model_with_a_user_dictionary_needs_the_dictionary_of_jieba() {
        let folder = tempfile::tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo-punc");
        for name in ["model.safetensors", "tokens.json"] {
            std::fs::copy(source.join(name), folder.path().join(name)).unwrap();
        }
        let config = std::fs::read_to_string(source.join("config.json")).unwrap();
        let config = config.replace("\"tokens.json\"\n", "\"tokens.json\", \"jieba_user_dict\": \"words\"\n");
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        std::fs::write(folder.path().join("words"), "好\n").unwrap();
        let load = || PunctuationModel::load(&ModelFiles::open(folder.path()).unwrap(), &Compute::cpu());
        for _ in 0..2 {
            let error = load().unwrap_err();
            assert!(matches!(error, Error::Unsupported(_)));
            let (file, rest) =
                ("words: this model splits words with jieba", "copy dict.txt of the Python package");
            assert!(error.to_string().contains(file) && error.to_string().contains(rest), "{error}");
            // Another dictionary than jieba's is refused like none.
            std::fs::write(folder.path().join("dict.txt"), "好 1 n\n").unwrap();
        }
        std::fs::remove_file(folder.path().join("words")).unwrap();
        assert!(matches!(load(), Err(Error::Io { .. })));
    }

    #[test]
    fn config_reads_the_checkpoint_names() {
        let config: Config =
            serde_json::from_str(r#"{"punc_list": ["<unk>", "_"], "sentence_end_id": 1}"#).unwrap();
        assert_eq!((config.punc_list.len(), config.sentence_end_id), (2, 1));
    }

    proptest! {
        #[test]
        fn any_text_keeps_its_words(text in "(\\PC|[a-cA-C ]|你){0,120}", seed: u32) {
            let punctuator = punctuator(&["<unk>".to_owned()], false);
            let mut state = seed | 1;
            let found = punctuator.punctuate(&text, |Window { ids, .. }| {
                let draw = |_: &u32| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    if state >> 29 == 0 { 2 + (state >> 20) % 4 } else { 1 }
                };
                Ok(ids.iter().map(draw).collect())
            });
            let found = found.unwrap();
            let words = split_words(&text);
            prop_assert_eq!((found.labels.len(), found.marks.len()), (words.len(), words.len()));
            let words: String = words.concat();
            let timed = timed(&[words.as_str()]);
            let cut = sentences(&timed, &found.text, &found.marks);
            prop_assert_eq!(cut.is_empty(), words.is_empty());
            prop_assert!(cut.iter().all(|sentence| (sentence.start_ms, sentence.end_ms) == (0, 100)));
        }
    }
}

mod sentence_times {
    use super::*;

    const MARKS: [&str; 6] = ["", "", "，", "。", "？", "、"];

    /// Text of words and marks without spaces, and where the marks are.
    fn punctuated(words: &[impl AsRef<str>], labels: &[u32]) -> (String, Vec<Range<usize>>) {
        let mut text = String::new();
        let mut marks = Vec::new();
        for (word, &label) in words.iter().zip(labels) {
            text.push_str(word.as_ref());
            let begin = text.len();
            text.push_str(MARKS[label as usize]);
            marks.push(begin..text.len());
        }
        (text, marks)
    }

    #[test]
    fn a_mark_after_a_mark_belongs_to_the_sentence_before() {
        let words = timed(&["你", "好"]);
        let text = "你。.好";
        let cut = sentences(&words, text, &[3..6, 6..7]);
        let texts: Vec<&str> = cut.iter().map(|sentence| sentence.text.as_str()).collect();
        assert_eq!(texts, ["你。.", "好"]);
        assert_eq!((cut[0].end_ms, cut[1].start_ms, cut[0].words.clone()), (100, 120, 0..1));
    }

    fn brief(sentences: &[Sentence]) -> Vec<(&str, &str, u64, u64)> {
        sentences.iter().map(|s| (s.text.as_str(), s.punctuation.as_str(), s.start_ms, s.end_ms)).collect()
    }

    #[test]
    fn equal_timestamp_sentence_within_one_segment() {
        for case in golden().sentences {
            let (text, marks) = punctuated(&case.words, &labels(&case.labels));
            let found = sentences(&timed(&case.words), &text, &marks);
            let spans: Vec<_> = found.iter().map(|s| (s.text.clone(), s.start_ms, s.end_ms)).collect();
            let upstream: Vec<_> =
                case.sentences.into_iter().map(|(t, b, e)| (t.replace(' ', ""), b, e)).collect();
            assert_eq!(spans, upstream);
        }
    }

    #[test]
    fn are_right_at_segment_borders() {
        // FunASR joins the segments "你 好" and "世 界" to "你 好世 界" and pairs by index: 你好世， and 界。
        let words = timed(&["你", "好", "世", "界"]);
        let (text, marks) = punctuated(&["你", "好", "世", "界"], &[1, 2, 1, 3]);
        let found = sentences(&words, &text, &marks);
        assert_eq!(brief(&found), [("你好，", "，", 0, 220), ("世界。", "。", 240, 460)]);
    }

    #[test]
    fn keep_words_after_the_last_mark() {
        let (text, marks) = punctuated(&["你", "好", "吗"], &[2, 1, 1]);
        let found = sentences(&timed(&["你", "好", "吗"]), &text, &marks);
        assert_eq!(brief(&found), [("你，", "，", 0, 100), ("好吗", "", 120, 340)]);
        assert_eq!(brief(&sentences(&timed(&["a", "b"]), " a b ", &[])), [("a b", "", 0, 220)]);
        assert_eq!(sentences(&timed(&["a"]), "", &[]), []);
    }

    #[test]
    fn parts_of_a_word_share_its_span() {
        let (text, marks) = punctuated(&["今天", "明天"], &[2, 3]);
        let found = sentences(&timed(&["今天明天"]), &text, &marks);
        assert_eq!(brief(&found), [("今天，", "，", 0, 100), ("明天。", "。", 0, 100)]);
    }

    #[test]
    fn a_sentence_is_as_sure_as_its_words_on_the_whole() {
        let (text, marks) = punctuated(&["你", "好", "吗", "嗯"], &[1, 2, 3, 3]);
        let mut words = timed(&["你", "好", "吗", "嗯"]);
        for (word, confidence) in words.iter_mut().zip([Some(0.9), Some(0.4), Some(0.5), None]) {
            word.confidence = confidence;
        }
        let found: Vec<_> = sentences(&words, &text, &marks).into_iter().map(|s| s.confidence).collect();
        assert!((found[0].unwrap() - 0.6).abs() < 1e-6, "{found:?}");
        assert_eq!(found[1..], [Some(0.5), None]);
    }

    #[test]
    fn words_that_do_not_spell_the_text_are_still_covered() {
        let (text, marks) = punctuated(&["你", "好"], &[2, 3]);
        let cases: [(&[&str], &[[u64; 2]]); 3] = [
            (&["你"], &[[0, 100], [100, 100]]),
            (&["你", "好", "啊"], &[[0, 100], [120, 340]]),
            (&[], &[[0, 0]; 2]),
        ];
        for (words, expected) in cases {
            let found = sentences(&timed(words), &text, &marks);
            assert_eq!(found.iter().map(|s| [s.start_ms, s.end_ms]).collect::<Vec<_>>(), expected);
        }
    }

    proptest! {
        #[test]
        fn any_words_and_marks_are_covered_in_order(
            drawn in prop::collection::vec(("[a-c你]{1,3} ?", 1u32..6), 1..20),
            size in 1usize..4,
        ) {
            let (words, labels): (Vec<String>, Vec<u32>) = drawn.into_iter().unzip();
            let (text, marks) = punctuated(&words, &labels);
            let tokens: Vec<String> = words.chunks(size).map(|w| w.concat()).collect();
            let tokens = timed(&tokens);
            let found = sentences(&tokens, &text, &marks);
            prop_assert_eq!(found.iter().map(|s| s.text.split(' ').collect::<String>()).collect::<String>(), text.replace(' ', ""));
            prop_assert!(found.iter().all(|s| s.start_ms <= s.end_ms));
            prop_assert!(found.is_sorted_by_key(|s| s.start_ms) && found.is_sorted_by_key(|s| s.end_ms));
            if text.trim() != "" {
                prop_assert_eq!(found[found.len() - 1].end_ms, tokens[tokens.len() - 1].end_ms);
            }
        }

        #[test]
        fn bad_ranges_do_not_panic(text in "\\PC{0,9}", marks in prop::collection::vec((0usize..30, 0usize..30), 0..5)) {
            let marks: Vec<Range<usize>> = marks.into_iter().map(|(begin, end)| begin..end).collect();
            sentences(&timed(&["你好", "a"]), &text, &marks);
        }
    }
}
