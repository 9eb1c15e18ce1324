//! The commands: one file each. Results go to stdout, everything else to stderr.

mod bench;
mod convert;
mod inspect;
mod itn;
mod lm;
mod models;
mod output;
mod plot;
mod punctuate;
mod selftest;
#[cfg(feature = "server")]
mod serve;
mod session;
mod stages;
mod stream;
mod transcribe;
mod vad;

use clap::{Parser, Subcommand, ValueEnum};
use funasr_candle::Result;
use tracing_subscriber::EnvFilter;

pub use output::report_error;

/// FunASR speech models, natively: speech recognition, voice activity detection, punctuation.
#[derive(Debug, Parser)]
#[command(name = "funasr-candle", version, after_help = AFTER_HELP)]
pub struct Cli {
    /// How log lines look; RUST_LOG chooses which there are
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "A model is a name of `models list`, a converted directory, or a FunASR directory \
(config.yaml and model.pt), which is converted on first use. FUNASR_CANDLE_HOME is where models are kept.";

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    Transcribe(transcribe::Args),
    Stream(stream::Args),
    #[cfg(feature = "server")]
    Serve(Box<serve::Args>),
    Vad(vad::Args),
    Punctuate(punctuate::Args),
    Itn(itn::Args),
    Convert(convert::Args),
    Models(models::Args),
    Lm(lm::Args),
    Inspect(inspect::Args),
    Selftest(selftest::Args),
    Bench(bench::Args),
}

impl Cli {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        self.start_log();
        match self.command {
            Command::Transcribe(args) => args.run(),
            Command::Stream(args) => args.run(),
            #[cfg(feature = "server")]
            Command::Serve(args) => args.run(),
            Command::Vad(args) => args.run(),
            Command::Punctuate(args) => args.run(),
            Command::Itn(args) => args.run(),
            Command::Convert(args) => args.run(),
            Command::Models(args) => args.run(),
            Command::Lm(args) => args.run(),
            Command::Inspect(args) => args.run(),
            Command::Selftest(args) => args.run(),
            Command::Bench(args) => args.run(),
        }
    }

    /// A server logs each request.
    fn serves(&self) -> bool {
        #[cfg(feature = "server")]
        return matches!(self.command, Command::Serve(_));
        #[cfg(not(feature = "server"))]
        false
    }

    fn start_log(&self) {
        // The audio decoders log every oddity of a file; what matters comes back as an error or our own warning.
        let level = if self.serves() { "info,symphonia=off" } else { "warn,symphonia=off" };
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
        match self.log_format {
            LogFormat::Text => log.without_time().with_target(false).init(),
            LogFormat::Json => log.json().init(),
        }
    }
}
