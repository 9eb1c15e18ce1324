//! The demo SenseVoice on the clips of `tests/data/eval` against what FunASR Python gives for it, alone and in any company
//! (`golden/demo_sense_voice.py`), and what becomes of its tokens (`golden/pieces.py`).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;

use candle_core::{DType, Tensor};
use funasr_candle::audio::read_all;
use funasr_candle::decode::ctc;
use funasr_candle::decode::greedy::Emission;
use funasr_candle::decode::tokens::TokenList;
use funasr_candle::frontend::{Cmvn, Frontend, FrontendConfig};
use funasr_candle::models::sense_voice::{Config, QUERY_FRAMES, Query, SenseVoice};
use funasr_candle::nn::Lengths;
use funasr_candle::text::Token;
use funasr_candle::text::join::{Notation, join, join_segments};
use funasr_candle::text::pieces::PieceRules;
use funasr_candle::text::tags::{self, Tagged};
use funasr_candle::weights::ModelFiles;
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::Value;

use crate::golden::{DEVICE, compute};
use crate::regression::clip;

const RATE: u32 = 16_000;

#[derive(Deserialize)]
struct Golden {
    clips: BTreeMap<String, BTreeMap<String, Reference>>,
    signals: BTreeMap<String, BTreeMap<String, Reference>>,
    segmented: BTreeMap<String, BTreeMap<String, String>>,
}

/// What FunASR says of one sound under one query.
#[derive(Deserialize)]
struct Reference {
    text: String,
    ids: Vec<u32>,
    realigned: bool,
    timestamp: Vec<[u64; 2]>,
    words: Vec<String>,
}

static GOLDEN: LazyLock<Golden> =
    LazyLock::new(|| serde_json::from_str(include_str!("golden/demo_sense_voice.json")).unwrap());

struct Demo {
    frontend: Frontend,
    model: SenseVoice,
    tokens: TokenList,
    rules: PieceRules,
}

static DEMO: LazyLock<Demo> = LazyLock::new(|| {
    let files =
        ModelFiles::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo-sensevoice")).unwrap();
    let config: FrontendConfig = files.section("frontend_conf").unwrap();
    let width = config.feature_width();
    let [shift, scale] = ["frontend.cmvn_shift", "frontend.cmvn_scale"]
        .map(|name| files.vector(name, width).unwrap().unwrap());
    let frontend = Frontend::new(&config, Some(Cmvn::new(shift, scale).unwrap())).unwrap();
    let config: Config = files.config(&["frontend", "frontend_conf", "tokenizer", "tokenizer_conf"]).unwrap();
    let model = files.build(&compute(), |vb| SenseVoice::load(width, &config, vb)).unwrap();
    let (name, json) = files.tokens().unwrap();
    let tokens = TokenList::from_json(name, &json).unwrap();
    assert_eq!(tokens.len(), config.vocab_size);
    let tokenizer: Value = files.section("tokenizer_conf").unwrap();
    let rules = serde_json::from_value(tokenizer["sentencepiece"].clone()).unwrap();
    Demo { frontend, model, tokens, rules }
});

/// What ours says of one sound.
struct Heard {
    text: String,
    ids: Vec<u32>,
    /// Text tokens in words, with times.
    words: Vec<Token>,
    bare: String,
}

impl Demo {
    fn piece(&self, id: u32) -> &str {
        self.tokens.token(id).unwrap()
    }

    /// Recognises all sounds in one batch.
    fn hear(&self, sounds: &[(&[f32], Query)]) -> Vec<Heard> {
        let features: Vec<Tensor> = sounds
            .iter()
            .map(|(samples, _)| {
                let features = self.frontend.features(samples);
                let (rows, width) = (features.frames(), self.frontend.config().feature_width());
                let rows = Tensor::from_vec(features.values, (1, rows, width), &DEVICE).unwrap();
                rows.to_dtype(compute().dtype).unwrap()
            })
            .collect();
        let lengths = Lengths::new(features.iter().map(|x| x.dim(1).unwrap()).collect::<Vec<_>>());
        let pad = |x: &Tensor| x.pad_with_zeros(1, 0, lengths.max() - x.dim(1).unwrap()).unwrap();
        let speech = Tensor::cat(&features.iter().map(pad).collect::<Vec<_>>(), 0).unwrap();
        let queries: Vec<Query> = sounds.iter().map(|(_, query)| *query).collect();
        let output = self.model.forward(&speech, &lengths, &queries).unwrap();
        let frames = output.lengths.items().iter().enumerate();
        frames
            .map(|(item, &frames)| {
                let logits = output.ctc_logits.get(item).unwrap().narrow(0, 0, frames).unwrap();
                let logits = logits.flatten_all().and_then(|logits| logits.to_dtype(DType::F32)).unwrap();
                self.read(&logits.to_vec1().unwrap())
            })
            .collect()
    }

    fn read(&self, logits: &[f32]) -> Heard {
        let vocab = self.tokens.len();
        let emissions = ctc::greedy(logits, vocab).unwrap();
        let said: Vec<Emission> =
            emissions.iter().copied().filter(|emission| emission.position >= QUERY_FRAMES).collect();
        let ids: Vec<u32> = said.iter().map(|emission| emission.id).collect();
        let spans = ctc::token_spans(&logits[QUERY_FRAMES * vocab..], vocab, &ids).unwrap();
        let token = |(emission, [start_ms, end_ms]): (&Emission, [u64; 2])| {
            let confidence = Some(emission.log_prob.exp());
            Token { text: self.piece(emission.id).to_owned(), start_ms, end_ms, confidence }
        };
        let tokens: Vec<Token> = said.iter().zip(spans).map(token).collect();
        let joined = join(&tokens, Notation::SentencePiece);
        let ids: Vec<u32> = emissions.iter().map(|emission| emission.id).collect();
        let text = self.rules.decode(ids.iter().map(|&id| self.piece(id)));
        Heard { text, ids, words: joined.words, bare: joined.text }
    }
}

/// `woitn_auto` and its like.
fn query(variant: &str) -> Query {
    let (norm, language) = variant.split_once('_').unwrap();
    assert!(["withitn", "woitn"].contains(&norm));
    Query { language: language.parse().unwrap(), text_norm: norm == "withitn" }
}

fn assert_heard(what: &str, heard: &Heard, reference: &Reference) {
    assert_eq!(heard.text, reference.text, "{what}");
    assert_eq!(heard.ids, reference.ids, "{what}");
    let tagged = tags::parse(&heard.text);
    assert_eq!(tagged.len(), 1, "{what}");
    assert_eq!(tagged[0].text, heard.bare, "{what}");
    // FunASR encodes its text again. Where that gives other tokens, it aligns other tokens.
    assert!(reference.realigned, "{what}: all of the demo's texts are encoded to the tokens they came from");
    let words: Vec<&str> = heard.words.iter().map(|word| word.text.as_str()).collect();
    assert_eq!(words, reference.words, "{what}");
    let times: Vec<[u64; 2]> = heard.words.iter().map(|word| [word.start_ms, word.end_ms]).collect();
    assert_eq!(times, reference.timestamp, "{what}");
    let sure = |word: &Token| word.confidence.is_some_and(|p| p > 0.0 && p <= 1.0);
    assert!(heard.words.iter().all(sure), "{what}");
}

fn samples(name: &str) -> Vec<f32> {
    read_all(&clip(name), RATE, None).unwrap()
}

#[test]
fn clips_are_heard_as_by_funasr() {
    assert_eq!(GOLDEN.clips.len(), 21);
    for (name, variants) in &GOLDEN.clips {
        let samples = samples(name);
        assert_eq!(variants.len(), 4);
        for (variant, reference) in variants {
            let heard = DEMO.hear(&[(&samples, query(variant))]).remove(0);
            assert_heard(&format!("{name} {variant} alone"), &heard, reference);
        }
    }
}

#[test]
fn a_batch_of_any_queries_changes_nothing() {
    let clips: BTreeMap<&String, Vec<f32>> =
        GOLDEN.clips.keys().filter(|name| *name != "long_01").map(|name| (name, samples(name))).collect();
    let all: Vec<(String, &[f32], Query, &Reference)> = clips
        .iter()
        .flat_map(|(name, samples)| {
            GOLDEN.clips[*name].iter().map(move |(variant, reference)| {
                (format!("{name} {variant}"), samples.as_slice(), query(variant), reference)
            })
        })
        .collect();
    assert_eq!(all.len(), 80);
    for batch in [all.iter().collect::<Vec<_>>(), all.iter().rev().step_by(7).collect()] {
        let sounds: Vec<(&[f32], Query)> =
            batch.iter().map(|(_, samples, query, _)| (*samples, *query)).collect();
        for (heard, (what, _, _, reference)) in DEMO.hear(&sounds).iter().zip(batch) {
            assert_heard(&format!("{what} of {}", sounds.len()), heard, reference);
        }
    }
}

/// As in the script that made the reference.
fn noise(samples: usize, gain: f32) -> Vec<f32> {
    let mut state = 1u64;
    let mut next = || {
        state = (state * 1_103_515_245 + 12_345) % (1 << 31);
        ((state / 65536 % 32768) as f32 - 16384.0) * gain / 32768.0
    };
    (0..samples).map(|_| next()).collect()
}

#[test]
fn what_is_hardly_speech_is_heard_as_by_funasr() {
    let speech = samples("short_00_demo");
    let signals: [(&str, Vec<f32>); 12] = [
        ("zeros 25 ms", vec![0.0; 400]),
        ("zeros 100 ms", vec![0.0; 1600]),
        ("zeros 1 s", vec![0.0; 16000]),
        ("speech 10 ms", speech[8000..8160].to_vec()),
        ("speech 25 ms", speech[8000..8400].to_vec()),
        ("speech 35 ms", speech[8000..8560].to_vec()),
        ("speech 100 ms", speech[8000..9600].to_vec()),
        ("speech 400 ms", speech[8000..14400].to_vec()),
        ("noise 25 ms", noise(400, 0.5)),
        ("noise 100 ms", noise(1600, 0.125)),
        ("noise 2 s", noise(32000, 0.5)),
        ("quiet noise 2 s", noise(32000, 1.0 / 256.0)),
    ];
    assert_eq!(GOLDEN.signals.len(), signals.len());
    let mut sounds = Vec::new();
    let mut references = Vec::new();
    for (name, samples) in &signals {
        for (variant, reference) in &GOLDEN.signals[*name] {
            let what = format!("{name} {variant}");
            let heard = DEMO.hear(&[(samples, query(variant))]).remove(0);
            assert_heard(&what, &heard, reference);
            sounds.push((samples.as_slice(), query(variant)));
            references.push((what, reference));
        }
    }
    for (heard, (what, reference)) in DEMO.hear(&sounds).iter().zip(references) {
        assert_heard(&format!("{what} in a batch"), heard, reference);
    }
}

mod alignment {
    use super::*;

    /// Logits of three tokens, 0 the blank, as sure as can be of one token a frame.
    fn logits(best: &[usize]) -> Vec<f32> {
        best.iter().flat_map(|&best| (0..3).map(move |id| if id == best { 5.0 } else { 0.0 })).collect()
    }

    #[test]
    fn runs_are_tokens_and_blanks_part_them() {
        let emissions = ctc::greedy(&logits(&[0, 1, 1, 0, 1, 2, 2, 0]), 3).unwrap();
        let found: Vec<(u32, usize)> = emissions.iter().map(|e| (e.id, e.position)).collect();
        assert_eq!(found, [(1, 1), (1, 4), (2, 5)]);
        assert!(emissions.iter().all(|e| (e.log_prob + 0.013_38).abs() < 1e-4), "{emissions:?}");
        assert_eq!(ctc::greedy(&[], 3).unwrap(), []);
        let surest = ctc::greedy(&[0.0, 1.0, 0.0, 0.0, 9.0, 0.0], 3).unwrap();
        assert!(surest.len() == 1 && surest[0].log_prob > -0.01, "{surest:?}");
    }

    #[test]
    fn times_are_cut_off_as_in_python() {
        // 2.01 * 1000 is below 2010 in f64.
        let mut best = vec![0; 36];
        best[34] = 1;
        assert_eq!(ctc::token_spans(&logits(&best), 3, &[1]).unwrap(), [[2009, 2070]]);
        assert_eq!(ctc::token_spans(&logits(&[1, 0]), 3, &[1]).unwrap(), [[0, 30]]);
        assert_eq!(ctc::align(&logits(&[0, 1, 0, 1, 1]), 3, &[1, 1]).unwrap(), [1..2, 3..5]);
        assert!(ctc::align(&logits(&[0, 0]), 3, &[]).unwrap().is_empty());
    }

    #[test]
    fn what_cannot_be_aligned_is_an_error() {
        let nan = [0.0, f32::NAN, 0.0];
        assert!(ctc::greedy(&nan, 3).unwrap_err().to_string().contains("frame 0 are not finite"));
        assert!(ctc::align(&nan, 3, &[1]).unwrap_err().to_string().contains("not finite"));
        for (best, ids) in [(&[1][..], &[1, 2][..]), (&[1, 1], &[1, 1]), (&[1, 2], &[7]), (&[], &[1])] {
            let error = ctc::align(&logits(best), 3, ids).unwrap_err().to_string();
            assert!(error.contains("cannot be aligned"), "{error}");
        }
        let impossible = [[0.0, f32::NEG_INFINITY, 1.0]; 3].concat();
        assert!(ctc::align(&impossible, 3, &[1, 2]).unwrap_err().to_string().contains("probability 0"));
    }

    proptest! {
        /// Whatever greedy decoding finds fits the frames, in order.
        #[test]
        fn greedy_tokens_can_always_be_aligned(
            rows in prop::collection::vec(prop::array::uniform3(-4.0f32..4.0), 0..40),
        ) {
            let logits: Vec<f32> = rows.concat();
            let ids: Vec<u32> = ctc::greedy(&logits, 3).unwrap().iter().map(|e| e.id).collect();
            let spans = ctc::align(&logits, 3, &ids).unwrap();
            prop_assert_eq!(spans.len(), ids.len());
            prop_assert!(spans.iter().all(|span| span.start < span.end && span.end <= rows.len()));
            prop_assert!(spans.windows(2).all(|pair| pair[0].end <= pair[1].start));
        }
    }
}

mod text {
    use super::*;

    #[derive(Deserialize)]
    struct Pieces {
        models: Vec<PieceModel>,
        words: Vec<WordCase>,
    }

    /// Pieces, and FunASR's words and times.
    #[derive(Deserialize)]
    struct WordCase(Vec<String>, Vec<String>, Vec<[u64; 2]>);

    #[derive(Deserialize)]
    struct PieceModel {
        /// None: the demo model's.
        pieces: Option<Vec<String>>,
        rules: PieceRules,
        cases: Vec<(Vec<usize>, String)>,
    }

    fn golden() -> Pieces {
        serde_json::from_str(include_str!("golden/pieces.json")).unwrap()
    }

    #[test]
    fn pieces_are_decoded_as_by_sentencepiece() {
        let models = golden().models;
        assert_eq!(models.len(), 4);
        assert_eq!(models[0].rules, DEMO.rules);
        for PieceModel { pieces, rules, cases } in models {
            let pieces = pieces.unwrap_or_else(|| DEMO.tokens.iter().map(str::to_owned).collect());
            assert_eq!(cases.len(), 150);
            for (ids, expected) in cases {
                let pieces: Vec<&str> = ids.iter().map(|&id| pieces[id].as_str()).collect();
                assert_eq!(rules.decode(pieces.iter().copied()), expected, "{pieces:?} under {rules:?}");
            }
        }
    }

    /// Piece i lasts from 125 i to 125 i + 62 ms.
    fn timed<S: AsRef<str>>(pieces: &[S]) -> Vec<Token> {
        let token = |(i, piece): (u64, &S)| {
            let (start_ms, text) = (125 * i, piece.as_ref().to_owned());
            Token { text, start_ms, end_ms: start_ms + 62, confidence: None }
        };
        (0..).zip(pieces).map(token).collect()
    }

    #[test]
    fn words_are_those_of_funasr() {
        let cases = golden().words;
        assert_eq!(cases.len(), 150);
        for WordCase(pieces, words, times) in cases {
            let joined = join(&timed(&pieces), Notation::SentencePiece);
            let got: Vec<&str> = joined.words.iter().map(|word| word.text.as_str()).collect();
            assert_eq!(got, words, "{pieces:?}");
            let got: Vec<[u64; 2]> = joined.words.iter().map(|word| [word.start_ms, word.end_ms]).collect();
            assert_eq!(got, times, "{pieces:?}");
            let text = PieceRules::default().decode(pieces.iter().map(String::as_str));
            assert_eq!(joined.text, text.trim(), "{pieces:?}");
        }
    }

    /// Where FunASR's words are not those of its text.
    #[test]
    fn words_are_those_of_the_text() {
        let cases: [(&[&str], &str, &[&str]); 5] = [
            (&["▁hel", "lo"], "hello", &["hello"]),
            (&["see", "▁", "KFC"], "see KFC", &["see", "KFC"]),
            (&["<0xE4>", "<0xBD>", "<0xA0>", "好"], "你好", &["你", "好"]),
            (&["▁", "<s>", "ok", "</s>"], "ok", &["ok"]),
            (&["▁"], "", &[]),
        ];
        for (pieces, text, words) in cases {
            let joined = join(&timed(pieces), Notation::SentencePiece);
            let got: Vec<&str> = joined.words.iter().map(|word| word.text.as_str()).collect();
            assert_eq!((joined.text.as_str(), got.as_slice()), (text, words), "{pieces:?}");
        }
    }

    fn tagged(language: &str, emotion: &str, event: &str, text_norm: Option<bool>, text: &str) -> Tagged {
        let some = |name: &str| (!name.is_empty()).then(|| name.to_owned());
        let [language, emotion, event] = [language, emotion, event].map(some);
        Tagged { language, emotion, event, text_norm, text: text.to_owned() }
    }

    #[test]
    fn tags_become_fields() {
        let cases: [(&str, Vec<Tagged>); 7] = [
            ("", vec![]),
            ("你好", vec![tagged("", "", "", None, "你好")]),
            (
                "<|zh|><|HAPPY|><|Speech|><|woitn|>你 好",
                vec![tagged("zh", "HAPPY", "Speech", Some(false), "你 好")],
            ),
            (
                "<|nospeech|><|EMO_UNKNOWN|><|Event_UNK|><|withitn|>",
                vec![tagged("nospeech", "EMO_UNKNOWN", "Event_UNK", Some(true), "")],
            ),
            (
                "<|en|><|SAD|><|BGM|><|withitn|> Hi. <|yue|><|woitn|>係 ",
                vec![tagged("en", "SAD", "BGM", Some(true), "Hi."), tagged("yue", "", "", Some(false), "係")],
            ),
            (
                "<|ja|><|Speech|>は<|Laughter|>い<|HAPPY|><|SAD|><|mystery|>",
                vec![tagged("ja", "HAPPY", "Speech", None, "はい")],
            ),
            (
                "a <| b |> <|<|ko|>c|",
                vec![tagged("", "", "", None, "a  <|"), tagged("ko", "", "", None, "c|")],
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(tags::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn segments_of_a_recording_keep_their_tags() {
        for (name, norms) in &GOLDEN.segmented {
            for (norm, text) in norms {
                let segments = tags::parse(text);
                let language = |segment: &Tagged| segment.language.as_deref() == Some("zh");
                assert!(segments.iter().all(language), "{name}: {text}");
                let itn = |segment: &Tagged| segment.text_norm == Some(norm == "withitn");
                assert!(segments.iter().all(itn), "{name}: {text}");
                let texts: Vec<&str> = segments.iter().map(|segment| segment.text.as_str()).collect();
                let raw: Vec<&str> = text.split("<|zh|>").collect();
                assert_eq!(join_segments(&texts), join_segments(&raw), "{name}");
                assert_eq!(
                    tags::without_tags(text).replace(' ', ""),
                    texts.concat().replace(' ', ""),
                    "{name}"
                );
            }
        }
        assert_eq!(tags::parse(&GOLDEN.segmented["long_01"]["woitn"]).len(), 13);
    }

    proptest! {
        #[test]
        fn any_text_is_taken_apart(text in "(\\PC|<\\||\\|>|<\\|zh\\|>|你| ){0,12}") {
            let texts: Vec<String> = tags::parse(&text).into_iter().map(|segment| segment.text).collect();
            let letters = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
            prop_assert_eq!(letters(&texts.concat()), letters(&tags::without_tags(&text)));
        }

        #[test]
        fn any_pieces_are_decoded(pieces in prop::collection::vec("(\\PC|<0x[0-9A-F]{2}>|▁){0,3}", 0..12)) {
            let joined = join(&timed(&pieces), Notation::SentencePiece);
            let spans: Vec<u64> = joined.words.iter().flat_map(|word| [word.start_ms, word.end_ms]).collect();
            prop_assert!(spans.is_sorted());
            PieceRules::default().decode(pieces.iter().map(String::as_str));
        }
    }
}
