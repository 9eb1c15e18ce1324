//! `inspect`: every stage of a model as tensors.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use funasr_candle::audio::read_all;
use funasr_candle::frontend::{Features, Frontend, Stages};
use funasr_candle::models::fsmn_vad;
use funasr_candle::pipeline::{PunctuationModel, Recognizer, VoiceDetector, batch};
use funasr_candle::weights::ModelFiles;
use funasr_candle::{Error, Result};

use super::bench::read_features;
use super::output::print_line;
use super::session::{self, ComputeArgs, HubArgs, Role};

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

/// Tensors by name.
type Tensors = HashMap<String, Tensor>;

impl Args {
    /// Runs the model and writes what it did.
    pub fn run(&self) -> Result<()> {
        let compute = self.compute.open()?;
        let (_, files) = session::open(self.model.as_deref(), Role::Recognition, &self.hub.options()?)?;
        let mut tensors = Tensors::new();
        match files.class()? {
            "FsmnVADStreaming" => self.detect(&VoiceDetector::load(&files, &compute)?, &mut tensors)?,
            "CTTransformer" => {
                self.punctuate(&PunctuationModel::load(&files, &compute)?, &files, &mut tensors)?
            }
            _ => self.recognize(&Recognizer::load(&files, &compute)?, &mut tensors)?,
        }
        candle_core::safetensors::save(&tensors, &self.out)
            .map_err(|e| Error::Failed(format!("{}: {e}", self.out.display())))?;
        let mut lines: Vec<String> = tensors
            .iter()
            .map(|(name, tensor)| format!("{name:<16} {:?} {:?}", tensor.dims(), tensor.dtype()))
            .collect();
        lines.sort();
        print_line(&lines.join("\n"))
    }

    fn recognize(&self, recognizer: &Recognizer, tensors: &mut Tensors) -> Result<()> {
        let items = self.speech(recognizer.frontend(), tensors)?;
        let (speech, lengths) = batch::pad(&items, recognizer.compute())?;
        let output = recognizer.model().forward(&speech, &lengths)?;
        let mut ids = Vec::new();
        for item in 0..items.len() {
            ids.push(recognizer.emissions(&output, item)?.iter().map(|emission| emission.id).collect());
        }
        let counts: Vec<u32> = output.cif.token_num.items().iter().map(|&n| n as u32).collect();
        tensors.extend([
            ("speech".to_owned(), speech),
            ("encoder_out".to_owned(), output.encoder_out),
            ("alphas".to_owned(), rows(&output.cif.alphas)?),
            ("peaks".to_owned(), rows(&output.cif.peaks)?),
            ("token_num".to_owned(), Tensor::new(counts, &Device::Cpu)?),
            ("acoustic_embeds".to_owned(), output.cif.acoustic_embeds),
            ("decoder_logits".to_owned(), output.decoder_logits),
            ("ids".to_owned(), rows::<u32>(&ids)?),
        ]);
        Ok(())
    }

    fn detect(&self, detector: &VoiceDetector, tensors: &mut Tensors) -> Result<()> {
        for features in self.speech(detector.frontend(), tensors)? {
            let scores = detector.scores(&mut fsmn_vad::State::default(), features)?;
            tensors.insert("vad_scores".to_owned(), scores);
        }
        Ok(())
    }

    fn punctuate(&self, model: &PunctuationModel, files: &ModelFiles, tensors: &mut Tensors) -> Result<()> {
        let Some(text) = &self.input.text else {
            return Err(Error::Unsupported(format!("{}: a punctuation model takes --text", files.origin)));
        };
        let ids = model.word_ids(text);
        if ids.is_empty() {
            return Err(Error::Unsupported("--text holds no words".into()));
        }
        tensors.insert("punc_logits".to_owned(), model.logits(&ids)?.unsqueeze(0)?);
        tensors.insert("ids".to_owned(), rows(&[ids])?);
        Ok(())
    }

    /// Normalised features of the input, with the stages before them where it is a recording.
    fn speech(&self, frontend: &Frontend, tensors: &mut Tensors) -> Result<Vec<Features>> {
        let items = match (&self.input.audio, &self.input.features) {
            (Some(file), _) => {
                let samples = read_all(file, frontend.config().fs, Some(MAX_SECONDS))?;
                let Stages { fbank, lfr, speech } = frontend.stages(&samples);
                tensors.insert("fbank".to_owned(), as_tensor(fbank)?);
                tensors.insert("lfr".to_owned(), as_tensor(lfr)?);
                vec![speech]
            }
            (None, Some(file)) => read_features(file)?,
            (None, None) => {
                return Err(Error::Unsupported("a speech model takes --audio or --features".into()));
            }
        };
        let source = self.input.audio.as_deref().or(self.input.features.as_deref()).unwrap_or(Path::new(""));
        match items.iter().find(|item| item.frames() == 0) {
            Some(_) => Err(Error::audio(source.display(), "is too short for a single frame")),
            None => Ok(items),
        }
    }
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
