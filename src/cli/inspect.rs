//! `inspect`: every stage of a model as tensors.

mod chunks;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use funasr_candle::audio::read_all;
use funasr_candle::decode::timestamps::FIRE_THRESHOLD;
use funasr_candle::device::Compute;
use funasr_candle::frontend::{Features, Frontend, Stages};
use funasr_candle::pipeline::{
    ChunkSize, Network, OnlineRecognizer, Piece, PunctuationModel, Recognizer, Scores, StreamOptions,
    VoiceDetector, batch,
};
use funasr_candle::vad::{EndSilence, FILE_CHUNK_MS};
use funasr_candle::weights::ModelFiles;
use funasr_candle::{Error, Result};

use super::bench::read_features;
use super::output::print_line;
use super::plot::{Curve, Figure, Waveform};
use super::session::{self, ComputeArgs, HubArgs, RequestArgs, Role};
use super::vad::closed;
use chunks::Chunks;

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
    tensors: HashMap<String, Tensor>,
    figure: Figure,
}

impl Inspection {
    fn add(&mut self, name: &str, tensor: Tensor) {
        self.tensors.insert(name.to_owned(), tensor);
    }

    fn add_scores(&mut self, scores: Scores) -> Result<()> {
        match scores {
            Scores::Tokens { logits, cif, us } => {
                let counts: Vec<u32> = cif.token_num.items().iter().map(|&n| n as u32).collect();
                self.add("alphas", rows(&cif.alphas)?);
                self.add("peaks", rows(&cif.peaks)?);
                self.add("token_num", Tensor::new(counts, &Device::Cpu)?);
                self.add("acoustic_embeds", cif.acoustic_embeds);
                self.add("decoder_logits", logits);
                if let Some(us) = us {
                    self.add("us_alphas", rows(&us.alphas)?);
                    self.add("us_peaks", rows(&us.peaks)?);
                }
            }
            Scores::Frames { logits, .. } => self.add("ctc_logits", logits),
        }
        Ok(())
    }
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
        candle_core::safetensors::save(&found.tensors, &self.out)
            .map_err(|e| Error::Failed(format!("{}: {e}", self.out.display())))?;
        if let Some(plot) = &self.plot {
            found.figure.title = format!("{name}: {}", self.input.file().display());
            found.figure.write(plot)?;
        }
        print_line(&listing(&found.tensors))
    }

    fn inspect(&self, files: &ModelFiles, compute: &Compute) -> Result<Inspection> {
        let class = files.class()?;
        if !Network::CLASSES.contains(&class) {
            self.request.refuse(&files.origin)?;
        }
        let mut found = Inspection::default();
        match class {
            "FsmnVADStreaming" => self.detect(&VoiceDetector::load(files, compute)?, &mut found)?,
            "CTTransformer" | "CTTransformerStreaming" => {
                self.refuse_plot(&files.origin, "reads text")?;
                self.punctuate(&PunctuationModel::load(files, compute)?, files, &mut found)?;
            }
            "ParaformerStreaming" => {
                self.refuse_plot(&files.origin, "works on chunks that overlap")?;
                self.stream(&OnlineRecognizer::load(files, compute)?, &mut found)?;
            }
            _ => {
                let recognizer = Recognizer::load(files, compute)?;
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
        let (speech, lengths) = batch::pad(&items.iter().collect::<Vec<_>>(), recognizer.compute())?;
        let (request, _) = self.request.read(recognizer)?;
        let output = recognizer.forward(&speech, &lengths, &vec![&request; items.len()])?;
        let mut ids = Vec::new();
        for item in 0..items.len() {
            ids.push(
                recognizer.emissions(&output, item, &request)?.iter().map(|emission| emission.id).collect(),
            );
        }
        if self.plot.is_some() {
            found.figure.curve = weights(&output.scores, frame_ms(recognizer.frontend()));
            found.figure.words = recognizer.read(&output, 0, &request)?.joined.words;
        }
        found.add("speech", speech);
        found.add("ids", rows::<u32>(&ids)?);
        found.add("encoder_out", output.encoder_out);
        output.extra.into_iter().for_each(|(name, stage)| found.add(name, stage));
        found.add_scores(output.scores)
    }

    fn detect(&self, detector: &VoiceDetector, found: &mut Inspection) -> Result<()> {
        let frame_ms = frame_ms(detector.frontend());
        for features in self.speech(detector.frontend(), found)? {
            let scores = detector.scores(features)?;
            found.figure.curve = Some(Curve {
                title: format!("probability of silence per frame of {frame_ms} ms"),
                frame_ms,
                values: detector.silence(&scores)?.concat(),
                marks: Vec::new(),
            });
            found.add("vad_scores", scores);
        }
        found.figure.add_segments(detector)
    }

    fn punctuate(&self, model: &PunctuationModel, files: &ModelFiles, found: &mut Inspection) -> Result<()> {
        let Some(text) = &self.input.text else {
            return Err(Error::Unsupported(format!("{}: a punctuation model takes --text", files.origin)));
        };
        let ids = model.word_ids(text);
        if ids.is_empty() {
            return Err(Error::Unsupported("--text holds no words".into()));
        }
        found.add("punc_logits", model.logits(&ids, 0)?.unsqueeze(0)?);
        found.add("ids", rows(&[ids])?);
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
        let width = recognizer.frontend().config().feature_width();
        for (name, stage) in Chunks::run(recognizer, &options, &pieces)?.tensors(width)? {
            found.add(name, stage);
        }
        Ok(())
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
                let Stages { fbank, lfr, speech } = frontend.stages(&samples);
                found.add("fbank", as_tensor(fbank)?);
                found.add("lfr", as_tensor(lfr)?);
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
        let mut stream = detector.stream(*rate, EndSilence::Dynamic { chunk_ms: FILE_CHUNK_MS })?;
        let mut chunks = samples.chunks((rate * (FILE_CHUNK_MS / 1000)) as usize).peekable();
        while let Some(chunk) = chunks.next() {
            let events = detector.push(&mut stream, chunk, chunks.peek().is_none())?;
            self.segments.extend(events.iter().filter_map(closed));
        }
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

fn as_tensor(features: Features) -> Result<Tensor> {
    let shape = (1, features.frames(), features.width);
    Ok(Tensor::from_vec(features.values, shape, &Device::Cpu)?)
}

/// Rows of different lengths as one tensor, zero after the end of each.
fn rows<T: candle_core::WithDType>(rows: &[Vec<T>]) -> Result<Tensor> {
    let width = rows.iter().map(Vec::len).max().unwrap_or(0);
    let padded = rows
        .iter()
        .flat_map(|row| row.iter().copied().chain(std::iter::repeat_n(T::zero(), width - row.len())));
    Ok(Tensor::from_vec(padded.collect::<Vec<_>>(), (rows.len(), width), &Device::Cpu)?)
}
