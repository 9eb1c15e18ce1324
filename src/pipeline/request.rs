//! What is asked of a recogniser with each utterance.

use std::sync::Arc;

use candle_core::Tensor;

use crate::decode::hotwords::graph::BiasGraph;
use crate::decode::lm::LanguageModel;
use crate::decode::search::{Search, SearchOptions};
pub use crate::models::sense_voice::Language;

/// Choices of one request. [`Recognizer::check`](super::Recognizer::check) tells whether a model can meet them,
/// [`Recognizer::bias`](super::Recognizer::bias) adds hotwords.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Language of the speech, for models that are told.
    pub language: Language,
    /// Whether numbers are written in digits: by a model that knows both (SenseVoice, which then punctuates itself), else by
    /// the rules ([`Itn`](crate::text::itn::Itn)) that the transcriber or corrector has.
    pub itn: bool,
    /// An n-gram model that the search takes into account; see [`Recognizer::open_lm`](super::Recognizer::open_lm).
    pub lm: Option<Arc<LanguageModel>>,
    /// Scales and beams of a search with an n-gram model or a hotword graph.
    pub search: SearchOptions,
    /// Whether hotwords go into a graph also where the network attends to them itself. They do with an n-gram model, as in
    /// FunASR, and where the network has no ear for hotwords.
    pub graph_hotwords: bool,
    /// Encoded hotwords `[N, D]`; shared, since a session asks again with each segment.
    pub(super) hotwords: Option<Arc<Tensor>>,
    /// Hotwords as a graph.
    pub(super) graph: Option<Arc<BiasGraph>>,
}

impl Request {
    /// The search that is asked for; none if the greedy one is.
    pub(super) fn search(&self) -> Option<Search<'_>> {
        let (lm, bias) = (self.lm.as_deref(), self.graph.as_deref());
        let asked = lm.is_some() || bias.is_some();
        asked.then_some(Search { graph: lm.map(LanguageModel::graph), bias, options: self.search })
    }

    /// Listens for the hotwords of another request instead of its own; they were encoded by the same model.
    pub fn share_hotwords(&mut self, other: &Self) {
        self.hotwords.clone_from(&other.hotwords);
        self.graph.clone_from(&other.graph);
    }
}
