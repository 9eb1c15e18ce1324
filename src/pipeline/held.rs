//! The audio of a stream that a segment may still need.

/// The part of a recording that is still needed.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) samples: Vec<f32>,
    /// Samples of the recording before the first one held.
    start: usize,
    rate: u32,
}

impl Held {
    pub(super) fn new(rate: u32) -> Self {
        Self { samples: Vec::new(), start: 0, rate }
    }

    pub(super) fn count(&self, ms: u64) -> usize {
        (ms * u64::from(self.rate) / 1000) as usize
    }

    pub(super) fn end_ms(&self) -> u64 {
        (self.start + self.samples.len()) as u64 * 1000 / u64::from(self.rate)
    }

    pub(super) fn cut(&self, beg_ms: u64, end_ms: u64) -> Vec<f32> {
        let [beg, end] =
            [beg_ms, end_ms].map(|ms| self.count(ms).saturating_sub(self.start).min(self.samples.len()));
        self.samples[beg..end.max(beg)].to_vec()
    }

    pub(super) fn drop_before(&mut self, ms: u64) {
        let count = self.count(ms).saturating_sub(self.start).min(self.samples.len());
        self.samples.drain(..count);
        self.start += count;
    }
}
