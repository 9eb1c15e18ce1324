//! Products of rows and panels by the vectors of AVX-512, 16 numbers of 32 bits each: a group of a panel is one of them. In 8
//! bits VNNI multiplies four inputs of 16 outputs at once and adds them in 32 bits, exact for any weights.

use std::arch::x86_64::{
    __m512i, _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_set1_epi32,
    _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512, _mm512_shuffle_i32x4, _mm512_storeu_ps,
    _mm512_storeu_si512, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32,
    _mm512_unpacklo_epi64,
};

use super::{COLUMNS, Finish, Output, Part, ask_for, places};

/// Rows and panels of a tile, as many as have room in the registers: each loads its inputs once for all of the others.
const ROWS: usize = 6;
const PANELS: usize = 4;

/// Whether this processor runs the product in f32.
pub(super) fn supported() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
}

/// Turns a block of 16 rows of 16 elements of 32 bits each, the rows `stride` apart: its columns become rows. To be called where
/// [`supported`].
#[target_feature(enable = "avx512f")]
#[allow(unsafe_code)]
pub(super) fn turn<E: Copy>(rows: &[E], stride: usize, columns: &mut [[E; COLUMNS]; 16]) {
    assert!(size_of::<E>() == 4 && rows.len() >= 15 * stride + 16);
    let mut x = [_mm512_setzero_si512(); 16];
    for (i, x) in x.iter_mut().enumerate() {
        // SAFETY: 16 elements of row `i` lie in `rows`, as was asserted; the load needs no alignment.
        *x = unsafe { _mm512_loadu_si512(rows.as_ptr().add(i * stride).cast()) };
    }
    // Pairs of rows by single elements, pairs of those by two, and so on by quarters of a vector.
    let x = in_pairs(x, 1, |a, b| [_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b)]);
    let x = in_pairs(x, 2, |a, b| [_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b)]);
    let quarters = |a, b| [_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xdd>(a, b)];
    let x = in_pairs(in_pairs(x, 4, quarters), 8, quarters);
    for (i, x) in x.into_iter().enumerate() {
        // Of the places of a pair the first two steps make a number whose bits are turned.
        let column = &mut columns[(i & 12) | (i & 1) << 1 | (i & 2) >> 1];
        // SAFETY: a column has the size of a vector; the store needs no alignment.
        unsafe { _mm512_storeu_si512(column.as_mut_ptr().cast(), x) };
    }
}

/// What `join` makes of each vector and the one `distance` behind it, in their places.
#[inline(always)]
fn in_pairs(
    mut x: [__m512i; 16],
    distance: usize,
    join: impl Fn(__m512i, __m512i) -> [__m512i; 2],
) -> [__m512i; 16] {
    for i in (0..16).filter(|i| i & distance == 0) {
        [x[i], x[i | distance]] = join(x[i], x[i | distance]);
    }
    x
}

/// Whether this processor runs the product in 8 bits.
pub(super) fn supported_int8() -> bool {
    supported() && is_x86_feature_detected!("avx512vnni")
}

/// All rows `$x` through all panels, [`ROWS`] and [`PANELS`] of them at a time, `$fewer` rows at the end. Where some are missing, the
/// last one is multiplied again. A macro as for AVX2.
macro_rules! rows_through_panels {
    ($panels:ident, $x:ident, $y:ident, $finish:ident, $tile:ident, $($fewer:literal)*) => {{
        let (stride, depth) = ($panels.stride(), $panels.depth);
        let mut sums = [[[Default::default(); COLUMNS]; ROWS]; PANELS];
        for (first, resident) in $panels.resident(PANELS) {
            for (i, rows) in $x.chunks(ROWS * stride).enumerate() {
                let count = rows.len() / stride;
                for (p, together) in resident.chunks(PANELS * depth).enumerate() {
                    match count {
                        $(..=$fewer => $tile::<$fewer>(rows, together, [stride, depth], &mut sums),)*
                        _ => $tile::<ROWS>(rows, together, [stride, depth], &mut sums),
                    }
                    for (sums, panel) in sums.iter().zip(first + p * PANELS..).take(together.len() / depth) {
                        $panels.put(&sums[..count], [i * ROWS, panel], $finish, $y);
                    }
                }
            }
        }
    }};
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn multiply_int8(
    panels: &Part<'_, i8, 4>,
    x: &[u8],
    y: &mut Output<'_>,
    finish: &impl Finish<Sum = i32>,
) {
    rows_through_panels!(panels, x, y, finish, int8_tile, 1 2 4);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) fn multiply_float(
    panels: &Part<'_, f32, 1>,
    x: &[f32],
    y: &mut Output<'_>,
    finish: &impl Finish<Sum = f32>,
) {
    rows_through_panels!(panels, x, y, finish, float_tile, 1 2 4);
}

/// Sums of `N` rows with each panel. There are as many of both, or fewer: then the last one stands for those missing.
#[target_feature(enable = "avx512f,avx512vnni")]
#[inline]
#[allow(unsafe_code)]
fn int8_tile<const N: usize>(
    rows: &[u8],
    panels: &[[[i8; 4]; COLUMNS]],
    [stride, depth]: [usize; 2],
    numbers: &mut [[[i32; COLUMNS]; ROWS]; PANELS],
) {
    assert!(stride >= depth * 4);
    let rows: [_; N] = places(rows, stride);
    let panels: [_; PANELS] = places(panels, depth);
    let mut sums = [[_mm512_setzero_si512(); N]; PANELS];
    for i in 0..depth {
        let weights = panels.map(|panel| {
            // SAFETY: `places` gives slices of `depth` groups, each of the size of a vector; the load needs no alignment.
            unsafe { _mm512_loadu_si512(panel.as_ptr().add(i).cast()) }
        });
        panels.iter().for_each(|panel| ask_for(panel.as_ptr().wrapping_add(i)));
        for (r, row) in rows.iter().enumerate() {
            // SAFETY: and slices of as many groups of four bytes or more; the read needs no alignment.
            let inputs = _mm512_set1_epi32(unsafe { row.as_ptr().add(i * 4).cast::<i32>().read_unaligned() });
            for (sums, weights) in sums.iter_mut().zip(weights) {
                sums[r] = _mm512_dpbusd_epi32(sums[r], inputs, weights);
            }
        }
    }
    for (numbers, sums) in numbers.iter_mut().zip(sums) {
        for (numbers, sum) in numbers.iter_mut().zip(sums) {
            // SAFETY: the numbers have the size of a vector, and the store needs no alignment.
            unsafe { _mm512_storeu_si512(numbers.as_mut_ptr().cast(), sum) };
        }
    }
}

/// The same in f32.
#[target_feature(enable = "avx512f")]
#[inline]
#[allow(unsafe_code)]
fn float_tile<const N: usize>(
    rows: &[f32],
    panels: &[[[f32; 1]; COLUMNS]],
    [stride, depth]: [usize; 2],
    numbers: &mut [[[f32; COLUMNS]; ROWS]; PANELS],
) {
    assert!(stride >= depth);
    let rows: [_; N] = places(rows, stride);
    let panels: [_; PANELS] = places(panels, depth);
    let mut sums = [[_mm512_setzero_ps(); N]; PANELS];
    for i in 0..depth {
        let weights = panels.map(|panel| {
            // SAFETY: `places` gives slices of `depth` groups, each of the size of a vector; the load needs no alignment.
            unsafe { _mm512_loadu_ps(panel.as_ptr().add(i).cast()) }
        });
        panels.iter().for_each(|panel| ask_for(panel.as_ptr().wrapping_add(i)));
        for (r, row) in rows.iter().enumerate() {
            // SAFETY: and slices of as many numbers or more.
            let input = _mm512_set1_ps(unsafe { *row.as_ptr().add(i) });
            for (sums, weights) in sums.iter_mut().zip(weights) {
                sums[r] = _mm512_fmadd_ps(input, weights, sums[r]);
            }
        }
    }
    for (numbers, sums) in numbers.iter_mut().zip(sums) {
        for (numbers, sum) in numbers.iter_mut().zip(sums) {
            // SAFETY: the numbers have the size of a vector, and the store needs no alignment.
            unsafe { _mm512_storeu_ps(numbers.as_mut_ptr(), sum) };
        }
    }
}
