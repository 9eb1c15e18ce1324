//! `serve`: every protocol on one port.

mod funasr;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use clap::ValueEnum;
use funasr_candle::device::DeviceName;
use funasr_candle::engine::{Engine, Models};
use funasr_candle::pipeline::{
    Corrector, OnlineRecognizer, PunctuationModel, RealTime, Recognizer, Request, VoiceDetector,
};
use funasr_candle::server::{App, Config, Mode, ModelNames, Server, warm_up};
use funasr_candle::{Error, Result};
use tokio::signal::unix::{SignalKind, signal};

use super::output::{note, report_error};
use super::session::{self, ComputeArgs, HubArgs, Role};
use funasr::FunasrArgs;

/// What a model is called to have none.
const NO_MODEL: &str = "none";

/// Serve recordings and live audio to many clients: FunASR's WebSocket protocol and HTTP on one port
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Settings in TOML; flags win over them
    #[arg(long, value_name = "F.toml")]
    config: Option<PathBuf>,
    /// Address to listen on [default: 0.0.0.0]
    #[arg(long, value_name = "IP")]
    listen_ip: Option<IpAddr>,
    /// Port of all protocols; 0 takes a free one [default: 10095]
    #[arg(long)]
    port: Option<u16>,
    /// A second port for gRPC clients that expect one of their own
    #[arg(long, value_name = "PORT")]
    grpc_port: Option<u16>,
    /// Recognition model [default: an installed one, else the embedded demo]
    #[arg(long)]
    model: Option<String>,
    /// Streaming model, or none for recordings only [default: an installed one, else the embedded demo-online]
    #[arg(long)]
    online_model: Option<String>,
    /// Voice detection model [default: the embedded fsmn-vad]
    #[arg(long)]
    vad_model: Option<String>,
    /// Punctuation model of recordings, or none [default: an installed one, else the embedded demo-punc]
    #[arg(long)]
    punc_model: Option<String>,
    /// Punctuation model of live sentences, or none [default: an installed one, else the embedded demo-punc-realtime]
    #[arg(long)]
    realtime_punc_model: Option<String>,
    /// What a FunASR client gets that names no mode [default: 2pass]
    #[arg(long, value_enum)]
    mode: Option<ModeName>,
    /// Write numbers as digits, unless a request says otherwise
    #[arg(long, value_enum)]
    itn: Option<Switch>,
    /// Words to listen for in all requests: a file with one a line, and a weight after it
    #[arg(long, value_name = "F")]
    hotword: Option<PathBuf>,
    /// n-gram language model: a folder of `lm build` or of FunASR (TLG.fst, config.yaml, lexicon.txt)
    #[arg(long, value_name = "DIR")]
    lm: Option<PathBuf>,
    /// TLS certificates in PEM; 0 for none
    #[arg(long, value_name = "F")]
    certfile: Option<PathBuf>,
    /// Their private key in PEM
    #[arg(long, value_name = "F")]
    keyfile: Option<PathBuf>,
    /// API keys, one a line; without, everyone is served
    #[arg(long, value_name = "F")]
    api_keys: Option<PathBuf>,
    #[command(flatten)]
    compute: ComputeArgs,
    #[command(flatten)]
    hub: HubArgs,
    #[command(flatten)]
    funasr: FunasrArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ModeName {
    Offline,
    Online,
    #[value(name = "2pass")]
    TwoPass,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

impl Args {
    /// Serves until a signal ends it.
    pub fn run(&self) -> Result<()> {
        self.funasr.report();
        let config = self.config()?;
        let (name, models) = self.load(&config.models)?;
        let engine = Engine::start(models, config.engine.options(self.compute.threads))?;
        let app = App::new(engine, config.server, name)?;
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        if let Some(threads) = self.funasr.io_thread_num {
            runtime.worker_threads(usize::from(threads));
        }
        let runtime = runtime.enable_all().build();
        runtime.map_err(|cause| Error::Device(format!("threads: {cause}")))?.block_on(serve(app))
    }

    /// The file's settings with the flags over them.
    fn config(&self) -> Result<Config> {
        let mut config = self.config.as_deref().map_or_else(|| Ok(Config::default()), Config::read)?;
        let (server, funasr) = (&mut config.server, &self.funasr);
        server.listen_ip = self.listen_ip.unwrap_or(server.listen_ip);
        server.port = self.port.unwrap_or(server.port);
        server.grpc_port = self.grpc_port.or(server.grpc_port);
        if let Some(certfile) = &self.certfile {
            server.certfile = funasr::file(certfile);
            // A script without TLS names a key all the same.
            server.keyfile = server.keyfile.take().filter(|_| server.certfile.is_some());
        }
        if self.certfile.is_none() || server.certfile.is_some() {
            server.keyfile = self.keyfile.clone().or(server.keyfile.take());
        }
        server.api_keys = self.api_keys.clone().or(server.api_keys.take());
        if let Some(hotword) = self.hotword.as_deref().and_then(funasr::file) {
            // The scripts name a file whether there is one or not.
            if funasr.model_dir.is_some() && !hotword.exists() {
                note(&format!("note: --hotword: there is no {}", hotword.display()));
            } else {
                server.hotword = Some(hotword);
            }
        }
        // FunASR's servers write digits unless a client says otherwise.
        server.itn = self.itn.map_or(server.itn || funasr.model_dir.is_some(), |itn| itn == Switch::On);
        if funasr.recordings_only() {
            server.mode = Mode::Offline;
        }
        if let Some(mode) = self.mode {
            server.mode = match mode {
                ModeName::Offline => Mode::Offline,
                ModeName::Online => Mode::Online,
                ModeName::TwoPass => Mode::TwoPass,
            };
        }
        config.engine.workers = funasr.decoder_thread_num.map(usize::from).or(config.engine.workers);
        self.name_models(&mut config.models);
        Ok(config)
    }

    fn name_models(&self, models: &mut ModelNames) {
        let funasr = &self.funasr;
        let named = |own: &Option<String>, theirs: &Option<String>, file: &mut Option<String>| {
            let name = own.clone().or_else(|| theirs.as_deref().map(funasr::model));
            *file = name.or(file.take());
        };
        named(&self.model, &funasr.model_dir, &mut models.model);
        named(&self.online_model, &funasr.online_model_dir, &mut models.online_model);
        named(&self.vad_model, &funasr.vad_dir, &mut models.vad_model);
        named(&self.punc_model, &funasr.punc_dir, &mut models.punc_model);
        named(&self.realtime_punc_model, &funasr.punc_dir, &mut models.realtime_punc_model);
        if funasr.recordings_only() && self.online_model.is_none() {
            models.online_model = Some(NO_MODEL.to_owned());
        }
    }

    fn load(&self, names: &ModelNames) -> Result<(String, Models)> {
        let mut compute = self.compute.clone();
        if self.funasr.gpu {
            compute.device = DeviceName::Cuda(0);
        }
        let (hub, compute) = (self.hub.options()?, compute.open()?);
        let open = |name: &Option<String>, role| session::open(name.as_deref(), role, &hub);
        let wanted = |name: &Option<String>| name.as_deref() != Some(NO_MODEL);
        let (name, files) = open(&names.model, Role::Recognition)?;
        let recognizer = Arc::new(Recognizer::load(&files, &compute)?);
        let detector =
            Arc::new(VoiceDetector::load(&open(&names.vad_model, Role::VoiceDetection)?.1, &compute)?);
        let load = |name: &Option<String>, role| -> Result<Option<Arc<PunctuationModel>>> {
            let load = || PunctuationModel::load(&open(name, role)?.1, &compute).map(Arc::new);
            wanted(name).then(load).transpose()
        };
        let punctuation = load(&names.punc_model, Role::Punctuation)?;
        let lm = self.lm.clone().or_else(|| self.funasr.lm());
        let lm = lm.map(|folder| recognizer.open_lm(folder).map(Arc::new)).transpose()?;
        let mut base = Request::default();
        (base.lm, base.search) = (lm, self.funasr.search()?);
        let itn = self.funasr.rules()?.map(Arc::new);
        if itn.is_none() && self.itn == Some(Switch::On) && !recognizer.normalizes() {
            return Err(Error::Unsupported(
                "--itn on: there are no rules; --itn-dir names a folder of them".into(),
            ));
        }
        let detector = Some(detector);
        let mut models = Models { recognizer, detector, punctuation, real_time: None, itn, base };
        if wanted(&names.online_model) {
            let online = OnlineRecognizer::load(&open(&names.online_model, Role::Streaming)?.1, &compute)?;
            let punctuation = match &names.realtime_punc_model {
                name if name.is_some() && *name == names.punc_model => models.punctuation.clone(),
                name => load(name, Role::RealtimePunctuation)?,
            };
            let (recognizer, itn) = (models.recognizer.clone(), models.itn.clone());
            let corrector = Corrector { recognizer, punctuation, itn };
            models.real_time = Some(RealTime::new(online, models.detector.clone(), Some(corrector))?);
        }
        Ok((name, models))
    }
}

/// Serves until SIGTERM or SIGINT; SIGHUP reads keys, hotwords and certificates again.
async fn serve(app: Arc<App>) -> Result<()> {
    warm_up(&app).await?;
    let server = Server::bind(app).await?;
    let on = |kind| signal(kind).map_err(|cause| Error::io("signals", cause));
    let (mut terminate, mut interrupt, mut hangup) =
        (on(SignalKind::terminate())?, on(SignalKind::interrupt())?, on(SignalKind::hangup())?);
    let reload = server.reloader();
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            match tokio::task::block_in_place(&reload) {
                Ok(()) => note("note: keys, hotwords and certificates were read again"),
                Err(error) => report_error(&error),
            }
        }
    });
    note(&format!("listening on {}", server.address()?));
    server
        .run(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            note("note: shutting down: what was begun is finished, nothing new is taken");
        })
        .await
}
