//! Which files of a FunASR directory are which, by the rules of `funasr/download/download_model_from_hub.py`.
//!
//! `configuration.json` with `file_path_metas` names every file; without it the usual names are looked for.

use std::{
    fs::File,
    io::Read,
    path::{Component, Path, PathBuf},
};

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// Longest text file read whole: configuration, tokens, `am.mvn`, sentencepiece model.
const MAX_TEXT_BYTES: u64 = 64 << 20;

/// A role, where `file_path_metas` and `config.yaml` name its file, and which names count when they do not.
type RoleNames = (Role, &'static [&'static [&'static str]], &'static [&'static str]);

const ROLES: [RoleNames; 5] = [
    (Role::Tokens, &[&["tokenizer_conf", "token_list"]], &["tokens.json", "tokens.txt"]),
    (Role::SegDict, &[&["tokenizer_conf", "seg_dict"], &["tokenizer_conf", "seg_dict_file"]], &["seg_dict"]),
    (Role::BpeModel, &[&["tokenizer_conf", "bpemodel"]], &["bpe.model"]),
    (Role::Cmvn, &[&["frontend_conf", "cmvn_file"]], &["am.mvn"]),
    (Role::JiebaUserDict, &[&["jieba_usr_dict"]], &["jieba_usr_dict"]),
];

/// What a file beside config and checkpoint is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Tokens,
    SegDict,
    BpeModel,
    Cmvn,
    JiebaUserDict,
}

/// The two files no model can do without, and what names the others.
#[derive(Debug)]
pub(crate) struct Source {
    directory: PathBuf,
    pub(crate) config: PathBuf,
    pub(crate) checkpoint: PathBuf,
    /// `file_path_metas` of `configuration.json`.
    metas: Option<Map<String, Value>>,
}

impl Source {
    /// # Errors
    /// A directory without config or checkpoint, or a `configuration.json` that is no JSON or names files elsewhere.
    pub(crate) fn find(directory: &Path) -> Result<Self> {
        let metas = read_metas(directory)?;
        let named = |key: &str| metas.as_ref().and_then(|metas| metas.get(key)).and_then(Value::as_str);
        let find = |key: &str, usual: &[&str]| match named(key) {
            Some(name) => inside(directory, name),
            None => first_file(directory, usual).ok_or_else(|| {
                Error::config(directory, format!("not a FunASR model directory: no {}", usual.join(" or ")))
            }),
        };
        let config = find("config", &["config.yaml", "config.yml"])?;
        let checkpoint = find("init_param", &["model.pt", "model.pb"])?;
        for file in [&config, &checkpoint] {
            if !file.is_file() {
                return Err(Error::config(file, "named by configuration.json, but not there"));
            }
        }
        Ok(Self { directory: directory.to_owned(), config, checkpoint, metas })
    }

    /// The files of all roles that this model has, given its parsed `config.yaml`.
    ///
    /// # Errors
    /// A file that the configuration names and that is not there.
    pub(crate) fn assets(&self, config: &Map<String, Value>) -> Result<Vec<(Role, PathBuf)>> {
        let mut assets = Vec::new();
        for (role, keys, usual) in ROLES {
            let found = match &self.metas {
                Some(metas) => named(metas, keys).map(|name| inside(&self.directory, name)).transpose()?,
                None => first_file(&self.directory, usual),
            };
            let found = match found {
                Some(file) => Some(file),
                None => named(config, keys).map(|name| inside(&self.directory, name)).transpose()?,
            };
            match found {
                Some(file) if file.is_file() => assets.push((role, file)),
                // FunASR, too, goes on without an optional dictionary that only configuration.json names.
                None | Some(_) if matches!(role, Role::SegDict | Role::JiebaUserDict) => {}
                Some(file) => return Err(Error::asset(&file, "named by the configuration, but not there")),
                None => {}
            }
        }
        Ok(assets)
    }
}

fn read_metas(directory: &Path) -> Result<Option<Map<String, Value>>> {
    let path = directory.join("configuration.json");
    if !path.is_file() {
        return Ok(None);
    }
    let json: Value = serde_json::from_slice(&read(&path)?).map_err(|cause| Error::config(&path, cause))?;
    Ok(json.get("file_path_metas").and_then(Value::as_object).cloned())
}

/// The first string that one of the key paths leads to.
fn named<'a>(config: &'a Map<String, Value>, keys: &[&[&str]]) -> Option<&'a str> {
    keys.iter().find_map(|path| {
        let (first, rest) = path.split_first()?;
        rest.iter().try_fold(config.get(*first)?, |value, key| value.get(key))?.as_str()
    })
}

fn first_file(directory: &Path, names: &[&str]) -> Option<PathBuf> {
    names.iter().map(|name| directory.join(name)).find(|path| path.is_file())
}

/// A file name out of a configuration must stay inside the model directory.
fn inside(directory: &Path, name: &str) -> Result<PathBuf> {
    let path = Path::new(name);
    if path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
        Ok(directory.join(path))
    } else {
        Err(Error::config(directory, format!("the configuration names {name:?}, outside the directory")))
    }
}

/// A whole small file.
///
/// # Errors
/// A failing read, or more bytes than any such file has.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(Error::io(path))?;
    let mut bytes = Vec::new();
    file.take(MAX_TEXT_BYTES + 1).read_to_end(&mut bytes).map_err(Error::io(path))?;
    if bytes.len() as u64 > MAX_TEXT_BYTES {
        return Err(Error::asset(path, "far too large for what it should be"));
    }
    Ok(bytes)
}

/// A whole small UTF-8 file, without its byte order mark.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    let text = String::from_utf8(read(path)?).map_err(|_| Error::asset(path, "not UTF-8 text"))?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}
