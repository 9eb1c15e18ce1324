//! `convert`: a FunASR directory to a converted one.

use std::path::PathBuf;

use clap::ValueEnum;
use funasr_candle::Result;
use funasr_convert::{ConvertOptions, Dtype, convert};

use super::output::{note, print_line};

/// Convert a FunASR model directory to config.json, model.safetensors and tokens
#[derive(Debug, clap::Args)]
pub struct Args {
    /// FunASR directory: config.yaml, model.pt, am.mvn, tokens
    source: PathBuf,
    /// Directory to write
    target: PathBuf,
    /// Format of the weights
    #[arg(long, value_enum, default_value_t = Weights::F32)]
    dtype: Weights,
    /// Where the model comes from, kept in the file's metadata
    #[arg(long)]
    origin: Option<String>,
    /// The model's licence, kept in the file's metadata
    #[arg(long)]
    licence: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Weights {
    F32,
    F16,
    Bf16,
}

impl Args {
    /// Converts and says what was written.
    pub fn run(&self) -> Result<()> {
        let dtype = match self.dtype {
            Weights::F32 => Dtype::F32,
            Weights::F16 => Dtype::F16,
            Weights::Bf16 => Dtype::BF16,
        };
        let options = ConvertOptions { dtype, origin: self.origin.clone(), licence: self.licence.clone() };
        let report = convert(&self.source, &self.target, &options)?;
        for skipped in &report.skipped {
            note(&format!("skipped {}: {}", skipped.name, skipped.reason));
        }
        if !report.ignored.is_empty() {
            note(&format!("ignored in config.yaml: {}", report.ignored.join(", ")));
        }
        let megabytes = report.bytes_written as f64 / 1e6;
        print_line(&format!(
            "{}: {} with {} tensors, {:.2} M parameters, {megabytes:.1} MB",
            self.target.display(),
            report.class,
            report.tensors,
            report.parameters as f64 / 1e6
        ))
    }
}
