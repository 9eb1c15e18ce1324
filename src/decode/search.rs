//! Beam search over the scores of a network, with an n-gram model, with hotwords, or with both: token passing, as in Kaldi's
//! `LatticeFasterDecoder`, which FunASR's C++ runtime uses (`runtime/onnxruntime/src/wfst-decoder.cpp`).
//!
//! A path is in a state of the language model and in a state of the hotword graph; of two paths that meet in both the cheaper
//! goes on. Costs are -ln of probabilities times [`SearchOptions::am_scale`], plus those of the language model, minus the
//! bonus of hotwords. Without a language model any likely token may follow any other, and without hotwords in what is heard
//! the result is then the greedy one: under CTC too, since paths are compared by their best alignment and not by a sum.

use std::collections::HashMap;
use std::ops::Range;

use super::greedy::{Best, Emission};
use super::hotwords::graph::{self, BiasGraph};
use super::lm::fst::{EPSILON, Fst};
use super::tokens::{BLANK, EOS, SOS};
use crate::{Error, Result};

/// Paths that are kept whatever they cost, as in FunASR, and the most that are.
const MIN_ACTIVE: usize = 200;
const MAX_ACTIVE: usize = 4000;
/// Costs by which the beam is wider when it is as wide as those paths, as in FunASR.
const BEAM_DELTA: f32 = 0.5;
/// Tokens of a row that may be said without a language model.
pub const MAX_LIKELY: usize = 20;
/// How much less likely (in ln) than the best they may be.
const LIKELY_RANGE: f32 = 12.0;
/// Steps without reading a row that one row may take: only a cycle that gains takes as many.
const MAX_HOPS: usize = 1 << 20;
/// No token.
const SILENT: u32 = u32::MAX;

/// Choices of a search, by the names and with the defaults of FunASR's C++ runtime.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SearchOptions {
    /// What log-probabilities of the network are multiplied with before those of the language model are added.
    pub am_scale: f32,
    /// Costs above the best path's at which a path is dropped.
    pub global_beam: f32,
    /// Bonus for each token of a hotword, besides the weight of the word.
    pub fst_inc_wts: f32,
}

impl Default for SearchOptions {
    fn default() -> Self {
        Self { am_scale: 10.0, global_beam: 3.0, fst_inc_wts: 20.0 }
    }
}

/// A search with what it takes into account besides the scores.
#[derive(Debug, Clone, Copy)]
pub struct Search<'a> {
    /// The decoding graph of a language model.
    pub graph: Option<&'a Fst>,
    /// Hotwords.
    pub bias: Option<&'a BiasGraph>,
    /// Scales and beams.
    pub options: SearchOptions,
}

/// The rows of scores that a search goes over.
#[derive(Debug, Clone, Copy)]
pub enum Rows<'a> {
    /// Those of all tokens, which a language model may ask for: `[N, V]` row-major.
    All {
        /// The rows.
        logits: &'a [f32],
        /// V.
        vocab: usize,
    },
    /// Those of the likely ones: all that is said without a language model. Others cannot be said.
    Likely(&'a [Likely]),
}

/// The likely tokens of a row.
#[derive(Debug, Clone, PartialEq)]
pub struct Likely {
    /// The best of them.
    pub best: Best,
    /// Each with its logit, by id; at most [`MAX_LIKELY`].
    pub logits: Vec<(u32, f32)>,
}

impl Search<'_> {
    /// The tokens of the best path, one for each of the first `token_num` rows. A row whose best token is blank, `<s>` or
    /// `</s>` says nothing, as in the greedy search. Nothing if the language model cannot go on at some row.
    ///
    /// # Errors
    /// [`Error::Inference`] if there are too few rows or one has no finite maximum (NaN, infinity).
    pub fn tokens(&self, rows: Rows, token_num: usize) -> Result<Option<Vec<Emission>>> {
        let count = rows.count();
        if count < token_num {
            return Err(Error::inference(format!(
                "decoder gave {count} rows of logits for {token_num} tokens"
            )));
        }
        let mut beam = Beam::new(self, false)?;
        for position in 0..token_num {
            let row = rows.row(position)?;
            if ![BLANK, SOS, EOS].contains(&row.best.id) {
                beam.advance(&row)?;
            }
            beam.rows.push(row);
        }
        Ok(beam.best_path())
    }

    /// The tokens of the best CTC path through all rows, each at the frame where its run begins. The first rows may go on with
    /// the token `before` them, which is not said again.
    ///
    /// # Errors
    /// As [`Search::tokens`].
    pub fn frames(&self, rows: Rows, before: u32) -> Result<Option<Vec<Emission>>> {
        let mut beam = Beam::new(self, true)?;
        let mut goes_on = before != BLANK;
        for position in 0..rows.count() {
            let row = rows.row(position)?;
            goes_on &= row.best.id == before;
            if !goes_on {
                beam.advance(&row)?;
            }
            beam.rows.push(row);
        }
        Ok(beam.best_path())
    }
}

impl<'a> Rows<'a> {
    /// Some of the rows.
    pub fn slice(self, range: Range<usize>) -> Self {
        match self {
            Self::All { logits, vocab } => {
                Self::All { logits: &logits[range.start * vocab..range.end * vocab], vocab }
            }
            Self::Likely(rows) => Self::Likely(&rows[range]),
        }
    }

    fn count(&self) -> usize {
        match self {
            Self::All { logits, vocab } => logits.len() / vocab.max(&1),
            Self::Likely(rows) => rows.len(),
        }
    }

    fn row(&self, position: usize) -> Result<Row<'a>> {
        let (best, logits) = match *self {
            Self::All { logits, vocab } => {
                let row = &logits[position * vocab..][..vocab];
                (Best::of(row), Logits::All(row))
            }
            Self::Likely(rows) => (rows[position].best, Logits::Likely(&rows[position].logits)),
        };
        if !best.log_prob.is_finite() {
            return Err(Error::inference(format!("logits of row {position} are not finite")));
        }
        Ok(Row { best, logits })
    }
}

/// One row of scores.
#[derive(Debug, Clone, Copy)]
struct Row<'a> {
    best: Best,
    logits: Logits<'a>,
}

#[derive(Debug, Clone, Copy)]
enum Logits<'a> {
    /// By id.
    All(&'a [f32]),
    /// With their ids, which ascend.
    Likely(&'a [(u32, f32)]),
}

impl Row<'_> {
    fn log_prob(&self, id: u32) -> f32 {
        let logit = match self.logits {
            Logits::All(logits) => logits.get(id as usize).copied(),
            Logits::Likely(logits) => {
                logits.binary_search_by_key(&id, |&(id, _)| id).ok().map(|at| logits[at].1)
            }
        };
        logit.map_or(f32::NEG_INFINITY, |logit| logit - (self.best.logit - self.best.log_prob))
    }

    /// The tokens that may be said without a language model.
    fn likely(&self) -> Vec<u32> {
        let may_be = |&(_, logit): &(u32, f32)| logit >= self.best.logit - LIKELY_RANGE;
        match self.logits {
            Logits::All(logits) => {
                (0..).zip(logits.iter().copied()).filter(may_be).map(|(id, _)| id).collect()
            }
            Logits::Likely(logits) => logits.iter().copied().filter(may_be).map(|(id, _)| id).collect(),
        }
    }
}

/// The head of a path.
#[derive(Debug, Clone, Copy)]
struct Path {
    /// State of the language model.
    state: u32,
    /// Under CTC the token of the last frame, which cannot be said again before a blank.
    last: u32,
    /// State of the hotword graph.
    bias: u32,
    cost: f32,
    /// The cost without what is taken back if no hotword goes on.
    secured: f32,
    /// What was said before the last row.
    trace: u32,
    /// What was said in it, or [`SILENT`].
    said: u32,
}

/// What a path said, as a list from its end.
#[derive(Debug, Clone, Copy)]
struct Trace {
    before: u32,
    id: u32,
    position: u32,
}

/// How far from the best a path may be.
#[derive(Debug, Clone, Copy)]
struct Cutoff {
    cost: f32,
    secured: f32,
    beam: f32,
}

impl Cutoff {
    fn keeps(&self, path: &Path) -> bool {
        path.cost <= self.cost + self.beam || path.secured <= self.secured + self.beam
    }

    fn see(&mut self, path: &Path) {
        self.cost = self.cost.min(path.cost);
        self.secured = self.secured.min(path.secured);
    }
}

struct Beam<'a> {
    search: &'a Search<'a>,
    /// Whether rows are frames, so that tokens last and blanks are between them.
    ctc: bool,
    paths: Vec<Path>,
    /// Where a path is in `paths`, by its states and last token.
    index: HashMap<(u32, u32, u32), u32>,
    traces: Vec<Trace>,
    /// What the paths of a row have to keep up with.
    cutoff: Cutoff,
    /// Row of the last step.
    position: usize,
    /// The rows that were read.
    rows: Vec<Row<'a>>,
}

impl<'a> Beam<'a> {
    fn new(search: &'a Search<'a>, ctc: bool) -> Result<Self> {
        let state = search.graph.map_or(0, Fst::start);
        let (bias, last) = (graph::ROOT, BLANK);
        let root = Path { state, last, bias, cost: 0.0, secured: 0.0, trace: SILENT, said: SILENT };
        let mut beam = Self {
            search,
            ctc,
            paths: Vec::new(),
            index: HashMap::new(),
            traces: Vec::new(),
            cutoff: Cutoff { cost: 0.0, secured: 0.0, beam: f32::INFINITY },
            position: 0,
            rows: Vec::new(),
        };
        beam.offer(root);
        beam.close()?;
        Ok(beam)
    }

    /// Moves all paths on by a row.
    fn advance(&mut self, row: &Row) -> Result<()> {
        let mut paths = std::mem::take(&mut self.paths);
        let beam = prune(&mut paths, self.search.options.global_beam);
        self.index.clear();
        for path in &mut paths {
            self.remember(path);
        }
        self.position = self.rows.len();
        let best = paths.iter().map(|path| path.cost).fold(f32::INFINITY, f32::min);
        // Costs count from the best path, so that they stay small.
        let offset = if best.is_finite() { best } else { 0.0 };
        for path in &mut paths {
            path.cost -= offset;
            path.secured -= offset;
        }
        self.cutoff = Cutoff { cost: f32::INFINITY, secured: f32::INFINITY, beam };
        match self.search.graph {
            Some(graph) => self.follow_graph(graph, &paths, row),
            None => self.follow_likely(&paths, row),
        }
        self.close()
    }

    fn follow_graph(&mut self, graph: &Fst, paths: &[Path], row: &Row) {
        for path in paths {
            for arc in graph.arcs(path.state) {
                let lasts = arc.next == path.state;
                if arc.ilabel == EPSILON || (lasts && !self.ctc) {
                    continue;
                }
                let id = arc.ilabel - 1;
                let cost = path.cost + arc.weight - self.search.options.am_scale * row.log_prob(id);
                // Most arcs of a state with many: not even looked up.
                if self.search.bias.is_none() && cost > self.cutoff.cost + self.cutoff.beam {
                    continue;
                }
                let next = Path { state: arc.next, cost, ..*path };
                match self.ctc {
                    true if lasts || id == BLANK => self.extend(Path { last: id, ..next }),
                    true if id == path.last => {}
                    true => self.extend(Path { last: id, said: id, ..next }),
                    false => self.extend(Path { said: id, ..next }),
                }
            }
        }
    }

    fn follow_likely(&mut self, paths: &[Path], row: &Row) {
        for id in row.likely() {
            for path in paths {
                let cost = path.cost - self.search.options.am_scale * row.log_prob(id);
                let next = Path { cost, ..*path };
                match self.ctc {
                    true if id == BLANK || id == path.last => self.extend(Path { last: id, ..next }),
                    true => self.extend(Path { last: id, said: id, ..next }),
                    false if [BLANK, SOS, EOS].contains(&id) => {}
                    false => self.extend(Path { said: id, ..next }),
                }
            }
        }
    }

    /// Takes a path on to the state of the hotword graph that what it says leads to.
    fn extend(&mut self, mut path: Path) {
        path.secured = path.cost;
        if let Some(bias) = self.search.bias {
            if path.said != SILENT {
                let (state, bonus) = bias.step(path.bias, path.said);
                (path.bias, path.cost) = (state, path.cost - bonus);
            }
            path.secured = path.cost + bias.unearned(path.bias);
        }
        if path.cost.is_finite() {
            self.offer(path);
        }
    }

    /// Takes a path if it is near enough to the best and the best in its states; says whether it did.
    fn offer(&mut self, path: Path) -> bool {
        if !self.cutoff.keeps(&path) {
            return false;
        }
        self.cutoff.see(&path);
        let next = self.paths.len() as u32;
        let at = *self.index.entry((path.state, path.last, path.bias)).or_insert(next);
        if at == next {
            self.paths.push(path);
            return true;
        }
        let known = &mut self.paths[at as usize];
        let better = path.cost < known.cost;
        if better {
            *known = path;
        }
        better
    }

    /// Follows the arcs that read nothing.
    fn close(&mut self) -> Result<()> {
        let Some(graph) = self.search.graph else { return Ok(()) };
        let mut open: Vec<u32> = (0..self.paths.len() as u32).collect();
        for _ in 0..MAX_HOPS {
            let Some(at) = open.pop() else { return Ok(()) };
            let path = self.paths[at as usize];
            if !self.cutoff.keeps(&path) {
                continue;
            }
            for arc in graph.arcs(path.state).iter().filter(|arc| arc.ilabel == EPSILON) {
                let (cost, secured) = (path.cost + arc.weight, path.secured + arc.weight);
                let next = Path { state: arc.next, cost, secured, ..path };
                if cost.is_finite() && self.offer(next) {
                    open.extend(self.index.get(&(next.state, next.last, next.bias)));
                }
            }
        }
        Err(Error::inference("the language model has a cycle of arcs that read nothing and gain"))
    }

    /// Notes what a path said in the last row.
    fn remember(&mut self, path: &mut Path) {
        if path.said != SILENT {
            let trace = Trace { before: path.trace, id: path.said, position: self.position as u32 };
            (path.trace, path.said) = (self.traces.len() as u32, SILENT);
            self.traces.push(trace);
        }
    }

    /// What the cheapest path said that may end here, or if none may the cheapest.
    fn best_path(mut self) -> Option<Vec<Emission>> {
        let final_cost =
            |path: &Path| path.secured + self.search.graph.map_or(0.0, |graph| graph.final_cost(path.state));
        let cheapest = |a: &&Path, b: &&Path| {
            let by_final = final_cost(a).total_cmp(&final_cost(b));
            by_final.then(a.secured.total_cmp(&b.secured))
        };
        let mut path = *self.paths.iter().min_by(cheapest)?;
        self.remember(&mut path);
        let mut emissions = Vec::new();
        let mut at = path.trace;
        let mut next = self.rows.len();
        while let Some(&Trace { before, id, position }) = self.traces.get(at as usize) {
            // Under CTC a token may last until the next one: its best frame tells how sure it is.
            let position = position as usize;
            let rows = &self.rows[position..if self.ctc { next } else { position + 1 }];
            let log_prob = rows.iter().map(|row| row.log_prob(id)).fold(f32::NEG_INFINITY, f32::max);
            emissions.push(Emission { id, position, log_prob });
            (at, next) = (before, position);
        }
        emissions.reverse();
        Some(emissions)
    }
}

/// Drops the paths that are far from the best, but never the best [`MIN_ACTIVE`]; returns the beam of the next row.
fn prune(paths: &mut Vec<Path>, beam: f32) -> f32 {
    if paths.len() <= MIN_ACTIVE {
        return f32::INFINITY;
    }
    let mut best = Cutoff { cost: f32::INFINITY, secured: f32::INFINITY, beam };
    paths.iter().for_each(|path| best.see(path));
    let distance = |path: &Path| (path.cost - best.cost).min(path.secured - best.secured);
    let by_distance = |a: &Path, b: &Path| distance(a).total_cmp(&distance(b));
    if paths.len() > MAX_ACTIVE {
        paths.select_nth_unstable_by(MAX_ACTIVE, by_distance);
        paths.truncate(MAX_ACTIVE);
    }
    let (_, last, _) = paths.select_nth_unstable_by(MIN_ACTIVE, by_distance);
    let least = distance(last);
    let (width, next) = if least > beam { (least, least + BEAM_DELTA) } else { (beam, beam) };
    paths.retain(|path| distance(path) <= width);
    next
}
