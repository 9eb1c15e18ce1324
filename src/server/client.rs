//! A client of FunASR's WebSocket protocol, for this server and FunASR's own.

use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderValue, Uri, header};
use tokio_tungstenite::tungstenite::protocol::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::error::{Error, Result};

/// What a client asks for with an utterance; the fields are the protocol's.
#[derive(Debug, Clone, Serialize)]
pub struct Options {
    /// `offline`, `online` or `2pass`.
    pub mode: String,
    /// What the recording is called.
    pub wav_name: String,
    /// `pcm`, or any other name for a container.
    pub wav_format: String,
    /// Sample rate of pcm.
    pub audio_fs: u32,
    /// Frames of 60 ms: left context, step, right context.
    pub chunk_size: [i64; 3],
    /// Whether numbers are written as digits.
    pub itn: bool,
    /// Language, for models that are told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub svs_lang: Option<String>,
    /// Words to listen for, as text or JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hotwords: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            mode: "2pass".to_owned(),
            wav_name: "demo".to_owned(),
            wav_format: "pcm".to_owned(),
            audio_fs: 16_000,
            chunk_size: [5, 10, 5],
            itn: true,
            svs_lang: None,
            hotwords: None,
        }
    }
}

/// What a server says; fields that it leaves out have their default.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Reply {
    /// The text.
    pub text: String,
    /// `offline`, `2pass-online` or `2pass-offline`.
    pub mode: String,
    /// What the recording is called.
    pub wav_name: String,
    /// Whether it is the last one of its utterance.
    pub is_final: bool,
    /// Start and end of each word in ms: JSON in a string.
    pub timestamp: Option<String>,
    /// The sentence it belongs to.
    pub index: Option<u64>,
    /// What of the request was not met.
    pub warning: Option<String>,
    /// Why there is no result.
    pub error: Option<Fault>,
}

/// An error of the server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Fault {
    /// Such as `busy`, `bad_audio`, `bad_request`.
    pub code: String,
    /// The cause.
    pub message: String,
}

/// How to reach a server.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// The API key, if the server wants one.
    pub api_key: Option<String>,
    /// The certificates in PEM to trust, for `wss`.
    pub ca_file: Option<PathBuf>,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin + std::fmt::Debug {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + std::fmt::Debug> Stream for T {}

type Socket = WebSocketStream<Box<dyn Stream>>;

/// A connection; utterances follow each other on it.
#[derive(Debug)]
pub struct Client {
    /// Says what the client says.
    pub sender: Sender,
    /// Hears what the server says.
    pub receiver: Receiver,
}

/// The sending half of a [`Client`].
#[derive(Debug)]
pub struct Sender(SplitSink<Socket, Message>);

/// The receiving half of a [`Client`].
#[derive(Debug)]
pub struct Receiver(SplitStream<Socket>);

impl Client {
    /// Connects to `ws://host:port/` or `wss://host:port/`.
    ///
    /// # Errors
    /// [`Error::Failed`]: an address that makes no sense, a server that cannot be reached or refuses.
    pub async fn connect(url: &str, access: &Access) -> Result<Self> {
        let fail = |cause: &dyn std::fmt::Display| Error::Failed(format!("{url}: {cause}"));
        let mut request = url.into_client_request().map_err(|cause| fail(&cause))?;
        let binary = HeaderValue::from_static("binary");
        request.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, binary);
        if let Some(key) = &access.api_key {
            let value = HeaderValue::from_str(&format!("Bearer {key}")).map_err(|cause| fail(&cause))?;
            request.headers_mut().insert(header::AUTHORIZATION, value);
        }
        let stream = open(request.uri(), access).await.map_err(|cause| fail(&cause))?;
        let (socket, _) = client_async(request, stream).await.map_err(|cause| fail(&cause))?;
        let (sender, receiver) = socket.split();
        Ok(Self { sender: Sender(sender), receiver: Receiver(receiver) })
    }
}

async fn open(uri: &Uri, access: &Access) -> Result<Box<dyn Stream>> {
    let fail = |cause: &dyn std::fmt::Display| Error::Failed(cause.to_string());
    let secure = uri.scheme_str() == Some("wss");
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let address = if host.parse::<Ipv6Addr>().is_ok() { format!("[{host}]") } else { host.to_owned() };
    let stream = TcpStream::connect(format!("{address}:{port}")).await.map_err(|cause| fail(&cause))?;
    let _ = stream.set_nodelay(true);
    if !secure {
        return Ok(Box::new(stream));
    }
    let Some(file) = &access.ca_file else {
        return Err(fail(&"wss needs the certificates to trust"));
    };
    let mut roots = rustls::RootCertStore::empty();
    let pem = |cause: rustls::pki_types::pem::Error| Error::config(file, cause);
    for certificate in CertificateDer::pem_file_iter(file).map_err(pem)? {
        roots.add(certificate.map_err(pem)?).map_err(|cause| Error::config(file, cause))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|cause| fail(&cause))?.with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).map_err(|cause| fail(&cause))?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    Ok(Box::new(stream.map_err(|cause| fail(&cause))?))
}

impl Sender {
    /// Begins an utterance.
    ///
    /// # Errors
    /// [`Error::Failed`] if the connection has ended; so with the others.
    pub async fn begin(&mut self, options: &Options) -> Result<()> {
        let mut config = serde_json::to_value(options).map_err(|cause| Error::Failed(cause.to_string()))?;
        if let Some(config) = config.as_object_mut() {
            config.insert("is_speaking".to_owned(), true.into());
        }
        self.text(&config.to_string()).await
    }

    /// Sends audio.
    ///
    /// # Errors
    /// As [`Sender::begin`].
    pub async fn audio(&mut self, bytes: &[u8]) -> Result<()> {
        self.send(Message::Binary(bytes.to_vec().into())).await
    }

    /// Ends the utterance.
    ///
    /// # Errors
    /// As [`Sender::begin`].
    pub async fn finish(&mut self) -> Result<()> {
        self.text(r#"{"is_speaking":false}"#).await
    }

    /// Sends a text frame as it is.
    ///
    /// # Errors
    /// As [`Sender::begin`].
    pub async fn text(&mut self, text: &str) -> Result<()> {
        self.send(Message::Text(text.into())).await
    }

    /// Closes the connection.
    ///
    /// # Errors
    /// As [`Sender::begin`].
    pub async fn close(&mut self) -> Result<()> {
        self.send(Message::Close(None)).await
    }

    async fn send(&mut self, message: Message) -> Result<()> {
        self.0.send(message).await.map_err(|cause| Error::Failed(cause.to_string()))
    }
}

impl Receiver {
    /// The next reply; nothing at the end of the connection.
    ///
    /// # Errors
    /// [`Error::Failed`]: a broken connection, a reply that cannot be read.
    pub async fn next(&mut self) -> Result<Option<Reply>> {
        let Some(text) = self.next_text().await? else { return Ok(None) };
        serde_json::from_str(&text).map(Some).map_err(|cause| Error::Failed(format!("{text}: {cause}")))
    }

    /// The next reply as it was sent.
    ///
    /// # Errors
    /// [`Error::Failed`]: a broken connection.
    pub async fn next_text(&mut self) -> Result<Option<String>> {
        while let Some(message) = self.0.next().await {
            match message.map_err(|cause| Error::Failed(cause.to_string()))? {
                Message::Text(text) => return Ok(Some(text.to_string())),
                Message::Close(_) => return Ok(None),
                _ => {}
            }
        }
        Ok(None)
    }

    /// All replies of an utterance, up to its last one.
    ///
    /// # Errors
    /// As [`Receiver::next`]; a connection that ends before.
    pub async fn utterance(&mut self) -> Result<Vec<Reply>> {
        let mut replies: Vec<Reply> = Vec::new();
        while !replies.last().is_some_and(|reply| reply.is_final) {
            let ended = || Error::Failed("the connection ended before the last reply".into());
            replies.push(self.next().await?.ok_or_else(ended)?);
        }
        Ok(replies)
    }
}
