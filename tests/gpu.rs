//! What only a GPU has to show. Numbers and texts of models on it are those of the other tests, which run there when
//! FUNASR_CANDLE_TEST_DEVICE says so: `tests/gpu.sh` runs all of it.

use std::path::Path;

use funasr_candle::audio::read_all;
use funasr_candle::decode::hotwords::Hotwords;
use funasr_candle::device::{Compute, DeviceName, Precision};
use funasr_candle::pipeline::{
    OnlineRecognizer, Recognizer, Request, StreamOptions, Utterance, VoiceDetector,
};
use funasr_candle::vad::EndSilence;
use funasr_candle::weights::ModelFiles;
use funasr_kernels::{launches, memory_in_use};

use crate::bias::CLIPS;
use crate::regression::clip;

/// Batches of mixed shapes after which no more memory may be in use than after a tenth of them.
fn batches() -> usize {
    std::env::var("FUNASR_CANDLE_TEST_BATCHES").map_or(1000, |count| count.parse().unwrap())
}

fn gpu(precision: Precision) -> Compute {
    Compute::open(DeviceName::Cuda(0), precision)
        .expect("these tests need a GPU, or the emulated driver of .ci/cuda")
}

fn recognizer(name: &str, compute: &Compute) -> Recognizer {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(name);
    Recognizer::load(&ModelFiles::open(&folder).unwrap(), compute).unwrap()
}

fn texts(recognizer: &Recognizer, batch: &[&[f32]]) -> Vec<String> {
    let request = Request::default();
    let batch: Vec<_> = batch.iter().map(|samples| Utterance { samples, request: &request }).collect();
    recognizer.recognize(&batch).unwrap().into_iter().map(|result| result.joined.text).collect()
}

/// Launches of each kernel while `work` runs, if nothing else runs.
fn launched(work: impl FnOnce()) -> Vec<(&'static str, u64)> {
    let before = launches();
    work();
    launches().into_iter().zip(before).map(|((name, after), (_, before))| (name, after - before)).collect()
}

/// A model that runs elsewhere, or on candle's own operations where there is a kernel, launches none.
#[test]
fn gpu_models_run_on_the_kernels() {
    let sound = read_all(&clip("short_00_demo"), 16_000, None).unwrap();
    for (name, kernels) in [
        (
            "demo",
            &[
                "attention",
                "best",
                "cif_fire",
                "cif_sums",
                "fsmn_memory",
                "layer_norm",
                "linear_ending",
                "linear_norm",
                "unfold",
            ][..],
        ),
        (
            "demo-sensevoice",
            &["attention", "best", "fsmn_memory", "layer_norm", "linear_ending", "linear_norm"],
        ),
    ] {
        for precision in [Precision::F32, Precision::F16, Precision::Bf16] {
            let expected = texts(&recognizer(name, &Compute::cpu()), &[&sound]);
            let recognizer = recognizer(name, &gpu(precision));
            let launched =
                launched(|| assert_eq!(texts(&recognizer, &[&sound]), expected, "{name}, {precision}"));
            for kernel in kernels {
                let count = launched.iter().find(|(name, _)| name == kernel).map_or(0, |(_, count)| *count);
                println!("gpu | {name:<16} | {precision:<5} | {kernel:<14} | {count} launches");
                assert!(count > 0, "{name}, {precision}: {kernel} was not launched");
            }
        }
    }
}

/// Frames come to the device once each, where they are stacked; segments are the CPU's.
#[test]
fn gpu_voice_detection_runs_on_the_kernels() {
    let sound = read_all(&clip("short_00_demo"), 16_000, None).unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/fsmn-vad");
    let events = |compute: &Compute| {
        let detector = VoiceDetector::load(&ModelFiles::open(&folder).unwrap(), compute).unwrap();
        let mut stream = detector.stream(16_000, EndSilence::Fixed(800)).unwrap();
        let mut pieces = sound.chunks(16_000).peekable();
        let mut events = Vec::new();
        while let Some(piece) = pieces.next() {
            events.extend(detector.push(&mut stream, piece, pieces.peek().is_none()).unwrap());
        }
        events
    };
    let expected = events(&Compute::cpu());
    assert!(expected.len() >= 2, "{expected:?}");
    for precision in [Precision::F32, Precision::Bf16] {
        let launched = launched(|| assert_eq!(events(&gpu(precision)), expected, "{precision}"));
        for kernel in ["fsmn_memory", "join_rows", "lfr_cmvn", "linear_ending"] {
            let count = launched.iter().find(|(name, _)| *name == kernel).map_or(0, |(_, count)| *count);
            println!("gpu | fsmn-vad         | {precision:<5} | {kernel:<14} | {count} launches");
            assert!(count > 0, "{precision}: {kernel} was not launched");
        }
    }
}

/// A search for hotwords reads the likely tokens of each row, which the GPU finds, and hears what it hears on the CPU.
#[test]
fn gpu_hotwords_are_heard() {
    let clip = CLIPS.iter().find(|clip| clip.hotword.is_some()).unwrap();
    let (plain, words) = (clip.hotword.as_deref().unwrap(), &clip.group);
    let word = words.iter().find(|word| *word != plain).unwrap();
    for name in ["demo", "demo-sensevoice"] {
        let heard = |compute: &Compute| {
            let recognizer = recognizer(name, compute);
            let mut request = Request::default();
            recognizer.bias(&mut request, &Hotwords::parse(word)).unwrap();
            let utterance = Utterance { samples: &clip.samples, request: &request };
            recognizer.recognize(&[utterance]).unwrap().remove(0).joined.text
        };
        let text = heard(&gpu(Precision::F32));
        assert_eq!(text, heard(&Compute::cpu()), "{name}");
        assert_eq!(text, clip.text.replace(plain, word), "{name}");
    }
}

/// What streams say on a device that takes strides of all of them in each step, and the launches for it.
fn streamed(compute: &Compute, count: usize) -> (Vec<Vec<String>>, u64) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo-online");
    let recognizer = OnlineRecognizer::load(&ModelFiles::open(&folder).unwrap(), compute).unwrap();
    let sound = read_all(&clip("short_00_demo"), 16_000, None).unwrap();
    let stream = |_| recognizer.stream(&StreamOptions::default()).unwrap();
    let mut streams: Vec<_> = (0..count).map(stream).collect();
    let mut said = vec![Vec::new(); count];
    let launched = launched(|| {
        for stride in sound.chunks_exact(streams[0].stride_samples()) {
            streams.iter_mut().for_each(|stream| stream.push(stride).unwrap());
            let mut all: Vec<_> = streams.iter_mut().collect();
            for (said, tokens) in said.iter_mut().zip(recognizer.step(&mut all).unwrap()) {
                said.extend(tokens.into_iter().map(|token| token.text));
            }
        }
    });
    (said, launched.iter().map(|(_, count)| count).sum())
}

/// What streams remember stays with each of them, and yet a step of many launches no more than a step of one.
#[test]
fn gpu_steps_of_many_streams_launch_as_those_of_one() {
    let (expected, none) = streamed(&Compute::cpu(), 1);
    assert!(expected[0].len() > 5 && none == 0, "{expected:?}, {none} launches");
    let (said, of_one) = streamed(&gpu(Precision::F32), 1);
    assert_eq!(said, expected);
    let (said, of_many) = streamed(&gpu(Precision::F32), 5);
    assert_eq!(said, vec![expected[0].clone(); 5]);
    assert_eq!(of_one, of_many);
}

#[test]
fn gpu_silence_and_scraps_are_empty() {
    let recognizer = recognizer("demo", &gpu(Precision::F32));
    let silence = vec![0.0; 16_000];
    assert_eq!(texts(&recognizer, &[&silence, &silence[..10], &[]]), ["", "", ""]);
}

#[test]
fn gpu_memory_does_not_grow() {
    let compute = gpu(Precision::F32);
    let recognizer = recognizer("demo", &compute);
    let sound = read_all(&clip("short_00_demo"), 16_000, None).unwrap();
    let (count, mut first) = (batches(), 0);
    for i in 0..count {
        let part = &sound[..(sound.len() / 2 + i * 997 % (sound.len() / 2))];
        texts(&recognizer, &vec![part; 1 + i % 5]);
        let used = memory_in_use(&compute.device).unwrap();
        if i + 1 == (count / 10).max(5) {
            first = used;
        }
        assert!(
            first == 0 || used <= first + first / 50,
            "{used} bytes after {} batches, {first} at first",
            i + 1
        );
    }
    let peak = compute.peak_device_bytes().unwrap();
    assert!(peak >= 4 << 20, "{peak} bytes are less than the weights");
    println!("gpu | memory | {} MiB after {count} batches, {} MiB at most", first >> 20, peak >> 20);
}
