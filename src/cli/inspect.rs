//! `inspect`: every stage of a model as tensors.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use funasr_candle::audio::read_all;
use funasr_candle::decode::timestamps::FIRE_THRESHOLD;
use funasr_candle::device::Compute;
use funasr_candle::frontend::{Features, Frontend};
use funasr_candle::pipeline::{
    ChunkSize, Network, OnlineRecognizer, Piece, PunctuationModel, Recognizer, Scores, StreamOptions,
    VoiceDetector,
};
use funasr_candle::weights::ModelFiles;
use funasr_candle::{Error, Result};

use super::bench::read_features;
use super::output::print_line;
use super::plot::{Curve, Figure, Waveform};
use super::session::{self, ComputeArgs, HubArgs, RequestArgs, Role};
use super::stages::{Model, Stages};
use super::vad::segments;

/// Longest recording that is inspected in one piece.
const MAX_SECONDS: f64 = 600.0;

/// Write every stage of a model's work as tensors
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Recognition, voice detection or punctuation model [default: the recognition model of `transcribe`]
    #[arg(long)]
    model: Option<String>,
    #[command(flatten)]
    input: Input,
    /// File to write
    #[arg(long, value_name = "OUT.safetensors")]
    out: PathBuf,
    /// Draw the recording, its speech segments, the model's scores and the words over time
    #[arg(long, value_name = "OUT.png")]
    plot: Option<PathBuf>,
    #[command(flatten)]
    request: RequestArgs,
    /// Frames of 60 ms that a chunk of a streaming model looks back, advances and looks ahead
    #[arg(long, value_name = "L,C,R", default_value_t, allow_hyphen_values = true)]
    chunk_size: ChunkSize,
    #[command(flatten)]
    compute: ComputeArgs,
    #[command(flatten)]
    hub: HubArgs,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Input {
    /// A recording, taken in one piece
    #[arg(long, value_name = "F")]
    audio: Option<PathBuf>,
    /// A safetensors file with `speech [B, T, D]` and `speech_lengths [B]`
    #[arg(long, value_name = "F.safetensors")]
    features: Option<PathBuf>,
    /// A text, for a punctuation model
    #[arg(long)]
    text: Option<String>,
}

/// What is known of the input after the model's work.
#[derive(Default)]
struct Inspection {
    stages: Stages,
    figure: Figure,
}

impl Args {
    /// Runs the model and writes what it did.
    pub fn run(&self) -> Result<()> {
        let compute = self.compute.open()?;
        let options = self.hub.options()?;
        let (name, files) = session::open(self.model.as_deref(), Role::Recognition, &options)?;
        let mut found = self.inspect(&files, &compute)?;
        if found.figure.waveform.is_some() && Network::CLASSES.contains(&files.class()?) {
            let (_, files) = session::open(None, Role::VoiceDetection, &options)?;
            found.figure.add_segments(&VoiceDetector::load(&files, &compute)?)?;
        }
        candle_core::safetensors::save(&found.stages.0, &self.out)
            .map_err(|e| Error::Failed(format!("{}: {e}", self.out.display())))?;
        if let Some(plot) = &self.plot {
            found.figure.title = format!("{name}: {}", self.input.file().display());
            found.figure.write(plot)?;
        }
        print_line(&listing(&found.stages.0))
    }

    fn inspect(&self, files: &ModelFiles, compute: &Compute) -> Result<Inspection> {
        if !Network::CLASSES.contains(&files.class()?) {
            self.request.refuse(&files.origin)?;
        }
        let mut found = Inspection::default();
        match Model::load(files, compute)? {
            Model::Detector(detector) => self.detect(&detector, &mut found)?,
            Model::Punctuation(model) => {
                self.refuse_plot(&files.origin, "reads text")?;
                self.punctuate(&model, files, &mut found.stages)?;
            }
            Model::Online(recognizer) => {
                self.refuse_plot(&files.origin, "works on chunks that overlap")?;
                self.stream(&recognizer, &mut found)?;
            }
            Model::Recognizer(recognizer) => {
                if self.request.needs_rules(&recognizer) {
                    let message = "does not normalise text; rules do, and have no stages";
                    return Err(Error::Unsupported(format!("{}: {message}", files.origin)));
                }
                self.recognize(&recognizer, &mut found)?;
            }
        }
        Ok(found)
    }

    fn recognize(&self, recognizer: &Recognizer, found: &mut Inspection) -> Result<()> {
        let items = self.speech(recognizer.frontend(), found)?;
        let (request, _) = self.request.read(recognizer)?;
        let output = found.stages.recognize(recognizer, &items, &request)?;
        if self.plot.is_some() {
            found.figure.curve = weights(&output.scores, frame_ms(recognizer.frontend()));
            found.figure.words = recognizer.read(&output, 0, &request)?.joined.words;
        }
        Ok(())
    }

    fn detect(&self, detector: &VoiceDetector, found: &mut Inspection) -> Result<()> {
        let frame_ms = frame_ms(detector.frontend());
        for features in self.speech(detector.frontend(), found)? {
            let scores = found.stages.detect(detector, features)?;
            found.figure.curve = Some(Curve {
                title: format!("probability of silence per frame of {frame_ms} ms"),
                frame_ms,
                values: detector.silence(&scores)?.concat(),
                marks: Vec::new(),
            });
        }
        found.figure.add_segments(detector)
    }

    fn punctuate(&self, model: &PunctuationModel, files: &ModelFiles, stages: &mut Stages) -> Result<()> {
        let Some(text) = &self.input.text else {
            return Err(Error::Unsupported(format!("{}: a punctuation model takes --text", files.origin)));
        };
        let ids = model.word_ids(text);
        if ids.is_empty() {
            return Err(Error::Unsupported("--text holds no words".into()));
        }
        stages.punctuate(model, ids)?;
        Ok(())
    }

    /// Chunk by chunk to the end, as a stream.
    fn stream(&self, recognizer: &OnlineRecognizer, found: &mut Inspection) -> Result<()> {
        let options = StreamOptions { chunk_size: self.chunk_size, ..StreamOptions::default() };
        // Of a recording this also writes what comes before the features, and refuses one that is too short.
        let items = self.speech(recognizer.frontend(), found)?;
        let pieces = match (&self.input.audio, items.as_slice()) {
            // A stream leaves out a rest that fills no row, so its rows may be fewer than those of the whole.
            (Some(file), _) => {
                let samples = read_all(file, recognizer.sample_rate(), Some(MAX_SECONDS))?;
                recognizer.pieces(&options, &samples)?
            }
            (None, [features]) => Piece::cut(features, self.chunk_size.stride()),
            (None, items) => {
                let (file, count) = (self.input.file().display(), items.len());
                let message = format!("{file}: one stream is inspected at a time, and here are {count}");
                return Err(Error::Unsupported(message));
            }
        };
        found.stages.stream(recognizer, &options, &pieces)
    }

    fn refuse_plot(&self, origin: &str, why: &str) -> Result<()> {
        match self.plot {
            Some(_) => {
                Err(Error::Unsupported(format!("{origin}: --plot draws scores over time; this model {why}")))
            }
            None => Ok(()),
        }
    }

    /// Normalised features of the input, with the stages before them where it is a recording.
    fn speech(&self, frontend: &Frontend, found: &mut Inspection) -> Result<Vec<Features>> {
        let items = match (&self.input.audio, &self.input.features) {
            (Some(file), _) => {
                let rate = frontend.config().fs;
                let samples = read_all(file, rate, Some(MAX_SECONDS))?;
                let speech = found.stages.hear(frontend, &samples)?;
                found.figure.waveform = self.plot.is_some().then_some(Waveform { samples, rate });
                vec![speech]
            }
            (None, Some(file)) => read_features(file)?,
            (None, None) => {
                return Err(Error::Unsupported("a speech model takes --audio or --features".into()));
            }
        };
        let file = self.input.file().display();
        if self.plot.is_some() && items.len() != 1 {
            let count = items.len();
            return Err(Error::Unsupported(format!(
                "{file}: --plot draws one utterance, and here are {count}"
            )));
        }
        match items.iter().find(|item| item.frames() == 0) {
            Some(_) => Err(Error::audio(file, "is too short for a single frame")),
            None => Ok(items),
        }
    }
}

impl Input {
    /// The file given; of a text, none.
    fn file(&self) -> &Path {
        self.audio.as_deref().or(self.features.as_deref()).unwrap_or(Path::new(""))
    }
}

impl Figure {
    /// Speech segments of the waveform, if there is one.
    fn add_segments(&mut self, detector: &VoiceDetector) -> Result<()> {
        let Some(Waveform { samples, rate }) = &self.waveform else { return Ok(()) };
        self.segments.extend(segments(detector, samples, *rate)?);
        Ok(())
    }
}

/// The weights by which CIF of the first item finds tokens, for the figure.
fn weights(scores: &Scores, frame_ms: f64) -> Option<Curve> {
    let track = scores.track(0)?;
    let frame_ms = frame_ms / f64::from(track.upsample_rate);
    let fired = |(frame, &peak): (usize, &f32)| (peak >= FIRE_THRESHOLD).then_some(frame);
    Some(Curve {
        title: format!("CIF weight (alpha) per frame of {frame_ms} ms; red: a token fires"),
        frame_ms,
        values: track.alphas.to_vec(),
        marks: track.peaks.iter().enumerate().filter_map(fired).collect(),
    })
}

/// From one feature row to the next.
fn frame_ms(frontend: &Frontend) -> f64 {
    f64::from(frontend.config().frame_shift) * frontend.config().lfr_n as f64
}

/// Names, shapes and types in order.
fn listing(tensors: &HashMap<String, Tensor>) -> String {
    let line =
        |(name, tensor): (&String, &Tensor)| format!("{name:<16} {:?} {:?}", tensor.dims(), tensor.dtype());
    let mut lines: Vec<String> = tensors.iter().map(line).collect();
    lines.sort();
    lines.join("\n")
}
