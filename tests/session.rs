//! Real-time sessions on the demo models: what is said, in which order, whatever the cuts and the company.

use std::path::Path;

use funasr_candle::Error;
use funasr_candle::audio::read_all;
use funasr_candle::decode::hotwords::Hotwords;
use funasr_candle::device::Compute;
use funasr_candle::pipeline::{
    Correction, Corrector, Message, OnlineRecognizer, Pass, PunctuationModel, RealTime, Recognizer, Request,
    Session, SessionOptions, StreamOptions, Utterance, VoiceDetector,
};
use funasr_candle::text::Token;
use funasr_candle::text::join::PartialJoin;
use funasr_candle::vad::{EndSilence, Event};
use funasr_candle::weights::ModelFiles;
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

use crate::cli_speech::write_seaco;
use crate::golden::Golden;
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

fn recognizer(name: &str) -> Recognizer {
    Recognizer::load(&model(name), &Compute::cpu()).unwrap()
}

fn two_pass() -> RealTime {
    two_pass_with(recognizer("demo"))
}

fn two_pass_with(recognizer: Recognizer) -> RealTime {
    let punctuation = PunctuationModel::load(&model("demo-punc-realtime"), &Compute::cpu()).unwrap();
    let corrector =
        Corrector { recognizer: recognizer.into(), punctuation: Some(punctuation.into()), itn: None };
    RealTime::new(online(), Some(detector().into()), Some(corrector)).unwrap()
}

/// A SeACo Paraformer of random weights.
fn seaco() -> Recognizer {
    let directory = tempfile::tempdir().unwrap();
    write_seaco(directory.path());
    Recognizer::load(&ModelFiles::open(directory.path()).unwrap(), &Compute::cpu()).unwrap()
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
    run_with(models, &SessionOptions::default(), samples, cuts)
}

fn run_with(models: &RealTime, options: &SessionOptions, samples: &[f32], cuts: &[usize]) -> Vec<Message> {
    let (mut session, mut messages) = (models.session(options).unwrap(), Vec::new());
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

fn corrections(messages: &[Message]) -> Vec<(&Message, &Correction)> {
    messages.iter().filter_map(|message| Some((message, correction(message)?))).collect()
}

/// What a recogniser says of a segment alone.
fn alone(recognizer: &Recognizer, request: &Request, samples: &[f32], segment: &Correction) -> Vec<String> {
    let [beg, end] = [segment.start_ms, segment.end_ms].map(|ms| ms as usize * SAMPLES_PER_MS);
    let utterance = Utterance { samples: &samples[beg..end.min(samples.len())], request };
    words(&recognizer.recognize(&[utterance]).unwrap().remove(0).joined.words)
}

fn words(words: &[Token]) -> Vec<String> {
    words.iter().map(|word| word.text.clone()).collect()
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
    let recognizer = recognizer("demo");
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
            let alone = alone(&recognizer, &Request::default(), &samples, correction);
            assert_eq!(words(&correction.words), alone);
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
    assert_order(&messages);
    // Streamed text arrives whole: nothing of a sentence is lost when its correction comes.
    let streamed: String =
        messages.iter().filter(|m| correction(m).is_none()).map(|m| m.text.as_str()).collect();
    assert!(streamed.chars().count() > 180, "{streamed}");
}

/// Sentences are counted, each is begun once and corrected once, times grow, and one message is the last.
#[track_caller]
fn assert_order(messages: &[Message]) {
    assert_eq!(messages.iter().filter(|message| message.is_final).count(), 1);
    assert!(messages.last().unwrap().is_final);
    let (mut index, mut begun, mut beg_ms, mut end_ms) = (0, false, 0, 0);
    for message in messages {
        assert_eq!(message.index, index, "{message:?}");
        match &message.pass {
            Pass::Streaming { first, start_ms } => {
                assert_eq!(*first, !begun, "{message:?}");
                (begun, beg_ms) = (true, *start_ms);
            }
            Pass::Corrected(correction) => {
                assert!(!begun || beg_ms == correction.start_ms, "{message:?} began at {beg_ms}");
                assert!(end_ms <= correction.start_ms && correction.start_ms < correction.end_ms);
                let marks = ['，', '。', '？', '、', ',', '.', '?'];
                assert!(!message.text.starts_with(marks), "a mark of another sentence: {}", message.text);
                (index, begun, end_ms) = (index + 1, false, correction.end_ms);
            }
        }
    }
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

/// Chunk sizes of the published models and servers.
const PUBLISHED: [&str; 5] = ["0,10,5", "5,10,5", "0,8,4", "8,8,4", "5,5,5"];

#[test]
fn chunk_sizes_change_the_first_pass_alone() {
    let models = two_pass();
    let samples = [samples("short_16"), vec![0.0; 16_000], samples("short_09")].concat();
    let plain = run(&models, &samples, &[samples.len()]);
    assert_eq!(corrections(&plain).len(), 2);
    let config = ProptestConfig { cases: 6, failure_persistence: None, ..Default::default() };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let cases = (prop::sample::select(&PUBLISHED[..]), 0usize..6, 0usize..4, 1usize..60_000);
    TestRunner::new_with_rng(config, rng)
        .run(&cases, |(size, encoder, decoder, cut)| {
            let stream = StreamOptions {
                chunk_size: size.parse().unwrap(),
                encoder_look_back: Some(encoder),
                decoder_look_back: decoder,
            };
            let options = SessionOptions { stream, ..Default::default() };
            let messages = run_with(&models, &options, &samples, &[cut]);
            assert_order(&messages);
            prop_assert_eq!(corrections(&messages), corrections(&plain));
            prop_assert_eq!(&messages, &run_with(&models, &options, &samples, &[samples.len()]));
            Ok(())
        })
        .unwrap();
}

#[test]
fn sense_voice_corrects() {
    let (recognizer, samples) = (recognizer("demo-sensevoice"), samples("long_01")[..30 * 16_000].to_vec());
    let models = two_pass_with(Recognizer::load(&model("demo-sensevoice"), &Compute::cpu()).unwrap());
    for itn in [false, true] {
        let mut options = SessionOptions::default();
        options.request.itn = itn;
        let messages = run_with(&models, &options, &samples, &[9000]);
        assert_order(&messages);
        let corrections = corrections(&messages);
        assert!(corrections.len() >= 3);
        for (message, correction) in &corrections {
            assert_eq!(words(&correction.words), alone(&recognizer, &options.request, &samples, correction));
            assert!(!message.text.contains("<|"), "{}", message.text);
            let json = message.to_json("clip");
            assert_eq!((json["language"].as_str(), json["event"].as_str()), (Some("zh"), Some("Speech")));
            let sentences: String = correction.sentences.iter().map(|s| s.text.as_str()).collect();
            assert_eq!(sentences.replace(' ', ""), message.text.replace(' ', ""));
            // Its own marks are not punctuated again.
            assert!(!itn || message.text.ends_with('。'), "{}", message.text);
        }
        let text: String = corrections.iter().map(|(message, _)| message.text.as_str()).collect();
        assert_eq!((text.contains("43"), text.contains("四十三")), (itn, !itn), "{text}");
    }
}

#[test]
fn hotwords_of_a_session_bias_its_corrections() {
    let (recognizer, samples) = (seaco(), samples("short_16"));
    let models = two_pass_with(seaco());
    let mut biased = SessionOptions::default();
    let report = recognizer.bias(&mut biased.request, &Hotwords::parse("院院 音 hello")).unwrap();
    assert_eq!((report.accepted.len(), report.rejected.len()), (3, 0));
    let plain = SessionOptions::default();
    let mut sessions = [&plain, &biased, &plain].map(|options| models.session(options).unwrap());
    for session in &mut sessions {
        session.push(&samples).unwrap();
        session.finish();
    }
    // Each is corrected with its own list, though they share a batch.
    let messages = models.advance(&mut sessions.iter_mut().collect::<Vec<_>>()).unwrap();
    let said: Vec<Vec<String>> = messages
        .iter()
        .zip([&plain, &biased, &plain])
        .map(|(messages, options)| {
            assert_order(messages);
            let (_, correction) = corrections(messages)[0];
            assert_eq!(words(&correction.words), alone(&recognizer, &options.request, &samples, correction));
            words(&correction.words)
        })
        .collect();
    assert!(said[0] == said[2] && said[0] != said[1] && !said[0].is_empty(), "{said:?}");
}

/// The streamed texts that are due when each segment is a stream of its own: what is heard in units of 60 ms goes to it
/// in whole chunks at once, and what is left when the segment ends.
fn gated_texts(samples: &[f32], silence_ms: u32) -> Vec<String> {
    let (detector, recognizer) = (detector(), online());
    let mut stream = recognizer.stream(&StreamOptions::default()).unwrap();
    let mut listener = detector.stream(RATE, EndSilence::Fixed(silence_ms)).unwrap();
    let mut partial = PartialJoin::new(recognizer.notation());
    let (unit, stride, mut texts) = (60 * SAMPLES_PER_MS, stream.stride_samples(), Vec::new());
    let count = samples.len().div_ceil(unit);
    for (i, heard) in samples.chunks(unit).enumerate() {
        for event in detector.push(&mut listener, heard, i + 1 == count).unwrap() {
            let Event::End { beg_ms, end_ms } = event else { continue };
            let [beg, end] = [beg_ms, end_ms].map(|ms| ms as usize * SAMPLES_PER_MS);
            let read = beg + (i * unit).saturating_sub(beg) / stride * stride;
            let heard = &samples[beg..end.max(read).min(samples.len())];
            let chunks = recognizer.run(&mut stream, heard, true).unwrap();
            texts.extend(chunks.iter().map(|tokens| partial.push(tokens)).filter(|text| !text.is_empty()));
        }
    }
    texts
}

#[test]
fn with_a_detector_each_segment_is_a_stream() {
    let models = RealTime::new(online(), Some(detector().into()), None).unwrap();
    let samples = samples("long_01")[..30 * 16_000].to_vec();
    for silence_ms in [800, 100] {
        let options = SessionOptions { max_end_silence_ms: Some(silence_ms), ..Default::default() };
        let messages = run_with(&models, &options, &samples, &[7000]);
        assert_order(&messages);
        let texts: Vec<&str> = messages.iter().map(|m| m.text.as_str()).filter(|t| !t.is_empty()).collect();
        let expected = gated_texts(&samples, silence_ms);
        assert!(expected.len() > 20);
        assert_eq!(texts, expected, "end silence {silence_ms}");
    }
}

/// A session holds the open segment and little more, however long it runs. The networks are tiny, the detector is not.
#[test]
fn ten_minutes_are_held_as_one_segment() {
    let directory = tempfile::tempdir().unwrap();
    Golden::open("online_basic").write_model(directory.path(), &["<blank>", "<s>", "</s>", "<unk>"], None);
    let files = ModelFiles::open(directory.path()).unwrap();
    let tiny = OnlineRecognizer::load(&files, &Compute::cpu()).unwrap();
    let corrector = Corrector { recognizer: seaco().into(), punctuation: None, itn: None };
    let models = RealTime::new(tiny, Some(detector().into()), Some(corrector)).unwrap();
    let clip = samples("long_01");
    let (mut session, mut messages, mut most_ms) = (session(&models), Vec::new(), 0);
    let mut audio = clip.iter().copied().cycle();
    for second in 0..600 {
        let piece: Vec<f32> = match second {
            200..260 => vec![0.0; RATE as usize],
            _ => audio.by_ref().take(RATE as usize).collect(),
        };
        messages.extend(models.feed(&mut session, &piece, second == 599).unwrap());
        most_ms = most_ms.max(session.held_ms());
        assert!(second != 259 || session.held_ms() < 2500, "{} ms of silence held", session.held_ms());
    }
    assert_order(&messages);
    let lengths: Vec<u64> = corrections(&messages).iter().map(|(_, c)| c.end_ms - c.start_ms).collect();
    assert!(lengths.len() > 60, "{} segments", lengths.len());
    let longest_ms = lengths.into_iter().max().unwrap();
    assert!(most_ms.abs_diff(longest_ms) < 2500, "{most_ms} ms held, the longest segment {longest_ms} ms");
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
    let corrector = Corrector { recognizer: recognizer.into(), punctuation: None, itn: None };
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
