//! Plain text -> punctuated text.

use candle_core::{D, Tensor};
use sha2::{Digest, Sha256};

use super::open_tokens;
use crate::device::Compute;
use crate::error::{Error, Result};
use crate::models::ct_transformer::{Class, Config, CtTransformer};
use crate::nn::Lengths;
use crate::punctuation::realtime::{Cache, Continuation};
use crate::punctuation::{self, Punctuated, Punctuator};
use crate::text::segment::Segmenter;
use crate::weights::ModelFiles;

/// jieba's main dictionary: 5 MB, so it is not compiled in, and the one that FunASR 1.4.16 runs with.
const JIEBA_DICT: &str = "dict.txt";
const JIEBA_DICT_SHA256: [u8; 32] = [
    0x71, 0x97, 0xc3, 0x21, 0x1d, 0xdd, 0x98, 0x96, 0x2b, 0x03, 0x6c, 0xdf, 0x40, 0x32, 0x4d, 0x1e, 0xa2,
    0xbf, 0xaa, 0x12, 0xbd, 0x02, 0x8e, 0x68, 0xfa, 0xa7, 0x01, 0x11, 0xa8, 0x8e, 0x12, 0xa8,
];

/// A punctuation model: network, word list and text rules. It is immutable and can be shared.
#[derive(Debug)]
pub struct PunctuationModel {
    model: CtTransformer,
    punctuator: Punctuator,
    compute: Compute,
    origin: String,
}

impl PunctuationModel {
    /// Loads a CT-Transformer, for whole texts or for real time.
    ///
    /// # Errors
    /// Files that are incomplete or do not fit each other, naming the key, tensor or word.
    pub fn load(files: &ModelFiles, compute: &Compute) -> Result<Self> {
        if files.class()? != "CTTransformerStreaming" {
            files.expect_class("CTTransformer")?;
        }
        let config: Config = files.config(&["tokenizer", "tokenizer_conf"])?;
        let (file, words) = open_tokens(files, config.vocab_size)?;
        let rules = punctuation::Config {
            punc_list: config.model_conf.punc_list.clone(),
            sentence_end_id: config.model_conf.sentence_end_id,
        };
        let mut punctuator = Punctuator::new(file, rules, words)?;
        // In real time FunASR splits words without jieba even if there is a dictionary.
        if config.model == Class::CTTransformer
            && let Some(segmenter) = segmenter(files)?
        {
            punctuator = punctuator.with_segmenter(segmenter);
        }
        Ok(Self {
            model: files.build(&compute.in_floats(), |vb| CtTransformer::load(&config, vb))?,
            punctuator,
            compute: compute.clone(),
            origin: files.origin.clone(),
        })
    }

    /// Punctuates `text`; time and memory are linear in its length. A real-time model gives the marks that it gives to
    /// one call with an empty cache, written as those of the other models: with capitals and a closing full stop.
    ///
    /// # Errors
    /// [`crate::Error::Inference`], with the op that failed.
    pub fn punctuate(&self, text: &str) -> Result<Punctuated> {
        self.punctuator.punctuate(text, |ids| self.labels(ids, 0))
    }

    /// Whether it is for text that goes on.
    pub fn is_realtime(&self) -> bool {
        self.model.class() == Class::CTTransformerStreaming
    }

    /// Punctuates the next piece of a text with a real-time model; see [`Punctuator::punctuate_next`].
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the model is for whole texts, else as [`PunctuationModel::punctuate`].
    pub fn punctuate_next(&self, cache: &mut Cache, text: &str) -> Result<Continuation> {
        if !self.is_realtime() {
            return Err(Error::Unsupported(format!(
                "{}: a CTTransformer punctuates whole texts; for text that goes on a CTTransformerStreaming is needed",
                self.origin
            )));
        }
        self.punctuator.punctuate_next(cache, text, |ids, known| self.labels(ids, known))
    }

    fn labels(&self, ids: &[u32], known: usize) -> Result<Vec<u32>> {
        Ok(self.logits(ids, known)?.argmax(D::Minus1)?.to_vec1()?)
    }

    /// Ids of the words of `text`.
    pub fn word_ids(&self, text: &str) -> Vec<u32> {
        self.punctuator.word_ids(text)
    }

    /// `punc_logits [T, labels]` of one window of word ids. A real-time model sees the words from `known` on as new; the
    /// others make no difference.
    ///
    /// # Errors
    /// As [`PunctuationModel::punctuate`].
    pub fn logits(&self, ids: &[u32], known: usize) -> Result<Tensor> {
        let words = Tensor::new(ids, &self.compute.device)?.unsqueeze(0)?;
        Ok(self.model.forward(&words, &Lengths::full(1, ids.len()), &[known])?.squeeze(0)?)
    }
}

/// The segmenter of a model with a user dictionary for jieba; jieba's own dictionary has to lie beside it.
fn segmenter(files: &ModelFiles) -> Result<Option<Segmenter>> {
    let Some((user_file, user_words)) = files.jieba_user_dict()? else { return Ok(None) };
    let main = files.text_file(JIEBA_DICT).ok();
    let main = main.filter(|(_, text)| Sha256::digest(text)[..] == JIEBA_DICT_SHA256);
    let Some((file, dictionary)) = main else {
        return Err(Error::Unsupported(format!(
            "{user_file}: this model splits words with jieba: copy {JIEBA_DICT} of the Python package jieba 0.42.1 \
             beside this file"
        )));
    };
    let mut segmenter = Segmenter::new(file, &dictionary)?;
    segmenter.add_user_words(user_file, &user_words)?;
    Ok(Some(segmenter))
}
