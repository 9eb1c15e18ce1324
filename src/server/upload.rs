//! The bytes of a recording while they arrive: in memory while there are few, in a temporary file beyond.

use std::io::{Read, Seek, SeekFrom, Write};

use tempfile::SpooledTempFile;

use crate::engine::{AudioFormat, Recording};
use crate::error::{Error, Result};

/// Bytes that stay in memory.
const IN_MEMORY: usize = 1 << 20;

/// A recording that is being uploaded.
#[derive(Debug)]
pub struct Upload {
    file: SpooledTempFile,
    bytes: u64,
    limit: u64,
}

impl Upload {
    /// An empty one that takes at most so many bytes.
    pub fn new(limit: u64) -> Self {
        Self { file: SpooledTempFile::new(IN_MEMORY), bytes: 0, limit }
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// [`Error::TooLong`] beyond the limit; [`Error::Io`] if the temporary file cannot be written.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.bytes += bytes.len() as u64;
        if self.bytes > self.limit {
            let limit = self.limit;
            return Err(Error::TooLong(format!(
                "the recording is larger than the {limit} bytes that are taken"
            )));
        }
        self.file.write_all(bytes).map_err(|cause| Error::io("temporary file", cause))
    }

    /// Bytes taken so far.
    pub fn len(&self) -> u64 {
        self.bytes
    }

    /// Whether none were.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The recording. What is said to be plain samples and begins as a wav file is read as one.
    ///
    /// # Errors
    /// [`Error::Io`] if the temporary file cannot be read.
    pub fn finish(mut self, name: impl Into<String>, format: AudioFormat) -> Result<Recording> {
        let failed = |cause| Error::io("temporary file", cause);
        self.file.seek(SeekFrom::Start(0)).map_err(failed)?;
        let mut head = Vec::new();
        (&mut self.file).take(12).read_to_end(&mut head).map_err(failed)?;
        self.file.seek(SeekFrom::Start(0)).map_err(failed)?;
        let format = if is_wav(&head) { AudioFormat::Container } else { format };
        Ok(Recording { name: name.into(), bytes: Box::new(self.file), format })
    }
}

/// Whether bytes begin a wav file.
pub(super) fn is_wav(head: &[u8]) -> bool {
    head.starts_with(b"RIFF") && head.get(8..12) == Some(b"WAVE")
}
