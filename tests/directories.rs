//! Small FunASR directories with English tokens and for 8 kHz, converted and run as a user does it, against
//! what FunASR's `AutoModel` gives for them. `tests/golden/directories.py` made them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use funasr_candle::audio::{AudioReader, read_all};
use funasr_candle::device::Compute;
use funasr_candle::pipeline::{
    Recognition, Recognizer, Request, Transcriber, TranscriberOptions, Transcript, Utterance, VoiceDetector,
};
use funasr_candle::text::Token;
use funasr_candle::text::join::join_segments;
use funasr_candle::vad::{EndSilence, Event, FILE_CHUNK_MS};
use funasr_candle::weights::ModelFiles;
use serde::Deserialize;

use crate::cli::{Desk, wav};
use crate::regression::clip;

const RATES: [u32; 2] = [16_000, 8000];
/// Silence between the clips of the short recording, in samples at 16 kHz.
const SILENCE: usize = 2500 * 16;

/// The file's fields by name of the model, then by name of the recording.
#[derive(Deserialize)]
struct Golden {
    recognised: BTreeMap<String, BTreeMap<String, Heard>>,
    detected: BTreeMap<String, BTreeMap<String, Vec<[u64; 2]>>>,
    /// `short_8k` by `zh-8k`, by name of the voice detection model.
    transcribed: BTreeMap<String, Vec<Said>>,
}

/// What FunASR hears; no times with a sentencepiece model, and none where FunASR's slip.
#[derive(Deserialize)]
struct Heard {
    text: String,
    times: Option<Vec<[i64; 2]>>,
}

#[derive(Deserialize)]
struct Said {
    segment: [u64; 2],
    #[serde(flatten)]
    heard: Heard,
    /// The text of the samples at 16 a millisecond.
    misplaced: String,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("golden/directories.json")).unwrap()
}

fn directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/models").join(name)
}

/// The recordings of the golden file, each at 16 kHz and, every other sample of it, at 8 kHz.
struct Fixture {
    desk: Desk,
}

impl Fixture {
    fn new() -> Self {
        let desk = Desk::new();
        let [seven, nine, demo] = ["short_07", "short_09", "short_00_demo"].map(samples);
        let silence = vec![0; SILENCE];
        let short = [&seven[..], &silence, &nine, &silence, &demo].concat();
        for (name, samples) in [("clip", demo), ("short", short)] {
            for rate in RATES {
                let kept: Vec<i16> = samples.iter().copied().step_by((RATES[0] / rate) as usize).collect();
                desk.write(&format!("{name}_{}k.wav", rate / 1000), wav(rate, &kept));
            }
        }
        Self { desk }
    }

    fn recording(&self, name: &str) -> PathBuf {
        self.desk.path(&format!("{name}.wav"))
    }

    fn open(&self, model: &str) -> ModelFiles {
        let target = self.desk.path(model);
        funasr_convert::convert(&directory(model), &target, &Default::default()).unwrap();
        ModelFiles::open(&target).unwrap()
    }

    fn recognizer(&self, model: &str) -> Recognizer {
        Recognizer::load(&self.open(model), &Compute::cpu()).unwrap()
    }

    fn detector(&self, model: &str) -> VoiceDetector {
        let files = match model {
            "vad-8k" => self.open(model),
            published => {
                ModelFiles::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(published))
                    .unwrap()
            }
        };
        VoiceDetector::load(&files, &Compute::cpu()).unwrap()
    }
}

fn samples(name: &str) -> Vec<i16> {
    let samples = read_all(&clip(name), RATES[0], None).unwrap();
    samples.iter().map(|x| (x * 32_768.0) as i16).collect()
}

fn recognize(recognizer: &Recognizer, samples: &[f32]) -> Recognition {
    let request = Request::default();
    recognizer.recognize(&[Utterance { samples, request: &request }]).unwrap().remove(0)
}

fn transcribe(transcriber: &Transcriber, recording: &Path) -> Transcript {
    let mut audio = AudioReader::open(recording, transcriber.sample_rate()).unwrap();
    transcriber.transcribe(&mut audio, &Request::default(), |_| ()).unwrap()
}

/// Words begin and end where FunASR says, but inside `segment`.
#[track_caller]
fn assert_times(what: &str, words: &[Token], times: &[[i64; 2]], [begin, end]: [u64; 2]) {
    let found: Vec<[u64; 2]> = words.iter().map(|word| [word.start_ms, word.end_ms]).collect();
    let inside = |ms: i64| ms.max(0).unsigned_abs().clamp(begin, end);
    let expected: Vec<[u64; 2]> = times.iter().map(|pair| pair.map(inside)).collect();
    assert_eq!(found, expected, "{what}");
}

#[test]
fn clips_are_recognised_as_by_funasr() {
    let fixture = Fixture::new();
    for (model, clips) in golden().recognised {
        let recognizer = fixture.recognizer(&model);
        for (name, expected) in clips {
            let samples = read_all(&fixture.recording(&name), recognizer.sample_rate(), None).unwrap();
            let joined = recognize(&recognizer, &samples).joined;
            assert_eq!(joined.text, expected.text, "{model} {name}");
            match expected.times {
                Some(times) => assert_times(&format!("{model} {name}"), &joined.words, &times, [0, u64::MAX]),
                None => assert_eq!(joined.words.len(), expected.text.split(' ').count(), "{model} {name}"),
            }
        }
    }
}

#[test]
fn the_program_transcribes_them() {
    let fixture = Fixture::new();
    for (model, clips) in golden().recognised {
        let model = directory(&model).display().to_string();
        let command = ["transcribe", "--offline", "--no-vad", "--no-punc", "--model", &model];
        let recordings: Vec<String> = clips.keys().map(|name| format!("{name}.wav")).collect();
        let recordings: Vec<&str> = recordings.iter().map(String::as_str).collect();
        let lines: String = clips.iter().map(|(name, heard)| format!("{name}\t{}\n", heard.text)).collect();
        assert_eq!(fixture.desk.run(&[&command[..], &recordings].concat()).ok(), lines, "{model}");
        let reports = fixture.desk.run(&[&command[..], &["--format", "json"], &recordings].concat()).json();
        for (report, heard) in reports.iter().zip(clips.values()) {
            let segment = &report["segments"][0];
            assert_eq!((&report["text"], &segment["text"]), (&heard.text.as_str().into(), &report["text"]));
            let words: Vec<Token> = serde_json::from_value(segment["tokens"].clone()).unwrap();
            if let Some(times) = &heard.times {
                assert_times(&model, &words, times, [0, report["duration_ms"].as_u64().unwrap()]);
            }
        }
    }
}

#[test]
fn detectors_of_8_and_16_khz_cut_recordings_of_both_rates_as_funasr_does() {
    let fixture = Fixture::new();
    for (model, recordings) in golden().detected {
        let detector = fixture.detector(&model);
        for (name, expected) in recordings {
            let samples = read_all(&fixture.recording(&name), detector.sample_rate(), None).unwrap();
            let silence = EndSilence::Dynamic { chunk_ms: FILE_CHUNK_MS };
            let mut stream = detector.stream(detector.sample_rate(), silence).unwrap();
            let events = detector.push(&mut stream, &samples, true).unwrap();
            let ends = |event: &Event| match *event {
                Event::End { beg_ms, end_ms } => Some([beg_ms, end_ms]),
                _ => None,
            };
            let segments: Vec<[u64; 2]> = events.iter().filter_map(ends).collect();
            assert_eq!(segments, expected, "{model} {name}");
        }
    }
}

#[test]
fn the_program_detects_speech_with_a_detector_of_8_khz() {
    let fixture = Fixture::new();
    let model = directory("vad-8k").display().to_string();
    for (name, expected) in &golden().detected["vad-8k"] {
        let recording = format!("{name}.wav");
        let lines = fixture.desk.run(&["vad", "--offline", "--model", &model, &recording]).ok();
        let expected: String = expected.iter().map(|[begin, end]| format!("{begin}\t{end}\n")).collect();
        assert_eq!(lines, expected, "{name}");
    }
}

/// Decision 5: FunASR would cut a recording of 8 kHz at 16 samples a millisecond.
#[test]
fn segments_of_8_khz_are_cut_where_they_are() {
    let fixture = Fixture::new();
    for (detector, said) in golden().transcribed {
        assert!(said.iter().all(|said| said.heard.text != said.misplaced), "the cut makes no difference");
        assert!(said.iter().any(|said| said.heard.times.is_some()), "no times to compare");
        let transcriber = Transcriber::new(
            fixture.recognizer("zh-8k"),
            Some(fixture.detector(&detector).into()),
            None,
            TranscriberOptions::default(),
        );
        let transcript = transcribe(&transcriber, &fixture.recording("short_8k"));
        assert_eq!(transcript.segments.len(), said.len(), "{detector}");
        for (segment, said) in transcript.segments.iter().zip(&said) {
            assert_eq!([segment.start_ms, segment.end_ms], said.segment, "{detector}");
            assert_eq!(segment.text, said.heard.text, "{detector}");
            if let Some(times) = &said.heard.times {
                assert_times(&detector, &segment.tokens, times, said.segment);
            }
        }
        let texts: Vec<&str> = said.iter().map(|said| said.heard.text.as_str()).collect();
        assert_eq!(transcript.text, join_segments(&texts));
    }
}
