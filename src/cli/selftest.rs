//! `selftest`: the stages of models on this machine beside those that FunASR gave.

mod check;

use std::io::Cursor;
use std::path::PathBuf;
use std::time::Instant;

use candle_core::{D, Device, Tensor};
use funasr_candle::audio::AudioReader;
use funasr_candle::device::{Compute, Precision};
use funasr_candle::hub::{self, ModelSource, SelftestInput};
use funasr_candle::pipeline::{Request, StreamOptions, open_model};
use funasr_candle::punctuation::realtime::Cache;
use funasr_candle::text::join::join;
use funasr_candle::weights::ModelFiles;
use funasr_candle::{Error, Result};
use serde_json::json;

use super::output::{Format, print_line};
use super::session::{ComputeArgs, HubArgs};
use super::stages::{Model, Stages};
use super::vad::segments;
use check::{Check, Recording, Tolerance};

/// Compare every stage of a model on this machine with what FunASR Python gave for the same input
#[derive(Debug, clap::Args)]
pub struct Args {
    /// One model; where FunASR's numbers are not recorded, it is compared with itself on the CPU in f32 [default: every
    /// embedded model]
    #[arg(long)]
    model: Option<String>,
    /// FunASR's stages of the model, recorded by tests/golden/selftest.py --model
    #[arg(long, value_name = "F.safetensors", requires = "model")]
    recording: Option<PathBuf>,
    /// text: a table; json: a line per stage and one at the end
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    #[command(flatten)]
    compute: ComputeArgs,
    #[command(flatten)]
    hub: HubArgs,
}

/// Where models are run, and on what.
struct Setting {
    compute: Compute,
    input: SelftestInput,
}

/// What became of the stages of all models.
#[derive(Default)]
struct Tally {
    stages: usize,
    failed: Vec<String>,
    /// Whose numbers the reference is.
    reference: String,
}

impl Args {
    /// Prints a line for each stage and one at the end; fails if any stage does.
    pub fn run(&self) -> Result<()> {
        let started = Instant::now();
        let compute = self.compute.open()?;
        let Some(input) = hub::selftest_input() else {
            let message =
                "selftest: its input is compiled in with the embedded models (feature `embedded-models`)";
            return Err(Error::Unsupported(message.into()));
        };
        let setting = Setting { compute, input };
        let mut tally = Tally::default();
        for (name, source) in self.models()? {
            let checks = match self.compare(&name, &source, &setting) {
                Ok((checks, reference)) => {
                    tally.reference = reference;
                    checks
                }
                Err(error) if self.model.is_none() => vec![Check::broken(&error)],
                Err(error) => return Err(error),
            };
            self.tell(&name, &checks, &mut tally)?;
        }
        self.conclude(&tally, started.elapsed().as_secs_f64())
    }

    /// The models to look at, by name.
    fn models(&self) -> Result<Vec<(String, ModelSource)>> {
        let Some(name) = &self.model else {
            let embedded = hub::embedded_models().iter();
            return Ok(embedded.map(|model| (model.name.to_owned(), ModelSource::Embedded(model))).collect());
        };
        Ok(vec![(name.clone(), hub::resolve(name, &self.hub.options()?)?)])
    }

    /// Every stage of a model beside the reference, and whose numbers that is.
    fn compare(&self, name: &str, source: &ModelSource, setting: &Setting) -> Result<(Vec<Check>, String)> {
        let Setting { compute, input } = setting;
        let files = open_model(source)?;
        let model = Model::load(&files, compute)?;
        let precision = precision(&model, &files, compute);
        let recording = match (&self.recording, source) {
            (Some(path), _) => Recording::open(path)?,
            (None, ModelSource::Embedded(embedded)) => Recording::parse(name, embedded.selftest)?,
            (None, ModelSource::Dir(_)) => {
                let cpu = Compute::cpu();
                let reference = Model::load(&files, &cpu)?;
                let format = self::precision(&reference, &files, &cpu);
                if compute.device.is_cpu() && precision == format {
                    return Err(nothing_to_compare(name, format));
                }
                let made_by = format!("{name} itself on the CPU in {format}, not FunASR");
                Recording { stages: stages(&reference, input)?.0, made_by }
            }
        };
        let checks = recording.check(&stages(&model, input)?, &Tolerance::of(precision))?;
        if checks.is_empty() {
            return Err(Error::Unsupported(format!("{name}: no stage is recorded")));
        }
        Ok((checks, recording.made_by))
    }

    /// Prints and counts the stages of a model.
    fn tell(&self, name: &str, checks: &[Check], tally: &mut Tally) -> Result<()> {
        for check in checks {
            print_line(&match self.format {
                Format::Text => check.row(name),
                Format::Json => check.json(name).to_string(),
            })?;
            tally.stages += 1;
            tally.failed.extend((!check.passes()).then(|| format!("{name} {}", check.stage)));
        }
        Ok(())
    }

    fn conclude(&self, tally: &Tally, seconds: f64) -> Result<()> {
        let Tally { stages, failed, reference } = tally;
        let (passed, ComputeArgs { device, dtype, .. }) = (stages - failed.len(), &self.compute);
        print_line(&match self.format {
            Format::Text => {
                format!(
                    "{passed} of {stages} stages pass; {device}, {dtype}, {seconds:.2} s; reference: {reference}"
                )
            }
            Format::Json => json!({
                "device": device.to_string(), "dtype": dtype.to_string(), "seconds": seconds,
                "stages": stages, "passed": passed, "reference": reference,
            })
            .to_string(),
        })?;
        match failed.as_slice() {
            [] => Ok(()),
            failed => {
                Err(Error::Failed(format!("{} of {stages} stages fail: {}", failed.len(), failed.join(", "))))
            }
        }
    }
}

/// The format in which the model computes.
fn precision(model: &Model, files: &ModelFiles, compute: &Compute) -> Precision {
    match model {
        Model::Detector(_) => compute.coarse_precision(),
        _ => files.compute(compute).precision(),
    }
}

fn nothing_to_compare(name: &str, precision: Precision) -> Error {
    Error::Unsupported(format!(
        "{name}: FunASR's numbers are recorded for the embedded models, and any other model is compared with itself on \
         the CPU in {precision}, which is what was asked for; choose another --device or --dtype, or give a --recording"
    ))
}

/// Every stage of the model on the input, and what it says in the end.
fn stages(model: &Model, input: &SelftestInput) -> Result<Stages> {
    let mut stages = Stages::default();
    let said = match model {
        Model::Recognizer(recognizer) => {
            let samples = speech(input, recognizer.sample_rate())?;
            let request = Request::default();
            let features = stages.hear(recognizer.frontend(), &samples)?;
            let output = stages.recognize(recognizer, &[features], &request)?;
            let read = recognizer.read(&output, 0, &request)?;
            read.tagging.map_or(read.joined.text, |tagging| tagging.text)
        }
        Model::Online(recognizer) => {
            let samples = speech(input, recognizer.sample_rate())?;
            let options = StreamOptions::default();
            stages.hear(recognizer.frontend(), &samples)?;
            stages.stream(recognizer, &options, &recognizer.pieces(&options, &samples)?)?;
            let chunks = recognizer.run(&mut recognizer.stream(&options)?, &samples, true)?;
            join(&chunks.concat(), recognizer.notation()).text
        }
        Model::Detector(detector) => {
            let samples = speech(input, detector.sample_rate())?;
            let features = stages.hear(detector.frontend(), &samples)?;
            stages.detect(detector, features)?;
            let found = segments(detector, &samples, detector.sample_rate())?;
            let times: Vec<i64> = found.iter().flatten().map(|&ms| ms as i64).collect();
            stages.add("segments", Tensor::from_vec(times, (found.len(), 2), &Device::Cpu)?);
            return Ok(stages);
        }
        Model::Punctuation(model) => {
            let text = input.text.trim();
            let logits = stages.punctuate(model, model.word_ids(text))?;
            stages.add("marks", logits.argmax(D::Minus1)?);
            if model.is_realtime() {
                let next = model.punctuate_next(&mut Cache::default(), text)?;
                next.before + &next.text
            } else {
                model.punctuate(text)?.text
            }
        }
    };
    stages.add("text", Tensor::new(said.as_bytes(), &Device::Cpu)?);
    Ok(stages)
}

/// The recorded speech at the rate of the model.
fn speech(input: &SelftestInput, sample_rate: u32) -> Result<Vec<f32>> {
    let mut reader = AudioReader::from_source("speech.flac", Cursor::new(input.speech), sample_rate)?;
    let mut samples = Vec::new();
    reader.read(&mut samples, usize::MAX)?;
    Ok(samples)
}
