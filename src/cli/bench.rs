//! `bench`: how long a model takes.

use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use funasr_candle::frontend::Features;
use funasr_candle::pipeline::{Recognizer, Request, Utterance};
use funasr_candle::{Error, Result};
use serde_json::json;

use super::output::print_line;
use super::session::{self, ComputeArgs, HubArgs, Role};

/// Time a recognition model on made-up audio or given features; one JSON line
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Recognition model [default: an installed one, else the embedded demo]
    #[arg(long)]
    model: Option<String>,
    /// Length of the made-up audio
    #[arg(long, default_value_t = 20.0)]
    seconds: f64,
    /// Utterances in one forward pass
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    batch: u16,
    /// Timed runs, after one that is not
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    runs: u16,
    /// Time the acoustic model on `speech [B, T, D]` and `speech_lengths [B]` of this safetensors file
    #[arg(long, value_name = "F")]
    features: Option<PathBuf>,
    #[command(flatten)]
    compute: ComputeArgs,
    #[command(flatten)]
    hub: HubArgs,
}

impl Args {
    /// Loads, runs, prints.
    pub fn run(&self) -> Result<()> {
        if !(0.1..=600.0).contains(&self.seconds) {
            return Err(Error::Unsupported("--seconds must lie between 0.1 and 600".into()));
        }
        let compute = self.compute.open()?;
        let (name, files) = session::open(self.model.as_deref(), Role::Recognition, &self.hub.options()?)?;
        let recognizer = Recognizer::load(&files, &compute)?;
        let config = recognizer.frontend().config();
        let request = Request::default();
        let (times, tokens, batch, seconds) = match &self.features {
            Some(file) => {
                let items = read_features(file)?;
                let row_seconds = f64::from(config.frame_shift) / 1000.0 * config.lfr_n as f64;
                let rows: usize = items.iter().map(Features::frames).sum();
                let (times, tokens) =
                    self.time(|| recognizer.recognize_features(items.clone(), vec![&request; items.len()]))?;
                (times, tokens, items.len(), rows as f64 * row_seconds)
            }
            None => {
                let audio = noise((self.seconds * f64::from(config.fs)) as usize);
                let utterance = Utterance { samples: &audio, request: &request };
                let batch = vec![utterance; usize::from(self.batch)];
                let (times, tokens) = self.time(|| recognizer.recognize(&batch))?;
                (times, tokens, batch.len(), self.seconds * batch.len() as f64)
            }
        };
        let median = times[times.len() / 2];
        let line = json!({
            "model": name,
            "device": self.compute.device.to_string(),
            "dtype": self.compute.dtype.to_string(),
            "threads": rayon::current_num_threads(),
            "batch": batch,
            "audio_seconds": seconds,
            "median_seconds": median,
            "min_seconds": times[0],
            "rtf": median / seconds,
            "tokens": tokens,
            "peak_rss_bytes": peak_rss_bytes(),
        });
        print_line(&line.to_string())
    }

    /// Sorted seconds of each run, and the tokens of one.
    fn time<R: Tokens>(&self, mut work: impl FnMut() -> Result<R>) -> Result<(Vec<f64>, usize)> {
        let tokens = work()?.tokens();
        let mut times = Vec::new();
        for _ in 0..self.runs {
            let started = Instant::now();
            work()?;
            times.push(started.elapsed().as_secs_f64());
        }
        times.sort_by(f64::total_cmp);
        Ok((times, tokens))
    }
}

trait Tokens {
    fn tokens(&self) -> usize;
}

impl Tokens for Vec<funasr_candle::pipeline::Recognition> {
    fn tokens(&self) -> usize {
        self.iter().map(|item| item.tokens.len()).sum()
    }
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
