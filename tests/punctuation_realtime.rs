//! Punctuation of text that goes on, against FunASR's loop (`golden/ct_transformer_streaming.py`) and by its own rules.

use std::path::Path;

use funasr_candle::decode::tokens::TokenList;
use funasr_candle::pipeline::PunctuationModel;
use funasr_candle::punctuation::realtime::{Cache, Continuation};
use funasr_candle::punctuation::{Config, Labelling, Punctuator, Window, split_words};
use funasr_candle::weights::ModelFiles;
use funasr_candle::{Error, Result};
use proptest::prelude::*;
use serde::Deserialize;

use crate::golden::compute;

#[derive(Deserialize)]
struct Golden {
    vocabulary: Vec<String>,
    /// Sessions around labels drawn at random.
    scripted: Vec<Vec<Call>>,
    /// Sessions of the demo model.
    demo: Vec<Vec<Call>>,
}

/// What one call asked the network and gave. Labels are digits.
#[derive(Deserialize)]
struct Call {
    input: String,
    output: String,
    /// Labels of the last window.
    punc_array: String,
    cached: usize,
    windows: Vec<String>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("golden/punctuation_realtime.json")).unwrap()
}

fn digits(labels: &[u32]) -> String {
    labels.iter().map(u32::to_string).collect()
}

fn labels(digits: &str) -> Vec<u32> {
    digits.chars().map(|digit| digit.to_digit(10).unwrap()).collect()
}

fn punctuator(words: &[String]) -> Punctuator {
    let punc_list = ["<unk>", "_", "，", "。", "？", "、"].map(str::to_owned).to_vec();
    let vocabulary = TokenList::from_json("tokens.json", &serde_json::to_string(words).unwrap()).unwrap();
    Punctuator::new("config.json", Config { punc_list, sentence_end_id: 3 }, vocabulary).unwrap()
}

fn model(name: &str) -> PunctuationModel {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(name);
    PunctuationModel::load(&ModelFiles::open(&directory).unwrap(), &compute()).unwrap()
}

/// Text and labels are FunASR's, and labels and marks those of the new words.
fn assert_call(found: &Continuation, call: &Call) {
    assert_eq!(format!("{}{}", found.before, found.text), call.output, "{}", call.input);
    let count = split_words(&call.input).len();
    assert_eq!((found.labels.len(), found.marks.len()), (count, count));
    let (ours, last) = (digits(&found.labels), &call.punc_array);
    assert!(ours.ends_with(last) || last.ends_with(&ours), "{}: {ours} is not of {last}", call.input);
    let whole = format!("{}{}", found.text, found.after);
    let written: String = found.marks.iter().map(|mark| &whole[mark.clone()]).collect();
    let marks = |label: char| ["", "，", "。", "？", "、"][label as usize - '1' as usize];
    assert_eq!(written, ours.chars().map(marks).collect::<String>());
    assert_eq!(found.marks.last().unwrap().clone(), found.text.len()..whole.len());
}

#[test]
fn equals_funasr_with_scripted_labels() {
    let golden = golden();
    let punctuator = punctuator(&golden.vocabulary);
    let mut comma_cuts = 0;
    for session in &golden.scripted {
        let mut cache = Cache::default();
        for call in session {
            let mut windows = call.windows.iter();
            let found = punctuator.punctuate_next(&mut cache, &call.input, |Window { ids, known }| {
                let script = windows.next().expect("more windows than FunASR");
                assert_eq!((ids.len(), known), (script.len(), call.cached), "another window than FunASR's");
                comma_cuts += usize::from(ids.len() > 200 && !script.contains(['3', '4']));
                Ok(labels(script))
            });
            assert_call(&found.unwrap(), call);
            assert_eq!(windows.next(), None, "fewer windows than FunASR");
        }
    }
    assert!(golden.scripted.len() > 40 && comma_cuts > 3);
}

#[test]
fn equals_the_demo_model() {
    let model = model("demo-punc-realtime");
    let golden = golden();
    assert!(golden.demo.len() > 30);
    for session in &golden.demo {
        let mut cache = Cache::default();
        for call in session {
            assert_eq!(cache.words().len(), call.cached, "{}", call.input);
            assert_call(&model.punctuate_next(&mut cache, &call.input).unwrap(), call);
        }
    }
}

/// Sessions with caches of different lengths, one call of each in a batch.
#[test]
fn sessions_together_are_as_each_alone() {
    let model = model("demo-punc-realtime");
    let sessions = golden().demo;
    let mut caches = vec![Cache::default(); sessions.len()];
    let calls = sessions.iter().map(Vec::len).max().unwrap();
    for turn in 0..calls {
        let calling: Vec<usize> = (0..sessions.len()).filter(|&i| turn < sessions[i].len()).collect();
        let open = |&i: &usize| model.open_next(&caches[i], &sessions[i][turn].input).unwrap();
        let mut texts: Vec<Labelling> = calling.iter().map(open).collect();
        let results = model.label_each(&mut texts.iter_mut().collect::<Vec<_>>());
        assert!(results.into_iter().all(|result| result.is_ok()));
        for (&i, text) in calling.iter().zip(&texts) {
            assert_call(&model.close_next(&mut caches[i], text), &sessions[i][turn]);
        }
    }
}

/// A network that gives the same label to all words, but for those at `marks`.
fn network(marks: &'static [(usize, u32)]) -> impl FnMut(Window) -> Result<Vec<u32>> {
    move |Window { ids, .. }| {
        let mut labels = vec![1; ids.len()];
        marks.iter().filter(|(at, _)| *at < ids.len()).for_each(|&(at, mark)| labels[at] = mark);
        Ok(labels)
    }
}

#[test]
fn the_mark_between_two_calls_comes_with_the_second() {
    let punctuator = punctuator(&["<unk>".to_owned()]);
    let mut cache = Cache::default();
    type Case = (&'static str, &'static [(usize, u32)], [&'static str; 3], &'static str);
    let cases: [Case; 5] = [
        ("今天 好吗", &[(3, 4)], ["", "今天好吗", "？"], "今 天 好 吗"),
        ("明天呢", &[(3, 2), (6, 4)], ["，", "明天呢", "？"], "今 天 好 吗 明 天 呢"),
        // Sentences end at the fourth and the seventh word, so the cache begins after the latter.
        ("ok你", &[(3, 2), (6, 4), (7, 2)], ["？", "ok，你", ""], "ok 你"),
        ("GPU iPhone", &[(1, 3), (2, 2)], ["。", "GPU， iPhone", ""], "ok 你 GPU iPhone"),
        ("go", &[(3, 2), (4, 3)], ["，", " go", "。"], "ok 你 GPU iPhone go"),
    ];
    for (input, marks, [before, text, after], words) in cases {
        let found = punctuator.punctuate_next(&mut cache, input, network(marks)).unwrap();
        assert_eq!([&*found.before, &*found.text, &*found.after], [before, text, after], "{input}");
        assert_eq!(cache.words().join(" "), words, "{input}");
    }
}

#[test]
fn blank_text_and_errors_leave_the_cache_as_it_is() {
    let punctuator = punctuator(&["<unk>".to_owned()]);
    let mut cache = Cache::default();
    punctuator.punctuate_next(&mut cache, "你好", network(&[(1, 2)])).unwrap();
    let before = cache.clone();
    for blank in ["", " ", "\u{3000}\n"] {
        let found = punctuator.punctuate_next(&mut cache, blank, |_| panic!("no words, no windows"));
        assert_eq!((found.unwrap(), &cache), (Continuation::default(), &before));
    }
    let failing = punctuator.punctuate_next(&mut cache, "吗", |_| Err(Error::Overloaded("busy".into())));
    assert!(matches!(failing, Err(Error::Overloaded(_))));
    let wrong = punctuator.punctuate_next(&mut cache, "吗", |_| Ok(vec![1; 2])).unwrap_err();
    assert_eq!(wrong.to_string(), "inference failed: 2 punctuation labels for 3 words");
    assert_eq!(cache, before);
}

/// FunASR cuts it off: it takes a word that ends in a mark for the mark.
#[test]
fn a_last_word_keeps_its_own_mark() {
    let punctuator = punctuator(&["<unk>".to_owned()]);
    for text in ["你好。", "a_", "，"] {
        let found = punctuator.punctuate_next(&mut Cache::default(), text, network(&[])).unwrap();
        assert_eq!((&*found.text, &*found.after), (text, ""));
    }
}

#[test]
fn the_cache_is_bounded_where_no_sentence_ends() {
    let punctuator = punctuator(&["<unk>".to_owned()]);
    let mut cache = Cache::default();
    for call in 0..200 {
        let (mut labelled, mut longest) = (0, 0);
        let found =
            punctuator.punctuate_next(&mut cache, "一二三四五六七", |Window { ids, .. }| {
                (labelled, longest) = (labelled + ids.len(), longest.max(ids.len()));
                Ok(vec![1; ids.len()])
            });
        assert_eq!(found.unwrap().text, "一二三四五六七");
        assert_eq!(cache.words().len(), (7 * (call + 1)).min(400));
        assert!(longest <= 407 && labelled <= 9000, "{labelled} words in windows of up to {longest}");
    }
    assert_eq!(cache.words()[399], "七", "the newest are kept");
}

#[test]
fn a_whole_text_and_a_text_that_goes_on_want_the_right_model() {
    let error = model("demo-punc").punctuate_next(&mut Cache::default(), "你好").unwrap_err();
    assert!(matches!(error, Error::Unsupported(_)));
    for part in ["models/demo-punc: a CTTransformer", "CTTransformerStreaming"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    let model = model("demo-punc-realtime");
    let text = "hello你好我是赵磊会议室在四楼请带上你的电脑";
    let whole = model.punctuate(text).unwrap();
    assert_eq!(whole.text, "Hello,你好，我是赵磊。会议室在四楼，请带上你的电脑。");
    // The marks are those of one call.
    let next = model.punctuate_next(&mut Cache::default(), text).unwrap();
    assert_eq!(next.text + &next.after, "hello，你好，我是赵磊。会议室在四楼，请带上你的电脑。");
    assert_eq!(next.labels, whole.labels);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_calls_keep_all_words(
        texts in prop::collection::vec("(\\PC|[a-cA-C ]|你){0,60}", 1..12),
        seed: u32,
    ) {
        let punctuator = punctuator(&["<unk>".to_owned()]);
        let mut state = seed | 1;
        let mut cache = Cache::default();
        for text in &texts {
            let found = punctuator.punctuate_next(&mut cache, text, |Window { ids, known }| {
                assert!(!ids.is_empty() && known <= 400);
                let draw = |_: &u32| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    if state >> 29 == 0 { 2 + (state >> 20) % 4 } else { 1 }
                };
                Ok(ids.iter().map(draw).collect())
            }).unwrap();
            let words = split_words(text);
            prop_assert_eq!((found.labels.len(), found.marks.len()), (words.len(), words.len()));
            let mut bare = format!("{}{}", found.text, found.after);
            for mark in found.marks.iter().rev() {
                bare.replace_range(mark.clone(), "");
            }
            bare.retain(|letter| letter != ' ');
            prop_assert_eq!(bare, words.concat());
            for mark in [found.before, found.after] {
                prop_assert!(["", "，", "。", "？", "、"].contains(&&*mark));
            }
            let open = cache.words().concat();
            prop_assert!(open.ends_with(words.last().unwrap_or(&"")), "the last word is always kept");
        }
    }
}
