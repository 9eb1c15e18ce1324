//! `bench`: how long a model takes.

use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use funasr_candle::audio::read_all;
use funasr_candle::frontend::Features;
use funasr_candle::pipeline::{
    OnlineRecognizer, OnlineStream, PunctuationModel, Recognition, Recognizer, Request, StreamOptions,
    Utterance, VoiceDetector,
};
use funasr_candle::{Error, Result};
use serde_json::json;

use super::output::print_line;
use super::session::{self, ComputeArgs, HubArgs, Role};
use super::vad::segments;

/// Time a model on made-up or given audio (punctuation: on text) or features; one JSON line
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Any model [default: an installed one, else the embedded demo]
    #[arg(long)]
    model: Option<String>,
    /// Length of the audio
    #[arg(long, default_value_t = 20.0)]
    seconds: f64,
    /// Take it from the beginning of this recording, which must be long enough
    #[arg(long, value_name = "F", conflicts_with = "features")]
    audio: Option<PathBuf>,
    /// Utterances in one forward pass, or streams stepped together
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    batch: u16,
    /// Timed runs, after one that is not
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    runs: u16,
    /// Run once for each line of standard input and print the seconds of each, the first one included, so that programs
    /// can take turns
    #[arg(long, conflicts_with = "runs")]
    turns: bool,
    /// Compute in the plain candle operations that define our kernels, to see what the kernels bring (f32)
    #[arg(long)]
    references: bool,
    /// Time the acoustic model on `speech [B, T, D]` and `speech_lengths [B]` of this safetensors file
    #[arg(long, value_name = "F")]
    features: Option<PathBuf>,
    #[command(flatten)]
    compute: ComputeArgs,
    #[command(flatten)]
    hub: HubArgs,
}

/// Characters that are spoken in a second: a punctuation model is timed on the text of that much speech.
const CHARACTERS_PER_SECOND: f64 = 7.5;

/// What is timed: the work, and how much audio goes through it.
struct Job<'a> {
    /// Does all of it once; how many tokens (segments, marks) came out.
    work: Box<dyn FnMut() -> Result<usize> + 'a>,
    batch: usize,
    audio_seconds: f64,
}

/// How long it took.
struct Timing {
    /// Of each run, sorted; at least one.
    seconds: Vec<f64>,
    tokens: usize,
    batch: usize,
    audio_seconds: f64,
}

impl Args {
    /// Loads, runs, prints.
    pub fn run(&self) -> Result<()> {
        if !(0.1..=600.0).contains(&self.seconds) {
            return Err(Error::Unsupported("--seconds must lie between 0.1 and 600".into()));
        }
        let compute = self.compute.open()?;
        if self.references {
            if compute.int8 {
                return Err(Error::Unsupported("--references: 8-bit layers have none; use f32".into()));
            }
            funasr_kernels::take_references();
        }
        let (name, files) = session::open(self.model.as_deref(), Role::Recognition, &self.hub.options()?)?;
        let timing = match files.class()? {
            "FsmnVADStreaming" => {
                let detector = VoiceDetector::load(&files, &compute)?;
                self.time(self.detect(&detector)?)?
            }
            "CTTransformer" | "CTTransformerStreaming" => {
                let model = PunctuationModel::load(&files, &compute)?;
                self.time(self.punctuate(&model))?
            }
            "ParaformerStreaming" => {
                let recognizer = OnlineRecognizer::load(&files, &compute)?;
                self.time(self.stream(&recognizer)?)?
            }
            _ => {
                let recognizer = Recognizer::load(&files, &compute)?;
                self.time(self.recognize(&recognizer)?)?
            }
        };
        let median = timing.seconds[timing.seconds.len() / 2];
        let line = json!({
            "model": name,
            "device": self.compute.device.to_string(),
            "dtype": files.compute(&compute).precision().to_string(),
            "threads": rayon::current_num_threads(),
            "batch": timing.batch,
            "audio_seconds": timing.audio_seconds,
            "median_seconds": median,
            "min_seconds": timing.seconds[0],
            "rtf": median / timing.audio_seconds,
            "tokens": timing.tokens,
            "peak_rss_bytes": peak_rss_bytes(),
            "peak_device_bytes": compute.peak_device_bytes(),
        });
        print_line(&line.to_string())
    }

    /// Does the work once untimed, then as often as asked; with --turns only when asked.
    fn time(&self, mut job: Job) -> Result<Timing> {
        let mut run = || {
            let started = Instant::now();
            let tokens = (job.work)()?;
            Ok((started.elapsed().as_secs_f64(), tokens))
        };
        let runs = if self.turns {
            take_turns(run)?
        } else {
            run()?;
            (0..self.runs).map(|_| run()).collect::<Result<_>>()?
        };
        let (mut seconds, tokens): (Vec<f64>, Vec<usize>) = runs.into_iter().unzip();
        seconds.sort_by(f64::total_cmp);
        Ok(Timing { seconds, tokens: tokens[0], batch: job.batch, audio_seconds: job.audio_seconds })
    }

    /// The audio of one item.
    fn samples(&self, sample_rate: u32) -> Result<Vec<f32>> {
        let count = (self.seconds * f64::from(sample_rate)) as usize;
        let Some(file) = &self.audio else { return Ok(noise(count)) };
        let mut samples = read_all(file, sample_rate, Some(self.seconds))?;
        if samples.len() < count {
            let message = format!("{}: shorter than {} seconds (--seconds)", file.display(), self.seconds);
            return Err(Error::Unsupported(message));
        }
        samples.truncate(count);
        Ok(samples)
    }

    /// A job on `seconds` of audio in each item of the batch.
    fn job<'a>(&self, work: impl FnMut() -> Result<usize> + 'a) -> Job<'a> {
        let batch = usize::from(self.batch);
        Job { work: Box::new(work), batch, audio_seconds: self.seconds * batch as f64 }
    }

    fn recognize<'a>(&self, recognizer: &'a Recognizer) -> Result<Job<'a>> {
        let tokens = |items: Vec<Recognition>| items.iter().map(|item| item.tokens.len()).sum();
        let Some(file) = &self.features else {
            let audio = self.samples(recognizer.sample_rate())?;
            let batch = usize::from(self.batch);
            return Ok(self.job(move || {
                let request = Request::default();
                let utterance = Utterance { samples: &audio, request: &request };
                recognizer.recognize(&vec![utterance; batch]).map(tokens)
            }));
        };
        let items = read_features(file)?;
        let config = recognizer.frontend().config();
        let row_seconds = f64::from(config.frame_shift) / 1000.0 * config.lfr_n as f64;
        let rows: usize = items.iter().map(Features::frames).sum();
        Ok(Job {
            batch: items.len(),
            audio_seconds: rows as f64 * row_seconds,
            work: Box::new(move || {
                let request = Request::default();
                recognizer.recognize_features(items.clone(), vec![&request; items.len()]).map(tokens)
            }),
        })
    }

    /// Streams of one pace, stepped together.
    fn stream<'a>(&self, recognizer: &'a OnlineRecognizer) -> Result<Job<'a>> {
        let audio = self.samples(recognizer.sample_rate())?;
        let batch = usize::from(self.batch);
        Ok(self.job(move || {
            let mut streams = (0..batch)
                .map(|_| recognizer.stream(&StreamOptions::default()))
                .collect::<Result<Vec<OnlineStream>>>()?;
            let stride = streams.first().map_or(1, OnlineStream::stride_samples);
            let (mut tokens, count) = (0, audio.len().div_ceil(stride));
            for (i, chunk) in audio.chunks(stride).enumerate() {
                for stream in &mut streams {
                    stream.push(chunk)?;
                    if i + 1 == count {
                        stream.finish();
                    }
                }
                while streams.iter().all(OnlineStream::ready) {
                    let mut due: Vec<&mut OnlineStream> = streams.iter_mut().collect();
                    tokens += recognizer.step(&mut due)?.iter().map(Vec::len).sum::<usize>();
                }
            }
            Ok(tokens)
        }))
    }

    /// Streams one after the other, minute by minute, as for files.
    fn detect<'a>(&self, detector: &'a VoiceDetector) -> Result<Job<'a>> {
        let audio = self.samples(detector.sample_rate())?;
        let (batch, rate) = (self.batch, detector.sample_rate());
        Ok(self.job(move || {
            let mut count = 0;
            for _ in 0..batch {
                count += segments(detector, &audio, rate)?.len();
            }
            Ok(count)
        }))
    }

    fn punctuate<'a>(&self, model: &'a PunctuationModel) -> Job<'a> {
        let length = (self.seconds * CHARACTERS_PER_SECOND).ceil() as usize;
        let text: String = "欢迎大家来体验达摩院推出的语音识别模型".chars().cycle().take(length).collect();
        let batch = self.batch;
        self.job(move || {
            let mut marks = 0;
            for _ in 0..batch {
                marks += model.punctuate(&text)?.marks.len();
            }
            Ok(marks)
        })
    }
}

/// A run for each line of standard input; prints and gives seconds and tokens of each.
fn take_turns(mut run: impl FnMut() -> Result<(f64, usize)>) -> Result<Vec<(f64, usize)>> {
    let mut runs = Vec::new();
    for line in std::io::stdin().lock().lines() {
        line.map_err(|e| Error::io("stdin", e))?;
        let (seconds, tokens) = run()?;
        print_line(&json!({ "seconds": seconds, "tokens": tokens }).to_string())?;
        runs.push((seconds, tokens));
    }
    if runs.is_empty() {
        return Err(Error::Unsupported("--turns: standard input asked for no run; each line is one".into()));
    }
    Ok(runs)
}

/// White noise at a tenth of full scale, the same on every machine.
fn noise(samples: usize) -> Vec<f32> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((state >> 8) as f32 / (1 << 23) as f32 - 1.0) * 0.1
    };
    (0..samples).map(|_| next()).collect()
}

/// The utterances of a features file.
pub fn read_features(file: &Path) -> Result<Vec<Features>> {
    let fail = |e: candle_core::Error| Error::weights(file, e.to_string().lines().next().unwrap_or_default());
    let tensors = candle_core::safetensors::load(file, &Device::Cpu).map_err(fail)?;
    let tensor = |name: &str| {
        tensors.get(name).ok_or_else(|| Error::weights(file, format!("tensor `{name}` is missing")))
    };
    let speech = tensor("speech")?.to_dtype(DType::F32).map_err(fail)?;
    let (batch, time, width) = speech.dims3().map_err(fail)?;
    let lengths = tensor("speech_lengths")?.to_dtype(DType::I64).and_then(|t| t.to_vec1::<i64>());
    let lengths = lengths.map_err(fail)?;
    if lengths.len() != batch || lengths.iter().any(|&n| n < 0 || n > time as i64) {
        let message = format!("speech_lengths {lengths:?} do not fit speech [{batch}, {time}, {width}]");
        return Err(Error::weights(file, message));
    }
    let item = |(i, &frames): (usize, &i64)| {
        let rows = speech.get(i)?.narrow(0, 0, frames as usize)?;
        Ok(Features { values: Tensor::flatten_all(&rows)?.to_vec1()?, width })
    };
    lengths.iter().enumerate().map(item).collect::<candle_core::Result<_>>().map_err(fail)
}

/// Largest memory of this process so far, where the system says it.
fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}
