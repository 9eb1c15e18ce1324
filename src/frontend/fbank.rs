//! Kaldi log mel filter bank, as `torchaudio.compliance.kaldi.fbank` computes it with the options FunASR sets.
//!
//! Per frame: subtract the mean, pre-emphasise by 0.97, Hamming window, zero-pad to a power of two, power
//! spectrum, triangular mel filters, natural logarithm.

use std::sync::Arc;

use realfft::num_complex::Complex32;
use realfft::{RealFftPlanner, RealToComplex};

use super::{Features, FrontendConfig};

/// Samples are scaled to the range of 16-bit integers, which the published CMVN statistics assume.
const SCALE: f32 = 32_768.0;
const PREEMPHASIS: f32 = 0.97;
/// Lower edge of the first mel filter in Hz; the last one ends at half the sample rate.
const LOW_HZ: f64 = 20.0;
/// Floor of the energies: the f32 epsilon.
const FLOOR: f32 = f32::EPSILON;

/// Windows of one size and their filters.
#[derive(Clone)]
pub struct Fbank {
    config: FrontendConfig,
    analysis: Analysis,
}

impl std::fmt::Debug for Fbank {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fbank").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Fbank {
    pub(super) fn new(config: &FrontendConfig) -> Self {
        let window = (config.fs * config.frame_length / 1000) as usize;
        Self { config: config.clone(), analysis: Analysis::new(window, config) }
    }

    /// Samples in a window (W).
    pub fn window_samples(&self) -> usize {
        self.analysis.hamming.len()
    }

    /// Samples from one window to the next (S).
    pub fn shift_samples(&self) -> usize {
        (self.config.fs * self.config.frame_shift / 1000) as usize
    }

    /// Number of windows that lie wholly inside `samples`.
    pub fn frames(&self, samples: usize) -> usize {
        samples.checked_sub(self.window_samples()).map_or(0, |rest| rest / self.shift_samples() + 1)
    }

    /// `[frames, n_mels]` for samples in [-1, 1].
    pub fn compute(&self, samples: &[f32]) -> Features {
        self.analysis.run(samples, self.frames(samples.len()), self.shift_samples(), self.config.n_mels)
    }

    /// [`Fbank::compute`] for a whole utterance: one that is shorter than a window gives one frame of its own
    /// length, as FunASR has it.
    pub(super) fn compute_whole(&self, samples: &[f32]) -> Features {
        if samples.len() >= self.window_samples() {
            return self.compute(samples);
        }
        // The length passes through milliseconds and back in f64, as in FunASR, which can lose a sample.
        let fs = f64::from(self.config.fs);
        let window = (fs * (samples.len() as f64 / fs * 1000.0) * 0.001) as usize;
        if window < 2 {
            return Features { values: Vec::new(), width: self.config.n_mels };
        }
        Analysis::new(window, &self.config).run(samples, 1, self.shift_samples(), self.config.n_mels)
    }
}

/// Window, transform and filters for one window size.
#[derive(Clone)]
struct Analysis {
    hamming: Vec<f32>,
    fft: Arc<dyn RealToComplex<f32>>,
    mel: Vec<MelFilter>,
}

/// The non-zero part of one triangular filter.
#[derive(Clone)]
struct MelFilter {
    first_bin: usize,
    weights: Vec<f32>,
}

impl Analysis {
    fn new(window: usize, config: &FrontendConfig) -> Self {
        let size = window.next_power_of_two();
        let step = 2.0 * std::f64::consts::PI / (window as f64 - 1.0);
        let hamming = (0..window).map(|i| (0.54 - 0.46 * (step * i as f64).cos()) as f32).collect();
        let fft = RealFftPlanner::new().plan_fft_forward(size);
        Self { hamming, fft, mel: mel_filters(size, config) }
    }

    fn run(&self, samples: &[f32], frames: usize, shift: usize, n_mels: usize) -> Features {
        let mut values = Vec::with_capacity(frames * n_mels);
        let mut padded = self.fft.make_input_vec();
        let mut spectrum = self.fft.make_output_vec();
        let mut scratch = self.fft.make_scratch_vec();
        let mut power = vec![0f32; spectrum.len()];
        let arch = pulp::Arch::new();
        for frame in 0..frames {
            let window = &samples[frame * shift..frame * shift + self.hamming.len()];
            arch.dispatch(
                #[inline(always)]
                || self.condition(window, &mut padded),
            );
            // Fails only for buffers of a wrong size; these were made by the plan itself.
            if self.fft.process_with_scratch(&mut padded, &mut spectrum, &mut scratch).is_err() {
                continue;
            }
            arch.dispatch(
                #[inline(always)]
                || self.energies(&spectrum, &mut power, &mut values),
            );
        }
        Features { values, width: n_mels }
    }

    /// Scale, mean, pre-emphasis, window and padding.
    #[inline(always)]
    fn condition(&self, window: &[f32], padded: &mut [f32]) {
        let (head, padding) = padded.split_at_mut(window.len());
        padding.fill(0.0);
        // Sums in lanes, so that the additions do not wait for each other.
        let mut sums = [0f64; 8];
        let (blocks, rest) = window.as_chunks::<8>();
        for block in blocks {
            for (sum, x) in sums.iter_mut().zip(block) {
                *sum += f64::from(x * SCALE);
            }
        }
        let sum = sums.iter().sum::<f64>() + rest.iter().map(|x| f64::from(x * SCALE)).sum::<f64>();
        let mean = (sum / window.len() as f64) as f32;
        let weighed = |x: f32, before: f32, weight: f32| {
            let [x, before] = [x, before].map(|x| x * SCALE - mean);
            (x - PREEMPHASIS * before) * weight
        };
        head[0] = weighed(window[0], window[0], self.hamming[0]);
        let pairs = window.windows(2).zip(&self.hamming[1..]);
        for (y, (pair, weight)) in head[1..].iter_mut().zip(pairs) {
            *y = weighed(pair[1], pair[0], *weight);
        }
    }

    /// The logarithms of a frame's mel energies.
    #[inline(always)]
    fn energies(&self, spectrum: &[Complex32], power: &mut [f32], values: &mut Vec<f32>) {
        for (power, bin) in power.iter_mut().zip(spectrum) {
            *power = magnitude_squared(*bin);
        }
        let start = values.len();
        values.extend(self.mel.iter().map(|filter| filter.energy(power).max(FLOOR)));
        for value in &mut values[start..] {
            *value = ln(*value);
        }
    }
}

/// Natural logarithm of a positive normal number to two units in the last place, in operations that vectorise: `x` is `2^e`
/// times an `m` between the roots of 1/2 and 2, and `ln m` the series of `2 artanh((m - 1) / (m + 1))`.
#[inline(always)]
fn ln(x: f32) -> f32 {
    const ROOT_OF_HALF: i32 = std::f32::consts::FRAC_1_SQRT_2.to_bits() as i32;
    let exponent = (x.to_bits() as i32 - ROOT_OF_HALF) >> 23;
    let m = f32::from_bits((x.to_bits() as i32 - (exponent << 23)) as u32);
    let s = (m - 1.0) / (m + 1.0);
    let square = s * s;
    let series = [1.0 / 9.0, 1.0 / 7.0, 1.0 / 5.0, 1.0 / 3.0];
    let tail = series.into_iter().fold(0.0, |sum, term| (sum + term) * square);
    exponent as f32 * std::f32::consts::LN_2 + 2.0 * (s + s * tail)
}

/// Through the magnitude and back, as the reference does it.
#[inline(always)]
fn magnitude_squared(bin: Complex32) -> f32 {
    let magnitude = bin.norm_sqr().sqrt();
    magnitude * magnitude
}

impl MelFilter {
    #[inline(always)]
    fn energy(&self, power: &[f32]) -> f32 {
        let bins = &power[self.first_bin..self.first_bin + self.weights.len()];
        bins.iter().zip(&self.weights).map(|(p, w)| p * w).sum()
    }
}

/// Triangles, equally spaced and straight-sided on the mel scale; all in f32 as in the reference.
fn mel_filters(size: usize, config: &FrontendConfig) -> Vec<MelFilter> {
    let mel_f64 = |hz: f64| 1127.0 * (1.0 + hz / 700.0).ln();
    let low = mel_f64(LOW_HZ);
    let delta = (mel_f64(f64::from(config.fs) / 2.0) - low) / (config.n_mels as f64 + 1.0);
    let (low, delta) = (low as f32, delta as f32);
    let bin_hz = (f64::from(config.fs) / size as f64) as f32;
    let bin_mels: Vec<f32> =
        (0..size / 2).map(|bin| 1127.0 * (1.0 + bin_hz * bin as f32 / 700.0).ln()).collect();
    let triangle = |index: usize| {
        let [left, centre, right] = [0, 1, 2].map(|i| low + (index + i) as f32 * delta);
        let weigh =
            |&mel: &f32| ((mel - left) / (centre - left)).min((right - mel) / (right - centre)).max(0.0);
        let weights: Vec<f32> = bin_mels.iter().map(weigh).collect();
        let first_bin = weights.iter().position(|&w| w > 0.0).unwrap_or(0);
        let end = weights.iter().rposition(|&w| w > 0.0).map_or(first_bin, |last| last + 1);
        MelFilter { first_bin, weights: weights[first_bin..end].to_vec() }
    };
    (0..config.n_mels).map(triangle).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ln_is_right_to_two_units() {
        // From the floor to more than any energy has, and close to 1.
        let wide = (0..200_000).map(|i| FLOOR * 1.0003f32.powi(i)).take_while(|x| x.is_finite());
        let near = (0..2000).map(|i| 0.999 + i as f32 * 1e-6);
        for x in wide.chain(near) {
            let exact = f64::from(x).ln();
            let unit = f64::from(f32::EPSILON) * exact.abs().max(f64::from(f32::MIN_POSITIVE));
            assert!((f64::from(ln(x)) - exact).abs() <= 2.0 * unit, "ln({x}) is {}, not {exact}", ln(x));
        }
    }
}
