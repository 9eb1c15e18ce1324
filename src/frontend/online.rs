//! The front end on audio that arrives in pieces (FunASR `WavFrontendOnline`). However the audio is cut, the rows
//! are those of the offline front end.

use super::{Features, Frontend};

/// What is carried from one piece to the next: less than a window of samples and less than a stack of frames.
#[derive(Debug, Clone, Default)]
pub struct OnlineState {
    samples: Vec<f32>,
    frames: Features,
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
        state.frames.values.extend(new.values);

        let frames = state.frames.frames();
        // Of all frames so far, with the copies in front: rows that are complete, or all that have a first frame.
        let complete = if frames < lfr.stack { 0 } else { (frames - lfr.stack) / lfr.stride + 1 };
        let rows = if last { frames.saturating_sub(before).div_ceil(lfr.stride) } else { complete };
        let mut features = lfr.rows(&state.frames, rows, 0);
        state.frames.values.drain(..(rows * lfr.stride).min(frames) * new.width);
        self.frontend.normalise(&mut features);
        if last {
            *state = OnlineState::default();
        }
        features
    }
}
