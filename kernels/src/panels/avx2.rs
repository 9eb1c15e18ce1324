//! Products of rows and panels by the vectors of AVX2, 8 numbers of 32 bits each.
//!
//! In 8 bits `vpmaddubsw` multiplies 32 pairs of bytes and adds neighbours in 16 bits, and `vpmaddwd` adds neighbours of these
//! in 32 bits: more than twice the products of f32 in the same time. Where neighbours do not fit 16 bits (see
//! [`crate::Rounded`]), bytes are widened first and multiplied by `vpmaddwd` alone: exact for any weights, a sixth slower.

use std::arch::x86_64::{
    __m128i, __m256i, _mm_loadu_si128, _mm256_add_epi32, _mm256_broadcast_ss, _mm256_cvtepi8_epi16,
    _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_maddubs_epi16,
    _mm256_set1_epi16, _mm256_set1_epi32, _mm256_setzero_ps, _mm256_setzero_si256, _mm256_storeu_ps,
    _mm256_storeu_si256,
};

use super::{COLUMNS, Finish, Output, Part, ask_for};

/// Rows that share the weights they load, as many as have room in the registers.
const ROWS: usize = 6;
const INT8_ROWS: usize = 4;

/// All rows `$x` through all panels, `$most` at a time and `$fewer` at the end. A macro, since a tile has to be inlined into a function
/// that is compiled for AVX2, and its number of rows is one for the compiler.
macro_rules! rows_through_panels {
    ($panels:ident, $x:ident, $y:ident, $finish:ident, $tile:ident, $most:ident, $($fewer:literal)*) => {{
        let stride = $panels.stride();
        for (first, resident) in $panels.resident(1) {
            for (i, rows) in $x.chunks($most * stride).enumerate() {
                for (p, panel) in (first..).zip(resident.chunks_exact($panels.depth)) {
                    let place = [i * $most, p];
                    match rows.len() / stride {
                        $($fewer => $panels.put(&$tile::<$fewer>(rows, panel), place, $finish, $y),)*
                        _ => $panels.put(&$tile::<$most>(rows, panel), place, $finish, $y),
                    }
                }
            }
        }
    }};
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn multiply_int8(
    panels: &Part<'_, i8, 4>,
    x: &[u8],
    y: &mut Output<'_>,
    finish: &impl Finish<Sum = i32>,
) {
    rows_through_panels!(panels, x, y, finish, int8_tile, INT8_ROWS, 1 2 3);
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn multiply_wide_int8(
    panels: &Part<'_, i8, 2>,
    x: &[i16],
    y: &mut Output<'_>,
    finish: &impl Finish<Sum = i32>,
) {
    rows_through_panels!(panels, x, y, finish, wide_int8_tile, ROWS, 1 2 3 4 5);
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn multiply_float(
    panels: &Part<'_, f32, 1>,
    x: &[f32],
    y: &mut Output<'_>,
    finish: &impl Finish<Sum = f32>,
) {
    rows_through_panels!(panels, x, y, finish, float_tile, ROWS, 1 2 3 4 5);
}

/// Sums of `N` rows, one behind the other, with a panel.
#[target_feature(enable = "avx2")]
#[inline]
#[allow(unsafe_code)]
fn int8_tile<const N: usize>(rows: &[u8], panel: &[[[i8; 4]; COLUMNS]]) -> [[i32; COLUMNS]; N] {
    let stride = rows.len() / N;
    assert!(stride >= panel.len() * 4);
    let ones = _mm256_set1_epi16(1);
    let mut sums = [[_mm256_setzero_si256(); 2]; N];
    for (i, group) in panel.iter().enumerate() {
        ask_for(group);
        let weights = group.as_ptr().cast::<__m256i>();
        // SAFETY: a group is two vectors long, and these loads need no alignment.
        let weights: [_; 2] = std::array::from_fn(|half| unsafe { _mm256_loadu_si256(weights.add(half)) });
        for (r, sums) in sums.iter_mut().enumerate() {
            // SAFETY: group `i` of row `r` lies in `rows`, whose length was asserted; the load needs no alignment. A slice
            // would be read into another register first, which costs half of the speed.
            let inputs = unsafe {
                let group = rows.as_ptr().add(r * stride + i * 4).cast::<i32>();
                _mm256_set1_epi32(group.read_unaligned())
            };
            for (sum, weights) in sums.iter_mut().zip(weights) {
                let pairs = _mm256_maddubs_epi16(inputs, weights);
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, ones));
            }
        }
    }
    numbers(sums)
}

/// Sums of `N` rows, one behind the other, with a panel.
#[target_feature(enable = "avx2")]
#[inline]
#[allow(unsafe_code)]
fn wide_int8_tile<const N: usize>(rows: &[i16], panel: &[[[i8; 2]; COLUMNS]]) -> [[i32; COLUMNS]; N] {
    let stride = rows.len() / N;
    assert!(stride >= panel.len() * 2);
    let mut sums = [[_mm256_setzero_si256(); 2]; N];
    for (i, group) in panel.iter().enumerate() {
        ask_for(group);
        let weights = group.as_ptr().cast::<__m128i>();
        let weights: [_; 2] = std::array::from_fn(|half| {
            // SAFETY: a group is two vectors of 16 bytes long, and these loads need no alignment.
            _mm256_cvtepi8_epi16(unsafe { _mm_loadu_si128(weights.add(half)) })
        });
        for (r, sums) in sums.iter_mut().enumerate() {
            // SAFETY: group `i` of row `r` lies in `rows`, whose length was asserted; the load needs no alignment. A slice
            // would be read into another register first, which costs half of the speed.
            let inputs = unsafe {
                let group = rows.as_ptr().add(r * stride + i * 2).cast::<i32>();
                _mm256_set1_epi32(group.read_unaligned())
            };
            for (sum, weights) in sums.iter_mut().zip(weights) {
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(inputs, weights));
            }
        }
    }
    numbers(sums)
}

/// Vectors as the numbers in them.
#[target_feature(enable = "avx2")]
#[inline]
#[allow(unsafe_code)]
fn numbers<const N: usize>(sums: [[__m256i; 2]; N]) -> [[i32; COLUMNS]; N] {
    let mut numbers = [[0; COLUMNS]; N];
    for (numbers, sums) in numbers.iter_mut().zip(sums) {
        for (half, sum) in sums.into_iter().enumerate() {
            // SAFETY: half of the numbers have the size of a vector, and the store needs no alignment.
            unsafe { _mm256_storeu_si256(numbers.as_mut_ptr().add(8 * half).cast(), sum) };
        }
    }
    numbers
}

/// Sums of `N` rows, one behind the other, with a panel.
#[target_feature(enable = "avx2,fma")]
#[inline]
#[allow(unsafe_code)]
fn float_tile<const N: usize>(rows: &[f32], panel: &[[[f32; 1]; COLUMNS]]) -> [[f32; COLUMNS]; N] {
    let stride = rows.len() / N;
    assert!(stride >= panel.len());
    let mut sums = [[_mm256_setzero_ps(); 2]; N];
    for (i, group) in panel.iter().enumerate() {
        ask_for(group);
        let weights = group.as_ptr().cast::<f32>();
        // SAFETY: a group is two vectors long, and these loads need no alignment.
        let weights: [_; 2] = std::array::from_fn(|half| unsafe { _mm256_loadu_ps(weights.add(8 * half)) });
        for (r, sums) in sums.iter_mut().enumerate() {
            // SAFETY: value `i` of row `r` lies in `rows`, whose length was asserted.
            let input = unsafe { _mm256_broadcast_ss(&*rows.as_ptr().add(r * stride + i)) };
            for (sum, weights) in sums.iter_mut().zip(weights) {
                *sum = _mm256_fmadd_ps(input, weights, *sum);
            }
        }
    }
    let mut numbers = [[0.0; COLUMNS]; N];
    for (numbers, sums) in numbers.iter_mut().zip(sums) {
        for (half, sum) in sums.into_iter().enumerate() {
            // SAFETY: half of the numbers have the size of a vector, and the store needs no alignment.
            unsafe { _mm256_storeu_ps(numbers.as_mut_ptr().add(8 * half), sum) };
        }
    }
    numbers
}
