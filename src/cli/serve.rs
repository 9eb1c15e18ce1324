//! `serve`: every protocol on one port.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use funasr_candle::engine::{Engine, EngineOptions, Models};
use funasr_candle::pipeline::{
    Corrector, OnlineRecognizer, PunctuationModel, RealTime, Recognizer, VoiceDetector,
};
use funasr_candle::server::{App, Server, Settings};
use funasr_candle::{Error, Result};

use super::output::note;
use super::session::{self, ComputeArgs, HubArgs, Role};

/// Serve recordings and live audio to many clients: FunASR's WebSocket protocol, HTTP
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Settings in TOML; flags win over them
    #[arg(long, value_name = "F.toml")]
    config: Option<PathBuf>,
    /// Address to listen on [default: 0.0.0.0]
    #[arg(long)]
    listen_ip: Option<IpAddr>,
    /// Port of all protocols; 0 takes a free one [default: 10095]
    #[arg(long)]
    port: Option<u16>,
    /// Recognition model [default: an installed one, else the embedded demo]
    #[arg(long)]
    model: Option<String>,
    /// Streaming model [default: an installed one, else the embedded demo-online]
    #[arg(long)]
    online_model: Option<String>,
    /// Voice detection model [default: the embedded fsmn-vad]
    #[arg(long)]
    vad_model: Option<String>,
    /// Punctuation model of recordings [default: an installed one, else the embedded demo-punc]
    #[arg(long)]
    punc_model: Option<String>,
    /// Punctuation model of live sentences [default: an installed one, else the embedded demo-punc-realtime]
    #[arg(long)]
    realtime_punc_model: Option<String>,
    /// TLS certificates in PEM
    #[arg(long)]
    certfile: Option<PathBuf>,
    /// Their private key in PEM
    #[arg(long)]
    keyfile: Option<PathBuf>,
    #[command(flatten)]
    compute: ComputeArgs,
    #[command(flatten)]
    hub: HubArgs,
}

impl Args {
    /// Serves until a signal ends it.
    pub fn run(&self) -> Result<()> {
        let settings = self.settings()?;
        let (name, models) = self.load()?;
        let engine = Engine::start(models, EngineOptions::default())?;
        let app = App::new(engine, settings, name)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        runtime.map_err(|cause| Error::Device(format!("threads: {cause}")))?.block_on(serve(app))
    }

    fn settings(&self) -> Result<Settings> {
        let mut settings = self.config.as_deref().map_or_else(|| Ok(Settings::default()), Settings::read)?;
        settings.listen_ip = self.listen_ip.unwrap_or(settings.listen_ip);
        settings.port = self.port.unwrap_or(settings.port);
        settings.certfile = self.certfile.clone().or(settings.certfile);
        settings.keyfile = self.keyfile.clone().or(settings.keyfile);
        Ok(settings)
    }

    fn load(&self) -> Result<(String, Models)> {
        let (hub, compute) = (self.hub.options()?, self.compute.open()?);
        let open = |name: &Option<String>, role| session::open(name.as_deref(), role, &hub);
        let (name, files) = open(&self.model, Role::Recognition)?;
        let recognizer = Arc::new(Recognizer::load(&files, &compute)?);
        let files = open(&self.vad_model, Role::VoiceDetection)?.1;
        let detector = Arc::new(VoiceDetector::load(&files, &compute)?);
        let punctuation = |name, role| -> Result<_> {
            Ok(Some(Arc::new(PunctuationModel::load(&open(name, role)?.1, &compute)?)))
        };
        let online = OnlineRecognizer::load(&open(&self.online_model, Role::Streaming)?.1, &compute)?;
        let corrector = Corrector {
            recognizer: recognizer.clone(),
            punctuation: punctuation(&self.realtime_punc_model, Role::RealtimePunctuation)?,
        };
        let real_time = Some(RealTime::new(online, Some(detector.clone()), Some(corrector))?);
        let punctuation = punctuation(&self.punc_model, Role::Punctuation)?;
        Ok((name, Models { recognizer, detector: Some(detector), punctuation, real_time }))
    }
}

async fn serve(app: Arc<App>) -> Result<()> {
    let server = Server::bind(app).await?;
    note(&format!("listening on {}", server.address()?));
    let stop = async {
        let _ = tokio::signal::ctrl_c().await;
    };
    server.run(stop).await
}
