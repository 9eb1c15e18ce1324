//! The stages of a model's work as tensors, by the names that `inspect` writes and `selftest` compares.

mod chunks;

use std::collections::HashMap;

use candle_core::{Device, Tensor, WithDType};
use funasr_candle::Result;
use funasr_candle::device::Compute;
use funasr_candle::frontend::{self, Features, Frontend};
use funasr_candle::pipeline::{
    NetworkOutput, OnlineRecognizer, Piece, PunctuationModel, Recognizer, Request, Scores, StreamOptions,
    VoiceDetector, batch,
};
use funasr_candle::punctuation::Window;
use funasr_candle::weights::ModelFiles;

use chunks::Chunks;

/// A model of any class.
pub enum Model {
    /// Offline recognition.
    Recognizer(Box<Recognizer>),
    /// Recognition of streams.
    Online(Box<OnlineRecognizer>),
    /// Voice detection.
    Detector(Box<VoiceDetector>),
    /// Punctuation, also in real time.
    Punctuation(Box<PunctuationModel>),
}

impl Model {
    /// Loads what the files hold.
    pub fn load(files: &ModelFiles, compute: &Compute) -> Result<Self> {
        Ok(match files.class()? {
            "FsmnVADStreaming" => Self::Detector(Box::new(VoiceDetector::load(files, compute)?)),
            "CTTransformer" | "CTTransformerStreaming" => {
                Self::Punctuation(Box::new(PunctuationModel::load(files, compute)?))
            }
            "ParaformerStreaming" => Self::Online(Box::new(OnlineRecognizer::load(files, compute)?)),
            _ => Self::Recognizer(Box::new(Recognizer::load(files, compute)?)),
        })
    }
}

/// Tensors by name.
#[derive(Default)]
pub struct Stages(pub HashMap<String, Tensor>);

impl Stages {
    /// Adds a stage.
    pub fn add(&mut self, name: &str, tensor: Tensor) {
        self.0.insert(name.to_owned(), tensor);
    }

    /// Adds `fbank` and `lfr` of samples, and gives their normalised features.
    pub fn hear(&mut self, frontend: &Frontend, samples: &[f32]) -> Result<Features> {
        let frontend::Stages { fbank, lfr, speech } = frontend.stages(samples);
        self.add("fbank", as_tensor(fbank)?);
        self.add("lfr", as_tensor(lfr)?);
        Ok(speech)
    }

    /// Adds the stages of a batch of utterances, and gives what they are read from.
    pub fn recognize(
        &mut self,
        recognizer: &Recognizer,
        items: &[Features],
        request: &Request,
    ) -> Result<NetworkOutput> {
        let (speech, lengths) = batch::pad(&items.iter().collect::<Vec<_>>(), recognizer.compute())?;
        let output = recognizer.forward(&speech, &lengths, &vec![request; items.len()])?;
        let mut ids = Vec::new();
        for item in 0..items.len() {
            let emissions = recognizer.emissions(&output, item, request)?;
            ids.push(emissions.iter().map(|emission| emission.id).collect());
        }
        self.add("speech", speech);
        self.add("ids", rows::<u32>(&ids)?);
        self.add("encoder_out", output.encoder_out.clone());
        output.extra.iter().for_each(|(name, stage)| self.add(name, stage.clone()));
        self.add_scores(&output.scores)?;
        Ok(output)
    }

    fn add_scores(&mut self, scores: &Scores) -> Result<()> {
        match scores {
            Scores::Tokens { logits, cif, us } => {
                let counts: Vec<u32> = cif.token_num.items().iter().map(|&n| n as u32).collect();
                self.add("alphas", rows(&cif.alphas)?);
                self.add("peaks", rows(&cif.peaks)?);
                self.add("token_num", Tensor::new(counts, &Device::Cpu)?);
                self.add("acoustic_embeds", cif.acoustic_embeds.clone());
                self.add("decoder_logits", logits.clone());
                if let Some(us) = us {
                    self.add("us_alphas", rows(&us.alphas)?);
                    self.add("us_peaks", rows(&us.peaks)?);
                }
            }
            Scores::Frames { logits, .. } => self.add("ctc_logits", logits.clone()),
        }
        Ok(())
    }

    /// Adds those of a stream, chunk by chunk to the end.
    pub fn stream(
        &mut self,
        recognizer: &OnlineRecognizer,
        options: &StreamOptions,
        pieces: &[Piece],
    ) -> Result<()> {
        let width = recognizer.frontend().config().feature_width();
        for (name, stage) in Chunks::run(recognizer, options, pieces)?.tensors(width)? {
            self.add(name, stage);
        }
        Ok(())
    }

    /// Adds `vad_scores`, and gives them.
    pub fn detect(&mut self, detector: &VoiceDetector, features: Features) -> Result<Tensor> {
        let scores = detector.scores(features)?;
        self.add("vad_scores", scores.clone());
        Ok(scores)
    }

    /// Adds `ids` and `punc_logits` of words, and gives the latter.
    pub fn punctuate(&mut self, model: &PunctuationModel, ids: Vec<u32>) -> Result<Tensor> {
        let logits = model.logits(&[Window { ids: &ids, known: 0 }])?;
        self.add("punc_logits", logits.clone());
        self.add("ids", rows(&[ids])?);
        Ok(logits)
    }
}

fn as_tensor(features: Features) -> Result<Tensor> {
    let shape = (1, features.frames(), features.width);
    Ok(Tensor::from_vec(features.values, shape, &Device::Cpu)?)
}

/// Rows of different lengths as one tensor, zero after the end of each.
fn rows<T: WithDType>(rows: &[Vec<T>]) -> Result<Tensor> {
    let width = rows.iter().map(Vec::len).max().unwrap_or(0);
    let padded = rows
        .iter()
        .flat_map(|row| row.iter().copied().chain(std::iter::repeat_n(T::zero(), width - row.len())));
    Ok(Tensor::from_vec(padded.collect::<Vec<_>>(), (rows.len(), width), &Device::Cpu)?)
}
