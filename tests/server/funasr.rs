//! FunASR's WebSocket protocol: three modes, loose clients, containers.

use std::io::Cursor;

use funasr_candle::audio::AudioReader;
use funasr_candle::pipeline::{ChunkSize, Request, SessionOptions, StreamOptions, Transcriber};
use serde_json::{Value, json};

use super::*;
use crate::regression::REFERENCES;

/// Clips of a few seconds, enough to differ.
const CLIPS: [&str; 4] = ["short_02", "short_04", "short_07", "short_11"];

fn transcriber() -> Transcriber {
    let compute = Compute::cpu();
    let recognizer = Recognizer::load(&model("demo"), &compute).unwrap();
    let detector = VoiceDetector::load(&model("fsmn-vad"), &compute).unwrap();
    let punctuation = PunctuationModel::load(&model("demo-punc"), &compute).unwrap();
    Transcriber::new(recognizer, Some(detector.into()), Some(punctuation.into()), Default::default())
}

fn real_time() -> RealTime {
    let compute = Compute::cpu();
    let corrector = Corrector {
        recognizer: Recognizer::load(&model("demo"), &compute).unwrap().into(),
        punctuation: Some(PunctuationModel::load(&model("demo-punc-realtime"), &compute).unwrap().into()),
        itn: None,
    };
    let detector = VoiceDetector::load(&model("fsmn-vad"), &compute).unwrap();
    let online = OnlineRecognizer::load(&model("demo-online"), &compute).unwrap();
    RealTime::new(online, Some(detector.into()), Some(corrector)).unwrap()
}

/// Every clip, on one connection: texts and times are those of the pipeline alone, which are those of the command line.
#[tokio::test(flavor = "multi_thread")]
async fn offline_replies_are_what_transcribe_gives() {
    let (desk, transcriber) = (Desk::open().await, transcriber());
    let mut client = desk.client().await;
    for name in REFERENCES.keys() {
        let bytes = pcm(name);
        let mut audio = AudioReader::raw_pcm(name, Cursor::new(bytes.clone()), RATE, RATE).unwrap();
        let expected = transcriber.transcribe(&mut audio, &Request::default(), |_| ()).unwrap();
        let asked = Options { wav_name: name.clone(), ..options("offline") };
        let replies = ask(&mut client, &asked, &bytes, 7001).await;
        let words = expected.segments.iter().flat_map(|segment| &segment.tokens);
        let spans: Vec<[u64; 2]> = words.map(|word| [word.start_ms, word.end_ms]).collect();
        let [reply] = &replies[..] else { panic!("{name}: {replies:?}") };
        assert_eq!((&reply.text, &reply.wav_name), (&expected.text, name));
        assert_eq!((reply.mode.as_str(), reply.is_final), ("offline", true));
        assert_eq!(
            serde_json::from_str::<Vec<[u64; 2]>>(reply.timestamp.as_ref().unwrap()).unwrap(),
            spans,
            "{name}"
        );
    }
    desk.close().await;
}

/// Numbers become digits where a client asks for it and the server has rules.
#[cfg(feature = "embedded-itn")]
#[tokio::test(flavor = "multi_thread")]
async fn numbers_are_digits_if_asked() {
    let rules = Arc::new(Itn::embedded().unwrap());
    let engine = Engine::start(models(Some(rules)), EngineOptions::default()).unwrap();
    let desk = Desk::with_engine(Settings::default(), engine).await;
    for (mode, itn, expected) in [
        ("offline", true, "公司有2196名员工。"),
        ("offline", false, "公司有二千一百九十六名员工。"),
        ("2pass", true, "公司有2196名员工。"),
    ] {
        let mut client = desk.client().await;
        let asked = Options { itn, ..options(mode) };
        let replies = ask(&mut client, &asked, &pcm("short_02"), 3200).await;
        assert_eq!(replies.last().unwrap().text, expected, "{mode}, itn {itn}");
    }
    desk.close().await;
}

/// Live modes on one connection say what the pipeline says, message by message; sentences are counted on.
#[tokio::test(flavor = "multi_thread")]
async fn live_messages_are_those_of_the_pipeline() {
    let (desk, models) = (Desk::open().await, real_time());
    for (mode, first_pass_only) in [("2pass", false), ("online", true)] {
        let mut client = desk.client().await;
        let mut sentences = 0;
        for name in CLIPS {
            let samples = read_all(&clip(name), RATE, None).unwrap();
            let chunk_size = ChunkSize::new([5, 10, 5]).unwrap();
            let stream = StreamOptions { chunk_size, ..Default::default() };
            let mut session =
                models.session(&SessionOptions { stream, first_pass_only, ..Default::default() }).unwrap();
            let expected = models.feed(&mut session, &samples, true).unwrap();
            let last = expected.last().unwrap().clone();
            let replies = ask(&mut client, &options(mode), &pcm(name), 1919).await;
            let told = |reply: &Reply| (reply.text.clone(), reply.mode.clone(), reply.index, reply.is_final);
            let mut mode_before = Value::from("2pass-online");
            let expected: Vec<_> = expected
                .iter()
                .map(|message| {
                    let json = message.to_json("demo");
                    if !message.text.is_empty() {
                        mode_before = json["mode"].clone();
                    }
                    let mode = mode_before.as_str().unwrap().to_owned();
                    (message.text.clone(), mode, Some(sentences + message.index), message.is_final)
                })
                .collect();
            assert_eq!(replies.iter().map(told).collect::<Vec<_>>(), expected, "{mode} {name}");
            // What was said last makes a sentence, corrected or not.
            sentences += last.index + u64::from(!(last.text.is_empty() && mode == "2pass"));
            if mode == "2pass" {
                assert_eq!(replies[0].mode, "2pass-online", "{name}: partial text comes first");
            }
        }
    }
    desk.close().await;
}

/// What clients write instead of numbers, lists and booleans.
#[tokio::test(flavor = "multi_thread")]
async fn loose_types_are_taken_as_meant() {
    let desk = Desk::open().await;
    let mut client = desk.client().await;
    let configs = [
        json!({"mode": "office", "chunk_size": "5,10,5", "audio_fs": "16000", "itn": "false", "wav_name": 7}),
        json!({"mode": "2pass", "chunk_size": "[5, 10, 5]", "audio_fs": 16000.0, "itn": 0, "svs_itn": 1}),
        json!({"mode": "2pass", "chunk_size": ["5", 10, 5.0], "hotwords": {"阿里巴巴": "20"}, "extra": [{}]}),
        json!({"hotwords": "{\"阿里巴巴\": 20}", "svs_lang": "klingon", "wav_format": null, "chunk_interval": "10"}),
        json!({"hotwords": "阿里巴巴,通义", "encoder_chunk_look_back": "4", "decoder_chunk_look_back": 1.0}),
        json!({"hotwords": ["阿里巴巴", "通义"], "is_speaking": "true"}),
    ];
    let mut hotwords = false;
    for config in configs {
        client.sender.text(&config.to_string()).await.unwrap();
        for piece in pcm("short_07").chunks(9600) {
            client.sender.audio(piece).await.unwrap();
        }
        client.sender.text(r#"{"is_finished": "true"}"#).await.unwrap();
        let replies = replies(&mut client).await;
        let last = replies.last().unwrap();
        assert_eq!((last.text.as_str(), last.mode.as_str()), ("把风扇关掉。", "2pass-offline"), "{config}");
        assert!(replies.iter().all(|reply| reply.error.is_none()), "{config}");
        // What there is to warn of is that the demo's vocabulary cannot spell a hotword, once for an utterance.
        let warnings: Vec<&String> = replies.iter().filter_map(|reply| reply.warning.as_ref()).collect();
        assert!(
            warnings.len() <= 1 && warnings.iter().all(|w| w.contains("hotword")),
            "{config}: {warnings:?}"
        );
        hotwords |= config.get("hotwords").is_some();
        assert!(hotwords || warnings.is_empty(), "{config}: {warnings:?}");
    }
    desk.close().await;
}

/// What a client gets that chooses nothing, in a server for recordings and in another.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_mode_the_server_chooses() {
    for (mode, expected) in [("offline", "offline"), ("2pass", "2pass-offline")] {
        let mode = serde_json::from_value(mode.into()).unwrap();
        let desk = Desk::with(Settings { mode, ..Settings::default() }).await;
        let mut client = desk.client().await;
        // Audio before any text, in pieces of odd and of no bytes.
        for piece in pcm("short_07").chunks(1023) {
            client.sender.audio(piece).await.unwrap();
            client.sender.audio(&[]).await.unwrap();
        }
        client.sender.finish().await.unwrap();
        let last = replies(&mut client).await.pop().unwrap();
        assert_eq!((last.mode.as_str(), last.text.as_str()), (expected, "把风扇关掉。"));
        assert_eq!(last.wav_name, "wav-default-id");
        desk.close().await;
    }
}

/// Each end is answered, also of an utterance without audio; the last word comes after the results.
#[tokio::test(flavor = "multi_thread")]
async fn every_end_is_answered_once() {
    let desk = Desk::open().await;
    for mode in ["offline", "online", "2pass"] {
        let mut client = desk.client().await;
        client.sender.begin(&options(mode)).await.unwrap();
        for _ in 0..3 {
            client.sender.finish().await.unwrap();
            let reply = reply(&mut client).await;
            assert_eq!(
                (reply.text.as_str(), reply.is_final, reply.wav_name.as_str()),
                ("", true, "demo"),
                "{mode}"
            );
            assert!(!reply.mode.is_empty() && reply.error.is_none(), "{mode}");
        }
        for piece in pcm("short_07").chunks(9600) {
            client.sender.audio(piece).await.unwrap();
        }
        client.sender.text(r#"{"is_speaking":false,"is_end":true}"#).await.unwrap();
        assert!(replies(&mut client).await.last().unwrap().text.contains("关掉"), "{mode}");
        let text = client.receiver.next_text().await.unwrap().unwrap();
        let last: Value = serde_json::from_str(&text).unwrap();
        let expected =
            json!({"mode": mode, "text": "", "wav_name": "demo", "is_final": true, "is_end": true});
        assert_eq!(last, expected);
    }
    desk.close().await;
}

/// Containers, resampled samples and wav files that are sent as samples.
#[tokio::test(flavor = "multi_thread")]
async fn containers_are_decoded_in_every_mode() {
    let desk = Desk::open().await;
    let mut client = desk.client().await;
    let flac = std::fs::read(clip("short_07")).unwrap();
    let mut wav = Vec::new();
    wav.extend(b"RIFF\xff\xff\xff\xffWAVEfmt \x10\0\0\0\x01\0\x01\0");
    wav.extend(RATE.to_le_bytes());
    wav.extend((2 * RATE).to_le_bytes());
    wav.extend(b"\x02\0\x10\0data\xff\xff\xff\xff");
    wav.extend(pcm("short_07"));
    let doubled: Vec<u8> = pcm("short_07").chunks(2).flat_map(|sample| [sample, sample].concat()).collect();
    let cases =
        [("flac", RATE, &flac), ("others", RATE, &wav), ("PCM", RATE, &wav), ("pcm", 2 * RATE, &doubled)];
    for mode in ["offline", "2pass"] {
        for (wav_format, audio_fs, bytes) in cases {
            let asked = Options { wav_format: wav_format.to_owned(), audio_fs, ..options(mode) };
            let replies = ask(&mut client, &asked, bytes, 5000).await;
            assert_eq!(replies.last().unwrap().text, "把风扇关掉。", "{mode} {wav_format}: {replies:?}");
        }
    }
    // MP4 has its index anywhere: a recording is decoded, a stream is refused.
    let mut mp4 = b"\0\0\0\x18ftypM4A ".to_vec();
    mp4.resize(20_000, 0);
    let asked = Options { wav_format: "m4a".to_owned(), ..options("2pass") };
    let replies = ask(&mut client, &asked, &mp4, 5000).await;
    let error = replies.last().unwrap().error.clone().unwrap();
    assert!(error.code == "bad_audio" && error.message.contains("while it arrives"), "{error:?}");
    desk.close().await;
}
