//! `inspect --plot`: the program's pictures, looked at as pixels.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use candle_core::{Device, Tensor};
use funasr_candle::audio::read_all;
use tiny_skia::Pixmap;

const DEMO: &str = "models/demo/short_00_demo.wav";
/// Left and right of the time axis.
const MARGINS: [u32; 2] = [60, 30];
const LEAST_WIDTH: u32 = 1600;

/// Runs `inspect` in a home of its own; the picture is `plot.png` and the tensors `out.safetensors` in `folder`.
fn inspect(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_funasr-candle"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("FUNASR_CANDLE_HOME", folder.join("home"))
        .args(["inspect", "--offline", "--plot"])
        .arg(folder.join("plot.png"))
        .arg("--out")
        .arg(folder.join("out.safetensors"))
        .args(args)
        .output()
        .unwrap()
}

/// The picture of a run that must succeed.
fn picture(folder: &Path, args: &[&str]) -> Pixmap {
    let output = inspect(folder, args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Pixmap::load_png(folder.join("plot.png")).unwrap()
}

fn repository(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(file)
}

fn seconds(file: &str) -> f64 {
    read_all(&repository(file), 16_000, None).unwrap().len() as f64 / 16_000.0
}

/// Share of dark pixels between two moments and two rows.
fn dark(picture: &Pixmap, total: f64, moments: Range<f64>, rows: Range<u32>) -> f64 {
    let scale = f64::from(picture.width() - MARGINS[0] - MARGINS[1]) / total;
    let x = |seconds: f64| MARGINS[0] + (seconds * scale) as u32;
    let pixels = rows.flat_map(|y| (x(moments.start)..x(moments.end)).map(move |x| (x, y)));
    let shades: Vec<bool> = pixels.map(|(x, y)| picture.pixel(x, y).unwrap().red() < 0x60).collect();
    shades.iter().filter(|&&dark| dark).count() as f64 / shades.len() as f64
}

#[test]
fn speech_is_darker_than_silence_and_shaded() {
    let folder = tempfile::tempdir().unwrap();
    let plot = picture(folder.path(), &["--model", "demo", "--audio", DEMO]);
    assert_eq!(plot.width(), LEAST_WIDTH);
    let total = seconds(DEMO);
    let waveform = 70..240;
    let (silence, speech) =
        (dark(&plot, total, 0.12..0.3, waveform.clone()), dark(&plot, total, 0.45..0.55, waveform));
    assert!(speech > 0.3, "{speech}");
    assert!(silence < 0.05, "{silence}");
    let at = |x| plot.pixel(x, 100).unwrap();
    let greener = |x: u32| at(x).green() > at(x).red();
    assert!(!greener(MARGINS[0] + 10), "before the first segment");
    assert!(greener(MARGINS[0] + 50), "in the first segment");
}

#[test]
fn alphas_and_words_lie_below_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let plot = picture(folder.path(), &["--model", "demo", "--audio", DEMO]);
    let saved = candle_core::safetensors::load(folder.path().join("out.safetensors"), &Device::Cpu).unwrap();
    let peaks = saved["peaks"].flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let fired = peaks.iter().filter(|&&peak| peak >= 1.0).count();
    // Each firing is one run of red pixels below the triangles that mark it.
    let red = |x: u32| {
        let pixel = plot.pixel(x, 300).unwrap();
        pixel.red() > 0xa0 && pixel.blue() < 0xc0 && pixel.red() - pixel.blue() > 0x20
    };
    let runs = (1..plot.width()).filter(|&x| red(x) && !red(x - 1)).count();
    assert_eq!(runs, fired);
    let words: f64 = dark(&plot, seconds(DEMO), 0.6..5.4, 508..518);
    assert!(words > 0.3, "the bars of the words: {words}");
}

#[test]
fn long_recordings_are_wider() {
    let folder = tempfile::tempdir().unwrap();
    let file = "tests/data/eval/long_01.flac";
    let plot = picture(folder.path(), &["--model", "fsmn-vad", "--audio", file]);
    let expected = seconds(file) * 110.0 + 90.0;
    assert!((f64::from(plot.width()) - expected).abs() < 12.0, "{} and {expected}", plot.width());
}

#[test]
fn features_are_drawn_without_waveform_one_utterance_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let whole = picture(folder.path(), &["--model", "demo", "--audio", DEMO]);
    let saved = candle_core::safetensors::load(folder.path().join("out.safetensors"), &Device::Cpu).unwrap();
    let file = folder.path().join("features.safetensors");
    let save = |copies: usize| {
        let speech = Tensor::cat(&vec![&saved["speech"]; copies], 0).unwrap();
        let frames = u32::try_from(speech.dim(1).unwrap()).unwrap();
        let lengths = Tensor::new(vec![frames; copies], &Device::Cpu).unwrap();
        let tensors = HashMap::from([("speech", speech), ("speech_lengths", lengths)]);
        candle_core::safetensors::save(&tensors, &file).unwrap();
    };
    let args = ["--model", "demo", "--features", file.to_str().unwrap()];
    save(1);
    let plot = picture(folder.path(), &args);
    assert_eq!(plot.width(), LEAST_WIDTH);
    assert!(plot.height() + 180 < whole.height(), "{} and {}", plot.height(), whole.height());
    save(2);
    refuses(folder.path(), &args, "--plot draws one utterance");
}

#[test]
fn what_cannot_be_drawn_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    refuses(
        folder.path(),
        &["--model", "demo-punc", "--text", "你好"],
        "--plot draws scores over time; this model reads text",
    );
}

/// The run must fail with one line that says `why`, and write nothing.
fn refuses(folder: &Path, args: &[&str], why: &str) {
    let out = folder.join("out.safetensors");
    let before = std::fs::metadata(&out).and_then(|file| file.modified()).ok();
    let output = inspect(folder, args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains(why) && stderr.lines().count() == 1, "{stderr}");
    assert_eq!(std::fs::metadata(&out).and_then(|file| file.modified()).ok(), before);
}
