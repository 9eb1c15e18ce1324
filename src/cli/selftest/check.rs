//! Recorded stages, and how far ours are from them.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use funasr_candle::device::Precision;
use funasr_candle::{Error, Result};
use serde_json::{Value, json};

use crate::cli::stages::Stages;

/// Stages as they follow from each other: the first that fails is where to look.
const ORDER: [&str; 24] = [
    "fbank",
    "lfr",
    "speech",
    "chunk_frames",
    "encoder_out",
    "alphas",
    "peaks",
    "token_num",
    "chunk_tokens",
    "acoustic_embeds",
    "us_alphas",
    "us_peaks",
    "decoder_hidden",
    "cif_attended",
    "dec_attended",
    "dha",
    "decoder_logits",
    "ctc_logits",
    "vad_scores",
    "punc_logits",
    "ids",
    "segments",
    "marks",
    "text",
];

/// Largest error that a stage of floats may have, relative to the largest value of the reference. Whole numbers and
/// text have none.
pub struct Tolerance {
    /// Of the front end, which computes in f32 on the processor whatever the network does.
    front_end: f64,
    /// Of the network.
    network: f64,
}

/// That of the parity tests (`tests/golden.rs`); found here: up to 2.8e-5, at `speech`.
const F32: f64 = 1e-3;
/// What was found: 2.8e-2 with AVX2, 5.8e-2 with the scales that other processors take, both at `alphas` of `demo`.
const INT8: f64 = 6e-2;
/// Three times what PyTorch's autocast to bf16 gives for these models on a CPU: 2.1e-2, at `vad_scores`. Ours, on the emulated
/// GPU of `.ci/cuda`, gave 1.9e-2 there.
const BF16: f64 = 6e-2;
/// f16 has three bits more than bf16. Found so: 4.9e-3, at `alphas` of `demo`.
const F16: f64 = BF16 / 8.0;

impl Tolerance {
    /// For models that compute in `precision`.
    pub fn of(precision: Precision) -> Self {
        let network = match precision {
            Precision::F32 => F32,
            Precision::Int8 => INT8,
            Precision::Bf16 => BF16,
            Precision::F16 => F16,
        };
        Self { front_end: F32, network }
    }

    fn at(&self, stage: &str, dtype: DType) -> f64 {
        match stage {
            _ if !dtype.is_float() => 0.0,
            "fbank" | "lfr" => self.front_end,
            _ => self.network,
        }
    }
}

/// Stages by name that somebody else gave for the same input.
pub struct Recording {
    /// The tensors.
    pub stages: HashMap<String, Tensor>,
    /// Who did.
    pub made_by: String,
}

impl Recording {
    /// Reads a file of `tests/golden/selftest.py`.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
        Self::parse(&path.display().to_string(), &bytes)
    }

    /// The same from its bytes.
    pub fn parse(name: &str, bytes: &[u8]) -> Result<Self> {
        let fail = |e: String| Error::weights(name, format!("recorded stages: {e}"));
        let (_, header) = safetensors::SafeTensors::read_metadata(bytes).map_err(|e| fail(e.to_string()))?;
        let made_by = header.metadata().as_ref().and_then(|metadata| metadata.get("made_by"));
        let made_by = made_by.ok_or_else(|| fail("the metadata do not say `made_by`".into()))?.clone();
        let stages = candle_core::safetensors::load_buffer(bytes, &Device::Cpu);
        Ok(Self { stages: stages.map_err(|e| fail(e.to_string()))?, made_by })
    }

    /// Compares every stage that is recorded.
    pub fn check(&self, ours: &Stages, tolerance: &Tolerance) -> Result<Vec<Check>> {
        let place = |name: &str| ORDER.iter().position(|known| *known == name).unwrap_or(ORDER.len());
        let mut names: Vec<&String> = self.stages.keys().collect();
        names.sort_by_key(|name| (place(name), *name));
        let check = |name: &String| {
            let reference = &self.stages[name];
            Check::new(name, ours.0.get(name), reference, tolerance.at(name, reference.dtype()))
        };
        names.into_iter().map(check).collect()
    }
}

/// One stage beside the reference.
pub struct Check {
    /// Its name.
    pub stage: String,
    /// Shape of the reference.
    shape: Vec<usize>,
    /// Relative to the largest value of the reference.
    error: f64,
    tolerance: f64,
    /// Why there is nothing to compare, or what differs.
    fault: Option<String>,
}

impl Check {
    fn new(stage: &str, ours: Option<&Tensor>, reference: &Tensor, tolerance: f64) -> Result<Self> {
        let (error, fault) = match ours {
            None => (f64::INFINITY, Some("missing".to_owned())),
            Some(ours) if ours.dims() != reference.dims() => {
                (f64::INFINITY, Some(format!("shape {:?}", ours.dims())))
            }
            Some(ours) => (error(&values(ours)?, &values(reference)?), None),
        };
        let fault = match ours {
            Some(ours) if stage == "text" && error > 0.0 => {
                Some(format!("{}, not {}", text(ours)?, text(reference)?))
            }
            _ => fault,
        };
        Ok(Self { stage: stage.to_owned(), shape: reference.dims().to_vec(), error, tolerance, fault })
    }

    /// A model that does not run.
    pub fn broken(error: &Error) -> Self {
        let fault = Some(error.to_string().replace('\n', " "));
        Self { stage: "model".into(), shape: Vec::new(), error: f64::INFINITY, tolerance: 0.0, fault }
    }

    /// Whether the stage is what it should be.
    pub fn passes(&self) -> bool {
        self.error <= self.tolerance
    }

    /// A row of the table.
    pub fn row(&self, model: &str) -> String {
        let Self { stage, shape, error, tolerance, fault } = self;
        let verdict = match (self.passes(), fault) {
            (true, _) => "pass".to_owned(),
            (false, None) => "FAIL".to_owned(),
            (false, Some(fault)) => format!("FAIL: {fault}"),
        };
        let shape = format!("{shape:?}");
        let tolerance = if *tolerance > 0.0 { format!("{tolerance:.0e}") } else { "equal".to_owned() };
        format!("{model:<18} {stage:<15} {shape:<14} {error:>8.1e} {tolerance:>6}  {verdict}")
    }

    /// The same as an object.
    pub fn json(&self, model: &str) -> Value {
        let Self { stage, shape, error, tolerance, fault } = self;
        let mut line = json!({
            "model": model, "stage": stage, "shape": shape, "error": error, "tolerance": tolerance,
            "pass": self.passes(),
        });
        if let Some(fault) = fault {
            line["fault"] = fault.as_str().into();
        }
        line
    }
}

/// All values of a tensor, on the host.
fn values(tensor: &Tensor) -> Result<Vec<f64>> {
    Ok(tensor.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
}

fn text(bytes: &Tensor) -> Result<String> {
    Ok(String::from_utf8_lossy(&bytes.to_vec1::<u8>()?).into_owned())
}

/// Largest difference, relative to the largest value of the reference; one that is not a number counts as infinite.
fn error(ours: &[f64], reference: &[f64]) -> f64 {
    let scale = reference.iter().fold(f64::MIN_POSITIVE, |scale, value| scale.max(value.abs()));
    let gap = |(a, b): (&f64, &f64)| if (a - b).is_nan() { f64::INFINITY } else { (a - b).abs() };
    ours.iter().zip(reference).map(gap).fold(0.0, f64::max) / scale
}
