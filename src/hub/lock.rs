//! What is on disk: the lock file that records where a model came from, hashes, and locks between processes.

use std::fs::{self, File, TryLockError};
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::card::is_inside;
use crate::{Error, Result};

/// Name of the lock file inside an installed model.
pub const LOCK_FILE: &str = "model.lock.json";

const FORMAT: u32 = 1;

/// Where an installed model came from, and the hash of every file, `model.lock.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockFile {
    /// Version of this layout.
    pub format: u32,
    /// Registry name.
    pub name: String,
    /// `huggingface` or `modelscope`.
    pub hub: String,
    /// Repository, `owner/name`.
    pub repo: String,
    /// Revision that was asked for.
    pub revision: String,
    /// Commit the files belong to, where the hub says so.
    pub commit: Option<String>,
    /// The files as downloaded. They are not kept once they are converted.
    pub sources: Vec<FileRecord>,
    /// The files of the converted model.
    pub files: Vec<FileRecord>,
}

/// One file of a [`LockFile`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRecord {
    /// Path relative to its directory.
    pub path: String,
    /// Where it was downloaded from; none for a converted file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The server's entity tag.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// Bytes.
    pub size: u64,
    /// Lower-case hex.
    pub sha256: String,
}

impl LockFile {
    /// A record without files yet.
    pub(super) fn new(name: &str, hub: &str, repo: &super::Repo) -> Self {
        Self {
            format: FORMAT,
            name: name.to_string(),
            hub: hub.to_string(),
            repo: repo.repo.clone(),
            revision: repo.revision.clone(),
            commit: None,
            sources: Vec::new(),
            files: Vec::new(),
        }
    }

    /// Reads the lock file of the model in `dir`.
    ///
    /// # Errors
    /// [`Error::Io`] if there is none, [`Error::Config`] if it is malformed or names a path outside `dir`.
    pub fn read(dir: &Path) -> Result<Self> {
        let file = dir.join(LOCK_FILE);
        let text = fs::read_to_string(&file).map_err(|e| Error::io(&file, e))?;
        let lock: Self = serde_json::from_str(&text).map_err(|e| Error::config(&file, e))?;
        if lock.format != FORMAT {
            return Err(Error::config(&file, format!("format {} is not {FORMAT}", lock.format)));
        }
        match lock.sources.iter().chain(&lock.files).find(|record| !is_inside(&record.path)) {
            Some(record) => Err(Error::config(&file, format!("path `{}` leaves the directory", record.path))),
            None => Ok(lock),
        }
    }

    /// Writes the lock file into `dir`, all of it or nothing.
    pub(super) fn write(&self, dir: &Path) -> Result<()> {
        let file = dir.join(LOCK_FILE);
        let staged = dir.join(format!("{LOCK_FILE}.new"));
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::config(&file, e))?;
        fs::write(&staged, text).map_err(|e| Error::io(&staged, e))?;
        fs::rename(&staged, &file).map_err(|e| Error::io(&file, e))
    }

    /// Where the weights come from, one line.
    pub fn origin(&self) -> String {
        format!("{} {}@{}", self.hub, self.repo, self.commit.as_ref().unwrap_or(&self.revision))
    }
}

impl FileRecord {
    /// The record of `dir/path`, without an origin.
    pub(super) fn of(dir: &Path, path: &str) -> Result<Self> {
        let (size, sha256) = hash_file(&dir.join(path))?;
        Ok(Self { path: path.to_string(), url: None, etag: None, size, sha256 })
    }

    /// Compares `dir/path` with the record.
    pub(super) fn verify(&self, dir: &Path) -> Result<()> {
        let file = dir.join(&self.path);
        let (size, sha256) = hash_file(&file)?;
        if size != self.size {
            return Err(mismatch(&file, &format!("{size} bytes"), &format!("{} bytes", self.size)));
        }
        if sha256 != self.sha256 {
            return Err(mismatch(&file, &format!("sha256 {sha256}"), &self.sha256));
        }
        Ok(())
    }
}

fn mismatch(file: &Path, found: &str, recorded: &str) -> Error {
    Error::Hub(format!(
        "{}: has {found}, {LOCK_FILE} says {recorded}: delete the directory and pull again",
        file.display()
    ))
}

/// Size in bytes and sha256 in hex of a file of any length.
pub(super) fn hash_file(path: &Path) -> Result<(u64, String)> {
    let mut file = File::open(path).map_err(|e| Error::io(path, e))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut size = 0;
    loop {
        let n = file.read(&mut buffer).map_err(|e| Error::io(path, e))?;
        if n == 0 {
            return Ok((size, hex(&hasher.finalize())));
        }
        hasher.update(&buffer[..n]);
        size += n as u64;
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Held while a process changes one model; other processes wait. The system frees it when the process ends.
#[derive(Debug)]
pub(super) struct ModelLock {
    _file: File,
}

impl ModelLock {
    /// Waits for `home/locks/<key>.lock`.
    pub(super) fn acquire(home: &Path, key: &str) -> Result<Self> {
        let path = create_dir(home.join("locks"))?.join(format!("{key}.lock"));
        let file = File::options().create(true).append(true).open(&path).map_err(|e| Error::io(&path, e))?;
        match file.try_lock() {
            Ok(()) => return Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => tracing::info!(model = key, "waiting for another process"),
            Err(TryLockError::Error(e)) => return Err(Error::io(&path, e)),
        }
        file.lock().map_err(|e| Error::io(&path, e))?;
        Ok(Self { _file: file })
    }
}

/// Creates `path` with its parents and returns it.
pub(super) fn create_dir(path: PathBuf) -> Result<PathBuf> {
    fs::create_dir_all(&path).map_err(|e| Error::io(&path, e))?;
    Ok(path)
}

/// Removes a directory that may not exist.
pub(super) fn remove_dir(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(path, e)),
        _ => Ok(()),
    }
}
