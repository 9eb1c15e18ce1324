//! `transcribe`: recordings to punctuated text.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::{ArgAction, ValueEnum};
use funasr_candle::audio::{Input, expand_inputs};
use funasr_candle::decode::hotwords::{HotwordReport, matched};
use funasr_candle::pipeline::{
    PunctuationModel, Recognizer, Request, Transcriber, TranscriberOptions, Transcript, VoiceDetector,
};
use funasr_candle::text::subtitles;
use funasr_candle::{Error, Result};
use serde::Serialize;

use super::output::{print, progress_bar};
use super::session::{self, ComputeArgs, HubArgs, Role};

/// Transcribe recordings: voice detection, speech recognition, punctuation
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Audio or video files, directories, Kaldi wav.scp lists, or - for stdin
    #[arg(required = true)]
    inputs: Vec<String>,
    /// Recognition model [default: an installed one, else the embedded demo]
    #[arg(long)]
    model: Option<String>,
    /// Voice detection model [default: the embedded fsmn-vad]
    #[arg(long)]
    vad_model: Option<String>,
    /// Punctuation model [default: an installed one, else the embedded demo-punc]
    #[arg(long)]
    punc_model: Option<String>,
    /// Take each recording as one piece (at most ten minutes)
    #[arg(long = "no-vad", action = ArgAction::SetFalse)]
    vad: bool,
    /// Leave the text without punctuation
    #[arg(long = "no-punc", action = ArgAction::SetFalse)]
    punc: bool,
    /// Silence that ends a segment [default: 2000 ms down to 100 ms the longer the segment]
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u32).range(0..=60_000))]
    max_end_silence_ms: Option<u32>,
    /// Audio in one padded batch
    #[arg(long, value_name = "S", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=3600))]
    batch_seconds: u32,
    /// What is written for each recording
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Write a file per recording into this folder instead of to stdout
    #[arg(long, value_name = "D")]
    output_dir: Option<PathBuf>,
    /// Keep the tags that SenseVoice writes before a text: <|zh|><|HAPPY|><|Speech|><|woitn|>
    #[arg(long)]
    keep_tags: bool,
    #[command(flatten)]
    request: session::RequestArgs,
    #[command(flatten)]
    compute: ComputeArgs,
    #[command(flatten)]
    hub: HubArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
    Srt,
    Vtt,
    Tsv,
}

/// One line of `--format json`.
#[derive(Serialize)]
struct Report<'a> {
    file: String,
    #[serde(flatten)]
    transcript: &'a Transcript,
    model: &'a str,
    device: String,
    dtype: String,
    rtf: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    hotwords: Option<Biasing<'a>>,
}

/// What became of the hotwords.
#[derive(Serialize)]
struct Biasing<'a> {
    #[serde(flatten)]
    report: &'a HotwordReport,
    matched: Vec<String>,
}

impl Args {
    /// Transcribes everything that can be; fails at the end if anything could not.
    pub fn run(&self) -> Result<()> {
        let inputs = expand_inputs(&self.inputs);
        let (model, transcriber) = self.load()?;
        if let Some(folder) = &self.output_dir {
            std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        }
        let (request, hotwords) = self.request.read(transcriber.recognizer())?;
        let job = Job { args: self, model, transcriber, request, hotwords, several: inputs.len() > 1 };
        session::for_each(inputs, |input| job.transcribe(input))
    }

    fn load(&self) -> Result<(String, Transcriber)> {
        let (hub, compute) = (self.hub.options()?, self.compute.open()?);
        let (model, files) = session::open(self.model.as_deref(), Role::Recognition, &hub)?;
        let recognizer = Recognizer::load(&files, &compute)?;
        let detector = self.vad.then(|| {
            let (_, files) = session::open(self.vad_model.as_deref(), Role::VoiceDetection, &hub)?;
            VoiceDetector::load(&files, &compute).map(Into::into)
        });
        let punctuation = self.punc.then(|| {
            let (_, files) = session::open(self.punc_model.as_deref(), Role::Punctuation, &hub)?;
            PunctuationModel::load(&files, &compute).map(Into::into)
        });
        let options = TranscriberOptions {
            batch_seconds: self.batch_seconds,
            max_end_silence_ms: self.max_end_silence_ms,
        };
        let (detector, punctuation) = (detector.transpose()?, punctuation.transpose()?);
        Ok((model, Transcriber::new(recognizer, detector, punctuation, options)))
    }
}

struct Job<'a> {
    args: &'a Args,
    model: String,
    transcriber: Transcriber,
    request: Request,
    hotwords: Option<HotwordReport>,
    several: bool,
}

impl Job<'_> {
    fn transcribe(&self, input: &Input) -> Result<()> {
        let started = Instant::now();
        let mut audio = input.open(self.transcriber.sample_rate())?;
        let bar = progress_bar(&input.key, audio.duration_ms());
        let transcript = self.transcriber.transcribe(&mut audio, &self.request, |ms| bar.set_position(ms));
        bar.finish_and_clear();
        let mut transcript = transcript?;
        let matched = self.matched(&transcript.text);
        if self.args.keep_tags {
            transcript.keep_tags();
        }
        let text = self.render(input, &transcript, matched, started.elapsed().as_secs_f64())?;
        match &self.args.output_dir {
            Some(folder) => self.write(folder, input, &text)?,
            None => print(&text)?,
        }
        // What could be read was transcribed; that there should be more is an error all the same.
        audio.damage().map_or(Ok(()), Err)
    }

    /// What became of the hotwords, and which of them are in the text.
    fn matched(&self, text: &str) -> Option<Biasing<'_>> {
        let report = self.hotwords.as_ref()?;
        Some(Biasing { report, matched: matched(&report.accepted, text) })
    }

    fn render(
        &self,
        input: &Input,
        transcript: &Transcript,
        hotwords: Option<Biasing>,
        seconds: f64,
    ) -> Result<String> {
        Ok(match self.args.format {
            Format::Text if self.several && self.args.output_dir.is_none() => {
                format!("{}\t{}\n", input.key, transcript.text)
            }
            Format::Text => format!("{}\n", transcript.text),
            Format::Srt => subtitles::srt(&transcript.sentences),
            Format::Vtt => subtitles::vtt(&transcript.sentences),
            Format::Tsv => subtitles::tsv(&transcript.sentences),
            Format::Json => {
                let report = Report {
                    file: input.name(),
                    transcript,
                    model: &self.model,
                    device: self.args.compute.device.to_string(),
                    dtype: self.args.compute.dtype.to_string(),
                    hotwords,
                    rtf: seconds / (transcript.duration_ms as f64 / 1000.0).max(1e-3),
                };
                let json = serde_json::to_string(&report);
                json.map(|json| json + "\n").map_err(|e| Error::Failed(e.to_string()))?
            }
        })
    }

    /// Writes `<key>.<ext>`; keys are unique in a run.
    fn write(&self, folder: &Path, input: &Input, text: &str) -> Result<()> {
        let extension = match self.args.format {
            Format::Text => "txt",
            Format::Json => "json",
            Format::Srt => "srt",
            Format::Vtt => "vtt",
            Format::Tsv => "tsv",
        };
        // A key of a list may hold anything; as a file name it must stay inside the folder.
        let name: String =
            input.key.chars().map(|c| if std::path::is_separator(c) { '_' } else { c }).collect();
        let path = folder.join(format!("{name}.{extension}"));
        std::fs::write(&path, text).map_err(|e| Error::io(&path, e))
    }
}
