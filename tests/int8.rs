//! Recognition in 8 bits beside f32: the texts that hold, and what the devices accept.

use std::path::Path;

use candle_core::Device;
use funasr_candle::audio::read_all;
use funasr_candle::device::{Compute, DeviceName, Precision};
use funasr_candle::nn::Lengths;
use funasr_candle::pipeline::{
    Network, PunctuationModel, Recognition, Recognizer, Request, Utterance, VoiceDetector,
};
use funasr_candle::punctuation::Window;
use funasr_candle::vad::{EndSilence, Event};
use funasr_candle::weights::ModelFiles;

use crate::cli_speech::write_seaco;
use crate::golden::Golden;
use crate::regression::{REFERENCES, clip};

/// Clips of the 21 whose text must be that of f32; with VNNI 20 (`demo`) and 21 (`demo-sensevoice`) are.
const SAME_TEXTS: usize = 19;
/// Largest share of characters that may differ over all clips.
const ERROR_RATE: f64 = 0.02;
/// Share of words that must have the mark that f32 gives them.
const SAME_MARKS: f64 = 0.99;
/// How far the probability of silence may be from that of f32, which bf16 moves by 0.0135 at most, and a segment's end.
const SILENCE: f32 = 0.03;
const SEGMENT_MS: u64 = 20;

fn files(model: &str) -> ModelFiles {
    ModelFiles::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(model)).unwrap()
}

fn load(model: &str, precision: Precision) -> Recognizer {
    Recognizer::load(&files(model), &Compute::open(DeviceName::Cpu, precision).unwrap()).unwrap()
}

fn recognize(recognizer: &Recognizer, batch: &[Vec<f32>]) -> Vec<Recognition> {
    let request = Request::default();
    let batch: Vec<Utterance> =
        batch.iter().map(|samples| Utterance { samples, request: &request }).collect();
    recognizer.recognize(&batch).unwrap()
}

fn clips() -> Vec<(&'static str, Vec<f32>)> {
    let read = |name: &'static String| (name.as_str(), read_all(&clip(name), 16_000, None).unwrap());
    REFERENCES.keys().map(read).collect()
}

/// Insertions, deletions and replacements that turn one text into the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for x in a.chars() {
        let mut diagonal = row[0];
        row[0] += 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[test]
fn texts_are_those_of_f32() {
    for model in ["demo", "demo-sensevoice"] {
        let [float, int8] = [Precision::F32, Precision::Int8].map(|precision| load(model, precision));
        let (mut same, mut errors, mut characters) = (0, 0, 0);
        for (name, samples) in clips() {
            let [expected, got] =
                [&float, &int8].map(|model| recognize(model, std::slice::from_ref(&samples)).remove(0));
            let (expected, got) = (expected.joined.text, got.joined.text);
            same += usize::from(expected == got);
            errors += distance(&expected, &got);
            characters += expected.chars().count();
            if expected != got {
                eprintln!("{model}, {name}: {got:?}, not {expected:?}");
            }
        }
        assert!(same >= SAME_TEXTS, "{model}: only {same} texts of 21 are those of f32");
        assert!(errors as f64 <= ERROR_RATE * characters as f64, "{model}: {errors} errors in {characters}");
    }
}

/// Of the texts that FunASR's marks are recorded for, in both kinds of model.
#[test]
fn marks_are_those_of_f32() {
    let texts: Vec<&str> = REFERENCES.values().map(|reference| reference.whole.as_str()).collect();
    for model in ["demo-punc", "demo-punc-realtime"] {
        let [float, int8] = [Precision::F32, Precision::Int8].map(|precision| {
            let (files, compute) = (files(model), Compute::open(DeviceName::Cpu, precision).unwrap());
            PunctuationModel::load(&files, &compute).unwrap()
        });
        let (mut same, mut all) = (0, 0);
        for text in &texts {
            let [expected, got] = [&float, &int8].map(|model| model.punctuate(text).unwrap().labels);
            assert_eq!(expected.len(), got.len());
            same += expected.iter().zip(&got).filter(|(a, b)| a == b).count();
            all += expected.len();
        }
        assert!(all > 400 && same as f64 >= SAME_MARKS * all as f64, "{model}: {same} labels of {all}");
        let logits = |model: &PunctuationModel| {
            let ids = model.word_ids(texts[0]);
            let logits = model.logits(&[Window { ids: &ids, known: 0 }]).unwrap();
            logits.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        assert_ne!(logits(&float), logits(&int8), "{model} computes in 8 bits");
    }
}

/// Voice detection takes bf16 where the processor multiplies it, which ONNX Runtime's 8 bits are far from: those move a probability
/// by up to 0.96.
#[test]
fn segments_are_those_of_f32() {
    let [float, coarse] = [Precision::F32, Precision::Int8].map(|precision| {
        let compute = Compute::open(DeviceName::Cpu, precision).unwrap();
        VoiceDetector::load(&files("fsmn-vad"), &compute).unwrap()
    });
    for (name, samples) in clips() {
        let silence = |detector: &VoiceDetector| -> Vec<f32> {
            let features = detector.frontend().features(&samples);
            detector.silence(&detector.scores(features).unwrap()).unwrap().remove(0)
        };
        let [expected, got] = [&float, &coarse].map(silence);
        assert_eq!(expected.len(), got.len(), "{name}");
        for (frame, (expected, got)) in expected.into_iter().zip(got).enumerate() {
            assert!((expected - got).abs() < SILENCE, "{name}, frame {frame}: {got}, not {expected}");
        }
        let segments = |detector: &VoiceDetector| -> Vec<[u64; 2]> {
            let mut stream = detector.stream(16_000, EndSilence::Dynamic { chunk_ms: 60_000 }).unwrap();
            let events = detector.push(&mut stream, &samples, true).unwrap().into_iter();
            let ends = events.filter_map(|event| match event {
                Event::End { beg_ms, end_ms } => Some([beg_ms, end_ms]),
                Event::Begin { .. } => None,
            });
            ends.collect()
        };
        let (expected, got) = (segments(&float), segments(&coarse));
        assert_eq!(expected.len(), got.len(), "{name}: {got:?}, not {expected:?}");
        for (a, b) in expected.as_flattened().iter().zip(got.as_flattened()) {
            assert!(a.abs_diff(*b) <= SEGMENT_MS, "{name}: {got:?}, not {expected:?}");
        }
    }
}

#[test]
fn an_utterance_is_the_same_in_any_batch() {
    let recognizer = load("demo", Precision::Int8);
    let samples: Vec<Vec<f32>> = clips().into_iter().skip(1).map(|(_, samples)| samples).take(6).collect();
    let together = recognize(&recognizer, &samples);
    for (i, samples) in samples.iter().enumerate() {
        let alone = recognize(&recognizer, std::slice::from_ref(samples)).remove(0);
        assert_eq!(alone.joined.text, together[i].joined.text, "utterance {i}");
        assert_eq!(alone.tokens.len(), together[i].tokens.len(), "utterance {i}");
    }
}

/// What is stored in 8 bits computes in 8 bits, whatever is asked for, and as if it had been rounded at load.
#[test]
fn stored_weights_give_what_rounding_at_load_gives() {
    let samples: Vec<Vec<f32>> = clips().into_iter().skip(1).map(|(_, samples)| samples).take(4).collect();
    for model in ["demo", "demo-sensevoice"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(model);
        let files = ModelFiles::open(&folder).unwrap();
        let int8 = Compute::open(DeviceName::Cpu, Precision::Int8).unwrap();
        let rounded = Recognizer::load(&files, &int8).unwrap();
        let stored = tempfile::tempdir().unwrap();
        for name in ["config.json", "tokens.json"] {
            std::fs::copy(folder.join(name), stored.path().join(name)).unwrap();
        }
        files.write_int8(stored.path()).unwrap();
        let files = ModelFiles::open(stored.path()).unwrap();
        let loaded = Recognizer::load(&files, &Compute::cpu()).unwrap();
        assert_eq!(loaded.compute().precision(), Precision::Int8);
        assert_eq!(recognize(&loaded, &samples), recognize(&rounded, &samples), "{model}");
    }
}

#[test]
fn formats_that_a_device_lacks_are_refused_before_it_is_opened() {
    let cases = [
        (DeviceName::Cuda(0), Precision::Int8, ["int8 is for the CPU", "cuda:0"]),
        (DeviceName::Metal, Precision::Int8, ["int8 is for the CPU", "metal"]),
        (DeviceName::Cpu, Precision::F16, ["f32 or int8", "f16 needs a GPU"]),
        (DeviceName::Cpu, Precision::Bf16, ["f32 or int8", "bf16 needs a GPU"]),
    ];
    for (device, precision, parts) in cases {
        let message = Compute::open(device, precision).unwrap_err().to_string();
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    }
    assert_eq!("int8".parse::<Precision>().unwrap().to_string(), "int8");
}

/// The LSTM that times tokens takes 8 bits where layers do, rounded when the model is loaded, of floats or of files in 8 bits. What it
/// makes of the same frames stays near.
#[test]
fn times_are_near_those_of_f32() {
    let folder = tempfile::tempdir().unwrap();
    let (float, stored) = (folder.path().join("float"), folder.path().join("stored"));
    write_seaco(&float);
    std::fs::create_dir(&stored).unwrap();
    let files = ModelFiles::open(&float).unwrap();
    let golden = Golden::open("seaco_basic");
    let frames = golden.tensor("item0.encoder_out").to_device(&Device::Cpu).unwrap();
    let (lengths, width) =
        (Lengths::full(1, frames.dim(1).unwrap()), golden.tensor("item0.speech").dim(2).unwrap());
    let us_alphas = |files: &ModelFiles, precision| {
        let compute = Compute::open(DeviceName::Cpu, precision).unwrap();
        let (network, _) = Network::load(files, width, &compute).unwrap();
        let Network::Seaco(model) = network else { panic!("no SeACo Paraformer") };
        model.predictor().us_alphas(&frames, &lengths, &Lengths::full(1, 7)).unwrap().remove(0)
    };
    let expected = us_alphas(&files, Precision::F32);
    let rounded = us_alphas(&files, Precision::Int8);
    files.write_int8(&stored).unwrap();
    std::fs::copy(float.join("config.json"), stored.join("config.json")).unwrap();
    assert_eq!(us_alphas(&ModelFiles::open(&stored).unwrap(), Precision::F32), rounded);
    let largest = expected.iter().fold(0f32, |most, x| most.max(*x));
    let apart = expected.iter().zip(&rounded).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
    assert!(apart > 0.0 && apart < 0.02 * largest, "{apart} of {largest}");
}
