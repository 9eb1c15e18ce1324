//! `convert`: a FunASR directory to a converted one.

use std::fs::Metadata;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use funasr_candle::device::{Compute, DeviceName, Precision};
use funasr_candle::pipeline::{Network, OnlineRecognizer, Recognizer, punctuator};
use funasr_candle::weights::{ModelFiles, WEIGHTS_FILE};
use funasr_candle::{Error, Result};
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
    /// Linear layers in 8 bits, everything else in f32
    Int8,
}

impl Args {
    /// Converts and says what was written.
    pub fn run(&self) -> Result<()> {
        let dtype = match self.dtype {
            Weights::F32 | Weights::Int8 => Dtype::F32,
            Weights::F16 => Dtype::F16,
            Weights::Bf16 => Dtype::BF16,
        };
        let options = ConvertOptions { dtype, origin: self.origin.clone(), licence: self.licence.clone() };
        let mut report = convert(&self.source, &self.target, &options)?;
        if matches!(self.dtype, Weights::Int8) {
            report.bytes_written = round_weights(&self.target)?;
        }
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

/// Rewrites the weights of a converted model in 8 bits where its layers compute so; returns the size of all its files.
fn round_weights(directory: &Path) -> Result<u64> {
    let files = ModelFiles::open(directory)?;
    let compute = Compute::open(DeviceName::Cpu, Precision::Int8)?;
    match files.class()? {
        "ParaformerStreaming" => drop(OnlineRecognizer::load(&files, &compute)?),
        "CTTransformer" | "CTTransformerStreaming" => drop(punctuator::load_network(&files, &compute)?),
        class if Network::CLASSES.contains(&class) => drop(Recognizer::load(&files, &compute)?),
        class => note(&format!("{class} has no layers in 8 bits: its weights stay as they are")),
    }
    if !files.rounded_layers().is_empty() {
        // The old file is read until the new one is whole.
        let staging = tempfile::tempdir_in(directory).map_err(|e| Error::io(directory, e))?;
        files.write_int8(staging.path())?;
        let [from, to] = [staging.path(), directory].map(|folder| folder.join(WEIGHTS_FILE));
        let permissions = std::fs::metadata(&to).map(|old| old.permissions());
        let replaced = permissions.and_then(|permissions| {
            std::fs::set_permissions(&from, permissions)?;
            std::fs::rename(&from, &to)
        });
        replaced.map_err(|e| Error::io(&to, e))?;
    }
    let entries = std::fs::read_dir(directory).map_err(|e| Error::io(directory, e))?;
    let files = entries.flatten().filter_map(|entry| entry.metadata().ok()).filter(Metadata::is_file);
    Ok(files.map(|file| file.len()).sum())
}
