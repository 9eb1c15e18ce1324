//! Audio in: decoding, mixing, resampling, and what happens to files that are not what they claim.

// Helpers are test code too, but clippy recognises only #[test] functions as such.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use funasr_candle::audio::{AudioReader, Input, InputSource, Resampler, expand_inputs, read_all};
use proptest::prelude::*;
use tempfile::TempDir;

const RATE: u32 = 16_000;

// ---------------------------------------------------------------------------------------------------------- helpers

fn clip(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/audio").join(name)
}

/// The recording that all clips were encoded from.
fn source() -> Vec<f32> {
    read_all(&clip("source.wav"), RATE, None).unwrap()
}

/// The generator of tests/golden/resample.py.
fn noise(length: usize) -> Vec<f32> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((state >> 16) as f32 - 32768.0) / 32768.0
    };
    (0..length).map(|_| next()).collect()
}

fn resample(input: &[f32], from: u32, to: u32) -> Vec<f32> {
    let mut resampler = Resampler::new(from, to).unwrap();
    let mut out = Vec::new();
    resampler.push(input, &mut out);
    resampler.finish(&mut out);
    out
}

/// A wav file by its header fields; `data_bytes` and `riff_bytes` are what the header claims.
#[derive(Clone)]
struct Wav {
    tag: u16,
    bits: u16,
    channels: u16,
    rate: u32,
    extensible: bool,
    data: Vec<u8>,
    data_bytes: Option<u32>,
    riff_bytes: Option<u32>,
}

impl Wav {
    fn pcm16(samples: &[i16]) -> Self {
        let data = samples.iter().flat_map(|s| s.to_le_bytes()).collect();
        Self {
            tag: 1,
            bits: 16,
            channels: 1,
            rate: RATE,
            extensible: false,
            data,
            data_bytes: None,
            riff_bytes: None,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let frame_bytes = u32::from(self.bits / 8) * u32::from(self.channels);
        let mut format = Vec::new();
        let tag = if self.extensible { 0xfffe } else { self.tag };
        format.extend(tag.to_le_bytes());
        format.extend(self.channels.to_le_bytes());
        format.extend(self.rate.to_le_bytes());
        format.extend(self.rate.wrapping_mul(frame_bytes).to_le_bytes());
        format.extend((frame_bytes as u16).to_le_bytes());
        format.extend(self.bits.to_le_bytes());
        if self.extensible {
            format.extend([22, 0]);
            format.extend(self.bits.to_le_bytes());
            format.extend([0; 4]);
            format.extend(self.tag.to_le_bytes());
            format.extend(*b"\0\0\0\0\x10\0\x80\0\0\xaa\0\x38\x9b\x71");
        }
        let mut body = b"WAVE".to_vec();
        // A chunk of odd length, which readers have to step over with its padding.
        body.extend(*b"LIST\x03\0\0\0abc\0");
        body.extend(*b"fmt ");
        body.extend((format.len() as u32).to_le_bytes());
        body.extend(format);
        body.extend(*b"data");
        body.extend(self.data_bytes.unwrap_or(self.data.len() as u32).to_le_bytes());
        body.extend(&self.data);
        let mut file = b"RIFF".to_vec();
        file.extend(self.riff_bytes.unwrap_or(body.len() as u32).to_le_bytes());
        file.extend(body);
        file
    }
}

struct Scratch(TempDir);

impl Scratch {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    /// What reading these bytes as a file of this name gives: samples, or the error's text.
    fn read(&self, name: &str, bytes: &[u8]) -> Result<Vec<f32>, String> {
        read_all(&self.write(name, bytes), RATE, None).map_err(|e| e.to_string())
    }
}

fn read_stream(bytes: impl AsRef<[u8]> + Send + 'static) -> Result<Vec<f32>, String> {
    let mut samples = Vec::new();
    let mut reader =
        AudioReader::from_source("upload", Cursor::new(bytes), RATE).map_err(|e| e.to_string())?;
    reader.read(&mut samples, usize::MAX).map_err(|e| e.to_string())?;
    Ok(samples)
}

fn assert_close(what: &str, got: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(got.len(), expected.len(), "{what}: length");
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        assert!((g - e).abs() <= tolerance, "{what}: sample {i} is {g}, not {e}");
    }
}

/// Signal-to-noise ratio in dB of `got` against `reference`, over the length they share.
fn snr(got: &[f32], reference: &[f32]) -> f32 {
    let power = |samples: &mut dyn Iterator<Item = f32>| samples.map(|x| x * x).sum::<f32>();
    let error = power(&mut got.iter().zip(reference).map(|(g, r)| g - r));
    10.0 * (power(&mut reference.iter().copied()) / error.max(1e-12)).log10()
}

fn ffmpeg_is_installed() -> bool {
    std::process::Command::new("ffmpeg").arg("-version").output().is_ok()
}

// -------------------------------------------------------------------------------------------------------------- wav

/// Integers are divided by 2^(bits-1), whatever their size; floats are passed on.
#[test]
fn wav_sample_formats_have_exact_values() {
    type Case = (&'static str, u16, u16, Vec<u8>, Vec<f32>);
    let cases: [Case; 8] = [
        ("u8", 1, 8, vec![0, 64, 128, 255], vec![-1.0, -0.5, 0.0, 127.0 / 128.0]),
        ("s16", 1, 16, vec![0, 0x80, 0xff, 0x7f, 1, 0], vec![-1.0, 32767.0 / 32768.0, 1.0 / 32768.0]),
        (
            "s24",
            1,
            24,
            vec![0, 0, 0x80, 1, 0, 0, 0xff, 0xff, 0xff],
            vec![-1.0, 2f32.powi(-23), -(2f32.powi(-23))],
        ),
        ("s32", 1, 32, vec![0, 0, 0, 0x80, 0, 0, 0, 0x40], vec![-1.0, 0.5]),
        ("f32", 3, 32, [0.25f32, -1.5].iter().flat_map(|x| x.to_le_bytes()).collect(), vec![0.25, -1.5]),
        ("f64", 3, 64, [0.25f64, -1.5].iter().flat_map(|x| x.to_le_bytes()).collect(), vec![0.25, -1.5]),
        // The ends and the middle of the G.711 tables.
        (
            "a-law",
            6,
            8,
            vec![0x55, 0xd5, 0x2a, 0xaa],
            [-8.0, 8.0, -32256.0, 32256.0].map(|x| x / 32768.0).into(),
        ),
        (
            "mu-law",
            7,
            8,
            vec![0xff, 0x7f, 0x00, 0x80],
            [0.0, 0.0, -32124.0, 32124.0].map(|x| x / 32768.0).into(),
        ),
    ];
    let scratch = Scratch::new();
    for (name, tag, bits, data, expected) in cases {
        for extensible in [false, true] {
            let wav = Wav { tag, bits, data: data.clone(), extensible, ..Wav::pcm16(&[]) };
            assert_eq!(
                scratch.read("a.wav", &wav.bytes()).unwrap(),
                expected,
                "{name}, extensible {extensible}"
            );
            assert_eq!(read_stream(wav.bytes()).unwrap(), expected, "{name} as a stream");
        }
    }
}

#[test]
fn channels_are_averaged() {
    let scratch = Scratch::new();
    for channels in [1u16, 2, 3, 8, 30, 255] {
        let frames = [100i16, -200, 300];
        let samples: Vec<i16> =
            frames.iter().flat_map(|&f| (0..channels).map(move |c| f + c as i16)).collect();
        let wav = Wav { channels, ..Wav::pcm16(&samples) };
        let mean = |f: i16| (f32::from(f) + f32::from(channels - 1) / 2.0) / 32768.0;
        let got = scratch.read("a.wav", &wav.bytes()).unwrap();
        assert_close(&format!("{channels} channels"), &got, &frames.map(mean), 1e-6);
    }
}

/// Lengths in headers that recorders leave behind when they are killed or write to a pipe, and claims beyond the file.
#[test]
fn wav_lengths_are_not_trusted() {
    let scratch = Scratch::new();
    let wav = Wav::pcm16(&[1000; 500]);
    let rf64 = {
        let mut bytes = b"RF64\xff\xff\xff\xffWAVEds64\x1c\0\0\0".to_vec();
        bytes.extend(5_000_000_000u64.to_le_bytes());
        bytes.extend(5_000_000_000u64.to_le_bytes());
        bytes.extend([0; 12]);
        bytes.extend(&Wav { data_bytes: Some(u32::MAX), ..wav.clone() }.bytes()[12..]);
        bytes
    };
    let header = wav.bytes().len() as u32 - 8 - 1000;
    let cases = [
        ("exact", wav.bytes(), 500),
        ("killed recorder", Wav { data_bytes: Some(0), riff_bytes: Some(0), ..wav.clone() }.bytes(), 500),
        (
            "killed recorder, header only",
            Wav { data_bytes: Some(0), riff_bytes: Some(header), ..wav.clone() }.bytes(),
            500,
        ),
        ("pipe", Wav { data_bytes: Some(u32::MAX), riff_bytes: Some(u32::MAX), ..wav.clone() }.bytes(), 500),
        ("4 GB claimed", Wav { data_bytes: Some(u32::MAX - 1), ..wav.clone() }.bytes(), 500),
        ("5 GB claimed", rf64, 500),
        ("cut off", wav.bytes()[..wav.bytes().len() - 601].to_vec(), 199),
        ("no samples", Wav::pcm16(&[]).bytes(), 0),
        ("something behind the samples", [wav.bytes(), b"LIST\x02\0\0\0ab".to_vec()].concat(), 500),
    ];
    for (name, bytes, expected) in cases {
        assert_eq!(scratch.read("a.wav", &bytes).unwrap().len(), expected, "{name}");
        assert_eq!(read_stream(bytes).unwrap().len(), expected, "{name} as a stream");
    }
}

// ------------------------------------------------------------------------------------------------------- bad input

#[test]
fn bad_input_is_an_error_that_names_file_and_cause() {
    let wav = || Wav::pcm16(&[1; 400]);
    let floats = |bad: f32| {
        let data = [0.0, 0.5, bad, 0.5].iter().flat_map(|x: &f32| x.to_le_bytes()).collect();
        Wav { tag: 3, bits: 32, data, ..wav() }.bytes()
    };
    let header_only = {
        let b = wav().bytes();
        b[..b.len() - 800].to_vec()
    };
    let cases: [(&str, Vec<u8>, &str); 16] = [
        ("empty.wav", vec![], "is empty"),
        ("text.wav", b"This is no recording, only its name says so.\n".to_vec(), "starts with text"),
        ("page.mp3", "<!DOCTYPE html><p>找不到</p>".into(), "starts with text"),
        ("noise.wav", (0u8..=255).cycle().take(3000).collect(), "file of unknown format"),
        ("nan.wav", floats(f32::NAN), "sample 2 is not a finite number"),
        ("inf.wav", floats(f32::INFINITY), "sample 2 is not a finite number"),
        ("rate_0.wav", Wav { rate: 0, ..wav() }.bytes(), "sample rate of 0 Hz"),
        ("rate_1.wav", Wav { rate: 1, ..wav() }.bytes(), "sample rate of 1 Hz"),
        ("rate_10m.wav", Wav { rate: 10_000_000, ..wav() }.bytes(), "sample rate of 10000000 Hz"),
        ("channels_0.wav", Wav { channels: 0, ..wav() }.bytes(), "0 channels"),
        ("header_only.wav", header_only, "cut off"),
        ("half_header.wav", wav().bytes()[..30].to_vec(), "wav file"),
        ("four_bytes.wav", b"RIFF".to_vec(), "wav file"),
        ("cut.mp3", fs::read(clip("clip.mp3")).unwrap()[..60].to_vec(), "cannot be decoded"),
        ("cut.flac", fs::read(clip("clip.flac")).unwrap()[..60].to_vec(), "decoded"),
        ("cut.m4a", fs::read(clip("clip.m4a")).unwrap()[..600].to_vec(), "cannot be decoded"),
    ];
    let scratch = Scratch::new();
    for (name, bytes, cause) in cases {
        let message = scratch.read(name, &bytes).expect_err(name);
        assert!(message.contains(name) && message.contains(cause), "{name}: {message}");
        assert_eq!(message.lines().count(), 1, "{name}: {message}");
        let message = read_stream(bytes).expect_err(name);
        assert!(message.starts_with("upload: "), "{name} as a stream: {message}");
    }
    for (path, cause) in [("missing.wav", "No such file"), ("", "directory")] {
        let message = read_all(&scratch.0.path().join(path), RATE, None).unwrap_err().to_string();
        assert!(message.contains(cause), "{message}");
    }
}

#[test]
fn a_film_without_sound_is_an_error() {
    for name in ["silent_film.mp4", "silent_film.webm"] {
        let message = read_all(&clip(name), RATE, None).unwrap_err().to_string();
        assert!(message.ends_with("has no audio track"), "{message}");
    }
}

#[test]
fn output_rates_have_bounds() {
    for rate in [0, 1, 999, 384_001, 10_000_000] {
        assert!(AudioReader::open(&clip("source.wav"), rate).is_err(), "{rate} Hz");
        assert!(Resampler::new(rate, RATE).is_err() && Resampler::new(RATE, rate).is_err(), "{rate} Hz");
    }
    // The costliest table inside the bounds: no common divisor, the greatest ratio.
    let up = resample(&noise(10), 1000, 383_999);
    assert_eq!(up.len(), 3840);
}

/// What is left of a cut-off file is read; nothing is invented.
#[test]
fn cut_off_recordings_give_what_is_there() {
    let scratch = Scratch::new();
    for name in
        ["clip.mp3", "clip.flac", "clip.aac", "clip.mkv", "clip.webm", "clip.m4a", "source.wav", "clip.aiff"]
    {
        let bytes = fs::read(clip(name)).unwrap();
        let whole = scratch.read(name, &bytes).unwrap();
        let part = scratch.read(name, &bytes[..bytes.len() * 7 / 10]).unwrap();
        assert!(
            (whole.len() / 5..whole.len()).contains(&part.len()),
            "{name}: {} of {}",
            part.len(),
            whole.len()
        );
        let same = part.len() - part.len() / 4;
        assert_close(name, &part[..same], &whole[..same], 1e-4);
    }
}

/// Damage anywhere in a file is an error or fewer samples, never a panic or an endless loop.
#[test]
fn damaged_recordings_never_panic_or_hang() {
    let (done, finished) = mpsc::channel();
    let names = [
        "clip.mp3",
        "clip.flac",
        "clip.ogg",
        "silk.opus",
        "celt_stereo.opus",
        "clip.webm",
        "clip.mkv",
        "clip.m4a",
        "clip.aac",
        "clip.aiff",
        "clip.caf",
        "adpcm.wav",
        "source.wav",
        "video.mp4",
    ];
    std::thread::spawn(move || {
        let mut state = 7u32;
        let mut random = move |below: usize| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as usize % below
        };
        for name in names {
            let original = fs::read(clip(name)).unwrap();
            for _ in 0..20 {
                let mut bytes = original.clone();
                // Half of the damage goes to the headers.
                for _ in 0..1 + random(8) {
                    let span = if random(2) == 0 { bytes.len().min(200) } else { bytes.len() };
                    bytes[random(span)] = random(256) as u8;
                }
                if let Ok(samples) = read_stream(bytes) {
                    assert!(samples.iter().all(|x| x.is_finite()), "{name}");
                }
            }
        }
        done.send(()).unwrap();
    });
    finished.recv_timeout(Duration::from_secs(120)).expect("no panic outside the decoders and no hang");
}

/// A stream whose source fails, as an upload does when the connection breaks, is an error, not a short recording.
#[test]
fn a_failing_stream_is_an_error() {
    struct Broken(Cursor<Vec<u8>>);
    impl Read for Broken {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            match self.0.read(buffer)? {
                0 => Err(std::io::Error::other("the line went dead")),
                n => Ok(n),
            }
        }
    }
    for name in ["source.wav", "clip.mp3", "clip.ogg", "clip.m4a"] {
        let mut bytes = fs::read(clip(name)).unwrap();
        bytes.truncate(bytes.len() * 9 / 10);
        let mut samples = Vec::new();
        let read = AudioReader::from_source("upload", Broken(Cursor::new(bytes)), RATE)
            .and_then(|mut reader| reader.read(&mut samples, usize::MAX));
        let message = read.unwrap_err().to_string();
        assert!(message.contains("the line went dead"), "{name}: {message}");
    }
}

// ------------------------------------------------------------------------------------------------ compressed formats

/// Every format gives the recording back: in time (no encoder delay left) and close to it in value.
#[test]
fn clips_match_their_source() {
    // File, least signal-to-noise ratio in dB, and samples at 16 kHz with what the format pads.
    let cases = [
        ("clip.flac", 90.0, 9600..=9600),
        ("clip.mp3", 10.0, 9600..=9600),
        ("clip.ogg", 10.0, 9600..=9600),
        ("silk.opus", 3.0, 9600..=9600),
        ("celt_stereo.opus", 10.0, 9600..=9600),
        ("clip.webm", 3.0, 9600..=9920),
        ("clip.mkv", 10.0, 9600..=9760),
        ("clip.m4a", 10.0, 9600..=10240),
        ("video.mp4", 10.0, 9600..=10240),
        ("adpcm.wav", 10.0, 9600..=10240),
        ("clip.aiff", 90.0, 3200..=3200),
        ("clip.caf", 90.0, 3200..=3200),
    ];
    let source = source();
    for (name, least, length) in cases {
        let samples = read_all(&clip(name), RATE, None).unwrap();
        assert!(length.contains(&samples.len()), "{name}: {} samples", samples.len());
        let quality = snr(&samples, &source[..samples.len().min(source.len())]);
        assert!(quality >= least, "{name}: {quality} dB");
        let stream = read_stream(fs::read(clip(name)).unwrap()).unwrap();
        assert_eq!(stream, samples, "{name} as a stream");
    }
    // ADTS has no place for the encoder delay of 1024 samples.
    let adts = read_all(&clip("clip.aac"), RATE, None).unwrap();
    assert!(snr(&adts[1024..], &source) > 10.0);
}

/// Chained ogg streams are one recording after the other, even at another sample rate.
#[test]
fn the_sample_rate_may_change_inside_a_recording() {
    let chained = [fs::read(clip("clip.ogg")).unwrap(), fs::read(clip("clip_8k.ogg")).unwrap()].concat();
    let samples = read_stream(chained).unwrap();
    assert_eq!(samples.len(), 19_200);
    assert!(snr(&samples[..9600], &source()) > 10.0);
    assert!(snr(&samples[9600..], &read_all(&clip("clip_8k.ogg"), RATE, None).unwrap()) > 60.0);
}

#[test]
fn the_length_is_known_before_reading() {
    for name in ["source.wav", "clip.mp3", "clip.flac", "clip.ogg", "clip.m4a"] {
        let length = AudioReader::open(&clip(name), RATE).unwrap().duration_ms().unwrap();
        assert!((600..=670).contains(&length), "{name}: {length} ms");
    }
}

/// AC-3 is not decoded here: ffmpeg does it, or the message says what is missing.
#[test]
fn other_formats_go_to_ffmpeg() {
    let scratch = Scratch::new();
    let bytes = fs::read(clip("clip.ac3")).unwrap();
    // Names that would be an option, an address or a pattern if they were taken as such.
    for name in ["-y.ac3", "http:x.ac3", "a%03d*.ac3", "会议 1.ac3"] {
        match (scratch.read(name, &bytes), ffmpeg_is_installed()) {
            (Ok(samples), true) => assert!(snr(&samples[128..], &source()) > 30.0),
            (Err(message), false) => {
                assert!(message.contains("AC-3") && message.contains("not installed"), "{message}")
            }
            (outcome, installed) => panic!("ffmpeg installed: {installed}, {:?}", outcome.map(|s| s.len())),
        }
    }
    assert_eq!(read_stream(bytes).is_ok(), ffmpeg_is_installed());
}

// -------------------------------------------------------------------------------------------------------- streaming

/// An endless recording can be read, so nothing waits for the end.
#[test]
fn recordings_are_streamed() {
    let endless = Wav { data_bytes: Some(u32::MAX), rate: 48_000, ..Wav::pcm16(&[0; 100]) };
    let stream = Cursor::new(endless.bytes()).chain(std::io::repeat(1));
    let mut reader = AudioReader::from_source("microphone", stream, RATE).unwrap();
    let mut samples = Vec::new();
    assert_eq!(reader.read(&mut samples, 160_000).unwrap(), 160_000);
    assert_eq!(reader.duration_ms(), None);
}

#[test]
fn raw_samples_need_no_header() {
    let bytes: Vec<u8> = [100i16, -200, 300].iter().flat_map(|s| s.to_le_bytes()).collect();
    let expected = [100.0, -200.0, 300.0].map(|x| x / 32768.0);
    let scratch = Scratch::new();
    for name in ["a.pcm", "a.RAW"] {
        assert_eq!(scratch.read(name, &bytes).unwrap(), expected);
    }
    let odd = [&bytes[..], &[7]].concat();
    assert_eq!(scratch.read("odd.pcm", &odd).unwrap(), expected);
    let mut reader = AudioReader::raw_pcm("call", Cursor::new(bytes), 8000, RATE).unwrap();
    let mut samples = Vec::new();
    assert_eq!(reader.read(&mut samples, 100).unwrap(), 6);
    assert_eq!(reader.read(&mut samples, 100).unwrap(), 0);
    assert_eq!(samples, resample(&expected, 8000, RATE));
}

#[test]
fn reading_stops_where_asked() {
    let path = clip("source.wav");
    assert_eq!(read_all(&path, RATE, Some(0.1)).unwrap(), source()[..1600]);
    assert!(read_all(&path, RATE, Some(-1.0)).unwrap().is_empty());
    assert_eq!(read_all(&path, RATE, Some(f64::INFINITY)).unwrap().len(), 9600);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// The sizes of reads and of the pieces in which bytes arrive change nothing.
    #[test]
    fn reads_of_any_size_give_the_same_samples(
        sizes in prop::collection::vec(1usize..3000, 1..20),
        piece in 1usize..2000,
        name in prop::sample::select(vec!["source.wav", "clip.mp3", "clip.ogg", "celt_stereo.opus", "clip.m4a"]),
        rate in prop::sample::select(vec![8000u32, 16_000, 22_050]),
    ) {
        struct Pieces(Cursor<Vec<u8>>, usize);
        impl Read for Pieces {
            fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
                let length = buffer.len().min(self.1);
                self.0.read(&mut buffer[..length])
            }
        }
        let expected = read_all(&clip(name), rate, None).unwrap();
        let pieces = Pieces(Cursor::new(fs::read(clip(name)).unwrap()), piece);
        let mut reader = AudioReader::from_source("pieces", pieces, rate).unwrap();
        let mut samples = Vec::new();
        for size in sizes.iter().cycle() {
            let read = reader.read(&mut samples, *size).unwrap();
            prop_assert!(read <= *size);
            if read == 0 {
                break;
            }
        }
        prop_assert_eq!(samples, expected);
    }

    #[test]
    fn resampling_in_pieces_equals_resampling_at_once(
        pieces in prop::collection::vec(0usize..700, 1..12),
        (from, to) in prop::sample::select(vec![(8000, 16_000), (44_100, 16_000), (16_000, 8000), (11_025, 16_000), (16_001, 16_000)]),
    ) {
        let input = noise(pieces.iter().sum());
        let mut resampler = Resampler::new(from, to).unwrap();
        let (mut out, mut start) = (Vec::new(), 0);
        for piece in pieces {
            resampler.push(&input[start..start + piece], &mut out);
            start += piece;
        }
        resampler.finish(&mut out);
        prop_assert_eq!(out.len() as u64, (input.len() as u64 * u64::from(to)).div_ceil(u64::from(from)));
        prop_assert_eq!(out, resample(&input, from, to));
    }
}

// ------------------------------------------------------------------------------------------------------- resampling

/// torchaudio's samples; tests/golden/resample.py wrote them.
#[test]
fn resampling_equals_torchaudio() {
    let golden: serde_json::Value = serde_json::from_str(include_str!("golden/resample.json")).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() >= 15);
    for case in cases {
        let number = |key: &str| case[key].as_u64().unwrap();
        let (from, to) = (number("from") as u32, number("to") as u32);
        let expected: Vec<f32> =
            case["output"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect();
        let got = resample(&noise(number("length") as usize), from, to);
        assert_close(&format!("{from} -> {to} Hz"), &got, &expected, 1e-6);
    }
}

// ----------------------------------------------------------------------------------------------------------- inputs

fn describe(inputs: Vec<funasr_candle::Result<Input>>, base: &Path) -> Vec<String> {
    let one = |input: funasr_candle::Result<Input>| match input {
        Ok(Input { key, source: InputSource::Stdin }) => format!("{key} <stdin>"),
        Ok(Input { key, source: InputSource::Path(path) }) => {
            format!("{key} {}", path.strip_prefix(base).unwrap_or(&path).display())
        }
        Err(e) => format!("! {e}"),
    };
    let base = format!("{}/", base.display());
    inputs.into_iter().map(|input| one(input).replace(&base, "")).collect()
}

#[test]
fn arguments_become_recordings() {
    let scratch = Scratch::new();
    let base = scratch.0.path();
    for name in ["in/b.wav", "in/a.MP3", "in/sub/b.flac", "in/notes.txt", "odd.name", "empty/readme.txt"] {
        scratch.write(name, b"x");
    }
    scratch.write("wav.scp", b"u1 /data/u1.wav\n\nu2   my file.wav  \nu3 sox x.wav -t wav - |\nu4\n");
    scratch.write("blank.scp", b"\n");
    scratch.write("binary.scp", b"u1 a.wav\n\xff\xfe\n");
    let path = |name: &str| base.join(name).display().to_string();
    let cases: [(&str, Vec<&str>); 7] = [
        ("in", vec!["a in/a.MP3", "b in/b.wav", "b-2 in/sub/b.flac"]),
        ("odd.name", vec!["odd odd.name"]),
        ("empty", vec!["! empty: there are no audio files in this directory"]),
        (
            "wav.scp",
            vec![
                "u1 /data/u1.wav",
                "u2 my file.wav",
                "! wav.scp:4: is a command (it ends in `|`); commands are not run, list audio files",
                "! wav.scp:5: is not of the form `key path`",
            ],
        ),
        ("blank.scp", vec!["! blank.scp: lists no recordings"]),
        ("binary.scp", vec!["u1 a.wav", "! binary.scp:2: is not text"]),
        ("gone", vec!["! gone: No such file or directory (os error 2)"]),
    ];
    for (argument, expected) in cases {
        assert_eq!(describe(expand_inputs(&[path(argument)]), base), expected, "{argument}");
    }
    let several = expand_inputs(&["-".into(), path("gone"), path("odd.name")]);
    assert_eq!(several.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
    assert_eq!(describe(several, base)[0], "stdin <stdin>");
}

#[test]
fn inputs_open_as_recordings() {
    let inputs = expand_inputs(&[clip("source.wav").display().to_string()]);
    let mut samples = Vec::new();
    inputs[0].as_ref().unwrap().open(RATE).unwrap().read(&mut samples, usize::MAX).unwrap();
    assert_eq!(samples, source());
}
