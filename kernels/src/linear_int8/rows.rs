//! Rows of activations, rounded to 8 bits.

use rayon::prelude::*;

use super::{TOP, inverse};
use crate::room::{Lines, lines};
use crate::simd;

/// Rows that one task rounds.
const ROUNDED: usize = 32;
/// Rows whose scales are found before the first of them is rounded: what one row waits for, others do not.
const TOGETHER: usize = 4;

/// Rows as steps: `(step - zero) * scale` for each step of a row.
pub(super) struct Rows<T> {
    /// `[rows, stride]`, of which the last of a row may be zeros.
    pub(super) steps: Lines<T>,
    /// Scale and zero of each row. The scale is NaN if a value is not finite.
    pub(super) places: Vec<(f32, i32)>,
}

impl<T: From<u8> + Copy + Send> Rows<T> {
    /// Rounds `x [rows, inputs]`, on all threads.
    pub(super) fn new(x: &[f32], inputs: usize, stride: usize) -> Self {
        let count = x.len() / inputs;
        let mut rows = Self { steps: lines(T::from(0), count * stride), places: vec![(0.0, 0); count] };
        let places = rows.places.par_chunks_mut(ROUNDED).zip(rows.steps.par_chunks_mut(ROUNDED * stride));
        places.zip(x.par_chunks(ROUNDED * inputs)).for_each(|((places, steps), x)| {
            simd::dispatch(
                #[inline(always)]
                || {
                    let rows = x.chunks(TOGETHER * inputs).zip(steps.chunks_mut(TOGETHER * stride));
                    for (places, (x, steps)) in places.chunks_mut(TOGETHER).zip(rows) {
                        for (place, x) in places.iter_mut().zip(x.chunks_exact(inputs)) {
                            *place = range(x);
                        }
                        let rows = x.chunks_exact(inputs).zip(steps.chunks_exact_mut(stride));
                        for (place, (x, steps)) in places.iter().zip(rows) {
                            round_row(x, *place, &mut steps[..inputs]);
                        }
                    }
                },
            );
        });
        rows
    }
}

/// The step below a number, or the nearest there is; for NaN, which the caller looks for, any.
#[inline(always)]
#[allow(unsafe_code)]
fn step_below<T: From<u8>>(y: f32) -> T {
    let y = if y > 0.0 { y } else { 0.0 };
    let y = if y < TOP { y } else { TOP };
    // SAFETY: a number from 0 to 255. A cast that looks at what does not fit is not made of vectors.
    T::from(unsafe { y.to_int_unchecked::<i32>() } as u8)
}

/// Scale and zero of one row: 256 steps from its least to its largest value. The scale is NaN if a value is not finite.
#[inline(always)]
fn range(x: &[f32]) -> (f32, i32) {
    // Bits of numbers are ordered as they are, as integers with a sign those above zero, as integers without one those below; what
    // is not finite comes last. The compiler looks for the largest integer in any order.
    let (mut high, mut low) = (0, 1 << 31);
    for bits in x.iter().map(|v| v.to_bits()) {
        high = high.max(bits.cast_signed());
        low = low.max(bits);
    }
    let (high, low) = (f32::from_bits(high.cast_unsigned()), f32::from_bits(low));
    let step = 1.0 / TOP;
    let scale = high * step - low * step;
    let zero = (-low * inverse(scale)).round() as i32;
    (if high.is_finite() && low.is_finite() { scale } else { f32::NAN }, zero)
}

/// Steps of one row.
#[inline(always)]
fn round_row<T: From<u8>>(x: &[f32], (scale, zero): (f32, i32), steps: &mut [T]) {
    let (inverse, shift) = (inverse(scale), zero as f32 + 0.5);
    for (step, v) in steps.iter_mut().zip(x) {
        *step = step_below(v * inverse + shift);
    }
}
