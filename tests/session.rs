//! Real-time sessions on the demo models: what is said, in which order, whatever the cuts and the company.

use std::path::Path;

use funasr_candle::Error;
use funasr_candle::audio::read_all;
use funasr_candle::device::Compute;
use funasr_candle::pipeline::{
    Correction, Corrector, Message, OnlineRecognizer, Pass, PunctuationModel, RealTime, Recognizer, Request,
    Session, SessionOptions, Utterance, VoiceDetector,
};
use funasr_candle::vad::{EndSilence, Event};
use funasr_candle::weights::ModelFiles;
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

use crate::regression::clip;

const RATE: u32 = 16_000;
const SAMPLES_PER_MS: usize = 16;

fn model(name: &str) -> ModelFiles {
    ModelFiles::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(name)).unwrap()
}

fn online() -> OnlineRecognizer {
    OnlineRecognizer::load(&model("demo-online"), &Compute::cpu()).unwrap()
}

fn detector() -> VoiceDetector {
    VoiceDetector::load(&model("fsmn-vad"), &Compute::cpu()).unwrap()
}

fn two_pass() -> RealTime {
    let punctuation = PunctuationModel::load(&model("demo-punc-realtime"), &Compute::cpu()).unwrap();
    let recognizer = Recognizer::load(&model("demo"), &Compute::cpu()).unwrap();
    let corrector = Corrector { recognizer, punctuation: Some(punctuation) };
    RealTime::new(online(), Some(detector()), Some(corrector)).unwrap()
}

fn streaming() -> RealTime {
    RealTime::new(online(), None, None).unwrap()
}

fn samples(name: &str) -> Vec<f32> {
    read_all(&clip(name), RATE, None).unwrap()
}

fn session(models: &RealTime) -> Session {
    models.session(&SessionOptions::default()).unwrap()
}

/// All messages for audio that is pushed in pieces of these lengths, the last one repeated.
fn run(models: &RealTime, samples: &[f32], cuts: &[usize]) -> Vec<Message> {
    let (mut session, mut messages) = (session(models), Vec::new());
    let mut rest = samples;
    let mut cuts = cuts.iter().copied().chain(std::iter::repeat(*cuts.last().unwrap()));
    while !rest.is_empty() {
        let (piece, later) = rest.split_at(cuts.next().unwrap().min(rest.len()));
        messages.extend(models.feed(&mut session, piece, false).unwrap());
        rest = later;
    }
    messages.extend(models.feed(&mut session, &[], true).unwrap());
    assert!(session.ended());
    messages
}

fn correction(message: &Message) -> Option<&Correction> {
    match &message.pass {
        Pass::Corrected(correction) => Some(correction),
        Pass::Streaming { .. } => None,
    }
}

/// Segments by the detector alone.
fn segments(samples: &[f32], max_end_silence_ms: u32) -> Vec<[u64; 2]> {
    let detector = detector();
    let mut stream = detector.stream(RATE, EndSilence::Fixed(max_end_silence_ms)).unwrap();
    let events = detector.push(&mut stream, samples, true).unwrap();
    let ended = |event| match event {
        Event::End { beg_ms, end_ms } => Some([beg_ms, end_ms]),
        Event::Begin { .. } => None,
    };
    events.into_iter().filter_map(ended).collect()
}

#[test]
fn each_segment_gets_one_correction() {
    let (models, samples) = (two_pass(), samples("long_01"));
    let recognizer = Recognizer::load(&model("demo"), &Compute::cpu()).unwrap();
    for silence_ms in [800, 0] {
        let options = SessionOptions { max_end_silence_ms: Some(silence_ms), ..Default::default() };
        let mut session = models.session(&options).unwrap();
        let messages = models.feed(&mut session, &samples, true).unwrap();
        let corrections: Vec<&Correction> = messages.iter().filter_map(correction).collect();
        let found: Vec<[u64; 2]> = corrections.iter().map(|c| [c.start_ms, c.end_ms]).collect();
        let expected = segments(&samples, silence_ms);
        assert!(expected.len() > 8);
        assert_eq!(found, expected, "end silence {silence_ms}");
        for correction in corrections {
            let [beg, end] = [correction.start_ms, correction.end_ms].map(|ms| ms as usize * SAMPLES_PER_MS);
            let request = Request::default();
            let utterance = Utterance { samples: &samples[beg..end.min(samples.len())], request: &request };
            let alone = recognizer.recognize(&[utterance]).unwrap().remove(0);
            let words = |words: &[funasr_candle::text::Token]| {
                words.iter().map(|word| word.text.clone()).collect::<Vec<_>>()
            };
            assert_eq!(words(&correction.words), words(&alone.joined.words));
            let times: Vec<u64> = correction.words.iter().flat_map(|w| [w.start_ms, w.end_ms]).collect();
            assert!(times.is_sorted(), "{times:?}");
            assert!(times.iter().all(|t| (correction.start_ms..=correction.end_ms).contains(t)));
            let stamped: usize = correction.sentences.iter().map(|s| s.words.len()).sum();
            assert_eq!(stamped, correction.words.len(), "every word in one sentence");
        }
    }
}

#[test]
fn messages_are_in_order() {
    let (models, samples) = (two_pass(), samples("long_01"));
    let messages = run(&models, &samples, &[960]);
    assert_eq!(messages.iter().filter(|message| message.is_final).count(), 1);
    assert!(messages.last().unwrap().is_final);
    let (mut index, mut begun, mut end_ms) = (0, false, 0);
    for message in &messages {
        assert_eq!(message.index, index, "{message:?}");
        match &message.pass {
            Pass::Streaming { first } => {
                assert_eq!(*first, !begun, "{message:?}");
                begun = true;
            }
            Pass::Corrected(correction) => {
                assert!(end_ms <= correction.start_ms && correction.start_ms < correction.end_ms);
                let marks = ['，', '。', '？', '、', ',', '.', '?'];
                assert!(!message.text.starts_with(marks), "a mark of another sentence: {}", message.text);
                (index, begun, end_ms) = (index + 1, false, correction.end_ms);
            }
        }
    }
    // Streamed text arrives whole: nothing of a sentence is lost when its correction comes.
    let streamed: String =
        messages.iter().filter(|m| correction(m).is_none()).map(|m| m.text.as_str()).collect();
    assert!(streamed.chars().count() > 180, "{streamed}");
}

#[test]
fn cuts_change_nothing() {
    for (models, name) in [(two_pass(), "short_16"), (streaming(), "short_04"), (two_pass(), "short_00_demo")]
    {
        let samples = samples(name);
        let whole = run(&models, &samples, &[samples.len()]);
        assert!(whole.len() > 1);
        assert_eq!(run(&models, &samples[..6000], &[1]), run(&models, &samples[..6000], &[6000]));
        let config = ProptestConfig { cases: 6, failure_persistence: None, ..Default::default() };
        let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
        TestRunner::new_with_rng(config, rng)
            .run(&prop::collection::vec(1usize..160_000, 1..8), |cuts| {
                prop_assert_eq!(&run(&models, &samples, &cuts), &whole, "{:?}", cuts);
                Ok(())
            })
            .unwrap();
    }
}

#[test]
fn sessions_do_not_disturb_each_other() {
    let models = two_pass();
    let clips: Vec<Vec<f32>> = ["short_00_demo", "short_04", "short_09", "short_16"].map(samples).into();
    let alone: Vec<Vec<Message>> = clips.iter().map(|clip| run(&models, clip, &[clip.len()])).collect();
    let mut sessions: Vec<Session> = clips.iter().map(|_| session(&models)).collect();
    let mut together: Vec<Vec<Message>> = vec![Vec::new(); clips.len()];
    for round in 0.. {
        let mut open: Vec<usize> = Vec::new();
        for (i, session) in sessions.iter_mut().enumerate().filter(|(_, session)| !session.ended()) {
            // Each starts at another time and speaks at another pace.
            let step = 4000 + 700 * i;
            let from = (round * step).saturating_sub(i * 9000).min(clips[i].len());
            let to = ((round + 1) * step).saturating_sub(i * 9000).min(clips[i].len());
            session.push(&clips[i][from..to]).unwrap();
            if to == clips[i].len() {
                session.finish();
            }
            open.push(i);
        }
        if open.is_empty() {
            break;
        }
        let mut due: Vec<&mut Session> = sessions
            .iter_mut()
            .enumerate()
            .filter(|(i, _)| open.contains(i))
            .map(|(_, session)| session)
            .collect();
        for (&i, messages) in open.iter().zip(models.advance(&mut due).unwrap()) {
            together[i].extend(messages);
        }
    }
    for (got, expected) in together.iter().zip(&alone) {
        let texts = |messages: &[Message]| messages.iter().map(|m| m.to_json("")).collect::<Vec<_>>();
        assert_eq!(texts(got), texts(expected));
    }
}

#[test]
fn an_empty_session_says_one_final_message() {
    for models in [two_pass(), streaming()] {
        for samples in [&[][..], &[0.0; 10], &[0.0; 16_000]] {
            let messages = run(&models, samples, &[100]);
            assert_eq!(messages.len(), 1, "{messages:?}");
            assert!(messages[0].is_final && messages[0].text.is_empty());
            let json = messages[0].to_json("x");
            assert_eq!((json["mode"].as_str(), json["text"].as_str()), (Some("2pass-online"), Some("")));
            assert!(json.get("timestamp").is_none());
        }
    }
}

#[test]
fn bad_pushes_are_refused_and_lose_nothing() {
    let models = two_pass();
    let samples = samples("short_00_demo");
    let expected = run(&models, &samples, &[samples.len()]);
    let mut session = session(&models);
    session.push(&samples[..50_000]).unwrap();
    for bad in [f32::NAN, f32::INFINITY] {
        let error = session.push(&[0.0, bad]).unwrap_err().to_string();
        assert!(error.contains("sample 1") && error.contains("finite"), "{error}");
    }
    let minute = vec![0.0; 60 * RATE as usize];
    assert!(matches!(session.push(&minute), Err(Error::Overloaded(_))));
    session.push(&samples[50_000..]).unwrap();
    session.finish();
    let messages = models.advance(&mut [&mut session]).unwrap().concat();
    assert_eq!(messages, expected);
    for after in [&[][..], &[0.0]] {
        let error = session.push(after).unwrap_err().to_string();
        assert!(error.contains("after its end"), "{error}");
    }
    assert!(models.advance(&mut [&mut session]).unwrap().concat().is_empty(), "nothing is said twice");
}

#[test]
fn unusable_combinations_are_refused() {
    let recognizer = Recognizer::load(&model("demo"), &Compute::cpu()).unwrap();
    let corrector = Corrector { recognizer, punctuation: None };
    let error = RealTime::new(online(), None, Some(corrector)).unwrap_err().to_string();
    assert!(error.contains("voice detection"), "{error}");
}

#[test]
fn messages_have_the_fields_of_funasr() {
    let messages = run(&two_pass(), &samples("short_00_demo"), &[960]);
    let partial = messages[0].to_json("clip");
    assert_eq!(partial["mode"], "2pass-online");
    assert_eq!(
        (&partial["slice_type"], &partial["index"], &partial["is_final"]),
        (&0.into(), &0.into(), &false.into())
    );
    let last = messages.last().unwrap().to_json("clip");
    assert_eq!(
        (&last["mode"], &last["slice_type"], &last["is_final"]),
        (&"2pass-offline".into(), &2.into(), &true.into())
    );
    assert_eq!(last["wav_name"], "clip");
    let stamps: Vec<[u64; 2]> = serde_json::from_str(last["timestamp"].as_str().unwrap()).unwrap();
    let said: usize = last["text"].as_str().unwrap().chars().filter(|c| c.is_alphanumeric()).count();
    assert_eq!(stamps.len(), said, "one stamp a character");
    let sentence = &last["stamp_sents"][0];
    assert_eq!(
        sentence["text_seg"].as_str().unwrap().split(' ').count(),
        sentence["ts_list"].as_array().unwrap().len()
    );
    assert_eq!(sentence["start"], sentence["ts_list"][0][0]);
    assert!(last["start_time"].as_u64().unwrap() < last["end_time"].as_u64().unwrap());
}
