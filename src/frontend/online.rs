//! The front end on audio that arrives in pieces (FunASR `WavFrontendOnline`). However the audio is cut, the rows
//! are those of the offline front end.

use super::{Features, Frames, Frontend};

/// What is carried from one piece to the next: less than a window of samples and less than a stack of frames.
#[derive(Debug, Clone, Default)]
pub struct OnlineState {
    samples: Vec<f32>,
    frames: Features,
    /// Frames still to come that are in no row, where rows are further apart than they are long.
    skip: usize,
    /// Whether the copies of frame 0 that stand before it are in `frames`.
    opened: bool,
}

/// A front end with streaming state rules.
#[derive(Debug, Clone, Copy)]
pub struct OnlineFrontend<'a> {
    frontend: &'a Frontend,
}

impl<'a> OnlineFrontend<'a> {
    /// Runs `frontend` piece by piece.
    pub fn new(frontend: &'a Frontend) -> Self {
        Self { frontend }
    }

    /// Takes the next samples and returns the rows that are complete. The last piece (`last`) also gives the rows
    /// whose stack reaches beyond the end, which repeat the last frame; samples that fill no window are dropped.
    pub fn push(&self, state: &mut OnlineState, samples: &[f32], last: bool) -> Features {
        let Frames { fbank, rows } = self.push_frames(state, samples, last);
        let mut features = self.frontend.lfr.rows(&fbank, rows, 0);
        self.frontend.normalise(&mut features);
        features
    }

    /// What [`OnlineFrontend::push`] stacks and normalises, for those who do it where the network is.
    pub fn push_frames(&self, state: &mut OnlineState, samples: &[f32], last: bool) -> Frames {
        let Frontend { fbank, lfr, .. } = self.frontend;
        state.samples.extend_from_slice(samples);
        let new = fbank.compute(&state.samples);
        state.samples.drain(..(new.frames() * fbank.shift_samples()).min(state.samples.len()));
        let before = (lfr.stack - 1) / 2;
        state.frames.width = new.width;
        if !state.opened && new.frames() > 0 {
            state.frames.values = new.values[..new.width].repeat(before);
            state.opened = true;
        }
        let skipped = state.skip.min(new.frames());
        state.skip -= skipped;
        state.frames.values.extend(&new.values[skipped * new.width..]);

        let frames = state.frames.frames();
        // Of all frames so far, with the copies in front: rows that are complete, or all that have a first frame.
        let complete = if frames < lfr.stack { 0 } else { (frames - lfr.stack) / lfr.stride + 1 };
        let rows = if last { frames.saturating_sub(before).div_ceil(lfr.stride) } else { complete };
        let read = rows.checked_sub(1).map_or(0, |last| (last * lfr.stride + lfr.stack).min(frames));
        let values = state.frames.values[..read * new.width].to_vec();
        let done = (rows * lfr.stride).min(frames);
        state.frames.values.drain(..done * new.width);
        state.skip += rows * lfr.stride - done;
        if last {
            *state = OnlineState::default();
        }
        Frames { fbank: Features { values, width: new.width }, rows }
    }
}
