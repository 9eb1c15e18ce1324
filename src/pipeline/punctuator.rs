//! Plain text -> punctuated text.

use std::iter::repeat;

use candle_core::{D, Tensor};
use funasr_kernels::on_pool;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::batch::{self, confined, only};
use super::open_tokens;
use crate::device::Compute;
use crate::error::{Error, Result};
use crate::models::ct_transformer::{Class, Config, CtTransformer};
use crate::nn::Lengths;
use crate::punctuation::realtime::{Cache, Continuation};
use crate::punctuation::{self, Labelling, Punctuated, Punctuator, Window};
use crate::text::segment::Segmenter;
use crate::weights::ModelFiles;

/// Words of a padded batch on the CPU.
const CPU_WORDS: usize = 128;
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
        let (config, model) = load_network(files, compute)?;
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
        Ok(Self { model, punctuator, compute: files.compute(compute), origin: files.origin.clone() })
    }

    /// Punctuates `text`; time and memory are linear in its length. A real-time model gives the marks that it gives to
    /// one call with an empty cache, written as those of the other models: with capitals and a closing full stop.
    ///
    /// # Errors
    /// [`crate::Error::Inference`], with the op that failed.
    pub fn punctuate(&self, text: &str) -> Result<Punctuated> {
        let mut text = self.open(text);
        only(self.label_each(&mut [&mut text]))??;
        Ok(self.close(&text))
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
        let mut text = self.open_next(cache, text)?;
        only(self.label_each(&mut [&mut text]))??;
        Ok(self.close_next(cache, &text))
    }

    /// A whole text whose labels are to be found: [`PunctuationModel::label_each`], then [`PunctuationModel::close`].
    pub fn open(&self, text: &str) -> Labelling {
        self.punctuator.open(text)
    }

    /// The next piece of a text, likewise, for [`PunctuationModel::close_next`].
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the model is for whole texts.
    pub fn open_next(&self, cache: &Cache, text: &str) -> Result<Labelling> {
        if !self.is_realtime() {
            return Err(Error::Unsupported(format!(
                "{}: a CTTransformer punctuates whole texts; for text that goes on a CTTransformerStreaming is needed",
                self.origin
            )));
        }
        Ok(self.punctuator.open_next(cache, text))
    }

    /// A whole text with its marks.
    pub fn close(&self, text: &Labelling) -> Punctuated {
        self.punctuator.close(text)
    }

    /// The next piece of a text with its marks.
    pub fn close_next(&self, cache: &mut Cache, text: &Labelling) -> Continuation {
        self.punctuator.close_next(cache, text)
    }

    /// Finds all labels of several texts, their windows batched.
    ///
    /// # Errors
    /// Of each text: as [`PunctuationModel::punctuate`]. The others are as if they had been without it.
    pub fn label_each(&self, texts: &mut [&mut Labelling]) -> Vec<Result<()>> {
        let mut results: Vec<Result<()>> = texts.iter().map(|_| Ok(())).collect();
        loop {
            let pairs = texts.iter_mut().zip(&mut results);
            let going = pairs.filter(|(text, result)| text.window().is_some() && result.is_ok());
            let (mut going, results): (Vec<&mut Labelling>, Vec<&mut Result<()>>) =
                going.map(|(text, result)| (&mut **text, result)).unzip();
            if going.is_empty() {
                break;
            }
            results.into_iter().zip(self.step_each(&mut going)).for_each(|(result, step)| *result = step);
        }
        results
    }

    /// Labels the window of each text, batched: one step of [`PunctuationModel::label_each`].
    ///
    /// # Errors
    /// As there.
    pub fn step_each(&self, texts: &mut [&mut Labelling]) -> Vec<Result<()>> {
        let labels = confined(texts, &|texts: &mut [&mut Labelling]| {
            self.labels(&texts.iter().map(|text| text.window()).collect::<Vec<_>>())
        });
        texts.iter_mut().zip(labels).map(|(text, labels)| self.punctuator.label(text, labels?)).collect()
    }

    /// The labels of each window; of none, none.
    fn labels(&self, windows: &[Option<Window>]) -> Result<Vec<Vec<u32>>> {
        let lengths: Vec<usize> = windows.iter().map(|window| window.map_or(0, |w| w.ids.len())).collect();
        let groups = batch::bucket(&lengths, self.batch_words()).into_par_iter();
        let labelled = groups.map(|group| {
            let (places, windows): (Vec<usize>, Vec<Window>) =
                group.into_iter().filter_map(|i| Some((i, windows[i]?))).unzip();
            if places.is_empty() {
                return Ok(Vec::new());
            }
            let labels: Vec<Vec<u32>> = self.logits(&windows)?.argmax(D::Minus1)?.to_vec2()?;
            Ok(places.into_iter().zip(labels).collect())
        });
        let mut results = vec![Vec::new(); windows.len()];
        for (i, mut labels) in on_pool(|| labelled.collect::<Result<Vec<_>>>())?.into_iter().flatten() {
            labels.truncate(lengths[i]);
            results[i] = labels;
        }
        Ok(results)
    }

    /// Words of one padded batch: on the CPU no more than keep a core busy.
    fn batch_words(&self) -> usize {
        if self.compute.device.is_cpu() { CPU_WORDS } else { usize::MAX }
    }

    /// Ids of the words of `text`.
    pub fn word_ids(&self, text: &str) -> Vec<u32> {
        self.open(text).ids().to_vec()
    }

    /// `punc_logits [B, T, labels]` of windows, T words in the longest.
    ///
    /// # Errors
    /// As [`PunctuationModel::punctuate`].
    pub fn logits(&self, windows: &[Window]) -> Result<Tensor> {
        let lengths = Lengths::new(windows.iter().map(|window| window.ids.len()).collect::<Vec<_>>());
        let padding = repeat(&0);
        let padded =
            windows.iter().flat_map(|window| window.ids.iter().chain(padding.clone()).take(lengths.max()));
        let ids: Vec<u32> = padded.copied().collect();
        let ids = Tensor::from_vec(ids, (windows.len(), lengths.max()), &self.compute.device)?;
        let known: Vec<usize> = windows.iter().map(|window| window.known).collect();
        Ok(self.model.forward(&ids, &lengths, &known)?)
    }
}

/// The network alone, with its configuration; its text needs more files.
///
/// # Errors
/// As [`PunctuationModel::load`].
pub fn load_network(files: &ModelFiles, compute: &Compute) -> Result<(Config, CtTransformer)> {
    if files.class()? != "CTTransformerStreaming" {
        files.expect_class("CTTransformer")?;
    }
    let config: Config = files.config(&["tokenizer", "tokenizer_conf"])?;
    let network = files.build(compute, |vb| CtTransformer::load(&config, vb))?;
    Ok((config, network))
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
