//! Converts a FunASR model directory to plain data: `config.json`, `model.safetensors` and the token files.
//!
//! A FunASR directory holds `config.yaml`, a PyTorch checkpoint (`model.pt`), `am.mvn` with the feature normalisation,
//! and token lists. PyTorch checkpoints are pickles, programs that can run anything. [`convert`] reads them with a
//! machine that can only describe tensors: what else a file asks for is refused by name.
//!
//! ```no_run
//! use funasr_convert::{ConvertOptions, convert};
//!
//! let report = convert("paraformer-zh".as_ref(), "converted".as_ref(), &ConvertOptions::default())?;
//! println!("{}: {} tensors, {} parameters", report.class, report.tensors, report.parameters);
//! # Ok::<(), funasr_convert::Error>(())
//! ```

mod checkpoint;
mod class;
mod cmvn;
mod config;
mod error;
mod pickle;
mod source;
mod tokens;
mod torch;
mod weights;

use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, File},
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
};

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

pub use crate::error::{Error, Result};
use crate::{
    checkpoint::Checkpoint,
    cmvn::Cmvn,
    config::{Config, read_yaml},
    source::{Role, Source, read_text},
    torch::Element,
    weights::Weights,
};

/// Version of the layout of `config.json` and `model.safetensors`.
pub const FORMAT_VERSION: u32 = 1;

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const TOKENS: &str = "tokens.json";

/// Type of the converted weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dtype {
    /// 32-bit float, as FunASR publishes its models.
    #[default]
    F32,
    /// 16-bit IEEE float; a weight beyond 65504 is an error.
    F16,
    /// The upper half of a 32-bit float.
    BF16,
}

impl Dtype {
    fn element(self) -> Element {
        match self {
            Self::F32 => Element::F32,
            Self::F16 => Element::F16,
            Self::BF16 => Element::BF16,
        }
    }

    /// Largest magnitude that does not round to infinity.
    fn largest(self) -> f32 {
        match self {
            Self::F32 => f32::MAX,
            // Halfway between the largest number and the next one there would be, exclusive.
            Self::F16 => 65520f32.next_down(),
            Self::BF16 => f32::from_bits(0x7f7f_7fff),
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
        })
    }
}

/// How to convert, and what to write down about where the model comes from.
#[derive(Clone, Debug, Default)]
pub struct ConvertOptions {
    /// Type of the float tensors; integer tensors keep theirs.
    pub dtype: Dtype,
    /// Where the model comes from, such as a hub id with its revision.
    pub origin: Option<String>,
    /// The model's licence.
    pub licence: Option<String>,
}

/// What a conversion did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// FunASR's model class.
    pub class: String,
    /// Tensors of the model; the two of the normalisation not counted.
    pub tensors: usize,
    /// Their elements.
    pub parameters: u64,
    /// What was in the checkpoint's state dict and was left out.
    pub skipped: Vec<Skipped>,
    /// Top-level keys of `config.yaml` that nothing is known of.
    pub ignored: Vec<String>,
    /// Size of all written files together.
    pub bytes_written: u64,
}

/// A tensor that was left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Its name in the checkpoint.
    pub name: String,
    /// Why inference does not need it.
    pub reason: String,
}

/// Whether `path` is a directory with a FunASR configuration and a checkpoint, under their usual names or as its
/// `configuration.json` says.
pub fn is_funasr_dir(path: &Path) -> bool {
    Source::find(path).is_ok()
}

/// Converts the FunASR directory `src` into the directory `dst`.
///
/// `dst` is made if it is missing, and `src` is a model. Files appear in it complete, `config.json` last: a directory that has it is whole.
/// The same input gives the same bytes. Memory stays at a few megabytes plus the largest non-contiguous tensor.
///
/// # Errors
/// A directory that is no model, a damaged or hostile file, a class or option that the engine does not support, token
/// lists that do not fit the weights, a weight beyond the range of the target type, and failing reads and writes.
pub fn convert(src: &Path, dst: &Path, options: &ConvertOptions) -> Result<Report> {
    let same = || Some(src.canonicalize().ok()? == dst.canonicalize().ok()?);
    if same().unwrap_or(false) {
        return Err(Error::config(dst, "the destination is the source directory"));
    }
    let (model, skipped) = Model::read(src)?;
    fs::create_dir_all(dst).map_err(Error::io(dst))?;
    let staging = tempfile::Builder::new().prefix(".convert-").tempdir_in(dst).map_err(Error::io(dst))?;
    let bytes_written = model.write(staging.path(), options)?;
    publish(staging.path(), dst)?;
    Ok(Report {
        class: model.config.class.name.to_owned(),
        tensors: model.checkpoint.tensors.len(),
        parameters: model.checkpoint.tensors.values().map(|tensor| tensor.len).sum(),
        skipped,
        ignored: model.config.ignored,
        bytes_written,
    })
}

/// Everything of a FunASR directory but the elements of its tensors.
struct Model {
    config: Config,
    checkpoint: Checkpoint,
    cmvn: Option<Cmvn>,
    tokens: Option<Vec<String>>,
    /// How tokens become text, if they are those of a sentencepiece model.
    piece_rules: Option<Value>,
    /// Key in "files" and the file to copy.
    copies: Vec<(&'static str, PathBuf)>,
    /// SHA-256 by file name, of every file that went in.
    sha256: BTreeMap<String, String>,
}

impl Model {
    fn read(src: &Path) -> Result<(Self, Vec<Skipped>)> {
        let source = Source::find(src)?;
        let yaml = read_yaml(&source.config)?;
        let assets = source.assets(&yaml)?;
        let asset = |role| assets.iter().find(|(other, _)| *other == role).map(|(_, path)| path.as_path());
        let config = Config::distil(yaml, &source.config)?;
        let mut checkpoint = Checkpoint::open(&source.checkpoint)?;
        let skipped = skip_training_tensors(&mut checkpoint, &config);

        let cmvn = asset(Role::Cmvn).map(|path| read_cmvn(path, &config)).transpose()?;
        let unknown = config.text("tokenizer_conf", "unk_symbol").unwrap_or("<unk>");
        // A tokenizer that works on pieces leaves a token list unread.
        let list = asset(Role::Tokens).filter(|_| !config.has_pieces());
        let tokens = list.map(|path| tokens::read_tokens(path, unknown)).transpose()?;
        let model = asset(Role::BpeModel).map(tokens::read_sentencepiece).transpose()?;
        let (tokens, piece_rules) = match (tokens, model) {
            (None, Some(model)) => (Some(model.pieces), Some(model.rules)),
            (tokens, _) => (tokens, None),
        };
        let vocabulary = list.or(asset(Role::BpeModel)).unwrap_or(&source.config);
        check_vocabulary(vocabulary, tokens.as_ref().map(Vec::len), &config, &checkpoint)?;

        let copies = [
            ("seg_dict", Role::SegDict),
            ("bpe_model", Role::BpeModel),
            ("jieba_user_dict", Role::JiebaUserDict),
        ];
        let copies =
            copies.into_iter().filter_map(|(key, role)| Some((key, asset(role)?.to_owned()))).collect();
        let mut inputs = vec![source.config.clone(), source.checkpoint.clone()];
        inputs.extend(assets.iter().map(|(_, path)| path.clone()));
        let sha256 = inputs.iter().map(|path| Ok((file_name(path), sha256(path)?))).collect::<Result<_>>()?;
        Ok((Self { config, checkpoint, cmvn, tokens, piece_rules, copies, sha256 }, skipped))
    }

    /// Writes all files into `directory`; returns their size.
    fn write(&self, directory: &Path, options: &ConvertOptions) -> Result<u64> {
        let weights = Weights {
            checkpoint: &self.checkpoint,
            cmvn: self.cmvn.as_ref(),
            dtype: options.dtype,
            metadata: self.metadata(options),
        };
        weights.write(&directory.join(WEIGHTS))?;
        if let Some(tokens) = &self.tokens {
            write_json(&directory.join(TOKENS), &json!(tokens))?;
        }
        for (_, path) in &self.copies {
            let target = directory.join(file_name(path));
            if target.exists() || target.ends_with(CONFIG) {
                return Err(Error::asset(path, "has the name of a file that the conversion writes"));
            }
            fs::copy(path, &target).map_err(Error::io(path))?;
        }
        write_json(&directory.join(CONFIG), &self.config_json(options))?;
        let sizes =
            files_in(directory)?.into_iter().map(|file| fs::metadata(&file).map_err(Error::io(&file)));
        sizes.map(|metadata| Ok(metadata?.len())).sum()
    }

    fn metadata(&self, options: &ConvertOptions) -> BTreeMap<String, String> {
        let fixed = [
            ("format", Some("funasr-candle".to_owned())),
            ("format_version", Some(FORMAT_VERSION.to_string())),
            ("model", Some(self.config.class.name.to_owned())),
            ("dtype", Some(options.dtype.to_string())),
            ("origin", options.origin.clone()),
            ("licence", options.licence.clone()),
        ];
        let fixed = fixed.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
        let hashes = self.sha256.iter().map(|(file, hash)| (format!("sha256.{file}"), hash.clone()));
        fixed.chain(hashes).collect()
    }

    fn config_json(&self, options: &ConvertOptions) -> Value {
        let tokens = self.tokens.as_ref().map(|_| ("tokens".to_owned(), TOKENS.into()));
        let copies = self.copies.iter().map(|(key, path)| ((*key).to_owned(), file_name(path).into()));
        let files: Map<String, Value> = tokens.into_iter().chain(copies).collect();
        let mut origin = json!({
            "sha256": self.sha256,
            "converter": concat!("funasr-convert ", env!("CARGO_PKG_VERSION")),
        });
        for (key, value) in [("source", &options.origin), ("licence", &options.licence)] {
            if let Some(value) = value {
                origin[key] = value.as_str().into();
            }
        }
        let mut config = json!({ "format_version": FORMAT_VERSION, "files": files, "origin": origin });
        if let Some(tokens) = &self.tokens {
            config["vocab_size"] = tokens.len().into();
        }
        for (key, value) in &self.config.sections {
            config[key] = value.clone();
        }
        if let Some(rules) = &self.piece_rules {
            config["tokenizer_conf"]["sentencepiece"] = rules.clone();
        }
        // A no-op unless some crate of the build turns insertion order on: the bytes do not depend on that.
        config.sort_all_objects();
        config
    }
}

fn skip_training_tensors(checkpoint: &mut Checkpoint, config: &Config) -> Vec<Skipped> {
    let mut skipped = Vec::new();
    let mut skip = |name: &str, reason: &str| {
        skipped.push(Skipped { name: name.to_owned(), reason: reason.to_owned() });
    };
    checkpoint.others.iter().for_each(|name| skip(name, "not a tensor"));
    checkpoint.tensors.retain(|name, _| {
        let reason = config.class.training_only(name);
        reason.inspect(|reason| skip(name, reason)).is_none()
    });
    skipped
}

fn read_cmvn(path: &Path, config: &Config) -> Result<Cmvn> {
    let cmvn = Cmvn::parse(&read_text(path)?).map_err(|cause| Error::asset(path, cause))?;
    match config.feature_size() {
        Some(size) if size != cmvn.shift.len() as u64 => {
            let values = cmvn.shift.len();
            Err(Error::asset(path, format!("{values} values, but frontend_conf makes features of {size}")))
        }
        _ => Ok(cmvn),
    }
}

fn check_vocabulary(
    path: &Path,
    size: Option<usize>,
    config: &Config,
    checkpoint: &Checkpoint,
) -> Result<()> {
    let Some(name) = config.class.vocabulary else { return Ok(()) };
    let Some(size) = size else {
        return Err(Error::config(path, "the model has no token list (tokens.json, tokens.txt, bpe.model)"));
    };
    match checkpoint.tensors.get(name).and_then(|tensor| tensor.shape.first()) {
        None => Err(checkpoint.refuse(name, "missing from the checkpoint")),
        Some(rows) if *rows != size as u64 => {
            Err(Error::asset(path, format!("{size} tokens, but tensor `{name}` has {rows} rows")))
        }
        Some(_) => Ok(()),
    }
}

/// Moves the files of a finished conversion into place, `config.json` first away and last in.
fn publish(staging: &Path, dst: &Path) -> Result<()> {
    let config = dst.join(CONFIG);
    match fs::remove_file(&config) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Error::io(&config)(error)),
        _ => {}
    }
    let mut files = files_in(staging)?;
    files.sort_by_key(|file| file.ends_with(CONFIG));
    for file in files {
        let target = dst.join(file_name(&file));
        fs::rename(&file, &target).map_err(Error::io(&target))?;
    }
    Ok(())
}

fn files_in(directory: &Path) -> Result<Vec<PathBuf>> {
    let io = Error::io(directory);
    let entries = fs::read_dir(directory).map_err(&io)?;
    entries.map(|entry| Ok(entry.map_err(&io)?.path())).collect()
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn sha256(path: &Path) -> Result<String> {
    let mut hasher = Sha256::new();
    let mut file = BufReader::with_capacity(1 << 20, File::open(path).map_err(Error::io(path))?);
    loop {
        let block = file.fill_buf().map_err(Error::io(path))?;
        if block.is_empty() {
            break;
        }
        hasher.update(block);
        let read = block.len();
        file.consume(read);
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    let text = format!("{value:#}\n");
    fs::write(path, text).map_err(Error::io(path))
}
