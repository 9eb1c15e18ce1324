//! The one error type of the library. Every message is a single line that names what failed and where.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// Result of every fallible public function.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong, by the part that has to be looked at to mend it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An audio input that cannot be opened, decoded or resampled.
    #[error("{source_name}: {message}")]
    Audio {
        /// File name, or `stdin`.
        source_name: String,
        /// The cause.
        message: String,
    },
    /// A configuration or token file that is missing, malformed or holds an unknown key.
    #[error("{file}: {message}")]
    Config {
        /// Path of the file.
        file: String,
        /// The cause, naming the key.
        message: String,
    },
    /// A weight file that is missing, truncated, or whose tensors do not fit the configuration.
    #[error("{file}: {message}")]
    Weights {
        /// Path of the file.
        file: String,
        /// The cause, naming tensor and shapes.
        message: String,
    },
    /// A request that this build or this model cannot serve.
    #[error("{0}")]
    Unsupported(String),
    /// A device or data type that is not available.
    #[error("{0}")]
    Device(String),
    /// A model's forward pass failed.
    #[error("inference failed: {0}")]
    Inference(#[source] candle_core::Error),
    /// A bounded queue or buffer is full.
    #[error("{0}")]
    Overloaded(String),
    /// A recording or message beyond a limit of size or length.
    #[error("{0}")]
    TooLong(String),
    /// A model name that cannot be resolved or downloaded.
    #[error("{0}")]
    Hub(String),
    /// A job of which a part failed; the parts were reported one by one.
    #[error("{0}")]
    Failed(String),
    /// A FunASR checkpoint that cannot be converted.
    #[error(transparent)]
    Convert(#[from] funasr_convert::Error),
    /// A file that cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// Path of the file.
        path: String,
        /// The cause.
        source: std::io::Error,
    },
}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        // By its name: the type is that of a driver which other builds do not know.
        if error.to_string().contains("CUDA_ERROR_OUT_OF_MEMORY") {
            let hint = "smaller batches, a shorter recording or 16-bit weights take less";
            return Self::Overloaded(format!("the GPU has not enough free memory: {hint}"));
        }
        Self::Inference(error)
    }
}

impl Error {
    /// An audio error about `source_name`.
    pub fn audio(source_name: impl ToString, message: impl ToString) -> Self {
        Self::Audio { source_name: source_name.to_string(), message: message.to_string() }
    }

    /// A configuration error in `file`.
    pub fn config(file: impl AsRef<Path>, message: impl ToString) -> Self {
        Self::Config { file: file.as_ref().display().to_string(), message: message.to_string() }
    }

    /// A weights error in `file`.
    pub fn weights(file: impl AsRef<Path>, message: impl ToString) -> Self {
        Self::Weights { file: file.as_ref().display().to_string(), message: message.to_string() }
    }

    /// A failed forward pass, or a result of one that cannot be decoded.
    pub fn inference(message: impl ToString) -> Self {
        Self::Inference(candle_core::Error::Msg(message.to_string()))
    }

    /// An input/output error on `path`.
    pub fn io(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Self::Io { path: path.as_ref().display().to_string(), source }
    }
}

/// Runs `work`; a panic in it becomes an error. What it changed is to be dropped then.
///
/// # Errors
/// Those of `work`, and [`Error::Inference`] with what a panic says.
pub fn catch<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        tracing::error!(panic = text, "a request panicked");
        Err(Error::inference(format!("internal error: {text}")))
    })
}
