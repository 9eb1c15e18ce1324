//! Streams of samples: the demo model against FunASR Python chunk by chunk (`tests/golden/online.py` made the
//! reference), any cutting and any company, and what a stream refuses.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;

use funasr_candle::audio::read_all;
use funasr_candle::decode::timestamps::stream_spans;
use funasr_candle::frontend::{Cmvn, Frontend, FrontendConfig, OnlineFrontend, OnlineState};
use funasr_candle::nn::ChunkSize;
use funasr_candle::pipeline::{OnlineRecognizer, OnlineStream, StreamOptions};
use funasr_candle::text::Token;
use funasr_candle::text::join::{Notation, PartialJoin};
use funasr_candle::weights::ModelFiles;
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use serde::Deserialize;

use crate::golden::{FEATURE_TOLERANCE, Golden, compute, max_error};
use crate::regression::clip;

/// What FunASR says of one clip.
#[derive(Deserialize)]
struct Reference {
    /// Tokens of each chunk.
    chunks: Vec<String>,
    /// The text of each chunk, joined alone.
    texts: Vec<String>,
}

/// The reference by `chunk_size/look-backs` and clip.
static REFERENCES: LazyLock<BTreeMap<String, BTreeMap<String, Reference>>> = LazyLock::new(|| {
    #[derive(Deserialize)]
    struct Golden {
        cuts: BTreeMap<String, BTreeMap<String, Reference>>,
    }
    let golden: Golden = serde_json::from_str(include_str!("golden/online.json")).unwrap();
    assert_eq!(golden.cuts.len(), 4);
    assert!(golden.cuts.values().all(|clips| clips.len() == 21));
    golden.cuts
});

static RECOGNIZER: LazyLock<OnlineRecognizer> = LazyLock::new(|| {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo-online");
    OnlineRecognizer::load(&ModelFiles::open(&directory).unwrap(), &compute()).unwrap()
});

fn options(cut: &str) -> StreamOptions {
    let [chunk_size, encoder, decoder] = cut.split('/').collect::<Vec<_>>().try_into().unwrap();
    StreamOptions {
        chunk_size: chunk_size.parse().unwrap(),
        encoder_look_back: Some(encoder.parse().unwrap()),
        decoder_look_back: decoder.parse().unwrap(),
    }
}

fn stream() -> OnlineStream {
    RECOGNIZER.stream(&StreamOptions::default()).unwrap()
}

fn samples(name: &str) -> Vec<f32> {
    read_all(&clip(name), 16_000, None).unwrap()
}

fn texts(tokens: &[Token]) -> String {
    tokens.iter().map(|token| token.text.as_str()).collect::<Vec<_>>().join(" ")
}

fn runner(cases: u32) -> TestRunner {
    let config = ProptestConfig { cases, failure_persistence: None, ..Default::default() };
    TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha))
}

// --------------------------------------------------------------------------------------------------- against FunASR

/// Compares the text of each chunk, unless a word is split at one of its ends: FunASR loses the first half
/// then.
fn check_texts(what: &str, chunks: &[Vec<Token>], reference: &Reference) -> usize {
    let mut join = PartialJoin::new(RECOGNIZER.notation());
    let (mut split, mut compared) = (false, 0);
    for (tokens, expected) in chunks.iter().zip(&reference.texts) {
        let starts_split = split;
        split = tokens.last().map_or(split, |token| token.text.ends_with("@@"));
        let text = join.push(tokens);
        if !starts_split && !split {
            assert_eq!(text.trim_start(), expected, "{what}");
            compared += 1;
        }
    }
    compared
}

#[test]
fn streamed_clips_are_recognised_as_by_funasr() {
    let mut compared = 0;
    for (cut, clips) in REFERENCES.iter() {
        let mut stream = RECOGNIZER.stream(&options(cut)).unwrap();
        for (name, reference) in clips {
            let (what, samples) = (format!("{name}, {cut}"), samples(name));
            let chunks = RECOGNIZER.run(&mut stream, &samples, true).unwrap();
            let tokens: Vec<String> = chunks.iter().map(|tokens| texts(tokens)).collect();
            let differ = |i: &usize| tokens.get(*i) != reference.chunks.get(*i);
            let first = (0..tokens.len().max(reference.chunks.len())).find(differ);
            assert_eq!(first, None, "{what}: first chunk that differs; {tokens:?}");
            compared += check_texts(&what, &chunks, reference);
            // The last LFR frame may stand for less audio than its 60 ms, and CIF's tail is one frame more.
            let times: Vec<u64> = chunks.iter().flatten().flat_map(|t| [t.start_ms, t.end_ms]).collect();
            let end_ms = samples.len() as u64 / 16 + 2 * 60;
            assert!(times.is_sorted() && times.iter().all(|&t| t <= end_ms), "{what}: {times:?} of {end_ms}");
        }
    }
    assert!(compared > 1000, "{compared} chunks");
}

/// The front end, cut as a stream is, gives FunASR's rows.
#[test]
fn features_of_chunks_are_those_of_funasr() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"));
    let clip = read_all(&directory.join("models/demo/short_00_demo.wav"), 16_000, None).unwrap();
    let golden = Golden::open("online_basic");
    let config: FrontendConfig =
        serde_json::from_value(golden.json("config")["frontend_conf"].clone()).unwrap();
    let [shift, scale] = ["shift", "scale"].map(|part| golden.values(&format!("frontend.cmvn_{part}")));
    let frontend = Frontend::new(&config, Some(Cmvn::new(shift, scale).unwrap())).unwrap();
    let mut compared = 0;
    for (i, facts) in golden.json("streams").as_array().unwrap().iter().enumerate() {
        let [start, count] = ["start", "samples"].map(|key| facts[key].as_u64().unwrap() as usize);
        let chunks = facts["chunks"].as_array().unwrap();
        let (mut state, mut rest) = (OnlineState::default(), &clip[start..start + count]);
        for (j, chunk) in chunks.iter().enumerate().filter(|(_, chunk)| chunk["kind"] != "tail") {
            let (samples, behind) = rest.split_at(rest.len().min(9600));
            let rows = OnlineFrontend::new(&frontend).push(&mut state, samples, chunk["kind"] == "last");
            let expected = golden.values(&format!("stream{i}.chunk{j}.speech"));
            assert_eq!(rows.values.len(), expected.len(), "stream {i}, chunk {j}");
            assert!(max_error(&rows.values, &expected) <= FEATURE_TOLERANCE, "stream {i}, chunk {j}");
            (rest, compared) = (behind, compared + 1);
        }
    }
    assert!(compared > 10);
}

// -------------------------------------------------------------------------------------------------------- invariance

/// Whether two results are one; sums in another order may change the last digits of a confidence.
fn assert_same(what: &str, got: &[Vec<Token>], expected: &[Vec<Token>]) {
    assert_eq!(got.len(), expected.len(), "{what}: chunks");
    for (got, expected) in got.iter().flatten().zip(expected.iter().flatten()) {
        let seen = |t: &Token| (t.text.clone(), t.start_ms, t.end_ms);
        assert_eq!(seen(got), seen(expected), "{what}");
        assert!((got.confidence.unwrap() - expected.confidence.unwrap()).abs() < 1e-4, "{what}: {got:?}");
    }
    assert_eq!(got.concat().len(), expected.concat().len(), "{what}: tokens");
}

#[test]
fn how_samples_are_pushed_changes_nothing() {
    let samples = samples("short_01");
    let whole = RECOGNIZER.run(&mut stream(), &samples, true).unwrap();
    assert!(whole.concat().len() > 5);
    for at_once in [true, false] {
        // All at once, the end announced before or after the full strides have run.
        let mut stream = stream();
        stream.push(&samples).unwrap();
        let mut chunks = Vec::new();
        if at_once {
            stream.finish();
        }
        while stream.ready() {
            chunks.append(&mut RECOGNIZER.step(&mut [&mut stream]).unwrap());
        }
        if !at_once {
            chunks.append(&mut RECOGNIZER.run(&mut stream, &[], true).unwrap());
        }
        assert_same("at once", &chunks, &whole);
    }
    let sizes = prop_oneof![1usize..400, 400usize..20_000, 20_000usize..160_000];
    runner(6)
        .run(&prop::collection::vec(sizes, 1..40), |sizes| {
            let (mut used, mut rest, mut chunks) = (stream(), samples.as_slice(), Vec::new());
            for size in sizes.iter().cycle() {
                let (piece, behind) = rest.split_at(rest.len().min(*size));
                chunks.append(&mut RECOGNIZER.run(&mut used, piece, false).unwrap());
                rest = behind;
                if rest.is_empty() {
                    break;
                }
            }
            chunks.append(&mut RECOGNIZER.run(&mut used, &[], true).unwrap());
            assert_same(&format!("pushes of {sizes:?}"), &chunks, &whole);
            Ok(())
        })
        .unwrap();
    let mut single = stream();
    let mut chunks = Vec::new();
    for sample in &samples[..30_000] {
        chunks.append(&mut RECOGNIZER.run(&mut single, &[*sample], false).unwrap());
    }
    assert_same("single samples", &chunks, &whole[..3]);
}

#[test]
fn streams_in_a_batch_are_what_they_are_alone() {
    let cuts = ["0,10,5/4/1", "5,10,5/4/1", "0,8,4/0/0"].map(options);
    let clips: Vec<Vec<f32>> = (1..8).map(|i| samples(&format!("short_{i:02}"))).collect();
    let open = |i: usize| RECOGNIZER.stream(&cuts[i % cuts.len()]).unwrap();
    let alone: Vec<_> =
        clips.iter().enumerate().map(|(i, x)| RECOGNIZER.run(&mut open(i), x, true).unwrap()).collect();
    runner(5)
        .run(&prop::collection::vec(any::<u8>(), 16), |rounds| {
            let mut streams: Vec<OnlineStream> = (0..clips.len()).map(open).collect();
            for (stream, clip) in streams.iter_mut().zip(&clips) {
                stream.push(clip).unwrap();
                stream.finish();
            }
            let mut results = vec![Vec::new(); clips.len()];
            for bits in rounds.iter().chain(std::iter::repeat(&u8::MAX)) {
                let ready: Vec<usize> = (0..streams.len()).filter(|&i| streams[i].ready()).collect();
                if ready.is_empty() {
                    break;
                }
                let picked: Vec<usize> = ready.into_iter().filter(|i| bits >> i & 1 == 1).collect();
                let parts = streams.iter_mut().enumerate().filter(|(i, _)| picked.contains(i));
                let mut parts: Vec<&mut OnlineStream> = parts.map(|(_, stream)| stream).collect();
                for (i, tokens) in picked.iter().zip(RECOGNIZER.step(&mut parts).unwrap()) {
                    results[*i].push(tokens);
                }
            }
            for (i, result) in results.iter().enumerate() {
                assert_same(&format!("stream {i} in {rounds:?}"), result, &alone[i]);
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_finished_stream_starts_again() {
    let samples = samples("short_02");
    let mut stream = stream();
    let first = RECOGNIZER.run(&mut stream, &samples, true).unwrap();
    assert!(!stream.ready() && stream.waiting_samples() == 0);
    assert_eq!(RECOGNIZER.run(&mut stream, &samples, true).unwrap(), first);
    // As many chunks as full strides and one: the last one may have nothing new.
    for (samples, chunks) in [(0, 1), (1, 1), (959, 1), (960, 1), (9599, 1), (9600, 2), (19_200, 3)] {
        let silence = vec![0.0; samples];
        assert_eq!(RECOGNIZER.run(&mut stream, &silence, true).unwrap().len(), chunks, "{samples} samples");
    }
}

// ---------------------------------------------------------------------------------------------------------- refusals

#[test]
fn unusable_samples_are_refused_by_index() {
    let mut stream = stream();
    stream.push(&[0.0; 9610]).unwrap();
    RECOGNIZER.step(&mut [&mut stream]).unwrap();
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 3e7] {
        let error = stream.push(&[0.0, 0.0, bad, 0.0]).unwrap_err().to_string();
        assert!(error.contains("sample 9612 is"), "{error}");
        assert_eq!(stream.waiting_samples(), 10);
    }
    let error = stream.push(&vec![0.0; 16_000 * 60]).unwrap_err().to_string();
    assert!(error.contains("more than 60 s"), "{error}");
    stream.push(&vec![0.0; 16_000 * 60 - 10]).unwrap();
    stream.finish();
    let error = stream.push(&[0.0]).unwrap_err().to_string();
    assert!(error.contains("after the end"), "{error}");
}

#[test]
fn a_step_needs_a_chunk_of_every_stream() {
    let (mut ready, mut waiting) = (stream(), stream());
    ready.push(&[0.0; 9600]).unwrap();
    waiting.push(&[0.0; 9599]).unwrap();
    let error = RECOGNIZER.step(&mut [&mut ready, &mut waiting]).unwrap_err().to_string();
    assert!(error.contains("stream 1 of 2"), "{error}");
    assert_eq!((ready.waiting_samples(), waiting.waiting_samples()), (9600, 9599), "nothing has happened");
    assert!(RECOGNIZER.step(&mut []).unwrap().is_empty());
}

#[test]
fn options_are_checked() {
    let cases = [
        ("0,10,5", None),
        (" 5, 10 ,5", None),
        ("0,1,1", None),
        ("0,10", Some("not three whole numbers")),
        ("0,10,5,1", Some("not three whole numbers")),
        ("0,ten,5", Some("not three whole numbers")),
        ("", Some("not three whole numbers")),
        ("0,99999999999999999999,5", Some("not three whole numbers")),
        ("0,0,5", Some("stride (second number) is 0")),
        ("0,-10,5", Some("negative")),
        ("-1,10,5", Some("negative")),
        ("0,10,0", Some("no frame of context")),
        ("0,496,5", Some("more than 500 frames")),
        ("9223372036854775807,9223372036854775807,9223372036854775807", Some("more than 500 frames")),
    ];
    for (text, expected) in cases {
        match (text.parse::<ChunkSize>(), expected) {
            (Ok(size), None) => assert_eq!(size.to_string().parse::<ChunkSize>().unwrap(), size),
            (Err(error), Some(expected)) => assert!(error.to_string().contains(expected), "{text}: {error}"),
            (got, _) => panic!("{text}: {got:?}"),
        }
    }
    let default = StreamOptions::default();
    assert_eq!(default, options("0,10,5/4/1"));
    for (encoder, decoder, fine) in
        [(None, 0, true), (Some(100), 100, true), (Some(101), 1, false), (Some(0), usize::MAX, false)]
    {
        let options = StreamOptions { encoder_look_back: encoder, decoder_look_back: decoder, ..default };
        assert_eq!(RECOGNIZER.stream(&options).is_ok(), fine, "{encoder:?}, {decoder}");
    }
}

// ------------------------------------------------------------------------------------------------------- host code

#[test]
fn tokens_last_until_the_next_fire() {
    type Case = (&'static [i64], i64, bool, &'static [[u64; 2]]);
    let cases: [Case; 5] = [
        (&[], 10, false, &[]),
        // Fires are seen a frame and a half late; what comes next may fire at frame 10.
        (&[3, 6], 10, false, &[[90, 270], [270, 510]]),
        (&[3, 6], 10, true, &[[90, 270], [270, 600]]),
        // Before the start of the stream; a long pause.
        (&[-3, 1, 40], 45, false, &[[0, 0], [0, 690], [2310, 2610]]),
        // The tail fires after the last frame.
        (&[15], 15, true, &[[810, 900]]),
    ];
    for (fires, decided, last, expected) in cases {
        assert_eq!(stream_spans(fires, decided, last, 60), expected, "{fires:?} until {decided}");
    }
}

#[test]
fn partial_text_grows() {
    use Notation::{Continuation, WordStart};
    type Case = (Notation, &'static [&'static [&'static str]], &'static [&'static str]);
    let cases: [Case; 12] = [
        (Continuation, &[&["你", "好"], &[], &["吗"]], &["你好", "", "吗"]),
        (Continuation, &[&["hello"], &["world", "again"]], &["hello", " world again"]),
        (Continuation, &[&["hello"], &["你"], &["ok", "好"]], &["hello", "你", "ok好"]),
        // A word split over chunks, also over three of them.
        (Continuation, &[&["say", "hel@@"], &["lo", "world"]], &["say hel", "lo world"]),
        (
            Continuation,
            &[&["un@@"], &["be@@"], &["liev@@", "able"], &["you"]],
            &["un", "be", "lievable", " you"],
        ),
        (Continuation, &[&["bu@@"], &["s", "a"]], &["bu", "s a"]),
        (Continuation, &[&["hel@@"], &[], &["lo"]], &["hel", "", "lo"]),
        // Chinese interrupts a word, which then is over.
        (Continuation, &[&["hel@@"], &["你", "lo"]], &["hel", "你lo"]),
        (Continuation, &[&["<s>", "你", "</s>"], &["<unk>"]], &["你", ""]),
        (Continuation, &[&["u", "s", "a"], &["b@@"]], &["USA", " b"]),
        (WordStart, &[&["▁he", "llo"], &["▁wor"], &["ld", "▁", "!"]], &["hello", " wor", "ld !"]),
        (WordStart, &[&["▁a", "▁"], &["<unk>", "b"]], &["a", " b"]),
    ];
    for (notation, chunks, expected) in cases {
        let mut join = PartialJoin::new(notation);
        let token = |text: &&str| Token { text: (*text).into(), start_ms: 0, end_ms: 0, confidence: None };
        let texts: Vec<String> =
            chunks.iter().map(|chunk| join.push(&chunk.iter().map(token).collect::<Vec<_>>())).collect();
        assert_eq!(texts, expected, "{chunks:?}");
    }
}
