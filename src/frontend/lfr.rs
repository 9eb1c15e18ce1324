//! Low frame rate: neighbouring frames stacked into one row, every few frames.

use super::Features;

/// Stacks `stack` frames every `stride` frames. The first row is centred on frame 0: the frames before it repeat
/// it, the frames after the last one repeat that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lfr {
    /// Frames in a row (m).
    pub stack: usize,
    /// Frames from one row to the next (n).
    pub stride: usize,
}

/// Frames on their way to some rows: row `i` stacks those from `i * stride` on, and repeats the last one where they end.
#[derive(Debug, Clone, PartialEq)]
pub struct Frames {
    /// Log mel energies, with the copies of frame 0 that belong to these rows.
    pub fbank: Features,
    /// Rows that they make.
    pub rows: usize,
}

impl Lfr {
    /// All rows of an utterance: `ceil(frames / stride)`.
    pub fn stack(&self, fbank: &Features) -> Features {
        let rows = fbank.frames().div_ceil(self.stride);
        self.rows(fbank, rows, (self.stack - 1) / 2)
    }

    /// The first `rows` rows, where `before` copies of frame 0 stand in front.
    pub(super) fn rows(&self, fbank: &Features, rows: usize, before: usize) -> Features {
        let width = fbank.width;
        let last = fbank.frames().saturating_sub(1);
        let mut values = Vec::with_capacity(rows * self.stack * width);
        for row in 0..rows {
            for frame in row * self.stride..row * self.stride + self.stack {
                let frame = frame.saturating_sub(before).min(last);
                values.extend_from_slice(&fbank.values[frame * width..(frame + 1) * width]);
            }
        }
        Features { values, width: width * self.stack }
    }
}
