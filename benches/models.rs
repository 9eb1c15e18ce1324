//! The demo models by length and batch: `cargo bench --bench models`.

// A bench that cannot start has nobody to report to.
#![allow(clippy::expect_used)]

use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use funasr_candle::Result;
use funasr_candle::audio::read_all;
use funasr_candle::device::Compute;
use funasr_candle::pipeline::{PunctuationModel, Recognizer, Request, Utterance, VoiceDetector};
use funasr_candle::vad::{EndSilence, FILE_CHUNK_MS};
use funasr_candle::weights::ModelFiles;

const RATE: u32 = 16_000;

fn model(name: &str) -> Result<ModelFiles> {
    ModelFiles::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(name))
}

/// The first seconds of the long eval clip.
fn speech(seconds: usize) -> Vec<f32> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/eval/long_01.flac");
    read_all(&file, RATE, Some(seconds as f64)).expect("a clip of the repository")
}

fn recognition(criterion: &mut Criterion) {
    let recognizer = model("demo").and_then(|files| Recognizer::load(&files, &Compute::cpu()));
    let recognizer = recognizer.expect("a model of the repository");
    let request = Request::default();
    let mut group = criterion.benchmark_group("recognition");
    for seconds in [6, 20, 60] {
        let samples = speech(seconds);
        for batch in [1, 8] {
            let utterances = vec![Utterance { samples: &samples, request: &request }; batch];
            let id = BenchmarkId::new(format!("batch_{batch}"), format!("{seconds}s"));
            group.bench_function(id, |b| b.iter(|| recognizer.recognize(black_box(&utterances))));
        }
    }
    group.finish();
}

fn detection(criterion: &mut Criterion) {
    let detector = model("fsmn-vad").and_then(|files| VoiceDetector::load(&files, &Compute::cpu()));
    let (detector, samples) = (detector.expect("a model of the repository"), speech(60));
    criterion.bench_function("fsmn_vad_60s", |b| {
        b.iter(|| {
            let end_silence = EndSilence::Dynamic { chunk_ms: FILE_CHUNK_MS };
            let mut stream = detector.stream(RATE, end_silence).expect("valid rules");
            detector.push(&mut stream, black_box(&samples), true)
        });
    });
}

fn punctuation(criterion: &mut Criterion) {
    let model = model("demo-punc").and_then(|files| PunctuationModel::load(&files, &Compute::cpu()));
    let model = model.expect("a model of the repository");
    // Ten characters are ten words.
    let text = "我们明天要去长沙上班".repeat(20);
    criterion.bench_function("punctuation_200_words", |b| b.iter(|| model.punctuate(black_box(&text))));
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = recognition, detection, punctuation
}
criterion_main!(benches);
