//! CTC: greedy decoding and forced alignment (`models/sense_voice/model.py`, `inference`, and
//! `models/sense_voice/utils/ctc_alignment.py` in FunASR).

use std::ops::Range;

use super::greedy::{Best, Emission};
use super::tokens::BLANK;
use crate::{Error, Result};

/// An encoder frame, and by how much the audio of a frame begins before the frame's own time.
const FRAME_MS: i64 = 60;
const SHIFT_MS: i64 = 30;

/// One token for every run of equal best ids in `logits` ([T, V] row-major, V = `vocab`), blanks left out. A token's
/// position is the frame where its run begins, its probability the highest in the run.
///
/// # Errors
/// [`Error::Inference`] if a frame has no finite maximum (NaN, infinity).
pub fn greedy(logits: &[f32], vocab: usize) -> Result<Vec<Emission>> {
    greedy_of(&Best::of_rows(logits, vocab).collect::<Vec<_>>())
}

/// [`greedy`] from the best of each frame.
///
/// # Errors
/// As there.
pub fn greedy_of(frames: &[Best]) -> Result<Vec<Emission>> {
    let mut emissions: Vec<Emission> = Vec::new();
    let mut previous = BLANK;
    for (position, &Best { id, log_prob, .. }) in frames.iter().enumerate() {
        check(position, log_prob)?;
        match emissions.last_mut() {
            Some(last) if id == previous && id != BLANK => last.log_prob = last.log_prob.max(log_prob),
            _ if id != BLANK => emissions.push(Emission { id, position, log_prob }),
            _ => {}
        }
        previous = id;
    }
    Ok(emissions)
}

/// `[start, end]` in ms of each of `ids`, from the start of the `logits` ([T, V], T without the frames of queries).
/// Number for number what FunASR computes in f64 for the same ids; it encodes its text again, which may give others.
///
/// # Errors
/// As [`align`].
pub fn token_spans(logits: &[f32], vocab: usize, ids: &[u32]) -> Result<Vec<[u64; 2]>> {
    Ok(to_ms(align(logits, vocab, ids)?))
}

/// [`token_spans`] from the best of each frame and the columns of its logits as [`align_columns`] takes them.
///
/// # Errors
/// As [`align`].
pub fn token_spans_of(frames: &[Best], columns: &[f32], ids: &[u32]) -> Result<Vec<[u64; 2]>> {
    Ok(to_ms(align_columns(frames, columns, ids)?))
}

fn to_ms(spans: Vec<Range<usize>>) -> Vec<[u64; 2]> {
    let to_ms = |frame: usize| {
        let seconds = (frame as i64 * FRAME_MS - SHIFT_MS) as f64 / 1000.0;
        // By way of seconds, and then cut off: the rounding decides which millisecond it is.
        (seconds.max(0.0) * 1000.0) as u64
    };
    spans.into_iter().map(|frames| [to_ms(frames.start), to_ms(frames.end)]).collect()
}

/// The frames of each of `ids` on the most probable CTC path through `logits` ([T, V]) that says them. On a frame whose
/// best token is blank, blank costs nothing.
///
/// Memory is T (2 L + 1) bytes for L ids, fewer than the encoder's attention has taken before.
///
/// # Errors
/// [`Error::Inference`] if a frame has no finite maximum, or there are too few frames or tokens for the ids.
pub fn align(logits: &[f32], vocab: usize, ids: &[u32]) -> Result<Vec<Range<usize>>> {
    if let Some(id) = ids.iter().find(|&&id| id as usize >= vocab) {
        return Err(Error::inference(format!("token {id} cannot be aligned with {vocab} logits")));
    }
    let rows = logits.chunks_exact(vocab.max(1));
    let column = |row: &'_ [f32]| -> Vec<f32> {
        std::iter::once(&BLANK).chain(ids).map(|&id| row[id as usize]).collect()
    };
    let columns: Vec<f32> = if ids.is_empty() { Vec::new() } else { rows.flat_map(column).collect() };
    align_columns(&Best::of_rows(logits, vocab).collect::<Vec<_>>(), &columns, ids)
}

/// [`align`] from the best of each frame, and of its logits those of blank and of each of the L ids: `columns [T, 1 + L]`.
///
/// # Errors
/// As there.
pub fn align_columns(frames: &[Best], columns: &[f32], ids: &[u32]) -> Result<Vec<Range<usize>>> {
    let repeated = ids.windows(2).filter(|pair| pair[0] == pair[1]).count();
    if ids.len() + repeated > frames.len() {
        let (count, frames) = (ids.len(), frames.len());
        return Err(Error::inference(format!("{count} tokens cannot be aligned with {frames} frames")));
    }
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    if columns.len() != frames.len() * (1 + ids.len()) {
        let (frames, count, columns) = (frames.len(), ids.len(), columns.len());
        return Err(Error::inference(format!("{columns} logits for {count} tokens on {frames} frames")));
    }
    let lattice = Lattice::new(frames, columns, ids)?;
    let mut spans = vec![0..0; ids.len()];
    for (frame, state) in lattice.path() {
        // Backwards in time: the first frame seen of a token is its last.
        if let Some(span) = token_of(state).and_then(|token| spans.get_mut(token)) {
            let end = if Range::is_empty(span) { frame + 1 } else { span.end };
            *span = frame..end;
        }
    }
    if spans.iter().any(Range::is_empty) {
        return Err(Error::inference("tokens of probability 0 cannot be aligned"));
    }
    Ok(spans)
}

/// Viterbi search. State 0 is blank, 1 the first token, 2 blank, and so on: 2 L + 1 states.
struct Lattice {
    states: usize,
    /// `[T, states]`: from how many states before this one the best path comes.
    steps: Vec<u8>,
    /// Best score of each state after the last frame.
    scores: Vec<f32>,
}

impl Lattice {
    fn new(frames: &[Best], columns: &[f32], ids: &[u32]) -> Result<Self> {
        let states = 2 * ids.len() + 1;
        let label = |state: usize| token_of(state).map_or(BLANK, |token| ids[token]);
        let column = |state: usize| token_of(state).map_or(0, |token| 1 + token);
        let may_skip: Vec<bool> = (0..states).map(|s| s >= 2 && label(s) != label(s - 2)).collect();
        let mut scores = vec![f32::NEG_INFINITY; states];
        let mut steps = Vec::with_capacity(states * frames.len());
        for (frame, (best, row)) in frames.iter().zip(columns.chunks_exact(1 + ids.len())).enumerate() {
            check(frame, best.log_prob)?;
            // Where blank is the best it costs nothing.
            let free = best.id == BLANK;
            let log_prob = |state: usize| match column(state) {
                0 if free => 0.0,
                column => row[column] - best.logit + best.log_prob,
            };
            let first = steps.len();
            steps.resize(first + states, 0);
            // From the end: a state is read by the two after it.
            for state in (0..states).rev() {
                let (score, step) = match frame {
                    0 if state < 2 => (0.0, 0),
                    0 => (f32::NEG_INFINITY, 0),
                    _ => best_step(&scores, state, may_skip[state]),
                };
                scores[state] = log_prob(state) + score;
                steps[first + state] = step;
            }
        }
        Ok(Self { states, steps, scores })
    }

    /// Frame and state of the best path, last frame first.
    fn path(&self) -> impl Iterator<Item = (usize, usize)> {
        let (token, blank) = (self.states - 2, self.states - 1);
        let mut state = if self.scores[blank] > self.scores[token] { blank } else { token };
        self.steps.chunks_exact(self.states).enumerate().rev().map(move |(frame, steps)| {
            let here = state;
            state -= usize::from(steps[here]);
            (frame, here)
        })
    }
}

/// The token that a state of the lattice says; the even ones say blank.
fn token_of(state: usize) -> Option<usize> {
    (state % 2 == 1).then_some(state / 2)
}

/// The best of staying, of coming from the state before, and of skipping the blank between. Of equals the first wins,
/// as in torch.
fn best_step(scores: &[f32], state: usize, may_skip: bool) -> (f32, u8) {
    let mut best = (scores[state], 0);
    if state >= 1 && scores[state - 1] > best.0 {
        best = (scores[state - 1], 1);
    }
    if may_skip && scores[state - 2] > best.0 {
        best = (scores[state - 2], 2);
    }
    best
}

fn check(frame: usize, log_prob: f32) -> Result<()> {
    if log_prob.is_finite() {
        return Ok(());
    }
    Err(Error::inference(format!("CTC logits of frame {frame} are not finite")))
}
