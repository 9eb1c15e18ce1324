//! Forms with a recording (`multipart/form-data`): text fields in memory, the file on disk, everything bounded.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use axum::extract::multipart::{Field, Multipart, MultipartError};
use axum::http::StatusCode;
use tempfile::{NamedTempFile, TempPath};
use tokio::time::{Instant, timeout_at};

use super::reply::Refusal;

/// Bytes of the longest text field.
const MAX_TEXT_BYTES: usize = 256 << 10;
/// Parts of a form.
const MAX_PARTS: usize = 100;
/// Time for the first bytes; after it an upload has to keep to [`MIN_BYTES_PER_SECOND`] on the average.
const GRACE: Duration = Duration::from_secs(30);
/// Slower senders hold a connection for nothing.
const MIN_BYTES_PER_SECOND: u64 = 1024;

/// A form as it was received.
#[derive(Debug, Default)]
pub struct Form {
    texts: Vec<(String, String)>,
    /// The recording.
    pub file: Option<Upload>,
}

/// A file on disk, deleted on drop.
#[derive(Debug)]
pub struct Upload {
    /// What the client calls the file; empty if it has no name.
    pub name: String,
    path: TempPath,
    /// Size.
    pub bytes: u64,
}

impl Upload {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Form {
    /// Receives a form whose file has at most `max_bytes`. The file is the part with a file name, or called `file` or
    /// `audio`.
    ///
    /// # Errors
    /// A malformed form, a second file, too much of anything, a sender that is too slow.
    pub async fn receive(mut parts: Multipart, max_bytes: u64) -> Result<Self, Refusal> {
        let mut form = Self::default();
        let mut pace = Pace { start: Instant::now(), bytes: 0 };
        for _ in 0..MAX_PARTS {
            let Some(part) = pace.within(parts.next_field()).await? else { return Ok(form) };
            let name = part.name().unwrap_or_default().to_owned();
            if part.file_name().is_none() && !matches!(name.as_str(), "file" | "audio") {
                let text = text(part, &mut pace, &name).await?;
                form.texts.push((name, text));
            } else if form.file.is_none() {
                form.file = Some(file(part, &mut pace, max_bytes).await?);
            } else {
                return Err(Refusal::bad_request(format!("{name}: a second file; one recording is taken")));
            }
        }
        Err(Refusal::bad_request(format!("a form of more than {MAX_PARTS} parts")))
    }

    /// The last text called `name`, unless it is empty.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.all(name).last()
    }

    /// Every text called `name` that is not empty.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let called = self.texts.iter().filter(move |(field, text)| field == name && !text.trim().is_empty());
        called.map(|(_, text)| text.trim())
    }
}

/// Holds a sender to a least speed.
struct Pace {
    start: Instant,
    bytes: u64,
}

impl Pace {
    async fn within<T>(
        &mut self,
        received: impl Future<Output = Result<T, MultipartError>>,
    ) -> Result<T, Refusal> {
        let deadline = self.start + GRACE + Duration::from_secs(self.bytes / MIN_BYTES_PER_SECOND);
        match timeout_at(deadline, received).await {
            Ok(received) => received.map_err(malformed),
            Err(_) => Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "the form arrives too slowly")),
        }
    }
}

fn malformed(error: MultipartError) -> Refusal {
    Refusal::new(error.status(), format!("malformed form: {}", error.body_text()))
}

async fn text(mut part: Field<'_>, pace: &mut Pace, name: &str) -> Result<String, Refusal> {
    let mut bytes = Vec::new();
    while let Some(chunk) = pace.within(part.chunk()).await? {
        pace.bytes += chunk.len() as u64;
        if bytes.len() + chunk.len() > MAX_TEXT_BYTES {
            let message = format!("{name}: longer than {MAX_TEXT_BYTES} bytes");
            return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message));
        }
        bytes.extend_from_slice(&chunk);
    }
    String::from_utf8(bytes).map_err(|_| Refusal::bad_request(format!("{name}: not UTF-8")))
}

async fn file(mut part: Field<'_>, pace: &mut Pace, max_bytes: u64) -> Result<Upload, Refusal> {
    let name = part.file_name().unwrap_or_default().to_owned();
    let (mut file, path) = spool(&name)?.into_parts();
    let mut bytes = 0;
    while let Some(chunk) = pace.within(part.chunk()).await? {
        bytes += chunk.len() as u64;
        pace.bytes += chunk.len() as u64;
        if bytes > max_bytes {
            let message = format!("the file is larger than {max_bytes} bytes");
            return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message));
        }
        // Chunks are small and go to the page cache: not worth a thread each.
        file.write_all(&chunk).map_err(|e| Refusal::internal(format!("storing the upload: {e}")))?;
    }
    Ok(Upload { name, path, bytes })
}

/// An empty file; headerless formats are known by the extension alone.
fn spool(name: &str) -> Result<NamedTempFile, Refusal> {
    let extension = Path::new(name).extension().and_then(|extension| extension.to_str());
    let raw = extension.filter(|e| e.eq_ignore_ascii_case("pcm") || e.eq_ignore_ascii_case("raw"));
    let suffix = raw.map(|extension| format!(".{extension}")).unwrap_or_default();
    let file = tempfile::Builder::new().prefix("funasr-candle-").suffix(&suffix).tempfile();
    file.map_err(|e| Refusal::internal(format!("storing the upload: {e}")))
}
