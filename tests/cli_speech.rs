//! The program on speech as SenseVoice, hotword models and real-time sessions hear it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::sync::LazyLock;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use candle_core::Device;
use funasr_candle::audio::AudioReader;
use funasr_candle::device::Compute;
use funasr_candle::pipeline::{Recognizer, Request, Transcriber, TranscriberOptions, VoiceDetector};
use funasr_candle::text::tags;
use funasr_candle::weights::ModelFiles;
use serde_json::{Value, json};

use crate::cli::{Desk, Outcome, eval, keys, repository, wav};
use crate::golden::Golden;
use crate::regression::clip;

/// FunASR's text with tags of each clip after voice detection, by clip and `withitn` or `woitn`.
static SEGMENTED: LazyLock<BTreeMap<String, BTreeMap<String, String>>> = LazyLock::new(|| {
    let mut golden: Value = serde_json::from_str(include_str!("golden/demo_sense_voice.json")).unwrap();
    let segmented: BTreeMap<_, _> = serde_json::from_value(golden["segmented"].take()).unwrap();
    assert_eq!(segmented.len(), 21);
    segmented
});

fn model(name: &str) -> ModelFiles {
    ModelFiles::open(&repository("models").join(name)).unwrap()
}

// -------------------------------------------------------------------------------------------------------- SenseVoice

/// `transcribe --offline` with the embedded SenseVoice.
fn sense_voice(desk: &Desk, args: &[&str]) -> Outcome {
    let models = ["transcribe", "--offline", "--model", "demo-sensevoice", "--punc-model", "demo-punc"];
    desk.run(&[&models, args].concat())
}

#[test]
fn transcripts_of_sense_voice_are_those_of_funasr() {
    let recognizer = Recognizer::load(&model("demo-sensevoice"), &Compute::cpu()).unwrap();
    let detector = VoiceDetector::load(&model("fsmn-vad"), &Compute::cpu()).unwrap();
    let transcriber =
        Transcriber::new(recognizer, Some(detector.into()), None, TranscriberOptions::default());
    for (name, norms) in SEGMENTED.iter() {
        for (norm, expected) in norms {
            let what = format!("{name} {norm}");
            let mut request = Request::default();
            request.itn = norm == "withitn";
            let mut audio = AudioReader::open(&clip(name), transcriber.sample_rate()).unwrap();
            let mut transcript = transcriber.transcribe(&mut audio, &request, |_| ()).unwrap();
            let tagged = tags::parse(expected);
            assert_eq!(transcript.segments.len(), tagged.len(), "{what}");
            for (segment, tagged) in transcript.segments.iter().zip(tagged) {
                assert_eq!(segment.text, tagged.text, "{what}");
                let found = [&segment.tags.language, &segment.tags.emotion, &segment.tags.event];
                assert_eq!(found, [&tagged.language, &tagged.emotion, &tagged.event], "{what}");
                assert_eq!(segment.punctuated, request.itn, "{what}");
            }
            let letters = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
            assert_eq!(letters(&transcript.text), letters(&tags::without_tags(expected)), "{what}");
            let sentences: String = transcript.sentences.iter().map(|s| s.text.as_str()).collect();
            assert_eq!(letters(&sentences), letters(&transcript.text), "{what}");
            assert_eq!(transcript.language.as_deref(), Some("zh"), "{what}");
            transcript.keep_tags();
            assert_eq!(&transcript.text, expected, "{what}");
        }
    }
}

#[test]
fn sense_voice_tags_of_every_clip_are_those_of_funasr() {
    let desk = Desk::new();
    let folder = repository("tests/data/eval").display().to_string();
    let stdout = sense_voice(&desk, &["--keep-tags", "--itn", &folder]).ok();
    let got: BTreeMap<&str, &str> = stdout.lines().filter_map(|line| line.split_once('\t')).collect();
    let expected: BTreeMap<&str, &str> =
        SEGMENTED.iter().map(|(name, norms)| (name.as_str(), norms["withitn"].as_str())).collect();
    assert_eq!(got, expected);
}

#[test]
fn sense_voice_writes_text_with_and_without_tags() {
    let desk = Desk::new();
    let file = eval("short_05");
    let cases: [(&[&str], &str); 8] = [
        (&[], "会议室在四楼，请带上你的电脑。\n"),
        (&["--no-punc"], "会议室在四楼请带上你的电脑\n"),
        (&["--itn"], "会议室在4楼，请带上你的电脑。\n"),
        (&["--itn", "--no-punc"], "会议室在4楼，请带上你的电脑。\n"),
        (&["--language", "zh", "--itn", "--no-vad"], "会议室在4楼，请带上你的电脑。\n"),
        (&["--keep-tags"], "<|zh|><|NEUTRAL|><|Speech|><|woitn|>会议室在四楼请带上你的电脑\n"),
        (
            &["--keep-tags", "--itn", "--language", "zh"],
            "<|zh|><|NEUTRAL|><|Speech|><|withitn|>会议室在4楼，请带上你的电脑。\n",
        ),
        // Subtitles are to be read, so they have no tags.
        (
            &["--itn", "--keep-tags", "--format", "srt"],
            "1\n00:00:00,450 --> 00:00:01,710\n会议室在4楼，\n\n\
             2\n00:00:02,250 --> 00:00:03,750\n请带上你的电脑。\n\n",
        ),
    ];
    for (args, expected) in cases {
        let outcome = sense_voice(&desk, &[args, &[&file]].concat());
        assert_eq!((&*outcome.stdout, &*outcome.stderr), (expected, ""), "{args:?}");
    }
}

#[test]
fn sense_voice_json_tells_language_emotion_and_event() {
    let desk = Desk::new();
    let file = eval("short_04");
    for (flags, text) in [
        (&[][..], "hello，你好，我是赵磊。"),
        (&["--keep-tags"], "<|zh|><|HAPPY|><|Speech|><|withitn|>hello，你好，我是赵磊。"),
    ] {
        let args = [flags, &["--itn", "--format", "json", &file]].concat();
        let report = sense_voice(&desk, &args).json().remove(0);
        assert_eq!((&report["text"], &report["language"]), (&text.into(), &"zh".into()));
        assert_eq!(report["model"], "demo-sensevoice");
        assert!(report.get("hotwords").is_none());
        let [segment] = &report["segments"].as_array().unwrap()[..] else { panic!("{report}") };
        let expected = ["emotion", "end_ms", "event", "language", "start_ms", "text", "tokens"];
        assert_eq!(keys(segment), expected.into());
        let tags = ["language", "emotion", "event", "text"].map(|key| segment[key].as_str().unwrap());
        assert_eq!(tags, ["zh", "HAPPY", "Speech", text]);
        let words: Vec<&str> =
            segment["tokens"].as_array().unwrap().iter().map(|t| t["text"].as_str().unwrap()).collect();
        assert_eq!(words, ["hello", "你", "好", "我", "是", "赵", "磊"], "marks are no words");
        assert_eq!(report["sentences"].as_array().unwrap().len(), 3);
    }
}

#[test]
fn languages_and_norms_are_refused_where_they_mean_nothing() {
    let desk = Desk::new();
    let file = eval("short_07");
    for command in ["transcribe", "stream"] {
        let outcome = desk.run(&[command, "--offline", "--language", "xx", &file]);
        assert_eq!((outcome.code, &*outcome.stdout), (2, ""));
        let known = ["auto", "zh", "en", "yue", "ja", "ko"];
        assert!(known.iter().all(|name| outcome.stderr.contains(name)), "{}", outcome.stderr);
    }
    let cases: [(&[&str], &str); 3] = [
        (&["--language", "ja"], "cannot be told a language"),
        (&["--itn"], "does not normalise text"),
        (&["--hotwords", "你好"], "takes no hotwords"),
    ];
    for (args, cause) in cases {
        for command in ["transcribe", "stream", "inspect"] {
            let rest = if command == "inspect" { vec!["--out", "o.safetensors", "--audio"] } else { vec![] };
            let outcome =
                desk.run(&[&[command, "--offline", "--model", "demo"], args, &rest, &[&file]].concat());
            let error = outcome.error();
            assert!(error.contains("demo: ") && error.contains(cause), "{command} {args:?}: {error}");
        }
    }
    let outcome = sense_voice(&desk, &["--hotwords", "你好", &file]);
    assert!(outcome.error().contains("takes no hotwords; SeacoParaformer"), "{}", outcome.stderr);
    let outcome = desk.run(&["inspect", "--model", "demo-punc", "--text", "你好", "--itn", "--out", "o"]);
    assert!(outcome.error().contains("takes no --hotwords, --language or --itn"), "{}", outcome.stderr);
}

// ---------------------------------------------------------------------------------------------------------- hotwords

/// Writes a SeACo Paraformer of random weights whose first tokens are the characters of [`CHARACTERS`].
pub fn write_seaco(directory: &Path) {
    let characters: Vec<String> = CHARACTERS.chars().map(String::from).collect();
    let mut tokens = vec!["<blank>", "<s>", "</s>"];
    tokens.extend(characters.iter().map(String::as_str));
    tokens.extend(["he@@", "llo", "<unk>"]);
    let entries: Vec<String> = characters.iter().map(|c| format!("{c} {c}\n")).collect();
    fs::create_dir_all(directory).unwrap();
    let seg_dict = entries.concat() + "hello he@@ llo\n";
    Golden::open("seaco_basic").write_model(directory, &tokens, Some(&seg_dict));
}

const CHARACTERS: &str = "欢迎大家来体验达摩院推出的语音识别模型你好我是阿里巴";

/// A clip as that model hears it: its JSON report, and what was said on stderr.
fn biased(desk: &Desk, hotwords: &str) -> (Value, String) {
    let args = ["transcribe", "--offline", "--model", "./seaco", "--no-punc", "--format", "json"];
    let outcome = desk.run(&[&args[..], &["--hotwords", hotwords, &eval("short_09")]].concat());
    let stderr = outcome.stderr.clone();
    (outcome.json().remove(0), stderr)
}

#[test]
fn hotwords_are_reported() {
    let desk = Desk::new();
    write_seaco(&desk.path("seaco"));
    let plain =
        desk.run(&["transcribe", "--offline", "--model", "./seaco", "--no-punc", &eval("short_09")]).ok();
    desk.write(
        "words",
        b"\xef\xbb\xbf\xe9\x99\xa2\xe9\x99\xa2 20\r\n\xff\xfe\n\n\xe4\xbd\xa0\xe5\xa5\xbd nan\nhello 5\n",
    );
    let rejected = |word: &str, why: &str| json!({"word": word, "why": why});
    let unknown = |word: &str| rejected(word, &format!("out of vocabulary: '{word}'"));
    // Given, accepted, rejected.
    let cases = [
        ("院院 音", vec!["院院", "音"], vec![]),
        ("院院 20,你好,hello hello", vec!["院院", "你好", "hello hello"], vec![]),
        ("龘", vec![], vec![unknown("龘")]),
        ("龘,院院,world", vec!["院院"], vec![unknown("龘"), unknown("world")]),
        (
            r#"{"院院": 20, "你好": "x"}"#,
            vec!["院院"],
            vec![rejected("你好", "weight \"x\" is not a number")],
        ),
        ("", vec![], vec![]),
        (
            "words",
            vec!["院院", "hello"],
            vec![
                rejected("\u{fffd}\u{fffd}", "line 2: not UTF-8 text"),
                rejected("你好", "line 4: the weight is not a finite number"),
            ],
        ),
    ];
    for (given, accepted, rejected) in cases {
        let (report, stderr) = biased(&desk, given);
        let (text, hotwords) = (report["text"].as_str().unwrap(), &report["hotwords"]);
        assert_eq!(keys(hotwords), ["accepted", "matched", "rejected"].into());
        assert_eq!(hotwords["accepted"], json!(accepted), "{given}");
        let matched: Vec<&&str> = accepted.iter().filter(|word| text.contains(**word)).collect();
        assert_eq!(hotwords["matched"], json!(matched), "{given}");
        // One warning for each.
        let by_word = |items: &mut Vec<Value>| items.sort_by_key(Value::to_string);
        let (mut got, mut expected) = (hotwords["rejected"].as_array().unwrap().clone(), rejected.clone());
        by_word(&mut got);
        by_word(&mut expected);
        assert_eq!(got, expected, "{given}");
        assert_eq!(stderr.lines().count(), rejected.len(), "{stderr}");
        for item in &rejected {
            let [word, why] = ["word", "why"].map(|key| item[key].as_str().unwrap());
            let warning = format!("warning: hotword {word:?} is not used: {why}");
            assert!(stderr.lines().any(|line| line == warning), "{stderr}");
        }
        assert_eq!(text == plain.trim_end(), accepted.is_empty(), "{given}: {text}");
    }
    let (report, _) = biased(&desk, "院院 音 你好");
    assert_eq!(report["hotwords"]["matched"], json!(["院院", "音"]), "{report}");
}

#[test]
fn ten_thousand_hotwords_are_taken_and_no_more() {
    let desk = Desk::new();
    write_seaco(&desk.path("seaco"));
    let characters: Vec<char> = CHARACTERS.chars().collect();
    let of = |i: usize| characters[i % characters.len()];
    let word = |i: usize| String::from_iter([of(i), of(i / 26), of(i / 676)]);
    let list = |count: usize| (0..count).map(|i| word(i) + " 20\n").collect::<String>();
    desk.write("full", list(10_000));
    let (report, stderr) = biased(&desk, "full");
    assert_eq!((report["hotwords"]["accepted"].as_array().unwrap().len(), &*stderr), (10_000, ""));
    assert_eq!(report["hotwords"]["rejected"], json!([]));
    desk.write("more", list(10_003));
    let (report, stderr) = biased(&desk, "more");
    assert_eq!(report["hotwords"]["accepted"].as_array().unwrap().len(), 10_000);
    let why = "the first of 3 beyond the limit of 10000 hotwords";
    assert_eq!(report["hotwords"]["rejected"], json!([{"word": word(10_000), "why": why}]));
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    // Many bad ones: a report names all, stderr the first ones and their number.
    desk.write("bad", (0..500).map(|i| format!("龘{i}\n")).collect::<String>());
    let (report, stderr) = biased(&desk, "bad");
    assert_eq!(report["hotwords"]["rejected"].as_array().unwrap().len(), 500);
    assert_eq!(stderr.lines().count(), 21, "{stderr}");
    assert!(stderr.lines().last().unwrap().contains("480 hotwords more"), "{stderr}");
}

#[test]
fn a_hotword_file_that_is_missing_is_no_hotword() {
    let desk = Desk::new();
    write_seaco(&desk.path("seaco"));
    for missing in ["nosuch.txt", "NOSUCH.TXT", "no/such", "./nosuch", "/no/such/file", "my words/a.txt"] {
        for command in ["transcribe", "stream"] {
            let args = [command, "--offline", "--model", "./seaco", "--hotwords", missing, &eval("short_09")];
            let outcome = desk.run(&args);
            let error = outcome.error();
            assert!(error.starts_with(&format!("error: {missing}: No such file")), "{error}");
        }
    }
    let directory =
        desk.run(&["transcribe", "--offline", "--model", "./seaco", "--hotwords", "./seaco", "x.wav"]);
    assert!(directory.error().contains("./seaco: Is a directory"), "{}", directory.stderr);
    // What is certainly a list may hold such words.
    for list in ["院院,tcp/ip", r#"{"院院": 1, "tcp/ip": 2}"#] {
        let (report, _) = biased(&desk, list);
        assert_eq!(report["hotwords"]["accepted"], json!(["院院"]), "{list}");
        assert_eq!(report["hotwords"]["rejected"][0]["word"], "tcp/ip", "{list}");
    }
}

#[test]
fn inspect_takes_hotwords() {
    let desk = Desk::new();
    write_seaco(&desk.path("seaco"));
    let ids = |hotwords: &[&str]| {
        let args = ["inspect", "--offline", "--model", "./seaco", "--out", "o.safetensors", "--audio"];
        desk.run(&[&args[..], &[&eval("short_09")], hotwords].concat()).ok();
        let tensors = candle_core::safetensors::load(desk.path("o.safetensors"), &Device::Cpu).unwrap();
        assert!(tensors.contains_key("us_alphas"));
        tensors["ids"].to_vec2::<u32>().unwrap()
    };
    assert_ne!(ids(&[]), ids(&["--hotwords", "院院 音"]));
}

// ------------------------------------------------------------------------------------------------------------ stream

/// `stream --offline` with the embedded models named, so that no note is due.
fn stream(desk: &Desk, args: &[&str], stdin: &[u8]) -> Outcome {
    desk.run_with(&[&STREAM, args].concat(), stdin)
}

const STREAM: [&str; 4] = ["stream", "--offline", "--online-model", "demo-online"];
/// The second pass with its embedded models.
const TWO_PASS: [&str; 4] = ["--model", "demo", "--punc-model", "demo-punc-realtime"];

/// The same with the first pass alone.
fn online(desk: &Desk, args: &[&str], stdin: &[u8]) -> Outcome {
    stream(desk, &[&["--mode", "online"], args].concat(), stdin)
}

/// The messages of a run, which have to be in order.
#[track_caller]
fn messages(outcome: &Outcome) -> Vec<Value> {
    let messages: Vec<Value> =
        outcome.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let finals: Vec<bool> = messages.iter().map(|m| m["is_final"].as_bool().unwrap()).collect();
    let last_only: Vec<bool> = (1..=messages.len()).map(|i| i == messages.len()).collect();
    assert_eq!(finals, last_only, "{}{}", outcome.stdout, outcome.stderr);
    let (mut index, mut begun) = (0, false);
    for message in &messages {
        assert_eq!(message["index"], index, "{message}");
        let (mode, slice_type) = (message["mode"].as_str().unwrap(), &message["slice_type"]);
        match mode {
            "2pass-offline" => {
                assert_eq!(slice_type, 2);
                (index, begun) = (index + 1, false);
            }
            _ => {
                assert_eq!((mode, slice_type), ("2pass-online", &i32::from(begun).into()));
                begun = true;
            }
        }
    }
    messages
}

/// Texts of one pass.
fn texts<'a>(messages: &'a [Value], mode: &str) -> Vec<&'a str> {
    messages.iter().filter(|m| m["mode"] == mode).map(|m| m["text"].as_str().unwrap()).collect()
}

/// What was said in the online pass alone, by a run that went well.
#[track_caller]
fn streamed(outcome: Outcome) -> String {
    let messages = messages(&outcome);
    assert_eq!((outcome.code, &*outcome.stderr), (0, ""));
    assert!(texts(&messages, "2pass-offline").is_empty());
    texts(&messages, "2pass-online").concat()
}

fn demo_wav() -> String {
    repository("models/demo/short_00_demo.wav").display().to_string()
}

/// The samples of the demo recording.
fn demo_pcm() -> Vec<u8> {
    fs::read(demo_wav()).unwrap().split_off(44)
}

#[test]
fn stream_says_each_sentence_twice() {
    let desk = Desk::new();
    let outcome = desk.run(&["stream", "--offline", &demo_wav()]);
    let notes: Vec<&str> = outcome.stderr.lines().collect();
    assert_eq!(notes.len(), 3, "{notes:?}");
    for model in ["`demo-online`", "`demo`", "`demo-punc-realtime`"] {
        assert!(notes.iter().any(|note| note.starts_with("note: ") && note.contains(model)), "{notes:?}");
    }
    let by_default = messages(&outcome);
    assert_eq!(texts(&by_default, "2pass-offline"), ["欢迎大家来体验达摩院推出的语音识别模型。"]);
    assert!(texts(&by_default, "2pass-online").len() > 4);
    let named = stream(&desk, &[&TWO_PASS[..], &["--mode", "2pass", &demo_wav()]].concat(), b"");
    assert_eq!((&*named.stdout, &*named.stderr), (&*outcome.stdout, ""));
    assert!(by_default.iter().all(|message| message["wav_name"] == demo_wav()));

    let sense_voice = ["--model", "demo-sensevoice", "--punc-model", "demo-punc-realtime"];
    for (flags, text) in
        [(&["--itn"][..], "项目需要4天，预算是907元。"), (&[], "项目需要四天，预算是九百零七元。")]
    {
        let outcome = stream(&desk, &[&sense_voice, flags, &[&eval("short_08")]].concat(), b"");
        let messages = messages(&outcome);
        assert_eq!((texts(&messages, "2pass-offline"), &*outcome.stderr), (vec![text], ""));
        let last = messages.last().unwrap();
        let stamps: Vec<[u64; 2]> = serde_json::from_str(last["timestamp"].as_str().unwrap()).unwrap();
        assert!(stamps.iter().flatten().is_sorted() && stamps.len() > 8, "{last}");
        assert_eq!(last["stamp_sents"].as_array().unwrap().len(), 2, "{last}");
    }
}

#[test]
fn stream_takes_hotwords() {
    let desk = Desk::new();
    write_seaco(&desk.path("seaco"));
    let models = ["--model", "./seaco", "--punc-model", "demo-punc-realtime"];
    let text = |flags: &[&str]| {
        let outcome = stream(&desk, &[&models, flags, &[&eval("short_09")]].concat(), b"");
        let messages = messages(&outcome);
        (texts(&messages, "2pass-offline").concat(), outcome.stderr)
    };
    let (plain, _) = text(&[]);
    let (biased, stderr) = text(&["--hotwords", "院院 音 龘"]);
    assert_ne!(plain, biased);
    assert_eq!(stderr, "warning: hotword \"龘\" is not used: out of vocabulary: '龘'\n");
}

#[test]
fn streamed_text_is_that_of_funasr() {
    let desk = Desk::new();
    let golden: Value = serde_json::from_str(include_str!("golden/online.json")).unwrap();
    for size in ["0,10,5", "5,10,5", "0,8,4"] {
        for name in ["short_01", "short_02", "short_09", "short_16"] {
            let text = streamed(online(&desk, &["--chunk-size", size, &eval(name)], b""));
            assert_eq!(text, golden["cuts"][format!("{size}/4/1")][name]["text"], "{name} in {size}");
        }
    }
    let look_back = ["--encoder-look-back", "0", "--decoder-look-back", "0", &eval("short_01")];
    let text = streamed(online(&desk, &look_back, b""));
    assert_eq!(text, golden["cuts"]["0,10,5/0/0"]["short_01"]["text"]);
}

#[test]
fn stream_reads_stdin() {
    let desk = Desk::new();
    let (wav_file, pcm) = (fs::read(demo_wav()).unwrap(), demo_pcm());
    let expected = streamed(online(&desk, &[&demo_wav()], b""));
    assert_eq!(expected, "欢迎大家来体验达摩院推出的语音识别模型");
    let flac = fs::read(eval("short_00_demo")).unwrap();
    for (what, bytes) in [("wav", &wav_file), ("pcm", &pcm), ("flac", &flac)] {
        assert_eq!(streamed(online(&desk, &["-"], bytes)), expected, "{what}");
    }
    // Half a sample at the end is none.
    for bytes in [[&pcm[..], b"\x7f"].concat(), pcm[..pcm.len() - 1].to_vec()] {
        assert_eq!(streamed(online(&desk, &["-"], &bytes)), expected);
    }
    // Every other sample is half the rate.
    let half: Vec<u8> = pcm.chunks_exact(4).flat_map(|pair| [pair[0], pair[1]]).collect();
    let text = streamed(online(&desk, &["--pcm-rate", "8000", "-"], &half));
    assert!(text.starts_with("欢迎大家来体验") && text.chars().count() >= 17, "{text}");
    let outcome = stream(&desk, &[&TWO_PASS[..], &["-"]].concat(), &pcm);
    assert_eq!(texts(&messages(&outcome), "2pass-offline"), [expected + "。"]);
    assert!(messages(&outcome).iter().all(|message| message["wav_name"] == "stdin"));
}

#[test]
fn no_audio_is_one_final_message() {
    let desk = Desk::new();
    let silence = desk.write("silence.wav", wav(16_000, &[0; 8000]));
    let empty = desk.write("empty.wav", wav(16_000, &[]));
    let inputs: [(&str, &[u8]); 5] =
        [("-", b""), ("-", b"\0"), ("-", b"\0\0\0"), (&silence, b""), (&empty, b"")];
    for (input, stdin) in inputs {
        for outcome in
            [online(&desk, &[input], stdin), stream(&desk, &[&TWO_PASS[..], &[input]].concat(), stdin)]
        {
            let messages = messages(&outcome);
            assert_eq!(messages.len(), 1, "{input} {stdin:?}: {}{}", outcome.stdout, outcome.stderr);
            assert_eq!((outcome.code, &messages[0]["text"]), (0, &"".into()));
        }
    }
}

#[test]
fn text_comes_while_audio_is_still_coming() {
    let desk = Desk::new();
    let pcm = demo_pcm();
    let mut child = desk.start(&[&STREAM[..], &["--mode", "online", "-"]].concat());
    let (mut stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let (sender, lines) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        BufReader::new(stdout).lines().for_each(|line| drop(sender.send(line.unwrap())));
    });
    stdin.write_all(&pcm[..3 * 32_000]).unwrap();
    let first = lines.recv_timeout(Duration::from_secs(60)).expect("no text after three seconds of speech");
    assert!(first.contains("欢"), "{first}");
    stdin.write_all(&pcm[3 * 32_000..]).unwrap();
    drop(stdin);
    assert!(lines.iter().last().unwrap().contains(r#""is_final":true"#));
    reader.join().unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn realtime_takes_the_time_of_the_recording() {
    let desk = Desk::new();
    let samples: Vec<i16> =
        demo_pcm()[..32_000].chunks_exact(2).map(|b| i16::from_le_bytes([b[0], b[1]])).collect();
    let second = desk.write("second.wav", wav(16_000, &samples));
    let seconds = |flags: &[&str]| {
        let started = Instant::now();
        let text = streamed(online(&desk, &[flags, &[&second]].concat(), b""));
        (text, started.elapsed().as_secs_f64())
    };
    let ((fast, without), (paced, with)) = (seconds(&[]), seconds(&["--realtime"]));
    assert_eq!(fast, paced);
    assert!(with >= 0.99 && with < 2.0 + 3.0 * without, "{with} s, without it {without} s");
}

#[test]
fn bad_streams_are_errors() {
    let desk = Desk::new();
    let file = eval("short_09");
    for (size, cause) in [
        ("0,0,0", "stride (second number) is 0"),
        ("0,-10,5", "negative"),
        ("-1,10,5", "negative"),
        ("5,10", "not three whole numbers"),
        ("abc", "not three whole numbers"),
        ("600,600,600", "more than 500 frames"),
    ] {
        let outcome = desk.run(&["stream", "--offline", "--chunk-size", size, &file]);
        assert_eq!((outcome.code, &*outcome.stdout), (2, ""), "{size}");
        assert!(outcome.stderr.contains(size) && outcome.stderr.contains(cause), "{}", outcome.stderr);
    }
    let text = desk.write("text.wav", "This is no recording, only its name says so.\n");
    let cases: [(&[&str], &[u8], &str); 10] = [
        (&["missing.wav"], b"", "error: missing.wav: No such file"),
        (&[&text], b"", "error: text.wav: is not audio: it starts with text"),
        (
            &["-"],
            "<!DOCTYPE html>\n<title>找不到</title>".as_bytes(),
            "error: stdin: is not audio: it starts with text",
        ),
        (&["--pcm-rate", "7", "-"], b"\0\0\0\0", "error: stdin: a sample rate of 7 Hz"),
        (&["--pcm-rate", "8000", &file], b"", "error: --pcm-rate is for PCM on stdin"),
        (&["--decoder-look-back", "5000", &file], b"", "error: decoder_look_back 5000: more than 100 chunks"),
        (&["--itn", &file], b"", "error: --mode online: takes no --hotwords, --language or --itn"),
        (&["--language", "zh", &file], b"", "error: --mode online: takes no --hotwords, --language or --itn"),
        (
            &["--hotwords", "你好", &file],
            b"",
            "error: --mode online: takes no --hotwords, --language or --itn",
        ),
        (&["--model", "demo", &file], b"", "error: --mode online: has no second pass"),
    ];
    for (args, stdin, expected) in cases {
        let outcome = online(&desk, args, stdin);
        assert!(outcome.error().starts_with(expected), "{args:?}: {}", outcome.stderr);
    }
    for (flag, model, class) in [
        ("--online-model", "demo", "a ParaformerStreaming is expected"),
        ("--model", "demo-online", "SenseVoiceSmall is expected"),
        ("--vad-model", "demo", "a FsmnVADStreaming is expected"),
        ("--punc-model", "demo", "expected"),
    ] {
        let outcome = desk.run(&["stream", "--offline", flag, model, &file]);
        let error = outcome.error();
        assert!(error.contains(&format!("{model}/config.json: is a ")) && error.contains(class), "{error}");
    }
}

#[test]
fn a_damaged_recording_is_streamed_as_far_as_it_goes() {
    let desk = Desk::new();
    let flac = fs::read(eval("short_09")).unwrap();
    let half = desk.write("half.flac", &flac[..flac.len() / 2]);
    let runs = [
        online(&desk, &[&half], b""),
        online(&desk, &["-"], &flac[..flac.len() / 2]),
        stream(&desk, &[&TWO_PASS[..], &[&half]].concat(), b""),
    ];
    for (outcome, name) in runs.iter().zip([&*half, "stdin", &half]) {
        assert!(texts(&messages(outcome), "2pass-online").concat().starts_with('你'), "{}", outcome.stdout);
        let [error] = outcome.errors()[..] else { panic!("not one error: {}", outcome.stderr) };
        assert!(error.starts_with(&format!("error: {name}: ")) && error.contains("cut off after"), "{error}");
    }
}
