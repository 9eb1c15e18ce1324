//! What a server is told: a TOML file, or flags that say the same.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::engine::EngineOptions;
use crate::error::{Error, Result};

/// Most bytes of a configuration file.
const MAX_BYTES: u64 = 1 << 20;

/// A configuration file. An unknown key is an error.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How clients are served.
    pub server: Settings,
    /// How much is done at once.
    pub engine: EngineSettings,
    /// Which models.
    pub models: ModelNames,
}

/// Names or folders of models; what is not named has a default.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelNames {
    /// Offline recognition.
    pub model: Option<String>,
    /// Streaming recognition.
    pub online_model: Option<String>,
    /// Voice detection.
    pub vad_model: Option<String>,
    /// Punctuation of recordings.
    pub punc_model: Option<String>,
    /// Punctuation of live sentences.
    pub realtime_punc_model: Option<String>,
}

/// [`EngineOptions`] that are not left to the machine.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineSettings {
    /// Recordings that are decoded at once.
    pub workers: Option<usize>,
    /// Recordings that may wait.
    pub queue: Option<usize>,
    /// Audio in one padded batch of segments.
    pub batch_seconds: Option<u32>,
    /// How long a batch that is not full waits for other requests.
    pub batch_wait_ms: Option<u64>,
    /// Longest recording.
    pub max_audio_seconds: Option<u64>,
    /// Live sessions at once.
    pub max_sessions: Option<usize>,
}

impl EngineSettings {
    /// The options, with so many threads if they are given.
    pub fn options(&self, threads: Option<u16>) -> EngineOptions {
        let mut options = EngineOptions::default();
        options.threads = threads.map_or(options.threads, usize::from);
        options.workers = self.workers.unwrap_or(options.workers).max(1);
        options.queue = self.queue.unwrap_or(options.queue);
        options.batch_seconds = self.batch_seconds.unwrap_or(options.batch_seconds).max(1);
        options.batch_wait = self.batch_wait_ms.map_or(options.batch_wait, Duration::from_millis);
        options.max_audio = self.max_audio_seconds.map_or(options.max_audio, Duration::from_secs);
        options.max_sessions = self.max_sessions.unwrap_or(options.max_sessions);
        options
    }
}

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

/// How clients are served.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Address to listen on.
    pub listen_ip: IpAddr,
    /// Port of all protocols; 0 takes a free one.
    pub port: u16,
    /// A second port, for gRPC clients that expect one of their own; it speaks all protocols, too.
    pub grpc_port: Option<u16>,
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
    /// Seconds that a client may take over a TLS handshake, or the head of a request.
    pub head_seconds: u64,
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
            grpc_port: None,
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
            head_seconds: 10,
            idle_seconds: 120,
            requests_per_minute: 0,
            drain_seconds: 60,
        }
    }
}

impl Config {
    /// Reads a TOML file.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Config`] naming the line and the key.
    pub fn read(path: &Path) -> Result<Self> {
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
