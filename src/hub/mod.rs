//! Model names to models: local folders, models inside the binary, downloads from Hugging Face and ModelScope.
//!
//! Layout of the cache, whose root is `FUNASR_CANDLE_HOME` or `funasr-candle` in the platform's cache directory:
//!
//! ```text
//! models/<name>/      an installed model: config.json, model.safetensors, tokens, model.lock.json
//! converted/<key>/    a local FunASR directory, converted on first use; the key changes when its files do
//! downloads/<name>/   downloads that are not complete or not converted yet; removed after conversion
//! locks/<key>.lock    held by the process that changes one of these
//! ```
//!
//! The registry ([`cards`]) knows no hash of the published files unless a card says so. Downloads are compared with the
//! sha256 that Hugging Face declares for stored objects, and `model.lock.json` records what arrived; [`verify`] compares
//! an installed model with that record.

mod card;
mod download;
mod embedded;
mod fetch;
mod lock;

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use sha2::{Digest, Sha256};

pub use card::{Card, CardFile, Licence, Repo, cards};
pub use embedded::{Embedded, SelftestInput, embedded, embedded_models, selftest_input};
pub use lock::{FileRecord, LOCK_FILE, LockFile};

use funasr_convert::{ConvertOptions, Dtype};

use crate::{Error, Result};
use lock::{ModelLock, create_dir, hex, remove_dir};

/// Where a model is.
#[derive(Debug, Clone)]
pub enum ModelSource {
    /// Inside the binary.
    Embedded(&'static Embedded),
    /// A converted directory: `config.json`, `model.safetensors`, tokens.
    Dir(PathBuf),
}

/// Which hub to download from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Hub {
    /// Hugging Face, then ModelScope.
    #[default]
    Auto,
    /// Hugging Face only.
    HuggingFace,
    /// ModelScope only.
    ModelScope,
}

impl FromStr for Hub {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(Self::Auto),
            "hf" | "huggingface" => Ok(Self::HuggingFace),
            "ms" | "modelscope" => Ok(Self::ModelScope),
            _ => Err(Error::Unsupported(format!("hub `{text}` is not one of hf, ms, auto"))),
        }
    }
}

/// Is told how far a download is.
pub trait Progress: Send + Sync {
    /// `done` of `total` bytes of `file` have arrived. The total is unknown if the server does not say it.
    fn progress(&self, file: &str, done: u64, total: Option<u64>);
}

/// Shows nothing.
impl Progress for () {
    fn progress(&self, _file: &str, _done: u64, _total: Option<u64>) {}
}

/// Turns a FunASR directory into a converted one.
pub trait Converter: Send + Sync {
    /// Whether `dir` is a FunASR directory.
    fn is_source(&self, dir: &Path) -> bool;

    /// Writes `config.json`, `model.safetensors` and tokens of `source` into the existing directory `target`.
    ///
    /// # Errors
    /// Any [`Error`] naming the file that cannot be converted.
    fn convert(&self, source: &Path, target: &Path, provenance: &Provenance) -> Result<()>;
}

/// What a converted model says about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Provenance {
    /// Hub, repository and commit.
    pub origin: Option<String>,
    /// Name and address of the licence.
    pub licence: Option<String>,
}

/// How names are resolved.
#[derive(Clone)]
pub struct HubOptions {
    /// Root of the cache.
    pub home: PathBuf,
    /// Where downloads come from.
    pub hub: Hub,
    /// Never touch the network.
    pub offline: bool,
    /// Address of Hugging Face or a mirror, without a trailing slash.
    pub hf_endpoint: String,
    /// Access token, shown to `hf_endpoint` only.
    pub hf_token: Option<String>,
    /// Hugging Face's own cache, whose complete snapshots are used instead of a download.
    pub hf_cache: Option<PathBuf>,
    /// Address of ModelScope, without a trailing slash.
    pub modelscope_endpoint: String,
    /// Pause before a failed transfer is tried again; doubles with each failure.
    pub retry_delay: Duration,
    /// Longest silence of a server before a transfer counts as failed.
    pub stall_timeout: Duration,
    /// Is told how far downloads are.
    pub progress: Arc<dyn Progress>,
    /// Converts downloads and local FunASR directories.
    pub converter: Arc<dyn Converter>,
}

impl HubOptions {
    /// The settings of the environment: `FUNASR_CANDLE_HOME`, `HF_ENDPOINT`, `HF_HOME`, `HF_TOKEN`,
    /// `MODELSCOPE_ENDPOINT`.
    ///
    /// # Errors
    /// [`Error::Hub`] if there is neither `FUNASR_CANDLE_HOME` nor a home directory.
    pub fn from_env() -> Result<Self> {
        Self::from_vars(|name| std::env::var(name).ok())
    }

    /// As [`HubOptions::from_env`], with another environment.
    ///
    /// # Errors
    /// As [`HubOptions::from_env`].
    pub fn from_vars(var: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let var = |name| var(name).filter(|value: &String| !value.is_empty());
        let endpoint = |name, default: &str| {
            var(name).map_or_else(|| default.to_string(), |url| url.trim_end_matches('/').to_string())
        };
        let home = var("FUNASR_CANDLE_HOME")
            .map(PathBuf::from)
            .or_else(|| Some(dirs::cache_dir()?.join("funasr-candle")))
            .ok_or_else(|| {
                Error::Hub("no home directory: set FUNASR_CANDLE_HOME to a folder for models".into())
            })?;
        let hf_home =
            var("HF_HOME").map(PathBuf::from).or_else(|| Some(dirs::home_dir()?.join(".cache/huggingface")));
        let hf_cache = hf_home.map(|home| home.join("hub"));
        let stored_token = || hf_hub::Cache::new(hf_cache.clone()?).token();
        Ok(Self {
            home,
            hub: Hub::Auto,
            offline: false,
            hf_endpoint: endpoint("HF_ENDPOINT", "https://huggingface.co"),
            hf_token: var("HF_TOKEN").or_else(stored_token),
            modelscope_endpoint: endpoint("MODELSCOPE_ENDPOINT", "https://modelscope.cn"),
            hf_cache,
            retry_delay: Duration::from_millis(500),
            stall_timeout: Duration::from_secs(30),
            progress: Arc::new(()),
            converter: Arc::new(FunasrConverter),
        })
    }
}

/// Finds the model that the user named, downloading and converting it if need be.
///
/// In this order: a converted directory; a FunASR directory, converted on first use; an installed model; an embedded
/// one; a download.
///
/// # Errors
/// [`Error::Hub`] for a name that is nothing of all this (the message lists near names), for a model that would have to
/// be downloaded offline, and for a failed download; [`Error::Io`] if the cache cannot be written; what the converter
/// reports.
pub fn resolve(name_or_path: &str, options: &HubOptions) -> Result<ModelSource> {
    let path = Path::new(name_or_path);
    if is_converted(path) {
        return Ok(ModelSource::Dir(path.to_path_buf()));
    }
    if options.converter.is_source(path) {
        return convert_local(path, options).map(ModelSource::Dir);
    }
    match locate(name_or_path, options) {
        Some(found) => Ok(found),
        None => pull(name_or_path, options).map(ModelSource::Dir),
    }
}

/// The converted directory, or the installed or embedded model of that name, without network, download or conversion.
pub fn locate(name_or_path: &str, options: &HubOptions) -> Option<ModelSource> {
    let installed = card(name_or_path).ok().map(|card| model_dir(&card.name, options));
    let candidates = [Some(PathBuf::from(name_or_path)), installed];
    let directory = candidates.into_iter().flatten().find(|dir| is_converted(dir));
    directory.map(ModelSource::Dir).or_else(|| embedded(name_or_path).map(ModelSource::Embedded))
}

/// Installs a model of the registry unless it is installed, and says where.
///
/// # Errors
/// As [`resolve`], for names.
pub fn pull(name: &str, options: &HubOptions) -> Result<PathBuf> {
    pull_card(&card(name)?, options)
}

/// As [`pull`], for a card that need not be in the registry.
///
/// # Errors
/// As [`resolve`], for names.
pub fn pull_card(card: &Card, options: &HubOptions) -> Result<PathBuf> {
    let dir = model_dir(&card.name, options);
    if is_converted(&dir) {
        return Ok(dir);
    }
    let _lock = ModelLock::acquire(&options.home, &card.name)?;
    if is_converted(&dir) {
        return Ok(dir); // by the process we waited for
    }
    let (source, mut lock) = download::obtain(card, options)?;
    let provenance = Provenance {
        origin: Some(lock.origin()),
        licence: Some(format!("{} {}", card.licence.name, card.licence.url)),
    };
    convert_into(&source, &dir, &provenance, options, |staged| {
        lock.files = records(staged)?;
        lock.write(staged)
    })?;
    remove_dir(&download::download_dir(card, options))?;
    Ok(dir)
}

/// The card that answers to `name`, see [`Card::answers_to`].
///
/// # Errors
/// [`Error::Hub`] listing near names if there is none.
pub fn card(name: &str) -> Result<Card> {
    let cards = cards()?;
    if let Some(card) = cards.iter().find(|card| card.answers_to(name)) {
        return Ok(card.clone());
    }
    let embedded = embedded_models().iter().map(|model| model.name);
    let near = card::near_names(name, cards.iter().map(|card| card.name.as_str()).chain(embedded));
    let hint = match near.is_empty() {
        true => "`funasr-candle models list` shows the names".to_string(),
        false => format!("did you mean {}?", near.join(", ")),
    };
    let what = match Path::new(name).is_dir() {
        true => format!(
            "{name}: the directory has neither config.json and model.safetensors nor config.yaml and model.pt"
        ),
        false => format!("`{name}` is neither a model name nor a model directory"),
    };
    Err(Error::Hub(format!("{what}; {hint}")))
}

/// An installed model.
#[derive(Debug, Clone)]
pub struct Installed {
    /// Registry name.
    pub name: String,
    /// Its directory.
    pub dir: PathBuf,
    /// Its lock file, unless that is missing or malformed; [`verify`] says why.
    pub lock: Option<LockFile>,
}

/// Every installed model, sorted by name.
///
/// # Errors
/// [`Error::Io`] if the cache cannot be read.
pub fn installed(options: &HubOptions) -> Result<Vec<Installed>> {
    let root = options.home.join("models");
    if !root.exists() {
        return Ok(Vec::new());
    }
    let mut found: Vec<Installed> = file_names(&root)?
        .into_iter()
        .map(|name| (root.join(&name), name))
        .filter(|(dir, name)| !name.starts_with('.') && is_converted(dir))
        .map(|(dir, name)| Installed { name, lock: LockFile::read(&dir).ok(), dir })
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// Reads every file of an installed model again and compares it with the lock file, which is returned.
///
/// # Errors
/// [`Error::Hub`] for the first file that differs, or if the model is not installed; [`Error::Io`] and
/// [`Error::Config`] for an unreadable file or lock file.
pub fn verify(name: &str, options: &HubOptions) -> Result<LockFile> {
    let Some(dir) =
        card(name).ok().map(|card| model_dir(&card.name, options)).filter(|dir| is_converted(dir))
    else {
        return Err(match (embedded(name), card(name)) {
            (Some(_), _) => {
                Error::Hub(format!("{name} is part of the program: there is no download to verify"))
            }
            (None, Ok(_)) => {
                Error::Hub(format!("{name} is not installed: run `funasr-candle models pull {name}`"))
            }
            (None, Err(unknown)) => unknown,
        });
    };
    let lock = LockFile::read(&dir)?;
    lock.files.iter().try_for_each(|record| record.verify(&dir))?;
    Ok(lock)
}

fn model_dir(name: &str, options: &HubOptions) -> PathBuf {
    options.home.join("models").join(name)
}

fn is_converted(dir: &Path) -> bool {
    dir.join("config.json").is_file() && dir.join("model.safetensors").is_file()
}

/// Converts a local FunASR directory, once for each state of its files.
fn convert_local(source: &Path, options: &HubOptions) -> Result<PathBuf> {
    let source = fs::canonicalize(source).map_err(|e| Error::io(source, e))?;
    let key = fingerprint(&source)?;
    let dir = options.home.join("converted").join(&key);
    if is_converted(&dir) {
        return Ok(dir);
    }
    let _lock = ModelLock::acquire(&options.home, &key)?;
    if !is_converted(&dir) {
        let provenance = Provenance { origin: Some(source.display().to_string()), licence: None };
        convert_into(&source, &dir, &provenance, options, |_| Ok(()))?;
    }
    Ok(dir)
}

/// Name of the directory and the start of a hash over path, size and time of change of its files.
fn fingerprint(dir: &Path) -> Result<String> {
    let mut hasher = Sha256::new();
    hasher.update(dir.as_os_str().as_encoded_bytes());
    let mut names = file_names(dir)?;
    names.sort();
    for name in names {
        let file = dir.join(&name);
        let meta = fs::metadata(&file).map_err(|e| Error::io(&file, e))?;
        let changed =
            meta.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
        hasher.update(format!("\0{name}\0{}\0{}", meta.len(), changed.as_nanos()));
    }
    let stem = dir.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let stem: String =
        stem.chars().filter(|c| c.is_ascii_alphanumeric() || "-_".contains(*c)).take(40).collect();
    Ok(format!("{stem}-{}", &hex(&hasher.finalize())[..16]))
}

/// Converts `source` beside `target`, lets `finish` add to it, and moves it into place: `target` is whole or absent.
fn convert_into(
    source: &Path,
    target: &Path,
    provenance: &Provenance,
    options: &HubOptions,
    finish: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let staged = target.with_file_name(format!(".{name}.new"));
    remove_dir(&staged)?;
    create_dir(staged.clone())?;
    options.converter.convert(source, &staged, provenance)?;
    if !is_converted(&staged) {
        return Err(Error::Hub(format!("{}: the conversion wrote no model", source.display())));
    }
    finish(&staged)?;
    remove_dir(target)?;
    fs::rename(&staged, target).map_err(|e| Error::io(target, e))
}

/// Records of every file in `dir`, sorted by name.
fn records(dir: &Path) -> Result<Vec<FileRecord>> {
    let mut names = file_names(dir)?;
    names.sort();
    names.iter().map(|name| FileRecord::of(dir, name)).collect()
}

fn file_names(dir: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(dir).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
    let entries = entries.map_err(|e| Error::io(dir, e))?;
    Ok(entries.iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}

/// The converter of this package.
#[derive(Debug, Clone, Copy)]
pub struct FunasrConverter;

impl Converter for FunasrConverter {
    fn is_source(&self, dir: &Path) -> bool {
        funasr_convert::is_funasr_dir(dir)
    }

    fn convert(&self, source: &Path, target: &Path, provenance: &Provenance) -> Result<()> {
        let Provenance { origin, licence } = provenance.clone();
        let options = ConvertOptions { dtype: Dtype::F32, origin, licence };
        let report = funasr_convert::convert(source, target, &options)?;
        for skipped in &report.skipped {
            tracing::info!("{}: skipped {}: {}", source.display(), skipped.name, skipped.reason);
        }
        Ok(())
    }
}
