//! Every op against its definition: hand-computed cases, and the fast version beside `reference` on random shapes.

// Clippy's own exemption for tests does not reach their helper functions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod attention;
mod best;
mod cif_fire;
mod cif_sums;
mod fsmn_memory;
#[cfg(feature = "cuda")]
mod gpu;
mod join_rows;
mod layer_norm;
mod lengths;
mod lfr_cmvn;
mod linear;
mod linear_int8;
mod lstm;
mod softmax;
mod unfold;

use candle_core::{Device, Result, Tensor};
use funasr_kernels::Lengths;

/// Random shapes tried for each op.
const ROUNDS: u64 = 200;
/// Largest difference between a fast version and its reference, relative to the largest value of the reference.
const TOLERANCE: f32 = 1e-5;

/// Knuth's 64-bit generator: the same numbers on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as u32
    }

    /// A number of the range, both ends included.
    fn within(&mut self, low: usize, high: usize) -> usize {
        low + self.next() as usize % (high - low + 1)
    }

    fn flag(&mut self) -> bool {
        self.next() % 2 == 1
    }

    /// Values in -1..1.
    fn tensor(&mut self, dims: &[usize]) -> Tensor {
        let values: Vec<f32> =
            (0..dims.iter().product()).map(|_| self.next() as f32 / (1u32 << 30) as f32 - 1.0).collect();
        Tensor::from_vec(values, dims, &Device::Cpu).unwrap()
    }

    /// `[B, T, D]`, at times as a slice of a larger tensor, as the models pass it.
    fn rows(&mut self, batch: usize, time: usize, width: usize) -> Tensor {
        if self.flag() {
            return self.tensor(&[batch, time, width]);
        }
        let wide = self.tensor(&[batch + 1, time + 2, 3 * width + 1]);
        let narrow = wide.narrow(0, 1, batch).and_then(|x| x.narrow(1, 2, time));
        narrow.and_then(|x| x.narrow(2, width, width)).unwrap()
    }

    /// Valid lengths of a batch padded to `time`; items of length 0 occur.
    fn lengths(&mut self, batch: usize, time: usize) -> Lengths {
        let mut items: Vec<usize> = (0..batch).map(|_| self.within(0, time)).collect();
        items[self.within(0, batch - 1)] = time;
        Lengths::new(items)
    }
}

/// Batches at the edges: of one frame, of two, of one less than the taps of a kernel, very long ones; of one item and of 64, the
/// first one as long as the batch, and of the others every second nothing but padding.
fn edges(taps: usize) -> Vec<Lengths> {
    let batch = |(time, count): (usize, usize)| {
        let other = |i: usize| if i % 2 == 1 { 0 } else { 1 + (7 * i) % time };
        Lengths::new((0..count).map(|i| if i == 0 { time } else { other(i) }).collect::<Vec<_>>())
    };
    let short = [1, 2, (taps - 1).max(1)].into_iter().flat_map(|time| [1, 3, 64].map(|count| (time, count)));
    short.chain([(10_000, 1), (10_000, 3)]).map(batch).collect()
}

fn tensor(values: &[f32], dims: &[usize]) -> Tensor {
    Tensor::from_slice(values, dims, &Device::Cpu).unwrap()
}

fn values(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

#[track_caller]
fn assert_close(what: &str, got: &Tensor, expected: &Tensor) {
    assert_eq!(got.dims(), expected.dims(), "{what}: shape");
    let (got, expected) = (values(got), values(expected));
    let scale = expected.iter().fold(1f32, |m, v| m.max(v.abs()));
    for (i, (g, e)) in got.iter().zip(&expected).enumerate() {
        // Written so that NaN fails.
        assert!((g - e).abs() <= TOLERANCE * scale, "{what}: value {i} is {g}, not {e}");
    }
}

/// Fails unless `result` is an error of one line that names the op and every part.
#[track_caller]
fn assert_refused(result: Result<Tensor>, parts: &[&str]) {
    let message = result.expect_err(&parts.join(", ")).to_string();
    let line = message.lines().next().unwrap_or_default();
    for part in parts {
        assert!(line.contains(part), "no `{part}` in: {message}");
    }
}
