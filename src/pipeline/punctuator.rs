//! Plain text -> punctuated text.

use candle_core::{D, Tensor};

use crate::decode::tokens::TokenList;
use crate::device::Compute;
use crate::error::Result;
use crate::models::ct_transformer::{Config, CtTransformer};
use crate::nn::Lengths;
use crate::punctuation::{self, Punctuated, Punctuator};
use crate::weights::ModelFiles;

/// A punctuation model: network, word list and text rules. It is immutable and can be shared.
#[derive(Debug)]
pub struct PunctuationModel {
    model: CtTransformer,
    punctuator: Punctuator,
    compute: Compute,
}

impl PunctuationModel {
    /// Loads a CT-Transformer.
    ///
    /// # Errors
    /// Files that are incomplete or do not fit each other, naming the key, tensor or word.
    pub fn load(files: &ModelFiles, compute: &Compute) -> Result<Self> {
        files.expect_class("CTTransformer")?;
        let config: Config = files.config(&["tokenizer", "tokenizer_conf"])?;
        let (file, text) = files.tokens()?;
        let words = TokenList::from_json(&file, &text)?;
        if words.len() != config.vocab_size {
            let message =
                format!("{} words, but the model's vocab_size is {}", words.len(), config.vocab_size);
            return Err(crate::Error::config(file, message));
        }
        let rules = punctuation::Config {
            punc_list: config.model_conf.punc_list.clone(),
            sentence_end_id: config.model_conf.sentence_end_id,
            jieba_usr_dict: None,
        };
        Ok(Self {
            model: files.build(compute.dtype, &compute.device, |vb| CtTransformer::load(&config, vb))?,
            punctuator: Punctuator::new(file, rules, words)?,
            compute: compute.clone(),
        })
    }

    /// Punctuates `text`; time and memory are linear in its length.
    ///
    /// # Errors
    /// [`crate::Error::Inference`], with the op that failed.
    pub fn punctuate(&self, text: &str) -> Result<Punctuated> {
        self.punctuator.punctuate(text, |ids| Ok(self.logits(ids)?.argmax(D::Minus1)?.to_vec1()?))
    }

    /// Ids of the words of `text`.
    pub fn word_ids(&self, text: &str) -> Vec<u32> {
        self.punctuator.word_ids(text)
    }

    /// `punc_logits [T, labels]` of one window of word ids.
    ///
    /// # Errors
    /// As [`PunctuationModel::punctuate`].
    pub fn logits(&self, ids: &[u32]) -> Result<Tensor> {
        let words = Tensor::new(ids, &self.compute.device)?.unsqueeze(0)?;
        Ok(self.model.forward(&words, &Lengths::full(1, ids.len()))?.squeeze(0)?)
    }
}
