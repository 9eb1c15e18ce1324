//! Integrate-and-fire on streams, chunk by chunk (FunASR `models/paraformer/cif_predictor.py`,
//! `CifPredictorV2.forward_chunk`).

use std::ops::Range;

use candle_core::{Result, Tensor};

use super::history::{Histories, Join};
use super::{CifPredictor, History, Lengths};

/// What is carried from chunk to chunk of one stream: the sum that has not fired yet.
#[derive(Debug, Clone, Default)]
pub struct CifState {
    alpha: f32,
    /// Mean of the frames in the sum; nothing before the first chunk.
    hidden: History,
}

impl CifState {
    /// The sum of the weights.
    pub fn alpha(&self) -> f32 {
        self.alpha
    }

    /// The weighted mean of their frames, a row.
    pub fn hidden(&self) -> &History {
        &self.hidden
    }
}

/// The frames of a chunk that count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// Which ones.
    pub frames: Range<usize>,
    /// Whether the stream ends behind them, which adds the tail's weight.
    pub last: bool,
}

/// What fired in one chunk of each of some streams.
#[derive(Debug, Clone)]
pub struct CifStep {
    /// `[B, L, D]`, L the largest token count; rows after a stream's last token hold no meaning.
    pub acoustic_embeds: Tensor,
    /// Tokens of each stream.
    pub tokens: Lengths,
    /// Weights of each stream's frames, 0 for those that do not count.
    pub alphas: Vec<Vec<f32>>,
    /// Frame at which each token fired; the tail is the frame after the last.
    pub fires: Vec<Vec<usize>>,
}

impl CifPredictor {
    /// The next chunk of each of some streams, `encoder_out [B, T, D]` -> the tokens that fire in it. Of each
    /// stream's frames those in `decided` count; the others are context. The sum that has not fired is
    /// carried on.
    pub fn step(
        &self,
        states: &mut [&mut CifState],
        encoder_out: &Tensor,
        frames: &Lengths,
        decided: &[Decided],
    ) -> Result<CifStep> {
        let mut alphas = self.alphas(encoder_out, frames)?;
        let tail = self.tail_threshold();
        let mut tracks = Vec::with_capacity(states.len());
        for ((state, alphas), decided) in states.iter().zip(&mut alphas).zip(decided) {
            let outside = |frame: &usize| !decided.frames.contains(frame);
            (0..alphas.len()).filter(outside).for_each(|frame| alphas[frame] = 0.0);
            tracks.push(StreamTrack::integrate(state.alpha, alphas, decided.last.then_some(tail)));
        }
        let tokens = Lengths::new(tracks.iter().map(|track| track.fires.len()).collect::<Vec<_>>());
        let embeds = stream_embeds(&tracks, states, (encoder_out, frames), tokens.max())?;
        for ((state, track), rest) in states.iter_mut().zip(&tracks).zip(rests(&embeds)?) {
            **state = CifState { alpha: track.alpha, hidden: rest };
        }
        let fires = tracks.into_iter().map(|track| track.fires).collect();
        let acoustic_embeds = embeds.narrow(1, 0, tokens.max())?.contiguous()?;
        Ok(CifStep { acoustic_embeds, tokens, alphas, fires })
    }
}

/// The firing track of one chunk of a stream.
struct StreamTrack {
    /// Frame of each firing.
    fires: Vec<usize>,
    /// What the carried frame and each frame of the chunk give to each token, and last to the rest.
    weights: Vec<Vec<f32>>,
    /// The sum of the rest.
    alpha: f32,
}

impl StreamTrack {
    /// All in f32, addition by addition: in a stream FunASR takes no prefix sums.
    fn integrate(carried: f32, alphas: &[f32], tail: Option<f32>) -> Self {
        let columns = 1 + alphas.len();
        let (mut sum, mut fires, mut weights) = (0f32, Vec::new(), Vec::new());
        let mut row = vec![0f32; columns];
        let all = std::iter::once(carried).chain(alphas.iter().copied()).chain(tail);
        for (column, alpha) in all.enumerate() {
            let fired = alpha + sum >= 1.0;
            let part = if fired { 1.0 - sum } else { alpha };
            // The tail's hidden state is zero: it has no column.
            if let Some(weight) = row.get_mut(column) {
                *weight += part;
            }
            sum += alpha;
            if fired {
                sum -= 1.0;
                fires.push(column.saturating_sub(1));
                weights.push(std::mem::replace(&mut row, vec![0.0; columns]));
                if let Some(weight) = row.get_mut(column) {
                    *weight = sum;
                }
            }
        }
        if sum > 0.0 {
            row.iter_mut().for_each(|weight| *weight /= sum);
        }
        weights.push(row);
        Self { fires, weights, alpha: sum }
    }
}

/// `[B, L + 1, D]`: the tokens of each stream and, in the last row, the frame that it carries on.
fn stream_embeds(
    tracks: &[StreamTrack],
    states: &[&mut CifState],
    (encoder_out, frames): (&Tensor, &Lengths),
    tokens: usize,
) -> Result<Tensor> {
    let past: Vec<&History> = states.iter().map(|state| &state.hidden).collect();
    let join =
        |(past, &fresh): (&&History, &usize)| Join { lead: 1 - past.len(), fresh, trail: 0, keep: 0..0 };
    let joins: Vec<Join> = past.iter().zip(frames.items()).map(join).collect();
    let hidden = Histories::open(&past, &joins, 1)?.join(encoder_out)?;
    let (batch, columns) = (tracks.len(), hidden.dim(1)?);
    let mut weights = vec![0f32; batch * (tokens + 1) * columns];
    for (track, weights) in tracks.iter().zip(weights.chunks_exact_mut((tokens + 1) * columns)) {
        let last = track.weights.len() - 1;
        for (token, row) in track.weights.iter().enumerate() {
            let start = if token == last { tokens } else { token } * columns;
            weights[start..start + row.len()].copy_from_slice(row);
        }
    }
    let weights = Tensor::from_vec(weights, (batch, tokens + 1, columns), hidden.device())?;
    weights.to_dtype(hidden.dtype())?.matmul(&hidden)
}

/// The last row of each stream's, as its own: a view would keep the rows of all streams alive.
fn rests(embeds: &Tensor) -> Result<Vec<History>> {
    let (batch, rows, _) = embeds.dims3()?;
    let join = Join { lead: 0, fresh: rows, trail: 0, keep: rows - 1..rows };
    let nothing = History::default();
    let mut histories = Histories::open(&vec![&nothing; batch], &vec![join; batch], 1)?;
    histories.join(embeds)?;
    histories.close()
}
