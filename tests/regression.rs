//! The demo models on the clips of `tests/data/eval` against what FunASR Python gives for them, alone and in any
//! company. `tests/golden/demo.py` made the reference.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use funasr_candle::audio::{AudioReader, read_all};
use funasr_candle::pipeline::{
    PunctuationModel, Recognition, Recognizer, Request, Transcriber, TranscriberOptions, Transcript,
    Utterance, VoiceDetector,
};
use funasr_candle::text::Token;
use funasr_candle::vad::{EndSilence, Event, FILE_CHUNK_MS, funasr_pairs};
use funasr_candle::weights::ModelFiles;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde::Deserialize;

use crate::golden::compute;

const RATE: u32 = 16_000;
const SAMPLES_PER_MS: u64 = RATE as u64 / 1000;
/// FunASR's decisions by chunk: its index, and `[beg, end]` in ms with -1 for what is not known yet.
pub type Decisions = Vec<(usize, Vec<[i64; 2]>)>;

/// What FunASR says of one clip.
#[derive(Deserialize)]
pub struct Reference {
    pub segments: Vec<[u64; 2]>,
    pub stream_200ms: Decisions,
    pub stream_200ms_800ms: Decisions,
    /// The bare text of the clip taken in one piece.
    pub whole: String,
    text: String,
}

impl Reference {
    /// The punctuated text. FunASR's may begin with a space, ours does not.
    pub fn text(&self) -> &str {
        self.text.trim_start()
    }
}

#[derive(Deserialize)]
struct Golden {
    items: BTreeMap<String, Reference>,
}

/// The reference by clip.
pub static REFERENCES: LazyLock<BTreeMap<String, Reference>> = LazyLock::new(|| {
    let golden: Golden = serde_json::from_str(include_str!("golden/demo.json")).unwrap();
    assert_eq!(golden.items.len(), 21);
    golden.items
});

/// Path of an eval clip.
pub fn clip(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/eval/{name}.flac"))
}

fn samples(name: &str) -> Vec<f32> {
    read_all(&clip(name), RATE, None).unwrap()
}

fn model(name: &str) -> ModelFiles {
    ModelFiles::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(name)).unwrap()
}

fn recognizer() -> Recognizer {
    Recognizer::load(&model("demo"), &compute()).unwrap()
}

fn detector() -> VoiceDetector {
    VoiceDetector::load(&model("fsmn-vad"), &compute()).unwrap()
}

fn recognize(recognizer: &Recognizer, batch: &[&[f32]]) -> Vec<Recognition> {
    let request = Request::default();
    let utterances: Vec<Utterance> =
        batch.iter().map(|samples| Utterance { samples, request: &request }).collect();
    recognizer.recognize(&utterances).unwrap()
}

fn transcriber(batch_seconds: u32) -> Transcriber {
    let punctuation = PunctuationModel::load(&model("demo-punc"), &compute()).unwrap();
    let options = TranscriberOptions { batch_seconds, ..Default::default() };
    Transcriber::new(recognizer(), Some(detector().into()), Some(punctuation.into()), options)
}

fn transcribe(transcriber: &Transcriber, name: &str) -> Transcript {
    let mut audio = AudioReader::open(&clip(name), RATE).unwrap();
    transcriber.transcribe(&mut audio, &Request::default(), |_| ()).unwrap()
}

fn assert_same_tokens(what: &str, got: &[Token], expected: &[Token]) {
    assert_eq!(got.len(), expected.len(), "{what}: tokens");
    for (got, expected) in got.iter().zip(expected) {
        let seen = |token: &Token| (token.text.clone(), token.start_ms, token.end_ms);
        assert_eq!(seen(got), seen(expected), "{what}");
        let error = (got.confidence.unwrap() - expected.confidence.unwrap()).abs();
        assert!(error < 1e-3, "{what}: confidence of {expected:?} is off by {error}");
    }
}

fn assert_same(what: &str, got: &Recognition, expected: &Recognition) {
    assert_eq!(got.joined.text, expected.joined.text, "{what}");
    assert_same_tokens(what, &got.tokens, &expected.tokens);
    assert_same_tokens(what, &got.joined.words, &expected.joined.words);
}

// --------------------------------------------------------------------------------------------------- against FunASR

#[test]
fn whole_clips_are_recognised_as_by_funasr() {
    let recognizer = recognizer();
    for (name, reference) in REFERENCES.iter() {
        let samples = samples(name);
        let result = recognize(&recognizer, &[&samples]).remove(0);
        assert_eq!(result.joined.text, reference.whole, "{name}");
        // The last LFR frame may stand for less audio than its 60 ms, and CIF's tail is one frame more.
        let end_ms = samples.len() as u64 / SAMPLES_PER_MS + 2 * 60;
        let times: Vec<u64> = result.tokens.iter().flat_map(|t| [t.start_ms, t.end_ms]).collect();
        assert!(
            times.is_sorted() && times.last().is_none_or(|&t| t <= end_ms),
            "{name}: {times:?} of {end_ms}"
        );
    }
}

#[test]
fn transcripts_are_those_of_funasr() {
    let transcriber = transcriber(60);
    for (name, reference) in REFERENCES.iter() {
        let transcript = transcribe(&transcriber, name);
        let segments: Vec<[u64; 2]> = transcript.segments.iter().map(|s| [s.start_ms, s.end_ms]).collect();
        assert_eq!(segments, reference.segments, "{name}");
        assert_eq!(transcript.text, reference.text(), "{name}");
        assert_eq!(transcript.duration_ms, samples(name).len() as u64 / SAMPLES_PER_MS, "{name}");
        for segment in &transcript.segments {
            let inside = |t: &Token| segment.start_ms <= t.start_ms && t.end_ms <= segment.end_ms;
            assert!(segment.tokens.iter().all(inside), "{name}: {segment:?}");
        }
        let sentences: String = transcript.sentences.iter().map(|s| s.text.as_str()).collect();
        let letters = |text: &str| text.chars().filter(|c| c.is_alphanumeric()).collect::<String>();
        assert_eq!(letters(&sentences), letters(&transcript.text), "{name}: sentences");
    }
}

/// Events of a stream in chunks of `chunk_ms`, by chunk.
fn streamed(
    detector: &VoiceDetector,
    samples: &[f32],
    chunk_ms: u32,
    fixed_ms: Option<u32>,
) -> Vec<Vec<Event>> {
    let end_silence = fixed_ms.map_or(EndSilence::Dynamic { chunk_ms }, EndSilence::Fixed);
    let mut stream = detector.stream(RATE, end_silence).unwrap();
    let stride = chunk_ms as usize * SAMPLES_PER_MS as usize;
    let count = samples.len().div_ceil(stride);
    let chunks = samples.chunks(stride).enumerate();
    chunks.map(|(i, chunk)| detector.push(&mut stream, chunk, i + 1 == count).unwrap()).collect()
}

#[test]
fn streamed_segments_are_those_of_funasr() {
    let detector = detector();
    for (name, reference) in REFERENCES.iter() {
        let samples = samples(name);
        for (fixed_ms, expected) in
            [(None, &reference.stream_200ms), (Some(800), &reference.stream_200ms_800ms)]
        {
            let chunks = streamed(&detector, &samples, 200, fixed_ms);
            let decisions: Decisions = chunks.iter().map(|e| funasr_pairs(e)).enumerate().collect();
            let decisions: Decisions = decisions.into_iter().filter(|(_, pairs)| !pairs.is_empty()).collect();
            assert_eq!(&decisions, expected, "{name} with end silence {fixed_ms:?}");
        }
    }
}

/// With a fixed end silence a cut into other chunks is the same stream.
#[test]
fn chunk_sizes_do_not_change_segments() {
    let (detector, samples) = (detector(), samples("long_01"));
    let whole = streamed(&detector, &samples, FILE_CHUNK_MS, Some(800)).concat();
    assert!(whole.len() > 10);
    for chunk_ms in [10, 170, 600, 5000] {
        let chunks = streamed(&detector, &samples, chunk_ms, Some(800)).concat();
        assert_eq!(chunks, whole, "chunks of {chunk_ms} ms");
    }
}

// -------------------------------------------------------------------------------------------------- batch invariance

/// All clips, the segments of the long one, and pieces too short for a word or for a frame.
fn utterances() -> Vec<Vec<f32>> {
    let mut all: Vec<Vec<f32>> = REFERENCES.keys().map(|name| samples(name)).collect();
    let long = samples("long_01");
    for [beg, end] in &REFERENCES["long_01"].segments {
        all.push(long[(beg * SAMPLES_PER_MS) as usize..(end * SAMPLES_PER_MS) as usize].to_vec());
    }
    for ms in [0, 10, 30, 100, 400] {
        all.push(long[..ms * SAMPLES_PER_MS as usize].to_vec());
    }
    all
}

fn alone(recognizer: &Recognizer, utterances: &[Vec<f32>]) -> Vec<Recognition> {
    utterances.iter().map(|x| recognize(recognizer, &[x]).remove(0)).collect()
}

fn check_batch(recognizer: &Recognizer, utterances: &[Vec<f32>], alone: &[Recognition], batch: &[usize]) {
    let audio: Vec<&[f32]> = batch.iter().map(|&i| utterances[i].as_slice()).collect();
    let together = recognize(recognizer, &audio);
    assert_eq!(together.len(), batch.len());
    for (&i, got) in batch.iter().zip(&together) {
        assert_same(&format!("utterance {i} in {batch:?}"), got, &alone[i]);
    }
}

#[test]
fn an_utterance_is_the_same_in_any_batch() {
    let (recognizer, utterances) = (recognizer(), utterances());
    let alone = alone(&recognizer, &utterances);
    let long = REFERENCES.keys().position(|name| name == "long_01").unwrap();
    let (short, shortest) = (long + 1, utterances.len() - 1);
    let every_short_clip: Vec<usize> = (0..REFERENCES.len()).filter(|&i| i != long).collect();
    assert_eq!(every_short_clip.len(), 20);
    for batch in [every_short_clip, vec![short, long, shortest], vec![short; 4]] {
        check_batch(&recognizer, &utterances, &alone, &batch);
    }
    let others: Vec<usize> = (0..utterances.len()).filter(|&i| i != long).collect();
    let compositions = prop::collection::vec(prop::sample::select(others), 2..10);
    let config = ProptestConfig { cases: 8, failure_persistence: None, ..Default::default() };
    let rng = prop::test_runner::TestRng::deterministic_rng(prop::test_runner::RngAlgorithm::ChaCha);
    TestRunner::new_with_rng(config, rng)
        .run(&compositions, |batch| {
            check_batch(&recognizer, &utterances, &alone, &batch);
            Ok(())
        })
        .unwrap();
}

#[test]
fn the_batch_budget_changes_nothing() {
    let expected = transcribe(&transcriber(60), "long_01");
    for batch_seconds in [1, 9, 25, 3600] {
        let got = transcribe(&transcriber(batch_seconds), "long_01");
        let what = format!("batches of {batch_seconds} s");
        assert_eq!((&got.text, &got.sentences), (&expected.text, &expected.sentences), "{what}");
        assert_eq!(got.segments.len(), expected.segments.len(), "{what}");
        for (got, expected) in got.segments.iter().zip(&expected.segments) {
            assert_eq!(
                (got.start_ms, got.end_ms, &got.text),
                (expected.start_ms, expected.end_ms, &expected.text)
            );
            assert_same_tokens(&what, &got.tokens, &expected.tokens);
        }
    }
}

// ------------------------------------------------------------------------------------------------- nothing was said

#[test]
fn silence_is_an_empty_text() {
    let transcriber = transcriber(60);
    for ms in [25, 30, 3000] {
        let silence = vec![0u8; 2 * ms * SAMPLES_PER_MS as usize];
        let mut audio = AudioReader::raw_pcm("silence", Cursor::new(silence), RATE, RATE).unwrap();
        let transcript = transcriber.transcribe(&mut audio, &Request::default(), |_| ()).unwrap();
        assert_eq!(transcript, Transcript { duration_ms: ms as u64, ..Default::default() });
    }
}
