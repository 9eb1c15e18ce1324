//! The server on real sockets: what clients send, what they are told, and what a bad one cannot do to the others.

mod bad_input;
mod funasr;
mod operations;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use funasr_candle::audio::read_all;
use funasr_candle::device::Compute;
use funasr_candle::engine::{Engine, EngineOptions, Models};
use funasr_candle::pipeline::{
    Corrector, OnlineRecognizer, PunctuationModel, RealTime, Recognizer, Request, VoiceDetector,
};
use funasr_candle::server::client::{Access, Client, Options, Reply};
use funasr_candle::server::{App, Server, Settings};
use funasr_candle::text::itn::Itn;
use funasr_candle::weights::ModelFiles;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::regression::clip;

const RATE: u32 = 16_000;
/// Nothing here takes longer, but on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);

fn model(name: &str) -> ModelFiles {
    ModelFiles::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(name)).unwrap()
}

fn engine(options: EngineOptions) -> Engine {
    Engine::start(models(None), options).unwrap()
}

fn models(itn: Option<Arc<Itn>>) -> Models {
    let compute = Compute::cpu();
    let recognizer = Arc::new(Recognizer::load(&model("demo"), &compute).unwrap());
    let detector = Arc::new(VoiceDetector::load(&model("fsmn-vad"), &compute).unwrap());
    let punctuation = |name| Arc::new(PunctuationModel::load(&model(name), &compute).unwrap());
    let online = OnlineRecognizer::load(&model("demo-online"), &compute).unwrap();
    let corrector = Corrector {
        recognizer: recognizer.clone(),
        punctuation: Some(punctuation("demo-punc-realtime")),
        itn: itn.clone(),
    };
    let real_time = RealTime::new(online, Some(detector.clone()), Some(corrector)).unwrap();
    Models {
        recognizer,
        detector: Some(detector),
        punctuation: Some(punctuation("demo-punc")),
        real_time: Some(real_time),
        itn,
        base: Request::default(),
    }
}

/// Most tests share one engine, as the clients of a server do.
static ENGINE: LazyLock<Engine> = LazyLock::new(|| engine(EngineOptions::default()));

/// A server that runs.
struct Desk {
    app: Arc<App>,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    done: JoinHandle<funasr_candle::Result<()>>,
}

impl Desk {
    async fn open() -> Self {
        Self::with(Settings::default()).await
    }

    async fn with(settings: Settings) -> Self {
        Self::with_engine(settings, ENGINE.clone()).await
    }

    async fn with_engine(settings: Settings, engine: Engine) -> Self {
        let settings = Settings { listen_ip: [127, 0, 0, 1].into(), port: 0, ..settings };
        let app = App::new(engine, settings, "demo").unwrap();
        let server = Server::bind(app.clone()).await.unwrap();
        let address = server.address().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let done = tokio::spawn(server.run(async move { drop(stopped.await) }));
        Self { app, address, stop: Some(stop), done }
    }

    fn url(&self) -> String {
        format!("ws://{}/any/path", self.address)
    }

    async fn client(&self) -> Client {
        Client::connect(&self.url(), &Access::default()).await.unwrap()
    }

    /// Bytes over a plain connection, until the server ends it.
    async fn raw(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn get(&self, path: &str) -> String {
        self.raw(&format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await
    }

    fn stop(&mut self) {
        drop(self.stop.take());
    }

    /// Stops it and waits for the end.
    async fn close(mut self) {
        self.stop();
        tokio::time::timeout(PATIENCE, self.done).await.unwrap().unwrap().unwrap();
    }
}

/// 16-bit samples of an eval clip.
fn pcm(name: &str) -> Vec<u8> {
    let samples = read_all(&clip(name), RATE, None).unwrap();
    samples.iter().flat_map(|x| ((x * 32_768.0).round() as i16).to_le_bytes()).collect()
}

fn options(mode: &str) -> Options {
    Options { mode: mode.to_owned(), ..Options::default() }
}

/// One utterance from beginning to end, in pieces of `step` bytes.
async fn ask(client: &mut Client, options: &Options, bytes: &[u8], step: usize) -> Vec<Reply> {
    client.sender.begin(options).await.unwrap();
    for piece in bytes.chunks(step) {
        client.sender.audio(piece).await.unwrap();
    }
    client.sender.finish().await.unwrap();
    replies(client).await
}

async fn replies(client: &mut Client) -> Vec<Reply> {
    tokio::time::timeout(PATIENCE, client.receiver.utterance()).await.unwrap().unwrap()
}

async fn reply(client: &mut Client) -> Reply {
    tokio::time::timeout(PATIENCE, client.receiver.next()).await.unwrap().unwrap().unwrap()
}

/// The server serves as if nothing had happened.
async fn assert_serves(desk: &Desk) {
    let replies = ask(&mut desk.client().await, &options("offline"), &pcm("short_07"), 9600).await;
    assert_eq!(replies.iter().map(|reply| reply.text.as_str()).collect::<Vec<_>>(), ["把风扇关掉。"]);
}

/// Waits until something holds.
async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
