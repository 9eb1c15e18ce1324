//! The second pass of real-time sessions: what an offline model heard of a segment becomes its correction.

use std::ops::Range;
use std::sync::Arc;

use super::{Correction, PunctuationModel, Recognition, Recognizer, Request, Tags};
use crate::error::Result;
use crate::punctuation::Labelling;
use crate::punctuation::realtime::Cache;
use crate::text::itn::Itn;
use crate::text::marks::{english, marks};
use crate::text::sentences::sentences;

/// The second pass.
#[derive(Debug)]
pub struct Corrector {
    /// Offline recognition of whole segments.
    pub recognizer: Arc<Recognizer>,
    /// Punctuation of what it recognises, real-time or offline.
    pub punctuation: Option<Arc<PunctuationModel>>,
    /// Rules that write digits where a request asks for them and the recogniser does not write them itself.
    pub itn: Option<Arc<Itn>>,
}

/// A segment between recognition and correction.
#[derive(Debug)]
pub(super) struct Draft {
    spoken: Recognition,
    /// Its words, for punctuation; none if there is no model for that, or the recogniser has put marks itself.
    text: Labelling,
}

impl Corrector {
    /// What was recognised, before its punctuation. `cache` holds the open sentence before it.
    pub(super) fn open(&self, cache: &Cache, spoken: Recognition) -> Result<Draft> {
        let text = match self.punctuation_of(&spoken) {
            Some(model) if model.is_realtime() => model.open_next(cache, &spoken.joined.text)?,
            Some(model) => model.open(&spoken.joined.text),
            None => Labelling::default(),
        };
        Ok(Draft { spoken, text })
    }

    /// Labels the words of several segments, batched.
    ///
    /// # Errors
    /// Of each: those of [`PunctuationModel::label_each`].
    pub(super) fn label_each(&self, drafts: &mut [&mut Draft]) -> Vec<Result<()>> {
        match &self.punctuation {
            Some(model) => {
                model.label_each(&mut drafts.iter_mut().map(|draft| &mut draft.text).collect::<Vec<_>>())
            }
            None => drafts.iter().map(|_| Ok(())).collect(),
        }
    }

    /// The correction of a labelled segment: punctuated, written, cut into sentences. `last` closes the text.
    pub(super) fn close(
        &self,
        cache: &mut Cache,
        draft: Draft,
        request: &Request,
        last: bool,
    ) -> (String, Correction) {
        let (mut text, mut marks) = self.punctuate(cache, &draft, last);
        let mut spoken = draft.spoken;
        marks.retain(|mark| !mark.is_empty());
        if self.recognizer.is_english() {
            (text, marks) = english(&text, &marks);
        }
        let mut spoken_text = None;
        if let Some(itn) = self.itn.as_deref().filter(|_| request.itn && !self.recognizer.normalizes()) {
            spoken_text = Some(text.clone());
            itn.rewrite(&mut [(&mut spoken.joined.text, &mut spoken.joined.words)], &mut text, &mut marks);
        }
        let words = spoken.joined.words;
        let sentences = sentences(&words, &text, &marks);
        let tags = spoken.tagging.map_or_else(Tags::default, |tagging| tagging.tags.into());
        (text, Correction { words, sentences, tags, spoken_text, ..Correction::default() })
    }

    /// The text of a segment with punctuation, and where its marks stand.
    fn punctuate(&self, cache: &mut Cache, draft: &Draft, last: bool) -> (String, Vec<Range<usize>>) {
        match self.punctuation_of(&draft.spoken) {
            Some(model) if model.is_realtime() => {
                let next = model.close_next(cache, &draft.text);
                if last { next.closed() } else { next.so_far() }
            }
            Some(model) => {
                let punctuated = model.close(&draft.text);
                (punctuated.text, punctuated.marks)
            }
            None => (draft.spoken.joined.text.clone(), marks(&draft.spoken.joined.text)),
        }
    }

    /// The model that puts marks into this text.
    fn punctuation_of(&self, spoken: &Recognition) -> Option<&PunctuationModel> {
        self.punctuation.as_deref().filter(|_| !spoken.is_punctuated())
    }
}
