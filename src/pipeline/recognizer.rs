//! Samples of speech segments -> tokens with times.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Tensor};
use funasr_kernels::on_pool;
use rayon::prelude::*;
use serde::Deserialize;

use super::{Language, Network, NetworkOutput, Request, Scores, batch, open_frontend, open_tokens};
use crate::decode::ctc;
use crate::decode::greedy::{Emission, greedy_of};
use crate::decode::hotwords::graph::BiasGraph;
use crate::decode::hotwords::{HotwordReport, Hotwords, SegDict};
use crate::decode::lm::LanguageModel;
use crate::decode::search::Rows;
use crate::decode::spelling::Speller;
use crate::decode::timestamps::token_spans;
use crate::decode::tokens::{BLANK, TokenList};
use crate::device::Compute;
use crate::error::{Error, Result};
use crate::frontend::{Features, Frontend};
use crate::models::sense_voice::QUERY_FRAMES;
use crate::nn::{Lengths, columns};
use crate::text::Token;
use crate::text::itn::Itn;
use crate::text::join::{Joined, Notation, join};
use crate::text::marks::remove_marks;
use crate::text::pieces::PieceRules;
use crate::text::tags::{self, Tagged};
use crate::weights::ModelFiles;

/// Feature rows of a padded batch on the CPU.
const CPU_ROWS: usize = 128;

/// What was said in one segment; times count from its start.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Recognition {
    /// Acoustic tokens, in the notation of the vocabulary.
    pub tokens: Vec<Token>,
    /// Words and text, without punctuation unless the model writes it itself.
    pub joined: Joined,
    /// What a model that tells more than words says.
    pub tagging: Option<Tagging>,
}

/// Language, emotion and event, as SenseVoice tells them.
#[derive(Debug, Clone, PartialEq)]
pub struct Tagging {
    /// The text with its tags, as the model wrote it.
    pub text: String,
    /// The tags, read.
    pub tags: Tagged,
}

impl Recognition {
    /// The same with the times of a stream in which the segment lasts from `start_ms` to `end_ms`.
    pub fn within(mut self, start_ms: u64, end_ms: u64) -> Self {
        let place = |ms: u64| (start_ms + ms).min(end_ms);
        for token in self.tokens.iter_mut().chain(&mut self.joined.words) {
            (token.start_ms, token.end_ms) = (place(token.start_ms), place(token.end_ms));
        }
        self
    }

    /// Whether the text holds the model's own punctuation.
    pub fn is_punctuated(&self) -> bool {
        self.tagging.as_ref().is_some_and(|tagging| tagging.tags.text_norm == Some(true))
    }
}

/// An utterance and what is asked of it.
#[derive(Debug, Clone, Copy)]
pub struct Utterance<'a> {
    /// Samples at the recogniser's rate.
    pub samples: &'a [f32],
    /// The request.
    pub request: &'a Request,
}

/// An offline recogniser: front end, network and vocabulary. It is immutable and can be shared.
#[derive(Debug)]
pub struct Recognizer {
    frontend: Frontend,
    network: Network,
    tokens: TokenList,
    notation: Notation,
    /// How the pieces of a SenseVoice become text.
    pieces: PieceRules,
    seg_dict: Option<SegDict>,
    compute: Compute,
    /// What error messages call the model.
    origin: String,
}

impl Recognizer {
    /// Loads a Paraformer of any offline kind or a SenseVoice.
    ///
    /// # Errors
    /// Files that are incomplete or do not fit each other, naming the key, tensor or token.
    pub fn load(files: &ModelFiles, compute: &Compute) -> Result<Self> {
        let frontend = open_frontend(files)?;
        let (network, vocab_size) = Network::load(files, frontend.config().feature_width(), compute)?;
        let (_, tokens) = open_tokens(files, vocab_size)?;
        let (notation, tokenizer) = match network {
            Network::SenseVoice(_) => (Notation::SentencePiece, files.section("tokenizer_conf")?),
            _ => (Notation::of(tokens.iter()), Tokenizer::default()),
        };
        // Where the network attends to hotwords it is part of the model; a graph can do without.
        let seg_dict =
            if network.takes_hotwords() { files.seg_dict()? } else { files.seg_dict().unwrap_or_default() };
        let seg_dict = seg_dict.map(|(_, text)| SegDict::parse(&text));
        let (compute, origin) = (files.compute(compute), files.origin.clone());
        let pieces = tokenizer.sentencepiece;
        Ok(Self { frontend, network, tokens, notation, pieces, seg_dict, compute, origin })
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
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Where and in which format it computes.
    pub fn compute(&self) -> &Compute {
        &self.compute
    }

    /// Fails if the network cannot do what is asked.
    ///
    /// # Errors
    /// [`Error::Unsupported`]: a language, of a network that is not told; an n-gram model that was opened for another.
    pub fn check(&self, request: &Request) -> Result<()> {
        if let Some(vocab) =
            request.lm.as_ref().map(|lm| lm.vocab()).filter(|vocab| *vocab != self.tokens.len())
        {
            let count = self.tokens.len();
            let message = format!("{}: has {count} tokens and the n-gram model {vocab}", self.origin);
            return Err(Error::Unsupported(message));
        }
        if request.language == Language::Auto || matches!(self.network, Network::SenseVoice(_)) {
            return Ok(());
        }
        let message = "cannot be told a language; of the models here SenseVoiceSmall can";
        Err(Error::Unsupported(format!("{}: {message}", self.origin)))
    }

    /// Fails if `request` asks for digits, and neither the network nor `rules` write them.
    pub(super) fn check_itn(&self, request: &Request, rules: Option<&Itn>) -> Result<()> {
        if !request.itn || self.normalizes() || rules.is_some() {
            return Ok(());
        }
        let message = "does not write digits by itself, and no rules for text normalisation were given";
        Err(Error::Unsupported(format!("{}: {message}", self.origin)))
    }

    /// Whether the network itself writes digits and punctuation if asked to (SenseVoice).
    pub fn normalizes(&self) -> bool {
        matches!(self.network, Network::SenseVoice(_))
    }

    /// Whether the vocabulary is that of an English model, whose texts have English punctuation.
    pub fn is_english(&self) -> bool {
        self.notation == Notation::WordStart
    }

    /// Opens a language model directory of FunASR or of `lm build` for this vocabulary.
    ///
    /// # Errors
    /// Files that are missing or broken, or were made for another model.
    pub fn open_lm(&self, directory: impl AsRef<Path>) -> Result<LanguageModel> {
        LanguageModel::open(directory, &self.tokens)
    }

    /// The vocabulary.
    pub fn vocabulary(&self) -> &TokenList {
        &self.tokens
    }

    /// What spells words in the vocabulary.
    pub fn speller(&self) -> Speller<'_> {
        Speller::new(&self.tokens, self.seg_dict.as_ref())
    }

    /// Makes `request` ask for these hotwords, and says what became of each. They go to the network if it attends to hotwords,
    /// and into a graph if it does not, with an n-gram model or if the request says so. Words that the vocabulary cannot spell
    /// are not used; if none can be, the request is as without hotwords.
    ///
    /// # Errors
    /// [`Error::Inference`], with the op that failed.
    pub fn bias(&self, request: &mut Request, hotwords: &Hotwords) -> Result<HotwordReport> {
        let attends = self.network.takes_hotwords();
        (request.hotwords, request.graph) = (None, None);
        let mut report = HotwordReport::default();
        if attends {
            let (ids, heard) = hotwords.encode(&self.tokens, self.seg_dict.as_ref());
            if !ids.is_empty() {
                request.hotwords = self.network.encode_hotwords(&ids)?.map(Arc::new);
            }
            report = heard;
        }
        if !attends || request.lm.is_some() || request.graph_hotwords {
            let (spelled, searched) = hotwords.spell(&self.speller());
            if !spelled.is_empty() {
                let graph = BiasGraph::new(&spelled, request.search.fst_inc_wts, &self.tokens);
                request.graph = Some(Arc::new(graph));
            }
            report = if attends { report.or(searched) } else { searched };
        }
        Ok(report)
    }

    /// Recognises several utterances, in padded batches where that is faster; an utterance gives the same in any batch. One
    /// that is too short for a frame is empty.
    ///
    /// # Errors
    /// [`crate::Error::Inference`], with the op that failed.
    pub fn recognize(&self, utterances: &[Utterance]) -> Result<Vec<Recognition>> {
        let features = utterances.par_iter().map(|utterance| self.frontend.features(utterance.samples));
        let requests = utterances.iter().map(|utterance| utterance.request).collect();
        self.recognize_features(features.collect(), requests)
    }

    /// [`Recognizer::recognize`] from normalised features, with a request for each.
    ///
    /// # Errors
    /// As there.
    pub fn recognize_features(
        &self,
        features: Vec<Features>,
        requests: Vec<&Request>,
    ) -> Result<Vec<Recognition>> {
        let lengths: Vec<usize> = features.iter().map(Features::frames).collect();
        let audible = |i: &usize| lengths[*i] > 0;
        let groups = batch::bucket(&lengths, self.batch_rows()).into_par_iter();
        let groups = groups.map(|group| group.into_iter().filter(audible).collect::<Vec<_>>());
        let read = groups.filter(|group| !group.is_empty()).map(|group| {
            let items: Vec<&Features> = group.iter().map(|&i| &features[i]).collect();
            let asked: Vec<&Request> = group.iter().map(|&i| requests[i]).collect();
            let (speech, lengths) = batch::pad(&items, &self.compute)?;
            let output = self.network.forward(&speech, &lengths, &asked)?;
            let read = asked.iter().enumerate().map(|(item, request)| self.read(&output, item, request));
            Ok(group.into_iter().zip(read.collect::<Result<Vec<_>>>()?).collect::<Vec<_>>())
        });
        let mut results = vec![Recognition::default(); lengths.len()];
        for (i, recognition) in on_pool(|| read.collect::<Result<Vec<_>>>())?.into_iter().flatten() {
            results[i] = recognition;
        }
        Ok(results)
    }

    /// Feature rows of one forward pass. A core is busy with few of them, and more only add padding and leave its cache: so
    /// utterances go one by one on each of the cores, and a single one on all.
    fn batch_rows(&self) -> usize {
        if self.compute.device.is_cpu() { CPU_ROWS } else { usize::MAX }
    }

    /// The network's stages for a batch of normalised features `[B, T, width]`, with a request for each.
    ///
    /// # Errors
    /// [`crate::Error::Inference`], with the op that failed.
    pub fn forward(
        &self,
        speech: &Tensor,
        lengths: &Lengths,
        requests: &[&Request],
    ) -> Result<NetworkOutput> {
        self.network.forward(speech, lengths, requests)
    }

    /// Tokens that the network's output names for one item, without blank, start and end.
    ///
    /// # Errors
    /// Logits that are not finite.
    pub fn emissions(&self, output: &NetworkOutput, item: usize, request: &Request) -> Result<Vec<Emission>> {
        let Some(search) = request.search() else { return best_tokens(output, item) };
        // A language model may ask for any score; without one the likely tokens of each row are all that is read.
        let all = search.graph.is_some().then(|| logits(output, item)).transpose()?;
        let rows = match &all {
            Some((logits, vocab)) => Rows::All { logits, vocab: *vocab },
            None => Rows::Likely(output.likely(item)?),
        };
        let found = match &output.scores {
            Scores::Tokens { cif, .. } => search.tokens(rows, cif.token_num.items()[item])?,
            Scores::Frames { frames, .. } => {
                let tags = &output.best(item)?[..QUERY_FRAMES];
                let mut emissions = ctc::greedy_of(tags)?;
                let before = ctc::greedy_of(&tags[QUERY_FRAMES - 1..])?;
                let said = rows.slice(QUERY_FRAMES..frames.items()[item]);
                let found = search.frames(said, before.first().map_or(BLANK, |tag| tag.id))?;
                let place = |found: Emission| Emission { position: found.position + QUERY_FRAMES, ..found };
                found.map(|found| {
                    emissions.extend(found.into_iter().map(place));
                    emissions
                })
            }
        };
        found.map_or_else(|| self.without_lm(best_tokens(output, item)), Ok)
    }

    /// What the greedy search found, where the language model knows no way on.
    fn without_lm(&self, found: Result<Vec<Emission>>) -> Result<Vec<Emission>> {
        tracing::warn!(
            "{}: the language model has no path for an utterance, which is read without it",
            self.origin
        );
        found
    }

    /// Tokens, words and text of one item of the network's output.
    ///
    /// # Errors
    /// Logits that are not finite.
    pub fn read(&self, output: &NetworkOutput, item: usize, request: &Request) -> Result<Recognition> {
        let emissions = self.emissions(output, item, request)?;
        match (&output.scores, output.scores.track(item)) {
            (Scores::Frames { .. }, _) => self.read_frames(&emissions, output, item),
            (_, track) => {
                let positions: Vec<usize> = emissions.iter().map(|emission| emission.position).collect();
                let spans = track.map_or_else(Vec::new, |track| token_spans(track, &positions));
                let tokens = self.tokens(&emissions, spans);
                Ok(Recognition { joined: join(&tokens, self.notation), tokens, tagging: None })
            }
        }
    }

    /// The same of a model whose scores are by frame, where the frames of the speech follow those of the queries.
    fn read_frames(
        &self,
        emissions: &[Emission],
        output: &NetworkOutput,
        item: usize,
    ) -> Result<Recognition> {
        let said: Vec<Emission> =
            emissions.iter().copied().filter(|emission| emission.position >= QUERY_FRAMES).collect();
        let ids: Vec<u32> = said.iter().map(|emission| emission.id).collect();
        let tokens = self.tokens(&said, aligned(output, item, &ids)?);
        let mut joined = join(&tokens, self.notation);
        let text = self.pieces.decode(emissions.iter().filter_map(|e| self.tokens.token(e.id)));
        let tags = tags::parse(&text).into_iter().next().unwrap_or_default();
        let tagging = Tagging { text, tags };
        remove_marks(&mut joined.words, &joined.text);
        Ok(Recognition { tokens, joined, tagging: Some(tagging) })
    }

    fn tokens(&self, emissions: &[Emission], spans: Vec<[u64; 2]>) -> Vec<Token> {
        let token = |(emission, [start_ms, end_ms]): (&Emission, [u64; 2])| {
            let text = self.tokens.token(emission.id).unwrap_or_default().to_owned();
            Token { text, start_ms, end_ms, confidence: Some(emission.log_prob.exp()) }
        };
        emissions.iter().zip(spans).map(token).collect()
    }
}

/// What of `tokenizer_conf` turns tokens into text.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Tokenizer {
    sentencepiece: PieceRules,
}

/// The tokens of one item by the greedy search.
fn best_tokens(output: &NetworkOutput, item: usize) -> Result<Vec<Emission>> {
    match &output.scores {
        Scores::Tokens { cif, .. } => greedy_of(output.best(item)?, cif.token_num.items()[item]),
        Scores::Frames { frames, .. } => ctc::greedy_of(&output.best(item)?[..frames.items()[item]]),
    }
}

/// `[start, end]` in ms of tokens of one item whose scores are by frame.
fn aligned(output: &NetworkOutput, item: usize, ids: &[u32]) -> Result<Vec<[u64; 2]>> {
    let Scores::Frames { logits, frames } = &output.scores else { return Ok(Vec::new()) };
    let end = frames.items()[item];
    let wanted = [&[BLANK], ids].concat();
    let said = logits.get(item)?.narrow(0, QUERY_FRAMES, end - QUERY_FRAMES)?;
    let columns = columns(&said, &wanted)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
    ctc::token_spans_of(&output.best(item)?[QUERY_FRAMES..end], &columns, ids)
}

/// The scores of one item, `[N, V]` row-major, and V.
fn logits(output: &NetworkOutput, item: usize) -> Result<(Vec<f32>, usize)> {
    let logits = output.scores.logits().get(item)?.to_dtype(DType::F32)?;
    Ok((logits.flatten_all()?.to_vec1()?, logits.dim(1)?))
}
