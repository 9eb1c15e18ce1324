//! An ARPA file and spellings to a decoding graph, as FunASR's scripts make it with Kaldi (`runtime/tools/fst`): the same
//! paths at the same costs.
//!
//! After each history of the n-gram model the words that may follow are a tree over their tokens, with the cost of the
//! cheapest word below on the arc to it and the word written as soon as it is the only one left. Ends of words that go on
//! alike are one state. So the graph is determinised, pushed and minimised as it is made, without the disambiguation symbols
//! that Kaldi's general algorithms need; words that sound alike end in arcs that read nothing.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write;
use std::path::Path;

use super::arpa::{Arpa, BEGIN, END, ROOT, UNKNOWN};
use super::fst::{Arc, EPSILON, Fst};
use super::{GRAPH, LEXICON, Lexicon, WORDS};
use crate::decode::spelling::{CONTINUES, Speller, WORD_START};
use crate::decode::tokens::{BLANK, EOS, SOS, TokenList, UNK};
use crate::{Error, Result};

/// Words that a report names.
const MAX_NAMED: usize = 10;
/// Tokens of the longest word.
const MAX_TOKENS: usize = 100;
/// No state yet.
const NONE: u32 = u32::MAX;

/// What went into a graph.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Words that the graph writes.
    pub words: usize,
    /// States of the graph.
    pub states: usize,
    /// Its arcs.
    pub arcs: usize,
    /// Words of the n-gram model that have no spelling; n-grams with them are left out.
    pub unspelled: usize,
    /// Some of those.
    pub examples: Vec<String>,
    /// Tokens that no word is spelled with, which may be said as unknown words.
    pub unknown_tokens: usize,
}

/// Choices of [`build`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BuildOptions {
    /// Leave out unknown words, as FunASR does: what no word is spelled with cannot be said. Else a token that no word has is
    /// said at the cost of `<unk>`, if the n-gram model lists that.
    pub closed: bool,
}

/// A graph with what its directory holds besides.
#[derive(Debug)]
pub struct Built {
    /// The decoding graph.
    pub graph: Fst,
    /// Its words by label.
    words: Vec<String>,
    /// What each is spelled with.
    lexicon: BTreeSet<(String, String)>,
    /// What went into it.
    pub report: Report,
}

/// Builds the decoding graph of `arpa` for the vocabulary `tokens`. A word is spelled as `lexicon` says, else by `speller`.
///
/// # Errors
/// [`Error::Unsupported`] if no word of the n-gram model can be spelled, or no sentence can end.
pub fn build(
    arpa: &Arpa,
    lexicon: &Lexicon,
    tokens: &TokenList,
    speller: &Speller,
    options: BuildOptions,
) -> Result<Built> {
    let spelled = Spelled::new(arpa, lexicon, tokens, speller, options);
    if spelled.report.words == 0 {
        let message =
            "no word of the n-gram model can be spelled with the tokens of the model; is a lexicon missing?";
        return Err(Error::Unsupported(message.into()));
    }
    let Spelled { spellings, words, lexicon, mut report } = spelled;
    let histories = Histories::new(arpa, &spellings);
    let mut composer = Composer::default();
    let graph = composer.compose(arpa, &histories, &spellings);
    (report.states, report.arcs) = (graph.states(), graph.all_arcs().len());
    Ok(Built { graph, words, lexicon, report })
}

impl Built {
    /// Writes the three files of a language model, for this program and for FunASR's C++ runtime.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, directory: impl AsRef<Path>) -> Result<()> {
        let directory = directory.as_ref();
        std::fs::create_dir_all(directory).map_err(|e| Error::io(directory, e))?;
        let write = |name: &str, text: String| {
            let path = directory.join(name);
            std::fs::write(&path, text).map_err(|e| Error::io(&path, e))
        };
        let mut list = String::from("token_list:\n");
        for word in &self.words {
            // Writing to a string does not fail.
            let _ = writeln!(list, "- \"{word}\"");
        }
        write(WORDS, list)?;
        write(LEXICON, self.lexicon.iter().map(|(word, tokens)| format!("{word}\t{tokens}\n")).collect())?;
        self.graph.write(directory.join(GRAPH))
    }
}

/// The words of an n-gram model in tokens.
struct Spelled {
    /// By word of the n-gram model: its label and its spellings; none if it is not used.
    spellings: Vec<Vec<Spelling>>,
    words: Vec<String>,
    lexicon: BTreeSet<(String, String)>,
    report: Report,
}

/// A word of the graph and the tokens it is read from.
struct Spelling {
    label: u32,
    tokens: Vec<u32>,
}

impl Spelled {
    fn new(
        arpa: &Arpa,
        lexicon: &Lexicon,
        tokens: &TokenList,
        speller: &Speller,
        options: BuildOptions,
    ) -> Self {
        let mut spelled = Self {
            spellings: Vec::with_capacity(arpa.words.len()),
            words: vec!["<eps>".into()],
            lexicon: BTreeSet::new(),
            report: Report::default(),
        };
        for word in &arpa.words {
            let spellings = match &**word {
                BEGIN | END => Vec::new(),
                word if word.eq_ignore_ascii_case(UNKNOWN) => Vec::new(),
                word => spelled.word(word, lexicon, tokens, speller),
            };
            spelled.spellings.push(spellings);
        }
        spelled.report.words = spelled.words.len() - 1;
        let unknown = arpa.words.iter().position(|word| word.eq_ignore_ascii_case(UNKNOWN));
        if let Some(word) = unknown.filter(|_| !options.closed) {
            spelled.unknown(word, tokens);
        }
        spelled.words.extend(["#0", BEGIN, END].map(String::from));
        for token in tokens.iter().filter(|token| is_word(token)) {
            // The C++ runtime looks up hotwords character by character.
            spelled.lexicon.insert((token.to_owned(), token.to_owned()));
        }
        spelled
    }

    fn word(
        &mut self,
        word: &str,
        lexicon: &Lexicon,
        tokens: &TokenList,
        speller: &Speller,
    ) -> Vec<Spelling> {
        let listed = lexicon.spellings(word).iter().filter_map(|spelling| {
            let find = |token| tokens.find(token).filter(|_| token != UNK);
            spelling.split_whitespace().map(find).collect::<Option<Vec<u32>>>()
        });
        let mut spellings: Vec<Vec<u32>> = listed.collect();
        if lexicon.spellings(word).is_empty() {
            spellings.extend(speller.spell(word));
        }
        spellings.retain(|tokens| (1..=MAX_TOKENS).contains(&tokens.len()));
        if spellings.is_empty() {
            self.report.unspelled += 1;
            if self.report.examples.len() < MAX_NAMED {
                self.report.examples.push(word.to_owned());
            }
            return Vec::new();
        }
        let label = self.words.len() as u32;
        self.words.push(word.to_owned());
        for ids in &spellings {
            let names: Vec<&str> = ids.iter().filter_map(|&id| tokens.token(id)).collect();
            self.lexicon.insert((word.to_owned(), names.join(" ")));
        }
        spellings.into_iter().map(|tokens| Spelling { label, tokens }).collect()
    }

    /// Makes each token that no word is spelled with an unknown word.
    fn unknown(&mut self, word: usize, tokens: &TokenList) {
        let mut known = vec![false; tokens.len()];
        for id in self.spellings.iter().flatten().flat_map(|spelling| &spelling.tokens) {
            known[*id as usize] = true;
        }
        let label = self.words.len() as u32;
        self.words.push(UNKNOWN.into());
        let is_unknown = |&id: &u32| {
            !known[id as usize] && ![BLANK, SOS, EOS].contains(&id) && tokens.token(id) != Some(UNK)
        };
        let unknown = (0..tokens.len() as u32).filter(is_unknown);
        self.spellings[word] = unknown.map(|id| Spelling { label, tokens: vec![id] }).collect();
        self.report.unknown_tokens = self.spellings[word].len();
    }
}

/// Whether a token is a word by itself.
fn is_word(token: &str) -> bool {
    let is_piece = token.ends_with(CONTINUES) || token.starts_with(WORD_START) || token.starts_with('<');
    !is_piece && !token.contains(char::is_whitespace)
}

/// G: the n-grams that are states, and their arcs.
struct Histories {
    /// The n-grams of known words by history: `(history, n-gram)`, sorted.
    arcs: Vec<(u32, u32)>,
    /// Cost of the end of a sentence after each n-gram, infinite where none is listed.
    ends: Vec<f32>,
}

impl Histories {
    fn new(arpa: &Arpa, spellings: &[Vec<Spelling>]) -> Self {
        let mut ends = vec![f32::INFINITY; arpa.ngrams.len()];
        let mut arcs = Vec::with_capacity(arpa.ngrams.len());
        // A history whose words are not all known cannot be reached.
        let mut reached = vec![false; arpa.ngrams.len()];
        reached[ROOT as usize] = true;
        for (id, ngram) in (0..).zip(&arpa.ngrams).skip(1) {
            if !reached[ngram.history as usize] {
                continue;
            }
            match &*arpa.words[ngram.word as usize] {
                BEGIN => reached[id as usize] = ngram.history == ROOT,
                END => ends[ngram.history as usize] = ngram.cost,
                _ if spellings[ngram.word as usize].is_empty() => {}
                _ => {
                    reached[id as usize] = true;
                    arcs.push((ngram.history, id));
                }
            }
        }
        arcs.sort_unstable();
        Self { arcs, ends }
    }

    fn arcs(&self, history: u32) -> impl Iterator<Item = u32> {
        let begin = self.arcs.partition_point(|(of, _)| *of < history);
        self.arcs[begin..].iter().take_while(move |(of, _)| *of == history).map(|(_, ngram)| *ngram)
    }
}

/// The history that an n-gram leads to, and what backing off to it costs: one that nothing continues is left at once.
fn history_of(arpa: &Arpa, mut ngram: u32) -> (u32, f32) {
    let mut cost = 0.0;
    while ngram != ROOT && !arpa.ngrams[ngram as usize].is_history {
        cost += arpa.ngrams[ngram as usize].backoff;
        ngram = arpa.ngrams[ngram as usize].suffix;
    }
    (ngram, cost)
}

/// A word that may follow.
struct Next<'a> {
    spelling: &'a Spelling,
    cost: f32,
    /// State of T L G in which it ends.
    to: u32,
}

/// A state in the making. T doubles those of L G: in one nothing is being said, in the other a token lasts.
#[derive(Default)]
struct State {
    final_cost: Option<f32>,
    arcs: Vec<Arc>,
}

#[derive(Default)]
struct Composer {
    states: Vec<State>,
    /// State of each history.
    histories: HashMap<u32, u32>,
    /// State in which a token lasts, by it and what follows it.
    lasting: HashMap<(u32, u32), u32>,
    /// States inside words by their arcs.
    inner: HashMap<Vec<[u32; 4]>, u32>,
}

impl Composer {
    fn compose(&mut self, arpa: &Arpa, histories: &Histories, spellings: &[Vec<Spelling>]) -> Fst {
        let begin = (0..)
            .zip(&arpa.ngrams)
            .skip(1)
            .find(|(_, ngram)| ngram.history == ROOT && &*arpa.words[ngram.word as usize] == BEGIN);
        let (begin, _) = history_of(arpa, begin.map_or(ROOT, |(id, _)| id));
        let start = self.history(begin);
        let mut open = vec![begin];
        let mut seen = BTreeSet::from([begin]);
        while let Some(history) = open.pop() {
            let mut next = Vec::new();
            let mut reach = |composer: &mut Self, ngram: u32| {
                let (to, cost) = history_of(arpa, ngram);
                if seen.insert(to) {
                    open.push(to);
                }
                (composer.history(to), cost)
            };
            for id in histories.arcs(history) {
                let ngram = &arpa.ngrams[id as usize];
                let (to, backoff) = reach(self, id);
                let cost = ngram.cost + backoff;
                next.extend(spellings[ngram.word as usize].iter().map(|spelling| Next {
                    spelling,
                    cost,
                    to,
                }));
            }
            let mut arcs = self.tree(&mut next, 0, 0.0);
            if history != ROOT {
                let ngram = &arpa.ngrams[history as usize];
                let (next, cost) = reach(self, ngram.suffix);
                arcs.push(Arc { ilabel: EPSILON, olabel: EPSILON, weight: ngram.backoff + cost, next });
            }
            let state = self.history(history) as usize;
            self.states[state].arcs.extend(arcs);
            self.states[state].final_cost = Some(histories.ends[history as usize]);
        }
        let states = std::mem::take(&mut self.states).into_iter();
        Fst::new(start, states.map(|state| (state.final_cost.unwrap_or(f32::INFINITY), state.arcs)))
    }

    /// The arcs of a state from which these words go on with their tokens from `depth` on; `paid` has been on the way here.
    fn tree(&mut self, words: &mut [Next], depth: usize, paid: f32) -> Vec<Arc> {
        words.sort_by(|a, b| a.spelling.tokens[depth..].cmp(&b.spelling.tokens[depth..]));
        let ended = words.partition_point(|word| word.spelling.tokens.len() == depth);
        let (ended, rest) = words.split_at_mut(ended);
        let end = |word: &Next<'_>| Arc {
            ilabel: EPSILON,
            olabel: word.spelling.label,
            weight: word.cost - paid,
            next: word.to,
        };
        let mut arcs: Vec<Arc> = ended.iter().map(end).collect();
        for group in rest.chunk_by_mut(|a, b| a.spelling.tokens[depth] == b.spelling.tokens[depth]) {
            let token = group[0].spelling.tokens[depth];
            let cheapest = group.iter().map(|word| word.cost).fold(f32::INFINITY, f32::min);
            let (olabel, next) = match group {
                [word] => (word.spelling.label, self.chain(&word.spelling.tokens[depth + 1..], word.to)),
                _ => {
                    let arcs = self.tree(group, depth + 1, cheapest);
                    (EPSILON, self.inside(arcs))
                }
            };
            arcs.push(self.said(token, olabel, cheapest - paid, next));
        }
        arcs
    }

    /// The state from which only these tokens lead on.
    fn chain(&mut self, tokens: &[u32], to: u32) -> u32 {
        tokens.iter().rev().fold(to, |next, &token| {
            let arc = self.said(token, EPSILON, 0.0, next);
            self.inside(vec![arc])
        })
    }

    /// The arc that reads `token` and leads to where it lasts, which ends in `next`.
    fn said(&mut self, token: u32, olabel: u32, weight: f32, next: u32) -> Arc {
        let ilabel = token + 1;
        let lasting = *self.lasting.entry((token, next)).or_insert(NONE);
        if lasting != NONE {
            return Arc { ilabel, olabel, weight, next: lasting };
        }
        let state = self.states.len() as u32;
        self.lasting.insert((token, next), state);
        let lasts = Arc { ilabel, olabel: EPSILON, weight: 0.0, next: state };
        let ends = Arc { ilabel: EPSILON, olabel: EPSILON, weight: 0.0, next };
        self.states.push(State { final_cost: None, arcs: vec![lasts, ends] });
        Arc { ilabel, olabel, weight, next: state }
    }

    /// The state with these arcs.
    fn inside(&mut self, arcs: Vec<Arc>) -> u32 {
        let key: Vec<[u32; 4]> =
            arcs.iter().map(|arc| [arc.ilabel, arc.olabel, arc.weight.to_bits(), arc.next]).collect();
        if let Some(&state) = self.inner.get(&key) {
            return state;
        }
        let state = self.silent();
        self.states[state as usize].arcs.extend(arcs);
        self.inner.insert(key, state);
        state
    }

    fn history(&mut self, history: u32) -> u32 {
        if let Some(&state) = self.histories.get(&history) {
            return state;
        }
        let state = self.silent();
        self.histories.insert(history, state);
        state
    }

    /// A state in which nothing is being said: blanks may pass.
    fn silent(&mut self) -> u32 {
        let state = self.states.len() as u32;
        let blank = Arc { ilabel: BLANK + 1, olabel: EPSILON, weight: 0.0, next: state };
        self.states.push(State { final_cost: None, arcs: vec![blank] });
        state
    }
}
