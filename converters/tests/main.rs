//! Conversions of small directories, good and bad.

// The exemption for tests covers `#[test]` functions only, not their helpers.
#![allow(clippy::unwrap_used, clippy::panic)]

mod checkpoints;
mod directory;
mod hostile;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use funasr_convert::{ConvertOptions, Error, Report, convert};
use safetensors::SafeTensors;
use tempfile::TempDir;

/// A configuration that asks for no token list and no normalisation: any tensors will do.
const BARE: &str = "model: FsmnVADStreaming\nencoder: FSMN\n";

/// A model directory in the making and what it is converted to.
struct Case {
    directory: TempDir,
}

impl Case {
    fn new(config: &str, checkpoint: &[u8]) -> Self {
        let case = Self { directory: tempfile::tempdir().unwrap() };
        fs::create_dir(case.source()).unwrap();
        case.file("config.yaml", config.as_bytes()).file("model.pt", checkpoint)
    }

    fn file(self, name: &str, content: &[u8]) -> Self {
        fs::write(self.source().join(name), content).unwrap();
        self
    }

    fn source(&self) -> PathBuf {
        self.directory.path().join("source")
    }

    fn target(&self) -> PathBuf {
        self.directory.path().join("target")
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.target().join(name)).unwrap()
    }

    fn config(&self) -> serde_json::Value {
        serde_json::from_slice(&self.read("config.json")).unwrap()
    }

    fn convert(&self, options: &ConvertOptions) -> Result<Report, Error> {
        convert(&self.source(), &self.target(), options)
    }

    fn converted(&self) -> Report {
        self.convert(&ConvertOptions::default()).unwrap()
    }

    /// The message of the refusal: one line.
    fn refusal(&self) -> String {
        let message = self.convert(&ConvertOptions::default()).unwrap_err().to_string();
        assert!(!message.contains('\n'), "{message:?}");
        // The target is not made before the source is known for a model.
        let left: Vec<_> = fs::read_dir(self.target()).into_iter().flatten().collect();
        assert!(left.is_empty(), "{left:?} left after {message}");
        message
    }
}

fn fixture(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/checkpoints/{name}.pt"))).unwrap()
}

/// Type, shape and values of every tensor of a converted file; the values as f64 of the stored type.
fn tensors(file: &[u8]) -> BTreeMap<String, (String, Vec<usize>, Vec<f64>)> {
    let file = SafeTensors::deserialize(file).unwrap();
    file.iter()
        .map(|(name, view)| {
            let dtype = format!("{:?}", view.dtype());
            let size = view.data().len() / view.shape().iter().product::<usize>().max(1);
            let values = view.data().chunks(size.max(1)).map(|bytes| number(&dtype, bytes)).collect();
            (name.to_owned(), (dtype, view.shape().to_vec(), values))
        })
        .collect()
}

fn number(dtype: &str, bytes: &[u8]) -> f64 {
    let bits = bytes.iter().rev().fold(0u64, |bits, byte| bits << 8 | u64::from(*byte));
    match dtype {
        "F32" => f64::from(f32::from_bits(bits as u32)),
        "F16" => half::f16::from_bits(bits as u16).into(),
        "BF16" => half::bf16::from_bits(bits as u16).into(),
        "I8" | "I16" | "I32" | "I64" | "U8" | "BOOL" => bits as f64,
        other => panic!("{other}"),
    }
}
