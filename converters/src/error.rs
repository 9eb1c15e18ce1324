//! What can go wrong in a conversion; every message is one line that names the file and the cause.

use std::{
    io,
    path::{Path, PathBuf},
};

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a FunASR directory was not converted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused a read or a write.
    #[error("{}: {source}", path.display())]
    Io {
        /// File or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The checkpoint is damaged, hostile, or not a PyTorch checkpoint at all.
    #[error("{}: {cause}", path.display())]
    Checkpoint {
        /// The checkpoint.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// `configuration.json` or `config.yaml` cannot be read or contradicts itself.
    #[error("{}: {cause}", path.display())]
    Config {
        /// The configuration file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// The model is sound but this engine has no code for it.
    #[error("{}: unsupported: {cause}", path.display())]
    Unsupported {
        /// The configuration file.
        path: PathBuf,
        /// The class, or the option and its value.
        cause: String,
    },
    /// A file beside the checkpoint is damaged or missing: tokens, `am.mvn`, sentencepiece model.
    #[error("{}: {cause}", path.display())]
    Asset {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
}

impl Error {
    pub(crate) fn checkpoint(path: &Path, cause: impl ToString) -> Self {
        Self::Checkpoint { path: path.to_owned(), cause: cause.to_string() }
    }

    pub(crate) fn config(path: &Path, cause: impl ToString) -> Self {
        Self::Config { path: path.to_owned(), cause: cause.to_string() }
    }

    pub(crate) fn unsupported(path: &Path, cause: impl ToString) -> Self {
        Self::Unsupported { path: path.to_owned(), cause: cause.to_string() }
    }

    pub(crate) fn asset(path: &Path, cause: impl ToString) -> Self {
        Self::Asset { path: path.to_owned(), cause: cause.to_string() }
    }

    /// For `map_err` on anything of `std::io`.
    pub(crate) fn io(path: &Path) -> impl Fn(io::Error) -> Self + '_ {
        |source| Self::Io { path: path.to_owned(), source }
    }
}
