//! The networks of offline recognition behind one interface.

use std::sync::OnceLock;

use candle_core::Tensor;

use super::Request;
use crate::decode::greedy::Best;
use crate::decode::search::{Likely, MAX_LIKELY};
use crate::decode::timestamps::{CifTrack, us_peaks};
use crate::device::Compute;
use crate::error::Result;
use crate::models::bicif::{self, BiCifParaformer};
use crate::models::contextual::{self, ContextualParaformer};
use crate::models::paraformer::{self, Paraformer};
use crate::models::seaco::{self, SeacoParaformer};
use crate::models::sense_voice::{self, Query, SenseVoice};
use crate::nn::{CifOutput, Lengths, best_of_rows};
use crate::weights::ModelFiles;

/// Sections of a configuration that are not the network's.
const OTHERS: [&str; 4] = ["frontend", "frontend_conf", "tokenizer", "tokenizer_conf"];

/// The network of a [`Recognizer`](super::Recognizer).
#[derive(Debug)]
pub enum Network {
    /// Plain Paraformer.
    Paraformer(Box<Paraformer>),
    /// Paraformer with a timestamp head.
    BiCif(Box<BiCifParaformer>),
    /// The same with hotwords that correct what the decoder says.
    Seaco(Box<SeacoParaformer>),
    /// Paraformer with hotwords that its decoder attends to.
    Contextual(Box<ContextualParaformer>),
    /// A CTC model of several languages that also tells language, emotion and event.
    SenseVoice(Box<SenseVoice>),
}

/// Every stage of one batch.
#[derive(Debug, Clone)]
pub struct NetworkOutput {
    /// `[B, T, D]`.
    pub encoder_out: Tensor,
    /// Scores of the vocabulary.
    pub scores: Scores,
    /// Stages that only this network has, by name: of SeACo `decoder_hidden`, and with hotwords `cif_attended`,
    /// `dec_attended` and `dha`.
    pub extra: Vec<(&'static str, Tensor)>,
    /// The best of each row of each item, once someone has asked.
    best: OnceLock<Vec<Vec<Best>>>,
    /// The same of the likely ones.
    likely: OnceLock<Vec<Vec<Likely>>>,
}

impl NetworkOutput {
    fn new(encoder_out: Tensor, scores: Scores) -> Self {
        Self { encoder_out, scores, extra: Vec::new(), best: OnceLock::new(), likely: OnceLock::new() }
    }

    /// The best of each row of one item. Those of the batch are found at once where the scores lie, so that of a GPU's
    /// memory only they are read.
    ///
    /// # Errors
    /// [`crate::Error::Inference`], with the op that failed.
    pub fn best(&self, item: usize) -> Result<&[Best]> {
        if let Some(found) = self.best.get() {
            return Ok(&found[item]);
        }
        let found = best(self.scores.logits())?;
        Ok(&self.best.get_or_init(|| found)[item])
    }

    /// The likely tokens of each row of one item, found like the best.
    ///
    /// # Errors
    /// As there.
    pub fn likely(&self, item: usize) -> Result<&[Likely]> {
        if let Some(found) = self.likely.get() {
            return Ok(&found[item]);
        }
        let found = by_row(self.scores.logits(), MAX_LIKELY, likely)?;
        Ok(&self.likely.get_or_init(|| found)[item])
    }
}

/// The best of each row of each item of `logits [B, N, V]`.
pub(super) fn best(logits: &Tensor) -> Result<Vec<Vec<Best>>> {
    by_row(logits, 1, |row| Best { id: row[0] as u32, logit: row[1], log_prob: row[2] })
}

/// The likely tokens of a row, as [`best_of_rows`] gives it.
fn likely(row: &[f32]) -> Likely {
    let (ids, rest) = row.split_at(row.len() / 2);
    let mut logits: Vec<(u32, f32)> = ids.iter().map(|&id| id as u32).zip(rest.iter().copied()).collect();
    let best = Best { id: logits[0].0, logit: logits[0].1, log_prob: rest[ids.len()] };
    logits.sort_by_key(|&(id, _)| id);
    Likely { best, logits }
}

/// What `read` makes of the `count` best of each row of each item of `logits [B, N, V]`.
fn by_row<R>(logits: &Tensor, count: usize, read: impl Fn(&[f32]) -> R) -> Result<Vec<Vec<R>>> {
    let rows: Vec<Vec<Vec<f32>>> = best_of_rows(logits, count)?.to_vec3()?;
    Ok(rows.iter().map(|item| item.iter().map(|row| read(row)).collect()).collect())
}

/// Scores of the vocabulary, by token or by frame.
#[derive(Debug, Clone)]
pub enum Scores {
    /// A row for each token that CIF found.
    Tokens {
        /// `decoder_logits [B, L, V]`.
        logits: Tensor,
        /// Alphas, peaks, token counts and acoustic embeddings.
        cif: CifOutput,
        /// The finer weights of a timestamp head.
        us: Option<Upsampled>,
    },
    /// A row for each frame, those of SenseVoice's queries first.
    Frames {
        /// `ctc_logits [B, 4 + T, V]`.
        logits: Tensor,
        /// Frames of each item, those of the queries included.
        frames: Lengths,
    },
}

/// The track of a timestamp head.
#[derive(Debug, Clone)]
pub struct Upsampled {
    /// Weights of each item, `rate` for each frame.
    pub alphas: Vec<Vec<f32>>,
    /// Integrated weights of each item.
    pub peaks: Vec<Vec<f32>>,
    /// Weights for each encoder frame.
    pub rate: u32,
}

impl Upsampled {
    fn new(alphas: Vec<Vec<f32>>, rate: usize) -> Self {
        let peaks = alphas.iter().map(|alphas| us_peaks(alphas)).collect();
        Self { alphas, peaks, rate: rate as u32 }
    }
}

impl Scores {
    /// `[B, N, V]`.
    pub fn logits(&self) -> &Tensor {
        match self {
            Self::Tokens { logits, .. } | Self::Frames { logits, .. } => logits,
        }
    }

    /// The track that times the tokens of one item; of frames, none.
    pub fn track(&self, item: usize) -> Option<CifTrack<'_>> {
        let Self::Tokens { cif, us, .. } = self else { return None };
        Some(match us {
            Some(us) => CifTrack { alphas: &us.alphas[item], peaks: &us.peaks[item], upsample_rate: us.rate },
            None => CifTrack { alphas: &cif.alphas[item], peaks: &cif.peaks[item], upsample_rate: 1 },
        })
    }
}

impl Network {
    /// FunASR's classes of offline recognition.
    pub const CLASSES: [&str; 5] =
        ["Paraformer", "BiCifParaformer", "SeacoParaformer", "ContextualParaformer", "SenseVoiceSmall"];

    /// Loads the network that the files describe, for feature rows of `width`; returns it with the size of its vocabulary.
    ///
    /// # Errors
    /// A class that is no offline recogniser, files that are incomplete or do not fit each other.
    pub fn load(files: &ModelFiles, width: usize, compute: &Compute) -> Result<(Self, usize)> {
        Ok(match files.class()? {
            "Paraformer" => {
                let config: paraformer::Config = files.config(&OTHERS)?;
                let network = files.build(compute, |vb| Paraformer::load(width, &config, vb))?;
                (Self::Paraformer(network.into()), config.vocab_size)
            }
            "BiCifParaformer" => {
                let config: bicif::Config = files.config(&OTHERS)?;
                let network = files.build(compute, |vb| BiCifParaformer::load(width, &config, vb))?;
                (Self::BiCif(network.into()), config.vocab_size)
            }
            "SeacoParaformer" => {
                let config: seaco::Config = files.config(&OTHERS)?;
                let network = files.build(compute, |vb| SeacoParaformer::load(width, &config, vb))?;
                (Self::Seaco(network.into()), config.paraformer.vocab_size)
            }
            "ContextualParaformer" => {
                let config: contextual::Config = files.config(&OTHERS)?;
                let network = files.build(compute, |vb| ContextualParaformer::load(width, &config, vb))?;
                (Self::Contextual(network.into()), config.vocab_size)
            }
            "SenseVoiceSmall" => {
                let config: sense_voice::Config = files.config(&OTHERS)?;
                let network = files.build(compute, |vb| SenseVoice::load(width, &config, vb))?;
                (Self::SenseVoice(network.into()), config.vocab_size)
            }
            class => {
                let known = Self::CLASSES.join(", ");
                let message = format!("is a {class} model, where one of {known} is expected");
                return Err(files.config_error(message));
            }
        })
    }

    /// Whether it can be biased with hotwords.
    pub fn takes_hotwords(&self) -> bool {
        matches!(self, Self::Seaco(_) | Self::Contextual(_))
    }

    /// Token ids of each hotword as the vectors `[N, D]` that requests carry; none if the network takes no hotwords.
    ///
    /// # Errors
    /// [`crate::Error::Inference`], with the op that failed.
    pub fn encode_hotwords(&self, ids: &[Vec<u32>]) -> Result<Option<Tensor>> {
        Ok(match self {
            Self::Seaco(network) => Some(network.encode_hotwords(ids)?),
            Self::Contextual(network) => Some(network.encode_hotwords(ids)?),
            _ => None,
        })
    }

    /// Normalised features `[B, T, width]` of the given lengths, with the request of each -> every stage.
    ///
    /// # Errors
    /// [`crate::Error::Inference`], with the op that failed.
    pub fn forward(
        &self,
        speech: &Tensor,
        lengths: &Lengths,
        requests: &[&Request],
    ) -> Result<NetworkOutput> {
        let hotwords = || requests.iter().map(|request| request.hotwords.as_deref()).collect::<Vec<_>>();
        Ok(match self {
            Self::Paraformer(network) => network.forward(speech, lengths)?.into(),
            Self::BiCif(network) => {
                let rate = network.predictor().upsample_times();
                let bicif::Output { encoder_out, cif, us_alphas, decoder_logits: logits } =
                    network.forward(speech, lengths)?;
                let us = Some(Upsampled::new(us_alphas, rate));
                NetworkOutput::new(encoder_out, Scores::Tokens { logits, cif, us })
            }
            Self::Seaco(network) => {
                let rate = network.predictor().upsample_times();
                let seaco::Output {
                    encoder_out,
                    cif,
                    us_alphas,
                    decoder_hidden,
                    bias,
                    decoder_logits: logits,
                } = network.forward(speech, lengths, &hotwords())?;
                let us = Some(Upsampled::new(us_alphas, rate));
                let mut extra = vec![("decoder_hidden", decoder_hidden)];
                if let Some(seaco::Bias { cif_attended, dec_attended, dha }) = bias {
                    extra.extend([
                        ("cif_attended", cif_attended),
                        ("dec_attended", dec_attended),
                        ("dha", dha),
                    ]);
                }
                NetworkOutput { extra, ..NetworkOutput::new(encoder_out, Scores::Tokens { logits, cif, us }) }
            }
            Self::Contextual(network) => {
                let contextual::Output { encoder_out, cif, decoder_logits: logits } =
                    network.forward(speech, lengths, &hotwords())?;
                NetworkOutput::new(encoder_out, Scores::Tokens { logits, cif, us: None })
            }
            Self::SenseVoice(network) => {
                let query = |request: &&Request| Query { language: request.language, text_norm: request.itn };
                let queries: Vec<Query> = requests.iter().map(query).collect();
                let sense_voice::Output { encoder_out, ctc_logits: logits, lengths: frames } =
                    network.forward(speech, lengths, &queries)?;
                NetworkOutput::new(encoder_out, Scores::Frames { logits, frames })
            }
        })
    }
}

impl From<paraformer::Output> for NetworkOutput {
    fn from(output: paraformer::Output) -> Self {
        let paraformer::Output { encoder_out, cif, decoder_logits: logits } = output;
        Self::new(encoder_out, Scores::Tokens { logits, cif, us: None })
    }
}
