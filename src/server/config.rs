//! What a server is told: a TOML file, or flags that say the same.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{Error, Result};

/// Most bytes of a configuration file.
const MAX_BYTES: u64 = 1 << 20;

/// The mode of a FunASR client that names none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// One result when the audio has ended.
    Offline,
    /// Text while it is spoken.
    Online,
    /// The same, and each sentence corrected when it ends.
    #[default]
    #[serde(rename = "2pass")]
    TwoPass,
}

/// Everything but the models. An unknown key is an error.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Address to listen on.
    pub listen_ip: IpAddr,
    /// Port of all protocols; 0 takes a free one.
    pub port: u16,
    /// TLS certificates in PEM; without, the port is plain.
    pub certfile: Option<PathBuf>,
    /// Their private key in PEM.
    pub keyfile: Option<PathBuf>,
    /// A file with one API key a line; without, everyone is served.
    pub api_keys: Option<PathBuf>,
    /// Origins whose pages may ask; `*` for all.
    pub cors_origins: Vec<String>,
    /// Hotwords for every request, one a line with its weight.
    pub hotword: Option<PathBuf>,
    /// Mode of FunASR clients that name none.
    pub mode: Mode,
    /// Whether requests that do not say so have numbers written as digits.
    pub itn: bool,
    /// Whether texts keep the tags that SenseVoice writes.
    pub keep_tags: bool,
    /// Connections at once.
    pub max_connections: usize,
    /// Bytes of one uploaded recording.
    pub max_upload_bytes: u64,
    /// Bytes of one WebSocket message.
    pub max_message_bytes: usize,
    /// Seconds without a sign of life after which a connection is closed.
    pub idle_seconds: u64,
    /// Requests a minute from one address; 0 for any number.
    pub requests_per_minute: u32,
    /// Seconds that a shutdown waits for what was begun.
    pub drain_seconds: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen_ip: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            port: 10095,
            certfile: None,
            keyfile: None,
            api_keys: None,
            cors_origins: Vec::new(),
            hotword: None,
            mode: Mode::TwoPass,
            itn: false,
            keep_tags: false,
            max_connections: 4096,
            max_upload_bytes: 512 << 20,
            // As the C++ servers.
            max_message_bytes: 32_000_000,
            idle_seconds: 120,
            requests_per_minute: 0,
            drain_seconds: 60,
        }
    }
}

impl Settings {
    /// Reads a TOML file of type `T`.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Config`] naming the line and the key.
    pub fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T> {
        let size = path.metadata().map_err(|cause| Error::io(path, cause))?.len();
        if size > MAX_BYTES {
            return Err(Error::config(path, format!("larger than {MAX_BYTES} bytes: not a configuration")));
        }
        let text = std::fs::read_to_string(path).map_err(|cause| Error::io(path, cause))?;
        toml::from_str(&text).map_err(|cause: toml::de::Error| {
            let line = cause.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
            Error::config(path, format!("line {line}: {}", cause.message()))
        })
    }
}
