//! Reading of `tests/golden/*.safetensors` and comparing with them.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use funasr_candle::device::{Compute, DeviceName, Precision};
use serde_json::Value;

/// Largest error of a stage, relative to the largest value of the reference.
pub const STAGE_TOLERANCE: f32 = 1e-3;
/// Largest absolute error of fbank, LFR and CMVN values, which go up to about 20.
pub const FEATURE_TOLERANCE: f32 = 1e-3;

/// Where golden tensors lie and models run: the CPU, or what FUNASR_CANDLE_TEST_DEVICE names (`tests/gpu.sh`).
pub static DEVICE: LazyLock<Device> = LazyLock::new(|| {
    let name = std::env::var("FUNASR_CANDLE_TEST_DEVICE");
    name.map_or(DeviceName::Cpu, |name| name.parse().unwrap()).open().unwrap()
});

/// The same with the number format that FUNASR_CANDLE_TEST_DTYPE names, f32 without.
pub fn compute() -> Compute {
    let precision =
        std::env::var("FUNASR_CANDLE_TEST_DTYPE").map_or(Precision::F32, |name| name.parse().unwrap());
    Compute::on(DEVICE.clone(), precision).unwrap()
}

/// One golden file.
pub struct Golden {
    pub name: String,
    tensors: HashMap<String, Tensor>,
    metadata: HashMap<String, String>,
    /// Largest error seen for each kind of stage.
    errors: RefCell<BTreeMap<String, f32>>,
}

/// The parity table: `cargo test parity -- --nocapture` shows it.
impl Drop for Golden {
    fn drop(&mut self) {
        for (stage, error) in self.errors.take() {
            println!("parity | {:<28} | {stage:<22} | {error:.1e}", self.name);
        }
    }
}

impl Golden {
    /// Opens `tests/golden/<name>.safetensors`.
    pub fn open(name: &str) -> Self {
        Self::open_path(&directory().join(format!("{name}.safetensors")))
    }

    pub fn open_path(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        Self {
            name: path.file_stem().unwrap().to_string_lossy().into_owned(),
            tensors: candle_core::safetensors::load_buffer(&bytes, &DEVICE).unwrap(),
            metadata: header.metadata().clone().unwrap_or_default(),
            errors: RefCell::default(),
        }
    }

    /// All golden files whose name starts with `prefix`, sorted.
    pub fn all(prefix: &str) -> Vec<Self> {
        let mut names: Vec<String> = std::fs::read_dir(directory())
            .unwrap()
            .filter_map(|entry| {
                entry.unwrap().file_name().to_str()?.strip_suffix(".safetensors").map(str::to_owned)
            })
            .filter(|name| name.starts_with(prefix))
            .collect();
        names.sort();
        assert!(!names.is_empty(), "no golden file {prefix}*");
        names.iter().map(|name| Self::open(name)).collect()
    }

    pub fn tensor(&self, name: &str) -> &Tensor {
        self.tensors.get(name).unwrap_or_else(|| panic!("{}: no tensor {name}", self.name))
    }

    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// All values of a float tensor.
    pub fn values(&self, name: &str) -> Vec<f32> {
        self.tensor(name).flatten_all().unwrap().to_vec1().unwrap()
    }

    /// All values of an integer tensor.
    pub fn integers(&self, name: &str) -> Vec<i64> {
        self.tensor(name).flatten_all().unwrap().to_vec1().unwrap()
    }

    /// Names of the tensors, sorted.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.tensors.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// A metadata entry as JSON.
    pub fn json(&self, key: &str) -> Value {
        serde_json::from_str(&self.metadata[key]).unwrap()
    }

    /// The model configuration without the sections named in `without`.
    pub fn config(&self, without: &[&str]) -> Value {
        let mut config = self.json("config");
        for key in without {
            config.as_object_mut().unwrap().remove(*key);
        }
        config
    }

    /// The `weights.*` tensors under their own names.
    pub fn weights(&self) -> VarBuilder<'static> {
        let own = |(name, tensor): (&String, &Tensor)| {
            Some((name.strip_prefix("weights.")?.to_owned(), tensor.clone()))
        };
        VarBuilder::from_tensors(self.tensors.iter().filter_map(own).collect(), DType::F32, &DEVICE)
    }

    /// Writes the model as a directory with these files of text beside the weights. A token list is filled up to the
    /// size of the vocabulary.
    pub fn write_model(&self, directory: &Path, tokens: &[&str], seg_dict: Option<&str>) {
        let mut config = self.json("config");
        let vocab = config["vocab_size"].as_u64().unwrap() as usize;
        let fill = (tokens.len()..vocab).map(|i| format!("filler{i}"));
        let tokens: Vec<String> = tokens.iter().map(|token| (*token).to_owned()).chain(fill).collect();
        config["files"] = serde_json::json!({"tokens": "tokens.json"});
        if let Some(text) = seg_dict {
            config["files"]["seg_dict"] = "seg_dict".into();
            std::fs::write(directory.join("seg_dict"), text).unwrap();
        }
        std::fs::write(directory.join("tokens.json"), serde_json::to_string(&tokens).unwrap()).unwrap();
        std::fs::write(directory.join("config.json"), config.to_string()).unwrap();
        let own = |(name, tensor): (&String, &Tensor)| {
            let name = name.strip_prefix("weights.").or(name.starts_with("frontend.").then_some(name))?;
            Some((name.to_owned(), tensor.clone()))
        };
        let tensors: HashMap<String, Tensor> = self.tensors.iter().filter_map(own).collect();
        candle_core::safetensors::save(&tensors, directory.join("model.safetensors")).unwrap();
    }

    /// Fails, naming the stage, if `ours` is not `stage` within [`STAGE_TOLERANCE`] of its largest value; returns
    /// the error.
    #[track_caller]
    pub fn check(&self, stage: &str, ours: &Tensor) -> f32 {
        let reference = self.tensor(stage);
        assert_eq!(ours.dims(), reference.dims(), "{}: shape of {stage}", self.name);
        let ours: Vec<f32> = ours.flatten_all().unwrap().to_vec1().unwrap();
        self.check_values(stage, &ours)
    }

    #[track_caller]
    pub fn check_values(&self, stage: &str, ours: &[f32]) -> f32 {
        let reference = self.values(stage);
        assert_eq!(ours.len(), reference.len(), "{}: length of {stage}", self.name);
        let scale = reference.iter().fold(f32::MIN_POSITIVE, |m, v| m.max(v.abs()));
        let error = max_error(ours, &reference) / scale;
        assert!(error <= STAGE_TOLERANCE, "{}: {stage} differs by {error:.2e} of its scale", self.name);
        self.note(stage, error);
        error
    }

    /// Keeps the error for the table: `item3.encoder_layer_1` counts as `encoder_layer`.
    fn note(&self, stage: &str, error: f32) {
        let kind = stage
            .rsplit('.')
            .next()
            .unwrap_or(stage)
            .trim_end_matches(|c: char| c == '_' || c.is_ascii_digit());
        let mut errors = self.errors.borrow_mut();
        let worst = errors.entry(kind.to_owned()).or_default();
        *worst = worst.max(error);
    }
}

/// Largest absolute difference; NaN counts as infinite.
pub fn max_error(a: &[f32], b: &[f32]) -> f32 {
    let gap = |(a, b): (&f32, &f32)| if (a - b).is_nan() { f32::INFINITY } else { (a - b).abs() };
    a.iter().zip(b).map(gap).fold(0.0, f32::max)
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}
