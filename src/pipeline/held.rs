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

    pub(super) fn ms(&self, samples: usize) -> u64 {
        samples as u64 * 1000 / u64::from(self.rate)
    }

    pub(super) fn end_ms(&self) -> u64 {
        self.ms(self.end())
    }

    /// Samples since the start of the stream.
    pub(super) fn end(&self) -> usize {
        self.start + self.samples.len()
    }

    /// What is held of the samples `from..to` of the stream.
    pub(super) fn range(&self, from: usize, to: usize) -> Vec<f32> {
        let [from, to] = [from, to].map(|at| at.saturating_sub(self.start).min(self.samples.len()));
        self.samples[from..to.max(from)].to_vec()
    }

    pub(super) fn cut(&self, beg_ms: u64, end_ms: u64) -> Vec<f32> {
        self.range(self.count(beg_ms), self.count(end_ms))
    }

    /// Forgets the samples before the one at `from`.
    pub(super) fn drop_before(&mut self, from: usize) {
        let count = from.saturating_sub(self.start).min(self.samples.len());
        self.samples.drain(..count);
        self.start += count;
    }
}
