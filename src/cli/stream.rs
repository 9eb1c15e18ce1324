//! `stream`: a real-time session on a recording or on live audio.

use std::io::{Cursor, Read, stdin};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use funasr_candle::audio::{AudioReader, RAW_PCM_RATE};
use funasr_candle::pipeline::{
    ChunkSize, Corrector, OnlineRecognizer, PunctuationModel, RealTime, Recognizer, SessionOptions,
    StreamOptions, VoiceDetector,
};
use funasr_candle::{Error, Result};

use super::output::print_line;
use super::session::{self, ComputeArgs, HubArgs, Role};

/// Audio that is read at a time.
const READ_MS: usize = 60;
/// Bytes of stdin that tell what it is: 2 ms of PCM.
const HEAD_BYTES: u64 = 64;

/// Recognise speech while it is spoken; one JSON line per message
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A recording, or - for live 16-bit mono PCM on stdin (wav, flac, ogg and mp3 with tags are recognised)
    input: PathBuf,
    /// online: streaming text; 2pass: streaming text, then each sentence corrected and punctuated when it ends
    #[arg(long, value_enum, default_value_t = Mode::TwoPass)]
    mode: Mode,
    /// Frames of 60 ms that a chunk looks back, advances and looks ahead
    #[arg(long, value_name = "L,C,R", default_value_t, allow_hyphen_values = true)]
    chunk_size: ChunkSize,
    /// Chunks of the past that the encoder attends to, -1 for a minute of them
    #[arg(long, value_name = "N", default_value_t = 4, allow_negative_numbers = true,
        value_parser = clap::value_parser!(i32).range(-1..))]
    encoder_look_back: i32,
    /// Chunks of the past that the decoder attends to
    #[arg(long, value_name = "N", default_value_t = 1)]
    decoder_look_back: u16,
    /// Streaming model [default: an installed one, else the embedded demo-online]
    #[arg(long)]
    online_model: Option<String>,
    /// Offline model of the second pass [default: an installed one, else the embedded demo]
    #[arg(long)]
    model: Option<String>,
    /// Voice detection model [default: the embedded fsmn-vad; with --mode online none, all is one sentence]
    #[arg(long)]
    vad_model: Option<String>,
    /// Punctuation model of the second pass [default: an installed one, else the embedded demo-punc-realtime]
    #[arg(long)]
    punc_model: Option<String>,
    /// Silence that ends a sentence [default: what the voice detection model says, usually 800]
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u32).range(0..=60_000))]
    max_end_silence_ms: Option<u32>,
    #[command(flatten)]
    request: session::RequestArgs,
    /// Pace a recording as if it were spoken now
    #[arg(long)]
    realtime: bool,
    /// Sample rate of PCM on stdin [default: 16000]
    #[arg(long, value_name = "HZ")]
    pcm_rate: Option<u32>,
    #[command(flatten)]
    compute: ComputeArgs,
    #[command(flatten)]
    hub: HubArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    Online,
    #[value(name = "2pass")]
    TwoPass,
}

impl Args {
    /// Prints messages as they come.
    pub fn run(&self) -> Result<()> {
        self.check()?;
        let (models, options) = self.load()?;
        let mut audio = self.open(models.sample_rate())?;
        let name = audio.name().to_owned();
        let mut session = models.session(&options)?;
        let mut pace = Pace { started: Instant::now(), rate: models.sample_rate(), samples: 0 };
        let size = models.sample_rate() as usize * READ_MS / 1000;
        let mut samples = Vec::new();
        while !session.ended() {
            samples.clear();
            let last = audio.read(&mut samples, size)? == 0;
            if self.realtime {
                pace.wait(samples.len());
            }
            for message in models.feed(&mut session, &samples, last)? {
                print_line(&message.to_json(&name).to_string())?;
            }
        }
        audio.damage().map_or(Ok(()), Err)
    }

    /// Fails on flags that would have no effect.
    fn check(&self) -> Result<()> {
        if self.mode == Mode::Online {
            self.request.refuse("--mode online")?;
            if self.model.is_some() || self.punc_model.is_some() {
                let message = "--mode online: has no second pass for --model or --punc-model";
                return Err(Error::Unsupported(message.into()));
            }
        }
        if self.pcm_rate.is_some() && self.input != Path::new("-") {
            return Err(Error::Unsupported("--pcm-rate is for PCM on stdin, and here is a file".into()));
        }
        Ok(())
    }

    fn load(&self) -> Result<(RealTime, SessionOptions)> {
        let (hub, compute) = (self.hub.options()?, self.compute.open()?);
        let open = |name: &Option<String>, role| session::open(name.as_deref(), role, &hub);
        let online = OnlineRecognizer::load(&open(&self.online_model, Role::Streaming)?.1, &compute)?;
        let detector = (self.mode == Mode::TwoPass || self.vad_model.is_some())
            .then(|| {
                VoiceDetector::load(&open(&self.vad_model, Role::VoiceDetection)?.1, &compute).map(Into::into)
            })
            .transpose()?;
        let mut options = SessionOptions {
            stream: StreamOptions {
                chunk_size: self.chunk_size,
                encoder_look_back: usize::try_from(self.encoder_look_back).ok(),
                decoder_look_back: usize::from(self.decoder_look_back),
            },
            max_end_silence_ms: self.max_end_silence_ms,
            ..SessionOptions::default()
        };
        let corrector = match self.mode {
            Mode::Online => None,
            Mode::TwoPass => {
                let recognizer = Recognizer::load(&open(&self.model, Role::Recognition)?.1, &compute)?;
                options.request = self.request.read(&recognizer)?.0;
                let (_, files) = open(&self.punc_model, Role::RealtimePunctuation)?;
                let punctuation = Some(PunctuationModel::load(&files, &compute)?.into());
                Some(Corrector { recognizer: recognizer.into(), punctuation })
            }
        };
        Ok((RealTime::new(online, detector, corrector)?, options))
    }

    fn open(&self, sample_rate: u32) -> Result<AudioReader> {
        if self.input != Path::new("-") {
            return AudioReader::open(&self.input, sample_rate);
        }
        let mut head = Vec::new();
        stdin().take(HEAD_BYTES).read_to_end(&mut head).map_err(|e| Error::io("stdin", e))?;
        let is_pcm = is_pcm(&head);
        let bytes = Cursor::new(head).chain(stdin());
        if is_pcm {
            let rate = self.pcm_rate.unwrap_or(RAW_PCM_RATE);
            return AudioReader::raw_pcm("stdin", bytes, rate, sample_rate);
        }
        AudioReader::from_source("stdin", bytes, sample_rate)
    }
}

/// Whether a stream that starts with `head` is plain samples: neither a container nor text.
fn is_pcm(head: &[u8]) -> bool {
    let containers: [&[u8]; 4] = [b"RIFF", b"fLaC", b"OggS", b"ID3"];
    let is_utf8 = std::str::from_utf8(head).map_or_else(|e| e.error_len().is_none(), |_| true);
    let is_text = is_utf8 && head.iter().all(|b| b.is_ascii_whitespace() || !b.is_ascii_control());
    head.is_empty() || !(is_text || containers.iter().any(|magic| head.starts_with(magic)))
}

/// Lets audio through no faster than it is spoken.
struct Pace {
    started: Instant,
    rate: u32,
    samples: u64,
}

impl Pace {
    fn wait(&mut self, samples: usize) {
        self.samples += samples as u64;
        let due = Duration::from_millis(self.samples * 1000 / u64::from(self.rate));
        std::thread::sleep(due.saturating_sub(self.started.elapsed()));
    }
}
