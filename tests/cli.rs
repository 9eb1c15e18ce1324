//! The program as a user meets it: arguments, stdin and files in; stdout, stderr, files and the exit code out.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::SystemTime;

use candle_core::{DType, Device, Tensor};
use serde_json::Value;
use tempfile::TempDir;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::regression::{Decisions, REFERENCES, clip};

/// A folder to work in, and a model cache of its own.
pub struct Desk {
    folder: TempDir,
    home: TempDir,
}

/// What a run gave.
pub struct Outcome {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}", self.stderr);
        self.stdout
    }

    /// The error lines of a run that failed with nothing but notes beside them.
    #[track_caller]
    pub fn errors(&self) -> Vec<&str> {
        assert_eq!(self.code, 1, "{}{}", self.stdout, self.stderr);
        let lines = self.stderr.lines().filter(|line| !line.starts_with("note: ") && !line.contains("WARN"));
        let errors: Vec<&str> = lines.collect();
        assert!(errors.iter().all(|line| line.starts_with("error: ")), "{}", self.stderr);
        errors
    }

    /// The message of a run that gave nothing but one error.
    #[track_caller]
    pub fn error(&self) -> &str {
        assert_eq!(self.stdout, "");
        match self.errors()[..] {
            [line] => line,
            _ => panic!("not one error: {}", self.stderr),
        }
    }

    #[track_caller]
    pub fn json(self) -> Vec<Value> {
        self.ok().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Desk {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), home: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
        name.to_owned()
    }

    pub fn run(&self, args: &[&str]) -> Outcome {
        self.run_with(args, b"")
    }

    pub fn run_with(&self, args: &[&str], stdin: &[u8]) -> Outcome {
        let mut child = self.start(args);
        // A program that does not want its input closes the pipe.
        let _ = child.stdin.take().unwrap().write_all(stdin);
        let output = child.wait_with_output().unwrap();
        Outcome {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// The program with pipes to and from it.
    pub fn start(&self, args: &[&str]) -> Child {
        Command::new(env!("CARGO_BIN_EXE_funasr-candle"))
            .args(args)
            .current_dir(self.folder.path())
            .env("FUNASR_CANDLE_HOME", self.home.path())
            .env_remove("RUST_LOG")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// `transcribe --offline` with the embedded models named, so that no note is due.
    pub fn transcribe(&self, args: &[&str]) -> Outcome {
        let models = ["transcribe", "--offline", "--model", "demo", "--punc-model", "demo-punc"];
        self.run(&[&models, args].concat())
    }

    /// A copy of a converted model.
    pub fn model(&self, name: &str) -> PathBuf {
        let (source, target) = (repository("models").join(name), self.path(name));
        fs::create_dir_all(&target).unwrap();
        for file in ["config.json", "model.safetensors", "tokens.json"] {
            // Voice detection has no tokens.
            if file != "tokens.json" || source.join(file).exists() {
                fs::copy(source.join(file), target.join(file)).unwrap();
            }
        }
        target
    }
}

pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

pub fn eval(name: &str) -> String {
    clip(name).display().to_string()
}

fn audio(name: &str) -> String {
    repository("tests/data/audio").join(name).display().to_string()
}

/// A mono 16-bit wav file.
pub fn wav(rate: u32, samples: &[i16]) -> Vec<u8> {
    let data: Vec<u8> = samples.iter().flat_map(|x| x.to_le_bytes()).collect();
    wav_of(1, rate, 16, &data)
}

fn wav_of(format: u16, rate: u32, bits: u16, data: &[u8]) -> Vec<u8> {
    let mut bytes = b"RIFF".to_vec();
    bytes.extend((36 + data.len() as u32).to_le_bytes());
    bytes.extend(b"WAVEfmt \x10\0\0\0");
    bytes.extend(format.to_le_bytes());
    bytes.extend(1u16.to_le_bytes());
    bytes.extend(rate.to_le_bytes());
    bytes.extend((rate * u32::from(bits) / 8).to_le_bytes());
    bytes.extend((bits / 8).to_le_bytes());
    bytes.extend(bits.to_le_bytes());
    bytes.extend(b"data");
    bytes.extend((data.len() as u32).to_le_bytes());
    bytes.extend(data);
    bytes
}

pub fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

// ------------------------------------------------------------------------------------------------------- transcribe

#[test]
fn transcribe_prints_text_and_says_which_models_it_took() {
    let desk = Desk::new();
    let outcome = desk.run(&["transcribe", "--offline", &eval("short_04")]);
    for model in ["`demo`", "`demo-punc`"] {
        assert!(outcome.stderr.lines().any(|l| l.starts_with("note: ") && l.contains(model)));
    }
    assert_eq!(outcome.ok(), "Hello,你好，我是赵磊。\n");
    let outcome = desk.transcribe(&[&eval("short_04")]);
    assert_eq!((&*outcome.stdout, &*outcome.stderr), ("Hello,你好，我是赵磊。\n", ""));
    assert_eq!(desk.transcribe(&["--no-vad", &eval("short_04")]).ok(), "Hello,你好，我是赵磊。\n");
    assert_eq!(desk.transcribe(&["--no-punc", &eval("short_04")]).ok(), "hello你好我是赵磊\n");
    assert_eq!(desk.transcribe(&["--no-vad", "--no-punc", &eval("short_04")]).ok(), "hello你好我是赵磊\n");
}

#[test]
fn transcribe_writes_subtitles() {
    let desk = Desk::new();
    let cases = [
        (
            "srt",
            "1\n00:00:00,510 --> 00:00:01,469\nHello,\n\n2\n00:00:01,469 --> 00:00:02,730\n你好，\n\n\
             3\n00:00:02,730 --> 00:00:03,770\n我是赵磊。\n\n",
        ),
        (
            "vtt",
            "WEBVTT\n\n00:00:00.510 --> 00:00:01.469\nHello,\n\n00:00:01.469 --> 00:00:02.730\n你好，\n\n\
             00:00:02.730 --> 00:00:03.770\n我是赵磊。\n\n",
        ),
        ("tsv", "start\tend\ttext\n510\t1469\tHello,\n1469\t2730\t你好，\n2730\t3770\t我是赵磊。\n"),
    ];
    for (format, expected) in cases {
        assert_eq!(desk.transcribe(&["--format", format, &eval("short_04")]).ok(), expected);
    }
}

#[test]
fn transcribe_json_has_the_promised_fields() {
    let desk = Desk::new();
    let relative = desk.write("a.flac", fs::read(clip("short_06")).unwrap());
    let report = desk.transcribe(&["--format", "json", &relative]).json().remove(0);
    let expected =
        ["device", "dtype", "duration_ms", "file", "model", "rtf", "segments", "sentences", "text"];
    assert_eq!(keys(&report), expected.into());
    assert_eq!(report["file"], relative);
    assert_eq!(
        (&report["model"], &report["device"], &report["dtype"]),
        (&"demo".into(), &"cpu".into(), &"f32".into())
    );
    assert_eq!(report["text"], REFERENCES["short_06"].text());
    assert!(report["rtf"].as_f64().unwrap() > 0.0);
    let [segment] = &report["segments"].as_array().unwrap()[..] else { panic!("{report}") };
    assert_eq!(keys(segment), ["end_ms", "start_ms", "text", "tokens"].into());
    assert_eq!(keys(&segment["tokens"][0]), ["confidence", "end_ms", "start_ms", "text"].into());
    assert_eq!(
        keys(&report["sentences"][0]),
        ["confidence", "end_ms", "punctuation", "start_ms", "text"].into()
    );
    assert_eq!(report["sentences"][0]["punctuation"], "。");
}

#[test]
fn transcribe_takes_files_directories_lists_and_stdin() {
    let desk = Desk::new();
    let [seven, four] = ["short_07", "short_04"].map(|name| fs::read(clip(name)).unwrap());
    desk.write("dir/b.flac", &seven);
    desk.write("dir/below/a.flac", &four);
    desk.write("dir/notes.txt", "no audio");
    desk.write("wav.scp", "utt1 dir/b.flac\nutt2\tdir/below/a.flac\n\n");
    let (x, y) = ("把风扇关掉。", "Hello,你好，我是赵磊。");
    let cases: [(&[&str], String); 3] = [
        (&["dir/b.flac", "dir/below/a.flac"], format!("b\t{x}\na\t{y}\n")),
        (&["dir"], format!("b\t{x}\na\t{y}\n")),
        (&["wav.scp"], format!("utt1\t{x}\nutt2\t{y}\n")),
    ];
    for (args, expected) in cases {
        assert_eq!(desk.transcribe(args).ok(), expected, "{args:?}");
    }
    let models = ["transcribe", "--offline", "--model", "demo", "--punc-model", "demo-punc", "-"];
    assert_eq!(desk.run_with(&models, &seven).ok(), format!("{x}\n"));
    let json = desk.run_with(&[&models[..], &["--format", "json"]].concat(), &seven).json();
    assert_eq!((&json[0]["file"], &json[0]["text"]), (&"-".into(), &x.into()));
}

#[test]
fn transcribe_writes_a_file_for_each_recording() {
    let desk = Desk::new();
    for (format, extension) in
        [("text", "txt"), ("json", "json"), ("srt", "srt"), ("vtt", "vtt"), ("tsv", "tsv")]
    {
        let folder = format!("out/{format}");
        let args = ["--format", format, "--output-dir", &folder, &eval("short_07"), &eval("short_09")];
        assert_eq!(desk.transcribe(&args).ok(), "");
        for name in ["short_07", "short_09"] {
            let text = fs::read_to_string(desk.path(&format!("{folder}/{name}.{extension}"))).unwrap();
            assert!(text.contains(REFERENCES[name].text()), "{text}");
        }
        assert_eq!(fs::read_dir(desk.path(&folder)).unwrap().count(), 2);
    }
    // A key of a list is no path.
    desk.write("wav.scp", format!("../../up {}\n", eval("short_07")));
    desk.transcribe(&["--output-dir", "deep/out", "wav.scp"]).ok();
    assert_eq!(fs::read_to_string(desk.path("deep/out/.._.._up.txt")).unwrap(), "把风扇关掉。\n");
}

// ---------------------------------------------------------------------------------------------------- other commands

#[test]
fn vad_prints_segments() {
    let desk = Desk::new();
    let file = eval("short_00_demo");
    assert_eq!(desk.run(&["vad", "--offline", &file]).ok(), "100\t5520\n");
    let both = desk.run(&["vad", "--offline", &file, &eval("short_07")]).ok();
    assert_eq!(both, format!("{file}\t100\t5520\n{}\t0\t2220\n", eval("short_07")));
    let lines = desk.run(&["vad", "--offline", "--format", "json", &eval("long_01"), &file]).json();
    for (line, name) in lines.iter().zip(["long_01", "short_00_demo"]) {
        assert_eq!(keys(line), ["file", "segments"].into());
        let expected = serde_json::to_value(&REFERENCES[name].segments).unwrap();
        assert_eq!((&line["file"], &line["segments"]), (&eval(name).into(), &expected));
    }
}

#[test]
fn vad_streams_as_funasr_does() {
    let desk = Desk::new();
    let file = eval("long_01");
    let reference = &REFERENCES["long_01"];
    let cases: [(&[&str], &Decisions); 2] =
        [(&[], &reference.stream_200ms), (&["--max-end-silence-ms", "800"], &reference.stream_200ms_800ms)];
    for (args, expected) in cases {
        let lines = desk.run(&[&["vad", "--offline", "--stream-ms", "200", &file], args].concat()).json();
        let decisions: Vec<Value> =
            lines.iter().map(|l| serde_json::json!([l["chunk"], l["segments"]])).collect();
        assert_eq!(Value::from(decisions), serde_json::to_value(expected).unwrap(), "{args:?}");
    }
}

#[test]
fn punctuate_takes_arguments_or_lines() {
    let desk = Desk::new();
    let command = ["punctuate", "--offline", "--model", "demo-punc"];
    let (first, second) = ("会议室在四楼请带上你的电脑", "hello你好我是赵磊");
    let expected = "会议室在四楼，请带上你的电脑。\nHello,你好，我是赵磊。\n";
    let outcome = desk.run(&[&command[..], &[first, second]].concat());
    assert_eq!((&*outcome.stdout, &*outcome.stderr), (expected, ""));
    let outcome = desk.run_with(&command, format!("{first}\n{second}\n\n").as_bytes());
    assert_eq!(outcome.ok(), format!("{expected}\n"), "an empty line stays one");
    let outcome = desk.run_with(&command, b"\xff\xfe\n");
    assert!(outcome.error().contains("stdin"), "{}", outcome.stderr);
}

#[test]
fn punctuate_goes_on_from_line_to_line() {
    let desk = Desk::new();
    let command = ["punctuate", "--offline", "--stream", "--model", "demo-punc-realtime"];
    let lines = ["会议室在四", "", "楼请带上", "你的电脑hello", "你好"];
    let expected = "会议室在四\n\n楼，请带上\n你的电脑。hello，\n你好，\n";
    assert_eq!(desk.run(&[&command[..], &lines].concat()).ok(), expected);
    assert_eq!(desk.run_with(&command, lines.join("\n").as_bytes()).ok(), expected);
    assert_eq!(desk.run_with(&command, b"").ok(), "");
    assert_eq!(desk.run_with(&command, b"\n\n").ok(), "\n\n");
    // Without a model named it is the embedded one, with a note.
    let outcome = desk.run(&["punctuate", "--offline", "--stream", lines[0], lines[2]]);
    let note: Vec<&str> = outcome.stderr.lines().collect();
    assert!(note.len() == 1 && note[0].contains("`demo-punc-realtime`"), "{note:?}");
    // What came before a line that cannot be read is complete.
    let outcome = desk.run_with(&command, b"\xe4\xbd\xa0\xe5\xa5\xbd\n\xff\n");
    assert_eq!(outcome.stdout, "你好，\n");
    assert!(outcome.errors()[0].contains("stdin"), "{}", outcome.stderr);
    let outcome = desk.run(&["punctuate", "--offline", "--stream", "--model", "demo-punc", "你好"]);
    assert!(outcome.error().contains("CTTransformerStreaming"), "{}", outcome.stderr);
}

#[test]
fn models_are_listed_and_described() {
    let desk = Desk::new();
    let models = |args: &[&str]| desk.run(&[&["models", "--offline"], args].concat());
    let list = models(&["list"]).ok();
    for (name, state) in [
        ("demo ", "embedded"),
        ("demo-online ", "embedded"),
        ("demo-punc ", "embedded"),
        ("demo-punc-realtime ", "embedded"),
        ("demo-sensevoice ", "embedded"),
        ("fsmn-vad ", "embedded"),
        ("paraformer-large ", "MB"),
    ] {
        let line = list.lines().find(|line| line.starts_with(name)).unwrap();
        assert!(line.contains(state), "{line}");
    }
    assert!(!list.contains("not yet"), "all classes of the registry run: {list}");
    assert_eq!(desk.run(&["models", "list", "--offline"]).ok(), list, "flags may stand behind the action");
    let info = models(&["info", "paraformer-large"]).ok();
    for part in ["Paraformer", "licence", "huggingface", "modelscope"] {
        assert!(info.contains(part), "{info}");
    }
    assert_eq!(models(&["path", "demo"]).ok(), "demo is part of this program\n");
    let model = desk.model("demo-punc");
    assert_eq!(models(&["path", "demo-punc"]).ok(), "demo-punc\n", "a directory comes before a name");
    assert_eq!(models(&["path", &model.display().to_string()]).ok(), format!("{}\n", model.display()));
    let failures: [(&[&str], &str); 6] = [
        (&["path", "paraformer-large"], "models pull paraformer-large"),
        (&["verify", "paraformer-large"], "models pull paraformer-large"),
        (&["verify", "demo"], "part of the program"),
        (&["verify", "parafromer"], "models list"),
        (&["info", "parafromer"], "models list"),
        (&["pull", "paraformer-large"], "offline"),
    ];
    for (args, hint) in failures {
        let outcome = models(args);
        let error = outcome.error();
        assert!(error.contains(hint) && error.contains(args[1]), "{args:?}: {error}");
    }
}

#[test]
fn inspect_writes_the_stages_of_each_class() {
    let desk = Desk::new();
    let file = eval("short_07");
    // 35 819 samples: 222 frames of 25 ms every 10 ms, 37 LFR rows, one more alpha for the tail.
    type Stages = &'static [(&'static str, &'static [usize])];
    let cases: [(&[&str], Stages); 6] = [
        (
            &["--model", "demo", "--audio", &file],
            &[
                ("acoustic_embeds", &[1, 6, 128]),
                ("alphas", &[1, 38]),
                ("decoder_logits", &[1, 6, 666]),
                ("encoder_out", &[1, 37, 128]),
                ("fbank", &[1, 222, 80]),
                ("ids", &[1, 5]),
                ("lfr", &[1, 37, 560]),
                ("peaks", &[1, 38]),
                ("speech", &[1, 37, 560]),
                ("token_num", &[1]),
            ],
        ),
        (
            // Strides of 10 rows and 7; a chunk also has the 5 rows before.
            &["--model", "demo-online", "--audio", &file],
            &[
                ("acoustic_embeds", &[1, 6, 128]),
                ("alphas", &[1, 57]),
                ("chunk_frames", &[1, 4]),
                ("chunk_tokens", &[1, 4]),
                ("decoder_logits", &[1, 6, 666]),
                ("encoder_out", &[1, 57, 128]),
                ("fbank", &[1, 222, 80]),
                ("ids", &[1, 5]),
                ("lfr", &[1, 37, 560]),
                ("speech", &[1, 37, 560]),
            ],
        ),
        (
            &["--model", "demo-sensevoice", "--language", "zh", "--itn", "--audio", &file],
            &[
                ("ctc_logits", &[1, 41, 792]),
                ("encoder_out", &[1, 41, 128]),
                ("fbank", &[1, 222, 80]),
                ("ids", &[1, 10]),
                ("lfr", &[1, 37, 560]),
                ("speech", &[1, 37, 560]),
            ],
        ),
        (
            &["--model", "fsmn-vad", "--audio", &file],
            &[("fbank", &[1, 222, 80]), ("lfr", &[1, 222, 400]), ("vad_scores", &[1, 222, 248])],
        ),
        (&["--model", "demo-punc", "--text", "你好我是"], &[("ids", &[1, 4]), ("punc_logits", &[1, 4, 6])]),
        (
            &["--model", "demo-punc-realtime", "--text", "你好"],
            &[("ids", &[1, 2]), ("punc_logits", &[1, 2, 6])],
        ),
    ];
    for (args, expected) in cases {
        let stdout = desk.run(&[&["inspect", "--offline", "--out", "out.safetensors"], args].concat()).ok();
        assert_eq!(stdout.lines().count(), expected.len());
        let tensors = candle_core::safetensors::load(desk.path("out.safetensors"), &Device::Cpu).unwrap();
        assert_eq!(tensors.len(), expected.len(), "{args:?}");
        for (name, shape) in expected {
            assert_eq!(tensors[*name].dims(), *shape, "{args:?}: {name}");
        }
    }
}

#[test]
fn inspect_runs_a_stream_chunk_by_chunk() {
    let desk = Desk::new();
    let inspect = |args: &[&str]| {
        let command = ["inspect", "--offline", "--model", "demo-online", "--out", "out.safetensors"];
        desk.run(&[&command, args].concat())
    };
    let load = || candle_core::safetensors::load(desk.path("out.safetensors"), &Device::Cpu).unwrap();
    let counts = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<u32>().unwrap();

    inspect(&["--audio", &eval("short_07")]).ok();
    let streamed = load();
    assert_eq!(counts(&streamed["chunk_frames"]), [15, 15, 15, 12]);
    assert_eq!(counts(&streamed["chunk_tokens"]).iter().sum::<u32>(), 6);

    // The same rows give the same; two utterances are refused.
    let rows = &streamed["speech"];
    let write = |rows: Tensor, lengths: &[i64]| {
        let lengths = Tensor::new(lengths, &Device::Cpu).unwrap();
        let tensors = HashMap::from([("speech", rows), ("speech_lengths", lengths)]);
        candle_core::safetensors::save(&tensors, desk.path("f.safetensors")).unwrap();
    };
    write(rows.clone(), &[37]);
    inspect(&["--features", "f.safetensors"]).ok();
    let given = load();
    for name in ["encoder_out", "alphas", "acoustic_embeds", "decoder_logits"] {
        let [a, b] =
            [&given[name], &streamed[name]].map(|t| t.flatten_all().unwrap().to_vec1::<f32>().unwrap());
        assert_eq!(a, b, "{name}");
    }
    assert_eq!(counts(&given["ids"]), counts(&streamed["ids"]));
    write(Tensor::cat(&[rows, rows], 0).unwrap(), &[37, 37]);
    assert!(inspect(&["--features", "f.safetensors"]).error().contains("one stream"));

    inspect(&["--audio", &eval("short_07"), "--chunk-size", "5,20,5"]).ok();
    assert_eq!(counts(&load()["chunk_frames"]), [30, 27]);

    // Less than a row: the only chunk sees the silence before the start.
    let blip = desk.write("blip.wav", wav(16_000, &[0; 500]));
    inspect(&["--audio", &blip]).ok();
    assert_eq!(counts(&load()["chunk_frames"]), [5]);
}

#[test]
fn inspect_asks_only_models_that_can_be_asked() {
    let desk = Desk::new();
    let cases = [
        ("demo", "--itn", "does not normalise"),
        ("demo-online", "--hotwords", "offline recognition models"),
        ("fsmn-vad", "--itn", "offline recognition models"),
    ];
    for (model, option, message) in cases {
        let file = eval("short_07");
        let mut args = vec!["inspect", "--offline", "--model", model, "--audio", &file, "--out", "o", option];
        args.extend((option == "--hotwords").then_some("你好"));
        let outcome = desk.run(&args);
        let error = outcome.error();
        assert!(error.contains(message) && error.contains(model), "{error}");
    }
}

#[test]
fn inspect_takes_features() {
    let desk = Desk::new();
    let inspect = |args: &[&str]| desk.run(&[&["inspect", "--offline", "--model", "demo"], args].concat());
    inspect(&["--audio", &eval("short_07"), "--out", "a.safetensors"]).ok();
    let load = |name: &str| candle_core::safetensors::load(desk.path(name), &Device::Cpu).unwrap();
    let speech = load("a.safetensors")["speech"].clone();
    let padded = Tensor::cat(&[&speech, &(&speech * 2.0).unwrap()], 1).unwrap();
    let batch = Tensor::cat(&[&padded, &padded], 0).unwrap();
    let lengths = Tensor::new(&[37i64, 74], &Device::Cpu).unwrap();
    let features = [("speech", batch), ("speech_lengths", lengths)];
    candle_core::safetensors::save(&features.clone().into(), desk.path("f.safetensors")).unwrap();
    inspect(&["--features", "f.safetensors", "--out", "b.safetensors"]).ok();
    let ids = |name: &str| -> Vec<Vec<u32>> { load(name)["ids"].to_vec2().unwrap() };
    assert_eq!(ids("b.safetensors")[0][..5], ids("a.safetensors")[0]);

    let bench =
        desk.run(&["bench", "--offline", "--model", "demo", "--features", "f.safetensors", "--runs", "1"]);
    let line = bench.json().remove(0);
    assert_eq!((&line["batch"], &line["audio_seconds"]), (&2.into(), &(111.0 * 0.06).into()));

    let short = Tensor::new(&[37i64], &Device::Cpu).unwrap();
    let broken = [features[0].clone(), ("speech_lengths", short)];
    candle_core::safetensors::save(&broken.into(), desk.path("g.safetensors")).unwrap();
    let outcome = inspect(&["--features", "g.safetensors", "--out", "b.safetensors"]);
    let error = outcome.error();
    assert!(
        error.contains("g.safetensors") && error.contains("[37]") && error.contains("[2, 74, 560]"),
        "{error}"
    );
}

#[test]
fn bench_prints_one_json_line() {
    let desk = Desk::new();
    let args = ["--model", "demo", "--seconds", "1.5", "--batch", "2", "--threads", "1", "--runs", "2"];
    let promised = [
        "model",
        "device",
        "dtype",
        "threads",
        "batch",
        "audio_seconds",
        "median_seconds",
        "rtf",
        "tokens",
        "peak_rss_bytes",
    ];
    let bench = |args: &[&str]| {
        let mut lines = desk.run(&[&["bench", "--offline"], args].concat()).json();
        let line = lines.remove(0);
        assert!(lines.is_empty());
        assert!(BTreeSet::from(promised).is_subset(&keys(&line)), "{line}");
        line
    };
    let line = bench(&args);
    assert_eq!(
        (&line["batch"], &line["threads"], &line["audio_seconds"]),
        (&2.into(), &1.into(), &3.0.into())
    );
    let [median, rtf] = ["median_seconds", "rtf"].map(|key| line[key].as_f64().unwrap());
    assert!((rtf - median / 3.0).abs() < 1e-9 && median > 0.0);

    for model in ["demo-online", "demo-sensevoice", "fsmn-vad", "demo-punc", "demo-punc-realtime"] {
        let line = bench(&["--model", model, "--seconds", "2", "--batch", "3", "--runs", "1"]);
        assert_eq!(
            (&line["model"], &line["batch"], &line["audio_seconds"]),
            (&model.into(), &3.into(), &6.0.into())
        );
        let [median, peak] = ["median_seconds", "peak_rss_bytes"].map(|key| line[key].as_f64().unwrap());
        assert!(median > 0.0 && (peak == 0.0 || peak > 1e6), "{line}");
        // Noise is no speech; a text of two seconds has 15 characters, and an end.
        let marks = if model.contains("punc") { 3..=45 } else { 0..=9 };
        assert!(marks.contains(&line["tokens"].as_u64().unwrap()), "{line}");
    }
}

#[test]
fn bench_takes_turns_recordings_and_references() {
    let desk = Desk::new();
    let bench = |args: &[&str], stdin: &[u8]| {
        desk.run_with(&[&["bench", "--offline", "--threads", "1", "--model"], args].concat(), stdin)
    };
    // A line for each line, then the summary; a clip that is all speech is one segment, noise is none.
    let clip = eval("short_07");
    let lines = bench(&["fsmn-vad", "--seconds", "2", "--audio", &clip, "--turns"], b"\n\n").json();
    assert_eq!(lines.len(), 3);
    assert!(lines.iter().all(|line| line["tokens"] == 1), "{lines:?}");
    let [first, second, least] = [&lines[0]["seconds"], &lines[1]["seconds"], &lines[2]["min_seconds"]];
    assert_eq!(first.as_f64().unwrap().min(second.as_f64().unwrap()), least.as_f64().unwrap());

    let tokens = |option: &[&str]| {
        let args = ["demo", "--audio", &clip, "--seconds", "2", "--runs", "1"];
        bench(&[&args[..], option].concat(), b"").json().remove(0)["tokens"].clone()
    };
    assert_eq!(tokens(&["--references"]), tokens(&[]));

    let refused: [(&[&str], &str); 3] = [
        (&["--turns"], "--turns"),
        (&["--references", "--dtype", "int8"], "--references"),
        (&["--audio", &clip, "--seconds", "60"], "--seconds"),
    ];
    for (option, named) in refused {
        let outcome = bench(&[&["demo"], option].concat(), b"");
        assert!(outcome.error().contains(named), "{option:?}: {}", outcome.stderr);
    }
}

// ----------------------------------------------------------------------------------------------- FunASR directories

/// A FunASR directory `funasr` of the model `demo-punc`.
fn funasr_directory(desk: &Desk) -> PathBuf {
    let model = repository("models/demo-punc");
    let mut config: Value = serde_json::from_slice(&fs::read(model.join("config.json")).unwrap()).unwrap();
    for key in ["format_version", "files", "origin"] {
        config.as_object_mut().unwrap().remove(key);
    }
    // JSON is YAML.
    desk.write("funasr/config.yaml", config.to_string());
    desk.write("funasr/tokens.json", fs::read(model.join("tokens.json")).unwrap());
    let tensors = candle_core::safetensors::load(model.join("model.safetensors"), &Device::Cpu).unwrap();
    desk.write("funasr/model.pt", checkpoint(&tensors));
    desk.path("funasr")
}

/// What `torch.save` writes for a state dict: a pickle that describes tensors, and here one storage with all values.
fn checkpoint(tensors: &HashMap<String, Tensor>) -> Vec<u8> {
    let total: usize = tensors.values().map(Tensor::elem_count).sum();
    let number = |n: usize| [b"J".as_slice(), &(n as i32).to_le_bytes()].concat();
    let tuple = |items: &[usize]| {
        [b"(".to_vec(), items.iter().flat_map(|&n| number(n)).collect(), b"t".to_vec()].concat()
    };
    let (mut pickle, mut storage) = (b"\x80\x02}".to_vec(), Vec::new());
    for (name, tensor) in tensors {
        pickle.extend([&b"X"[..], &(name.len() as u32).to_le_bytes(), name.as_bytes()].concat());
        pickle
            .extend(b"ctorch._utils\n_rebuild_tensor_v2\n((U\x07storagectorch\nFloatStorage\nU\x010U\x03cpu");
        pickle.extend([number(total), b"tQ".to_vec(), number(storage.len() / 4)].concat());
        pickle.extend([tuple(tensor.dims()), tuple(tensor.stride()), b"\x89}tRs".to_vec()].concat());
        let values: Vec<f32> = tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        storage.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    }
    pickle.extend(b".");
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    for (name, content) in [("x/data.pkl", pickle), ("x/data/0", storage)] {
        archive.start_file(name, options).unwrap();
        archive.write_all(&content).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

const SPOKEN: &str = "会议室在四楼请带上你的电脑";
const WRITTEN: &str = "会议室在四楼，请带上你的电脑。\n";

#[test]
fn convert_writes_a_model_directory() {
    let desk = Desk::new();
    funasr_directory(&desk);
    let line = desk.run(&["convert", "funasr", "out", "--origin", "me", "--licence", "MIT"]).ok();
    assert!(line.starts_with("out: CTTransformer with ") && line.lines().count() == 1, "{line}");
    for dtype in ["f16", "bf16", "int8"] {
        desk.run(&["convert", "funasr", dtype, "--dtype", dtype]).ok();
        let size = |name: &str| fs::metadata(desk.path(name).join("model.safetensors")).unwrap().len();
        assert!(size(dtype) < size("out") * 6 / 10, "{dtype}");
    }
    for model in ["out", "f16", "int8"] {
        assert_eq!(desk.run(&["punctuate", "--offline", "--model", model, SPOKEN]).ok(), WRITTEN, "{model}");
    }
}

#[test]
fn convert_stores_8_bits_that_are_computed_with() {
    let desk = Desk::new();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/models/zh-8k");
    for dtype in ["f32", "int8"] {
        desk.run(&["convert", &source.display().to_string(), dtype, "--dtype", dtype]).ok();
    }
    let file = |name: &str| desk.path(name).join("model.safetensors");
    assert!(fs::metadata(file("int8")).unwrap().len() < fs::metadata(file("f32")).unwrap().len() / 2);
    for (model, asked, dtype) in [("int8", "f32", "int8"), ("f32", "int8", "int8"), ("f32", "f32", "f32")] {
        let line = desk.run(&["bench", "--offline", "--model", model, "--dtype", asked, "--runs", "1"]).ok();
        let line: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line["dtype"], dtype, "{model}, --dtype {asked}");
    }
    let names: Vec<_> = fs::read_dir(desk.path("int8")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 3, "nothing else is left behind: {names:?}");
}

#[test]
fn a_funasr_directory_is_converted_on_first_use_alone() {
    let desk = Desk::new();
    funasr_directory(&desk);
    let punctuate = || desk.run(&["punctuate", "--offline", "--model", "funasr", SPOKEN]).ok();
    let converted = || -> Vec<(PathBuf, SystemTime)> {
        let models = fs::read_dir(desk.home.path().join("converted")).unwrap();
        let config = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().path().join("config.json");
        models
            .map(config)
            .map(|path| (path.clone(), fs::metadata(path).unwrap().modified().unwrap()))
            .collect()
    };
    assert_eq!(punctuate(), WRITTEN);
    let first = converted();
    assert_eq!(first.len(), 1);
    assert_eq!((punctuate(), converted()), (WRITTEN.to_owned(), first));
    assert!(!desk.path("funasr/config.json").exists(), "the source is left as it was");
}

#[test]
fn broken_funasr_directories_are_errors_that_name_the_file() {
    let desk = Desk::new();
    let source = funasr_directory(&desk);
    let whole = fs::read(source.join("model.pt")).unwrap();
    let cases: [(&str, &[u8], &[&str]); 5] = [
        ("model.pt", &whole[..whole.len() / 2], &["model.pt"]),
        ("model.pt", b"", &["model.pt"]),
        ("config.yaml", b"model: Whisper\n", &["config.yaml", "Whisper"]),
        ("config.yaml", b"no model at all\n", &["config.yaml"]),
        ("tokens.json", b"[\"a\", \"b\"]", &["tokens.json"]),
    ];
    for (file, content, parts) in cases {
        let intact = fs::read(source.join(file)).unwrap();
        fs::write(source.join(file), content).unwrap();
        let outcome = desk.run(&["punctuate", "--offline", "--model", "funasr", SPOKEN]);
        let error = outcome.error();
        assert!(parts.iter().all(|part| error.contains(part)), "{file}: {error}");
        fs::write(source.join(file), intact).unwrap();
    }
}

// --------------------------------------------------------------------------------------------------------- bad input

#[test]
fn usage_errors_exit_with_2() {
    let desk = Desk::new();
    let cases: [&[&str]; 13] = [
        &[],
        &["selftest", "--device", "tpu"],
        &["selftest", "--recording", "f.safetensors"],
        &["transcribe"],
        &["fly"],
        &["transcribe", "a.wav", "--no-such-flag"],
        &["transcribe", "a.wav", "--format", "docx"],
        &["transcribe", "a.wav", "--device", "tpu"],
        &["transcribe", "a.wav", "--batch-seconds", "0"],
        &["vad", "a.wav", "--stream-ms", "0"],
        &["inspect", "--model", "demo", "--out", "o.safetensors"],
        &["models"],
        &["bench", "--batch", "0"],
    ];
    for args in cases {
        let outcome = desk.run(args);
        assert_eq!((outcome.code, &*outcome.stdout), (2, ""), "{args:?}");
        assert!(
            outcome.stderr.contains("Usage") || outcome.stderr.contains("--help"),
            "{args:?}: {}",
            outcome.stderr
        );
    }
    let commands =
        ["transcribe", "stream", "vad", "punctuate", "convert", "models", "inspect", "selftest", "bench"];
    for command in commands {
        assert!(desk.run(&[command, "--help"]).ok().contains("Usage"));
    }
    assert!(desk.run(&["--version"]).ok().starts_with("funasr-candle "));
}

#[test]
fn bad_recordings_are_named_and_the_others_transcribed() {
    let desk = Desk::new();
    let floats: Vec<u8> = [0.0, 0.5, f32::NAN, 0.5].iter().flat_map(|x| x.to_le_bytes()).collect();
    let mp3 = fs::read(audio("clip.mp3")).unwrap();
    let film = audio("silent_film.mp4");
    desk.write("list.scp", "key missing_in_list.wav\nonly_a_key\n");
    let bad = [
        ("missing.wav".to_owned(), "No such file"),
        (desk.write("empty.wav", b""), "is empty"),
        (desk.write("text.wav", "This is no recording, only its name says so.\n"), "starts with text"),
        (desk.write("cut.mp3", &mp3[..60]), "cannot be decoded"),
        (desk.write("nan.wav", wav_of(3, 16_000, 32, &floats)), "sample 2 is not a finite number"),
        (desk.write("rate.wav", wav(7, &[0; 100])), "sample rate of 7 Hz"),
        (film, "no audio track"),
        (desk.write("only_header.wav", &wav(16_000, &[])[..30]), "cut off"),
    ];
    let mut args: Vec<&str> = vec!["list.scp"];
    args.extend(bad.iter().map(|(file, _)| file.as_str()));
    let good = [eval("short_07"), eval("short_09")];
    args.insert(0, &good[0]);
    args.push(&good[1]);
    for command in ["transcribe", "vad"] {
        let outcome = desk.run(&[&[command, "--offline"], &args[..]].concat());
        assert_eq!(outcome.stdout.lines().count(), 2, "{}", outcome.stdout);
        assert!(outcome.stdout.contains("short_07") && outcome.stdout.contains("short_09"));
        let errors = outcome.errors();
        assert_eq!(errors.len(), bad.len() + 3, "{}", outcome.stderr);
        assert!(
            errors[0].contains("missing_in_list.wav") && errors[1].contains("list.scp:2"),
            "{}",
            outcome.stderr
        );
        for ((file, cause), error) in bad.iter().zip(&errors[2..]) {
            assert!(error.starts_with(&format!("error: {file}: ")) && error.contains(cause), "{error}");
        }
        let summary = errors[errors.len() - 1];
        assert!(
            summary.contains(&format!("{} of {} inputs failed", bad.len() + 2, bad.len() + 4)),
            "{summary}"
        );
        assert!(bad.iter().all(|(file, _)| summary.contains(file.as_str())), "{summary}");
    }
}

#[test]
fn silence_is_no_error_and_no_audio_is_one() {
    let desk = Desk::new();
    let silence = desk.write("silence.wav", wav(16_000, &[0; 48_000]));
    let nothing = [
        (desk.write("none.wav", wav(16_000, &[])), "holds 0 ms of audio"),
        (desk.write("10_ms.wav", wav(16_000, &[500; 160])), "holds 10 ms of audio"),
    ];
    for flags in [&[][..], &["--no-vad"], &["--no-punc"]] {
        assert_eq!(desk.transcribe(&[flags, &[silence.as_str()]].concat()).ok(), "\n", "{flags:?}");
        for (file, cause) in &nothing {
            let outcome = desk.transcribe(&[flags, &[file.as_str()]].concat());
            assert!(outcome.error().starts_with(&format!("error: {file}: {cause}")), "{}", outcome.stderr);
        }
    }
    let json = desk.transcribe(&["--format", "json", "silence.wav"]).json().remove(0);
    assert_eq!(
        (&json["duration_ms"], &json["text"], &json["segments"]),
        (&3000.into(), &"".into(), &Value::Array(vec![]))
    );
    assert_eq!(desk.run(&["vad", "--offline", "silence.wav", "none.wav"]).ok(), "");
}

#[test]
fn cut_off_recordings_give_what_they_hold_and_an_error() {
    let desk = Desk::new();
    let mp3 = fs::read(audio("clip.mp3")).unwrap();
    let flac = fs::read(eval("short_09")).unwrap();
    let mut claims_4_gb = wav(16_000, &[0; 1600]);
    claims_4_gb[40..44].copy_from_slice(&(u32::MAX - 1).to_le_bytes());
    let files = [
        (desk.write("half.mp3", &mp3[..mp3.len() / 2]), "is cut off after"),
        (desk.write("half.flac", &flac[..flac.len() / 2]), "cut off after"),
        (desk.write("4_gb.wav", claims_4_gb), "of the bytes that the header promises are missing"),
    ];
    for command in ["transcribe", "vad"] {
        for (file, cause) in &files {
            let outcome = desk.run(&[command, "--offline", "--format", "json", file.as_str()]);
            let [error] = outcome.errors()[..] else { panic!("not one error: {}", outcome.stderr) };
            assert!(error.starts_with(&format!("error: {file}: ")) && error.contains(cause), "{error}");
            assert_eq!(outcome.stdout.lines().count(), 1, "{file}: what it holds is printed all the same");
        }
    }
}

/// Rewrites the tensors of a model directory.
fn edit_tensors(model: &Path, edit: impl FnOnce(&mut HashMap<String, Tensor>)) {
    let file = model.join("model.safetensors");
    let mut tensors = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
    edit(&mut tensors);
    candle_core::safetensors::save(&tensors, file).unwrap();
}

fn edit_config(model: &Path, edit: impl FnOnce(&mut Value)) {
    let file = model.join("config.json");
    let mut config = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    edit(&mut config);
    fs::write(file, config.to_string()).unwrap();
}

#[test]
fn broken_model_directories_are_errors_that_name_the_file() {
    type Break = fn(&Path);
    const NORM: &str = "encoder.after_norm.weight";
    let cases: [(&str, Break, &[&str]); 10] = [
        ("no config", |m| fs::remove_file(m.join("config.json")).unwrap(), &["demo"]),
        ("no weights", |m| fs::remove_file(m.join("model.safetensors")).unwrap(), &["model.safetensors"]),
        ("not json", |m| fs::write(m.join("config.json"), "{").unwrap(), &["config.json"]),
        (
            "unknown class",
            |m| edit_config(m, |c| c["model"] = "Whisper".into()),
            &["config.json", "Whisper", "Paraformer"],
        ),
        ("unknown key", |m| edit_config(m, |c| c["lora"] = 8.into()), &["config.json", "lora"]),
        (
            "missing tensor",
            |m| edit_tensors(m, |t| drop(t.remove(NORM))),
            &["model.safetensors", NORM, "missing"],
        ),
        (
            "extra tensor",
            |m| edit_tensors(m, |t| drop(t.insert("ctc.bias".into(), t[NORM].clone()))),
            &["model.safetensors", "ctc.bias"],
        ),
        (
            "misshapen tensor",
            |m| {
                let wide = Tensor::zeros(129, DType::F32, &Device::Cpu).unwrap();
                edit_tensors(m, |t| drop(t.insert(NORM.into(), wide)));
            },
            &["model.safetensors", NORM, "[129]", "[128]"],
        ),
        (
            "truncated weights",
            |m| {
                let whole = fs::read(m.join("model.safetensors")).unwrap();
                fs::write(m.join("model.safetensors"), &whole[..whole.len() / 2]).unwrap();
            },
            &["model.safetensors"],
        ),
        (
            "short token list",
            |m| fs::write(m.join("tokens.json"), r#"["<blank>", "<s>", "</s>", "<unk>"]"#).unwrap(),
            &["tokens.json", "4 tokens", "666"],
        ),
    ];
    for (what, damage, parts) in cases {
        let desk = Desk::new();
        let model = desk.model("demo");
        damage(&model);
        let model = model.display().to_string();
        let outcome = desk.run(&[
            "transcribe",
            "--offline",
            "--punc-model",
            "demo-punc",
            "--model",
            &model,
            &eval("short_07"),
        ]);
        let error = outcome.error();
        for part in parts {
            assert!(error.contains(part), "{what}: no `{part}` in: {error}");
        }
    }
}

#[test]
fn a_model_of_another_class_is_refused() {
    let desk = Desk::new();
    let cases: [(&[&str], [&str; 2]); 4] = [
        (&["transcribe", "--model", "fsmn-vad"], ["fsmn-vad/config.json", "SenseVoiceSmall is expected"]),
        (
            &["transcribe", "--model", "demo", "--vad-model", "demo"],
            ["demo/", "a FsmnVADStreaming is expected"],
        ),
        (
            &["transcribe", "--model", "demo", "--punc-model", "demo"],
            ["demo/", "a CTTransformer is expected"],
        ),
        (&["vad", "--model", "demo-punc"], ["is a CTTransformer", "a FsmnVADStreaming is expected"]),
    ];
    for (args, parts) in cases {
        let outcome = desk.run(&[args, &["--offline", &eval("short_07")]].concat());
        let error = outcome.error();
        assert!(parts.iter().all(|part| error.contains(part)), "{args:?}: {error}");
    }
}
