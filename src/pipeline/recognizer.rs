//! Samples of speech segments -> tokens with times.

use candle_core::DType;
use rayon::prelude::*;

use super::{batch, open_frontend, open_tokens};
use crate::decode::greedy::{Emission, greedy};
use crate::decode::timestamps::{CifTrack, token_spans};
use crate::decode::tokens::TokenList;
use crate::device::Compute;
use crate::error::Result;
use crate::frontend::{Features, Frontend};
use crate::models::paraformer::{Config, Output, Paraformer};
use crate::text::Token;
use crate::text::join::{Joined, Notation, join};
use crate::weights::ModelFiles;

/// What was said in one segment; times count from its start.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Recognition {
    /// Acoustic tokens, in the notation of the vocabulary.
    pub tokens: Vec<Token>,
    /// Words and text, without punctuation.
    pub joined: Joined,
}

/// An offline recogniser: front end, model and vocabulary. It is immutable and can be shared.
#[derive(Debug)]
pub struct Recognizer {
    frontend: Frontend,
    model: Paraformer,
    tokens: TokenList,
    notation: Notation,
    compute: Compute,
}

impl Recognizer {
    /// Loads a Paraformer.
    ///
    /// # Errors
    /// Files that are incomplete or do not fit each other, naming the key, tensor or token.
    pub fn load(files: &ModelFiles, compute: &Compute) -> Result<Self> {
        files.expect_class("Paraformer")?;
        let frontend = open_frontend(files)?;
        let config: Config = files.config(&["frontend", "frontend_conf", "tokenizer", "tokenizer_conf"])?;
        let (_, tokens) = open_tokens(files, config.vocab_size)?;
        let width = frontend.config().feature_width();
        let model = files.build(compute.dtype, &compute.device, |vb| Paraformer::load(width, &config, vb))?;
        Ok(Self { frontend, model, notation: Notation::of(tokens.iter()), tokens, compute: compute.clone() })
    }

    /// Sample rate that [`Recognizer::recognize`] takes.
    pub fn sample_rate(&self) -> u32 {
        self.frontend.config().fs
    }

    /// The front end.
    pub fn frontend(&self) -> &Frontend {
        &self.frontend
    }

    /// The network.
    pub fn model(&self) -> &Paraformer {
        &self.model
    }

    /// Where and in which format it computes.
    pub fn compute(&self) -> &Compute {
        &self.compute
    }

    /// Recognises several utterances in one padded batch; an utterance gives the same in any batch. One that is too
    /// short for a frame is empty.
    ///
    /// # Errors
    /// [`crate::Error::Inference`], with the op that failed.
    pub fn recognize(&self, utterances: &[&[f32]]) -> Result<Vec<Recognition>> {
        let features: Vec<Features> = utterances.par_iter().map(|x| self.frontend.features(x)).collect();
        self.recognize_features(features)
    }

    /// [`Recognizer::recognize`] from normalised features.
    ///
    /// # Errors
    /// As there.
    pub fn recognize_features(&self, features: Vec<Features>) -> Result<Vec<Recognition>> {
        let audible: Vec<usize> = (0..features.len()).filter(|&i| features[i].frames() > 0).collect();
        let mut results = vec![Recognition::default(); features.len()];
        if audible.is_empty() {
            return Ok(results);
        }
        let items: Vec<Features> = features.into_iter().filter(|item| item.frames() > 0).collect();
        let (speech, lengths) = batch::pad(&items, &self.compute)?;
        let output = self.model.forward(&speech, &lengths)?;
        for (item, &i) in audible.iter().enumerate() {
            results[i] = self.read(&output, item)?;
        }
        Ok(results)
    }

    /// Tokens that the model's output names for one item, without blank, start and end.
    ///
    /// # Errors
    /// Logits that are not finite.
    pub fn emissions(&self, output: &Output, item: usize) -> Result<Vec<Emission>> {
        let count = output.cif.token_num.items()[item];
        let logits = output.decoder_logits.get(item)?.to_dtype(DType::F32)?;
        let vocab = logits.dim(1)?;
        greedy(&logits.flatten_all()?.to_vec1()?, vocab, count)
    }

    /// Tokens, words and text of one item of the model's output.
    ///
    /// # Errors
    /// Logits that are not finite.
    pub fn read(&self, output: &Output, item: usize) -> Result<Recognition> {
        let emissions = self.emissions(output, item)?;
        let positions: Vec<usize> = emissions.iter().map(|emission| emission.position).collect();
        let track =
            CifTrack { alphas: &output.cif.alphas[item], peaks: &output.cif.peaks[item], upsample_rate: 1 };
        let token = |(emission, [start_ms, end_ms]): (&Emission, [u64; 2])| {
            let text = self.tokens.token(emission.id).unwrap_or_default().to_owned();
            Token { text, start_ms, end_ms, confidence: Some(emission.log_prob.exp()) }
        };
        let tokens: Vec<Token> = emissions.iter().zip(token_spans(track, &positions)).map(token).collect();
        let joined = join(&tokens, self.notation);
        Ok(Recognition { tokens, joined })
    }
}
