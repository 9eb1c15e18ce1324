//! Sample rate conversion with the samples of `torchaudio.transforms.Resample` and its default arguments.
//!
//! The reference changes rates with that transform before its features are computed, so another resampler (rubato,
//! soxr), however good, gives other samples and, now and then, another text. Hence this one.
//!
//! With `o` and `n` the two rates divided by their greatest common divisor and `base = 0.99 min(o, n)`, output
//! `m n + j` is the sum over `k` of `x[m o + k] h_j[k]`, where for `t = base (k/o - j/n)` and `|t| < 6`
//!
//! ```text
//! h_j[k] = base/o · sinc(t) · cos²(π t / 12),    sinc(t) = sin(π t) / (π t)
//! ```
//!
//! a sinc low-pass of 6 zero crossings under a Hann window, and 0 elsewhere. Only the non-zero stretch of each phase
//! `j` is stored and multiplied.

use std::f64::consts::PI;

use crate::error::{Error, Result};

/// Zero crossings of the sinc on either side (torchaudio's `lowpass_filter_width`).
const ZERO_CROSSINGS: f64 = 6.0;
/// Cut-off as a fraction of the lower Nyquist frequency (torchaudio's `rolloff`).
const ROLLOFF: f64 = 0.99;
/// Taps per phase are padded with zeros to a multiple of this, so that the inner product has no remainder.
const LANES: usize = 16;

/// A streaming polyphase resampler; memory does not grow with the length of the signal.
#[derive(Debug)]
pub struct Resampler {
    input_rate: u32,
    /// Input and output rate without their common divisor: `o` and `n`.
    input_step: usize,
    output_step: usize,
    /// `n` rows of `taps_per_phase` coefficients.
    taps: Vec<f32>,
    taps_per_phase: usize,
    /// For each phase, where its taps start, relative to `block_start`.
    offsets: Vec<usize>,
    /// Input from which outputs are still due; at first the zeros before the signal.
    window: Vec<f32>,
    /// Index in `window` of the first sample that the filters of the current `m` may see.
    block_start: usize,
    phase: usize,
    received: u64,
    produced: u64,
}

impl Resampler {
    /// A resampler between two rates in Hz. Its table has about `12 max(input, output) / gcd` entries.
    ///
    /// # Errors
    /// A rate outside [`SAMPLE_RATES`](super::SAMPLE_RATES).
    pub fn new(input_rate: u32, output_rate: u32) -> Result<Self> {
        [input_rate, output_rate].into_iter().try_for_each(super::check_rate).map_err(Error::Unsupported)?;
        let divisor = greatest_common_divisor(input_rate, output_rate);
        let (o, n) = (input_rate / divisor, output_rate / divisor);
        let base = f64::from(o.min(n)) * ROLLOFF;
        let half_width = (ZERO_CROSSINGS * f64::from(o) / base).ceil() as i64;
        let rows: Vec<(usize, Vec<f32>)> = (0..n).map(|j| phase_taps(j, (o, n), base, half_width)).collect();
        let longest = rows.iter().map(|(_, taps)| taps.len()).max().unwrap_or(0);
        let taps_per_phase = longest.next_multiple_of(LANES);
        let mut taps = Vec::with_capacity(rows.len() * taps_per_phase);
        for (_, row) in &rows {
            taps.extend_from_slice(row);
            taps.resize(taps.len().next_multiple_of(taps_per_phase), 0.0);
        }
        Ok(Self {
            input_rate,
            input_step: o as usize,
            output_step: n as usize,
            taps,
            taps_per_phase,
            offsets: rows.iter().map(|&(offset, _)| offset).collect(),
            window: vec![0.0; half_width as usize],
            block_start: 0,
            phase: 0,
            received: 0,
            produced: 0,
        })
    }

    /// The rate of the samples that go in, in Hz.
    pub fn input_rate(&self) -> u32 {
        self.input_rate
    }

    /// Takes `input` and appends every output sample that it completes.
    pub fn push(&mut self, input: &[f32], out: &mut Vec<f32>) {
        if self.input_step == self.output_step {
            return out.extend_from_slice(input);
        }
        self.received += input.len() as u64;
        self.window.extend_from_slice(input);
        self.produce(u64::MAX, out);
    }

    /// Appends the samples that were waiting for more input. In all, `len` input samples give `ceil(n len / o)`.
    pub fn finish(mut self, out: &mut Vec<f32>) {
        if self.input_step == self.output_step {
            return;
        }
        let (o, n) = (self.input_step as u64, self.output_step as u64);
        let total = (self.received * n).div_ceil(o);
        // The last output starts less than one block after the last input sample.
        let beyond = self.input_step + self.offsets.last().unwrap_or(&0) + self.taps_per_phase;
        self.window.resize(self.window.len() + beyond, 0.0);
        self.produce(total - self.produced.min(total), out);
    }

    /// Appends at most `limit` outputs, as far as the window reaches, and forgets the input they were the last to see.
    fn produce(&mut self, limit: u64, out: &mut Vec<f32>) {
        let before = out.len();
        while ((out.len() - before) as u64) < limit {
            let start = self.block_start + self.offsets[self.phase];
            let Some(seen) = self.window.get(start..start + self.taps_per_phase) else { break };
            let row = self.phase * self.taps_per_phase;
            out.push(inner_product(seen, &self.taps[row..row + self.taps_per_phase]));
            self.phase += 1;
            if self.phase == self.output_step {
                self.phase = 0;
                self.block_start += self.input_step;
            }
        }
        self.produced += (out.len() - before) as u64;
        let used = self.block_start.min(self.window.len());
        self.window.drain(..used);
        self.block_start -= used;
    }
}

/// The non-zero taps of phase `j` and the index of the first, counted from tap `-half_width`.
fn phase_taps(j: u32, (o, n): (u32, u32), base: f64, half_width: i64) -> (usize, Vec<f32>) {
    // torchaudio computes this quotient, and only this one, in single precision.
    let shift = f64::from(-(j as f32) / n as f32);
    let position = |k: i64| (shift + k as f64 / f64::from(o)) * base;
    let mut taps: Vec<f32> = Vec::new();
    let centre = (f64::from(j) * f64::from(o) / f64::from(n)) as i64;
    // One tap more on either side, then the zero ones are dropped: rounding decides at the very edge.
    let first = (centre - half_width - 1).max(-half_width);
    let last = (centre + half_width + 1).min(half_width + i64::from(o) - 1);
    let mut offset = 0;
    for k in first..=last {
        let t = position(k);
        let inside = t.abs() < ZERO_CROSSINGS;
        if inside && taps.is_empty() {
            offset = (k + half_width) as usize;
        }
        if inside {
            taps.push((windowed_sinc(t) * base / f64::from(o)) as f32);
        }
    }
    (offset, taps)
}

fn windowed_sinc(t: f64) -> f64 {
    let window = (t * PI / ZERO_CROSSINGS / 2.0).cos().powi(2);
    let sinc = if t == 0.0 { 1.0 } else { (t * PI).sin() / (t * PI) };
    sinc * window
}

/// Independent partial sums, so that the compiler may use vector instructions.
fn inner_product(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; LANES];
    for (a, b) in a.chunks_exact(LANES).zip(b.chunks_exact(LANES)) {
        for (sum, (x, y)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += x * y;
        }
    }
    sums.iter().sum()
}

fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}
