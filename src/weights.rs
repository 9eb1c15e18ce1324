//! A converted model: its configuration, its tokens, and its tensors.
//!
//! Loading is strict: an unknown configuration key, a missing, wrongly shaped or unused tensor is an error.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::VarBuilder;
use candle_nn::var_builder::SimpleBackend;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::device::{BF16_MARK, Compute, INT8_MARK};
use crate::error::{Error, Result};

mod file;
mod int8;

use file::TensorFile;

/// Version of the layout that the converter writes and this reads.
const FORMAT_VERSION: u64 = 1;

/// Configuration file of a model directory.
pub const CONFIG_FILE: &str = "config.json";
/// Tensor file of a model directory.
pub const WEIGHTS_FILE: &str = "model.safetensors";
/// Entries of the configuration that describe the files themselves.
const FILE_ENTRIES: [&str; 3] = ["format_version", "files", "origin"];

/// The files of a model, opened.
pub struct ModelFiles {
    /// Where they come from: a directory, or `embedded <name>`.
    pub origin: String,
    config: Value,
    tensors: Arc<TensorFile>,
    directory: Option<PathBuf>,
    embedded_tokens: Option<&'static str>,
    /// Layers that computed in 8 bits when a model was built.
    rounded: Arc<Mutex<BTreeSet<String>>>,
}

impl std::fmt::Debug for ModelFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModelFiles").field("origin", &self.origin).finish_non_exhaustive()
    }
}

impl ModelFiles {
    /// Opens a converted model directory.
    pub fn open(directory: &Path) -> Result<Self> {
        let config_path = directory.join(CONFIG_FILE);
        let text = std::fs::read_to_string(&config_path).map_err(|e| Error::io(&config_path, e))?;
        let weights_path = directory.join(WEIGHTS_FILE);
        let tensors = TensorFile::open(&weights_path)?;
        Self::new(directory.display().to_string(), &text, tensors, Some(directory.to_owned()), None)
    }

    /// Takes a model that is compiled into the program.
    pub fn embedded(name: &str, config: &str, weights: &'static [u8], tokens: &'static str) -> Result<Self> {
        let origin = format!("embedded {name}");
        let tensors = TensorFile::embedded(weights).map_err(|e| Error::weights(&origin, one_line(&e)))?;
        let tokens = (!tokens.is_empty()).then_some(tokens);
        Self::new(origin, config, tensors, None, tokens)
    }

    fn new(
        origin: String,
        config: &str,
        tensors: TensorFile,
        directory: Option<PathBuf>,
        embedded_tokens: Option<&'static str>,
    ) -> Result<Self> {
        let config: Value =
            serde_json::from_str(config).map_err(|e| Error::config(config_name(&origin), e))?;
        match config.get("format_version").and_then(Value::as_u64) {
            Some(FORMAT_VERSION) => {}
            found => {
                let message = format!("format_version is {found:?}, this program reads {FORMAT_VERSION}");
                return Err(Error::config(config_name(&origin), message));
            }
        }
        let (tensors, rounded) = (Arc::new(tensors), Arc::default());
        Ok(Self { origin, config, tensors, directory, embedded_tokens, rounded })
    }

    /// The model class, such as `Paraformer`.
    pub fn class(&self) -> Result<&str> {
        let class = self.config.get("model").and_then(Value::as_str);
        class.ok_or_else(|| Error::config(config_name(&self.origin), "no `model` class"))
    }

    /// Fails unless the model is of this class.
    pub fn expect_class(&self, expected: &str) -> Result<()> {
        match self.class()? {
            found if found == expected => Ok(()),
            found => Err(self.config_error(format!("is a {found} model, where a {expected} is expected"))),
        }
    }

    /// The configuration as `T`, without the entries that describe the files themselves and without `others`,
    /// which somebody else reads.
    pub fn config<T: DeserializeOwned>(&self, others: &[&str]) -> Result<T> {
        let mut config = self.config.clone();
        if let Some(entries) = config.as_object_mut() {
            entries.retain(|key, _| !FILE_ENTRIES.contains(&key.as_str()) && !others.contains(&key.as_str()));
        }
        serde_json::from_value(config).map_err(|e| Error::config(config_name(&self.origin), e))
    }

    /// One section of the configuration as `T`.
    pub fn section<T: DeserializeOwned>(&self, key: &str) -> Result<T> {
        let section = self.config.get(key).ok_or_else(|| self.config_error(format!("no section `{key}`")))?;
        serde_json::from_value(section.clone()).map_err(|e| self.config_error(format!("{key}: {e}")))
    }

    /// An error about the configuration.
    pub fn config_error(&self, message: impl ToString) -> Error {
        Error::config(config_name(&self.origin), message)
    }

    /// Name and text of the token list.
    pub fn tokens(&self) -> Result<(String, String)> {
        if let Some(tokens) = self.embedded_tokens {
            return Ok((format!("{}/tokens.json", self.origin), tokens.to_owned()));
        }
        let name = self.config.pointer("/files/tokens").and_then(Value::as_str);
        let name = name.ok_or_else(|| self.config_error("no token list (`files.tokens`)"))?;
        self.text_file(name)
    }

    /// Name and text of the user dictionary of a punctuation model that splits words with jieba.
    pub fn jieba_user_dict(&self) -> Result<Option<(String, String)>> {
        let name = self.config.pointer("/files/jieba_user_dict");
        name.map(|name| self.text_file(name.as_str().unwrap_or_default())).transpose()
    }

    /// Name and text of the dictionary from words to the tokens that spell them. An embedded model has none.
    pub fn seg_dict(&self) -> Result<Option<(String, String)>> {
        let name = self.config.pointer("/files/seg_dict").filter(|_| self.directory.is_some());
        name.map(|name| self.text_file(name.as_str().unwrap_or_default())).transpose()
    }

    /// Name and text of a file beside the configuration, never of one that a path leads to elsewhere.
    pub fn text_file(&self, name: &str) -> Result<(String, String)> {
        let file = Path::new(name).file_name();
        let file = file.ok_or_else(|| self.config_error(format!("files: {name:?} names no file")))?;
        let directory = self.directory.as_ref();
        let path =
            directory.ok_or_else(|| self.config_error(format!("{name:?} is not embedded")))?.join(file);
        let text = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?;
        Ok((path.display().to_string(), text))
    }

    /// Builds a model from the tensors: `load` gets a builder at the root, and must use every tensor but those
    /// below `frontend.`. Where `compute` or the files say 8 bits, every prefix of the builder has an [`INT8_MARK`] and a
    /// [`BF16_MARK`].
    pub fn build<M>(
        &self,
        compute: &Compute,
        load: impl FnOnce(VarBuilder) -> candle_core::Result<M>,
    ) -> Result<M> {
        let compute = self.compute(compute);
        let used = Arc::new(Mutex::new(BTreeSet::new()));
        let rounded = compute.int8.then(|| self.rounded.clone());
        let backend = Tracked { tensors: self.tensors.clone(), used: used.clone(), rounded };
        let vb = VarBuilder::from_backend(Box::new(backend), compute.dtype, compute.device.clone());
        let model = load(vb).map_err(|e| match Error::from(e) {
            Error::Inference(e) => Error::weights(weights_name(&self.origin), one_line(&e)),
            no_room => Error::weights(weights_name(&self.origin), no_room),
        })?;
        let used = used.lock().unwrap_or_else(PoisonError::into_inner);
        let unused: Vec<String> = self
            .tensors
            .names()
            .into_iter()
            .filter(|n| !n.starts_with("frontend.") && !used.contains(n))
            .collect();
        match unused.as_slice() {
            [] => Ok(model),
            [first, rest @ ..] => {
                let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
                let message = format!("tensor `{first}`{more} does not belong to the configured model");
                Err(Error::weights(weights_name(&self.origin), message))
            }
        }
    }

    /// How a model of these files computes where `compute` is asked for: in 8 bits on the CPU if they are stored so.
    pub fn compute(&self, compute: &Compute) -> Compute {
        let stored = self.tensors.names().iter().any(|name| self.tensors.is_steps(name));
        let mut compute = compute.clone();
        compute.int8 |= stored && compute.device.is_cpu();
        compute
    }

    /// Layers that compute in 8 bits in the models that were built of these files: prefixes of tensor names.
    pub fn rounded_layers(&self) -> BTreeSet<String> {
        self.rounded.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// One f32 vector of `len` values, or nothing if the file has no such tensor.
    pub fn vector(&self, name: &str, len: usize) -> Result<Option<Vec<f32>>> {
        if !self.tensors.contains(name) {
            return Ok(None);
        }
        let fail = |e: candle_core::Error| Error::weights(weights_name(&self.origin), one_line(&e));
        let tensor = self.tensors.load(name, &Device::Cpu).map_err(fail)?;
        if tensor.dims() != [len] {
            let message = format!("tensor `{name}` has shape {:?}, expected [{len}]", tensor.dims());
            return Err(Error::weights(weights_name(&self.origin), message));
        }
        tensor.to_dtype(DType::F32).and_then(|t| t.to_vec1()).map(Some).map_err(fail)
    }
}

fn config_name(origin: &str) -> PathBuf {
    Path::new(origin).join(CONFIG_FILE)
}

fn weights_name(origin: &str) -> PathBuf {
    Path::new(origin).join(WEIGHTS_FILE)
}

/// A candle error without its backtrace, on one line.
fn one_line(error: &candle_core::Error) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or_default().to_owned()
}

/// Loads with shape checks, and remembers which tensors were asked for.
struct Tracked {
    tensors: Arc<TensorFile>,
    used: Arc<Mutex<BTreeSet<String>>>,
    /// Where to note layers that compute in 8 bits, if any may.
    rounded: Option<Arc<Mutex<BTreeSet<String>>>>,
}

impl SimpleBackend for Tracked {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: candle_nn::Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let tensor = self.get_unchecked(name, dtype, device)?;
        if tensor.shape() != &shape {
            candle_core::bail!("tensor `{name}` has shape {:?}, expected {shape:?}", tensor.shape());
        }
        Ok(tensor)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
        if self.tensors.is_steps(name) && dtype != DType::U8 {
            candle_core::bail!("tensor `{name}` is stored in 8 bits, which its layer does not compute in");
        }
        self.tensors.load(name, device)?.to_dtype(dtype)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        match (&self.rounded, name.rsplit_once('.')) {
            (Some(rounded), Some((layer, INT8_MARK))) => {
                rounded.lock().unwrap_or_else(PoisonError::into_inner).insert(layer.to_owned());
                true
            }
            (Some(_), Some((_, BF16_MARK))) => true,
            _ => self.tensors.contains(name),
        }
    }
}
