//! Products of rows and weights on x86 processors with AVX2, in f32 and in 8 bits.
//!
//! Weights are ordered once as the product reads them: panels of 16 outputs, which a few rows go through while their sums stay
//! in registers; there each sum becomes an output. In 8 bits `vpmaddubsw` multiplies 32 pairs of bytes and adds neighbours in
//! 16 bits, and `vpmaddwd` adds neighbours of these in 32 bits: more than twice the products of f32 in the same time. Where
//! neighbours do not fit 16 bits (see [`crate::Rounded`]), bytes are widened first and multiplied by `vpmaddwd` alone: exact for
//! any weights, a sixth slower.

use std::arch::x86_64::{
    __m128i, __m256i, _MM_HINT_T0, _mm_loadu_si128, _mm_prefetch, _mm256_add_epi32, _mm256_broadcast_ss,
    _mm256_cvtepi8_epi16, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_madd_epi16,
    _mm256_maddubs_epi16, _mm256_set1_epi16, _mm256_set1_epi32, _mm256_setzero_ps, _mm256_setzero_si256,
    _mm256_storeu_ps, _mm256_storeu_si256,
};
use std::mem::MaybeUninit;

use rayon::prelude::*;

use crate::cpu::Block;

/// Outputs of a panel.
const COLUMNS: usize = 16;
/// Rows that share the weights they load, as many as have room in the registers.
const ROWS: usize = 6;
const INT8_ROWS: usize = 4;
/// Bytes of the panels that stay in a core's second-level cache while all rows go through them: so each weight is fetched once, and
/// rows as often as there are such panels.
const RESIDENT: usize = 256 << 10;
/// Groups by which weights are asked for before they are multiplied. They come from far: a model's do not fit a cache.
const AHEAD: usize = 24;

/// Weights `[in, out]`: for each 16 outputs, for each `GROUP` inputs, the weights of one output after the other. Zero where
/// the last panel and group are not full.
pub(crate) struct Panels<T, const GROUP: usize> {
    groups: Vec<[[T; GROUP]; COLUMNS]>,
    /// Groups of a panel.
    depth: usize,
    outputs: usize,
}

/// In 8 bits four inputs of an output lie together: their products meet in one sum of 32 bits.
pub(crate) type Int8Panels = Panels<i8, 4>;
/// The same with two, for weights whose neighbours do not fit 16 bits.
pub(crate) type WideInt8Panels = Panels<i8, 2>;
/// In f32 each input stands alone.
pub(crate) type FloatPanels = Panels<f32, 1>;

/// What becomes of sums.
pub(crate) trait Finish {
    /// Type of a sum.
    type Sum: Copy;

    /// The sums of `row` for the outputs from `column` on -> outputs. To be inlined into the product.
    fn finish<const N: usize>(&self, sums: [Self::Sum; N], row: usize, column: usize) -> [f32; N];
}

/// Whether this processor runs the products.
pub(crate) fn supported() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

/// Whether the product in f32 is the fastest here. `gemm` is at the limit of processors with AVX-512, and slower on those with AVX2
/// alone.
pub(crate) fn preferred() -> bool {
    supported() && !is_x86_feature_detected!("avx512f")
}

impl<T: Copy + Default + Send + Sync, const GROUP: usize> Panels<T, GROUP> {
    /// Orders `weight [out, in]`.
    pub(crate) fn new(weight: &[T], inputs: usize) -> Self {
        let (outputs, depth) = (weight.len() / inputs, inputs.div_ceil(GROUP));
        let mut groups = vec![[[T::default(); GROUP]; COLUMNS]; outputs.div_ceil(COLUMNS) * depth];
        let panels = groups.par_chunks_exact_mut(depth).zip(weight.par_chunks(COLUMNS * inputs));
        panels.for_each(|(panel, rows)| {
            for (column, row) in rows.chunks_exact(inputs).enumerate() {
                let (whole, rest) = row.as_chunks::<GROUP>();
                for (group, weights) in panel.iter_mut().zip(whole) {
                    group[column] = *weights;
                }
                if let Some(last) = panel.get_mut(whole.len()) {
                    last[column][..rest.len()].copy_from_slice(rest);
                }
            }
        });
        Self { groups, depth, outputs }
    }

    /// Panels that stay in the cache together, the first one's place with them.
    fn resident(&self) -> impl Iterator<Item = (usize, &[[[T; GROUP]; COLUMNS]])> {
        let count = (RESIDENT / (self.depth * size_of::<[[T; GROUP]; COLUMNS]>()).max(1)).max(1);
        self.groups
            .chunks((count * self.depth).max(1))
            .enumerate()
            .map(move |(i, panels)| (i * count, panels))
    }

    /// Values of a row of the product.
    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Values of a row of the other factor; those behind its inputs are zero.
    pub(crate) fn stride(&self) -> usize {
        self.depth * GROUP
    }

    /// Writes the outputs of some rows, of which `row` is the first, and a panel.
    #[inline(always)]
    fn put<F: Finish, const N: usize>(
        &self,
        sums: [[F::Sum; COLUMNS]; N],
        [row, panel]: [usize; 2],
        finish: &F,
        y: &mut [MaybeUninit<f32>],
    ) {
        let column = panel * COLUMNS;
        for (row, sums) in (row..).zip(sums) {
            let y = &mut y[row * self.outputs + column..(row + 1) * self.outputs];
            if let Some(y) = y.first_chunk_mut() {
                *y = finish.finish(sums, row, column).map(MaybeUninit::new);
                continue;
            }
            for (i, (y, sum)) in y.iter_mut().zip(sums).enumerate() {
                let [value] = finish.finish([sum], row, column + i);
                y.write(value);
            }
        }
    }
}

/// All rows `$x` through all panels, `$most` at a time and `$fewer` at the end. A macro, since a tile has to be inlined into a function
/// that is compiled for AVX2, and its number of rows is one for the compiler.
macro_rules! rows_through_panels {
    ($panels:ident, $x:ident, $y:ident, $finish:ident, $tile:ident, $most:ident, $($fewer:literal)*) => {{
        let stride = $panels.stride();
        for (first, resident) in $panels.resident() {
            for (i, rows) in $x.chunks($most * stride).enumerate() {
                for (p, panel) in (first..).zip(resident.chunks_exact($panels.depth)) {
                    let place = [i * $most, p];
                    match rows.len() / stride {
                        $($fewer => $panels.put($tile::<$fewer>(rows, panel), place, $finish, $y),)*
                        _ => $panels.put($tile::<$most>(rows, panel), place, $finish, $y),
                    }
                }
            }
        }
    }};
}

impl Int8Panels {
    /// Rows of [`Panels::stride`] bytes -> all of `y [rows, out]`.
    ///
    /// # Panics
    /// On a processor that does not support it.
    #[allow(unsafe_code)]
    pub(crate) fn multiply(&self, rows: &[u8], y: &mut [MaybeUninit<f32>], finish: &impl Finish<Sum = i32>) {
        assert!(supported());
        // SAFETY: the processor has what the function is compiled for.
        unsafe { self.multiply_avx2(rows, y, finish) }
    }

    #[target_feature(enable = "avx2,fma")]
    fn multiply_avx2(&self, x: &[u8], y: &mut [MaybeUninit<f32>], finish: &impl Finish<Sum = i32>) {
        rows_through_panels!(self, x, y, finish, int8_tile, INT8_ROWS, 1 2 3);
    }
}

impl WideInt8Panels {
    /// Rows of [`Panels::stride`] steps -> all of `y [rows, out]`.
    ///
    /// # Panics
    /// On a processor that does not support it.
    #[allow(unsafe_code)]
    pub(crate) fn multiply(&self, rows: &[i16], y: &mut [MaybeUninit<f32>], finish: &impl Finish<Sum = i32>) {
        assert!(supported());
        // SAFETY: the processor has what the function is compiled for.
        unsafe { self.multiply_avx2(rows, y, finish) }
    }

    #[target_feature(enable = "avx2,fma")]
    fn multiply_avx2(&self, x: &[i16], y: &mut [MaybeUninit<f32>], finish: &impl Finish<Sum = i32>) {
        rows_through_panels!(self, x, y, finish, wide_int8_tile, ROWS, 1 2 3 4 5);
    }
}

impl FloatPanels {
    /// Orders `[out, in]` that lies in a larger matrix. Outputs are whole panels, zero behind those given.
    pub(crate) fn from_rows((values, stride): Block<'_>, [outputs, inputs]: [usize; 2]) -> Self {
        let panels = outputs.div_ceil(COLUMNS);
        let mut groups = vec![[[0.0]; COLUMNS]; panels * inputs];
        for output in 0..outputs {
            let panel = &mut groups[output / COLUMNS * inputs..][..inputs];
            for (group, &value) in panel.iter_mut().zip(&values[output * stride..]) {
                group[output % COLUMNS] = [value];
            }
        }
        Self { groups, depth: inputs, outputs: panels * COLUMNS }
    }

    /// Orders `[in, out]` that lies in a larger matrix, with zeros for inputs behind it up to `depth`.
    pub(crate) fn from_columns(
        (values, stride): Block<'_>,
        [inputs, outputs]: [usize; 2],
        depth: usize,
    ) -> Self {
        let mut groups = vec![[[0.0]; COLUMNS]; outputs.div_ceil(COLUMNS) * depth];
        for input in 0..inputs {
            let (whole, rest) = values[input * stride..][..outputs].as_chunks::<COLUMNS>();
            let mut places = groups[input..].iter_mut().step_by(depth);
            for (values, place) in whole.iter().zip(places.by_ref()) {
                *place = values.map(|value| [value]);
            }
            if let Some(place) = places.next() {
                place.as_flattened_mut()[..rest.len()].copy_from_slice(rest);
            }
        }
        Self { groups, depth, outputs }
    }

    /// [`FloatPanels::multiply`], with the product behind what `y` holds.
    #[allow(unsafe_code)]
    pub(crate) fn multiply_into(&self, y: &mut Vec<f32>, rows: &[f32], finish: &impl Finish<Sum = f32>) {
        let (start, len) = (y.len(), rows.len() / self.stride() * self.outputs);
        y.reserve(len);
        self.multiply(rows, &mut y.spare_capacity_mut()[..len], finish);
        // SAFETY: the product has written all of these.
        unsafe { y.set_len(start + len) };
    }

    /// Rows `[rows, in]` -> all of `y [rows, out]`.
    ///
    /// # Panics
    /// On a processor that does not support it.
    #[allow(unsafe_code)]
    pub(crate) fn multiply(&self, rows: &[f32], y: &mut [MaybeUninit<f32>], finish: &impl Finish<Sum = f32>) {
        assert!(supported());
        // SAFETY: the processor has what the function is compiled for.
        unsafe { self.multiply_avx2(rows, y, finish) }
    }

    #[target_feature(enable = "avx2,fma")]
    fn multiply_avx2(&self, x: &[f32], y: &mut [MaybeUninit<f32>], finish: &impl Finish<Sum = f32>) {
        rows_through_panels!(self, x, y, finish, float_tile, ROWS, 1 2 3 4 5);
    }
}

/// Sums of `N` rows, one behind the other, with a panel.
#[target_feature(enable = "avx2")]
#[inline]
#[allow(unsafe_code)]
fn int8_tile<const N: usize>(rows: &[u8], panel: &[[[i8; 4]; COLUMNS]]) -> [[i32; COLUMNS]; N] {
    let stride = panel.len() * 4;
    assert!(rows.len() == N * stride);
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
    let stride = panel.len() * 2;
    assert!(rows.len() == N * stride);
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

/// Lets the cache fetch what lies [`AHEAD`] groups behind this one, be it weights or not.
#[target_feature(enable = "avx2")]
#[inline]
fn ask_for<T>(group: &[T; COLUMNS]) {
    _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(group).wrapping_add(AHEAD).cast());
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
    let stride = panel.len();
    assert!(rows.len() == N * stride);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that look random: the same on every machine.
    fn bytes(count: usize, mut state: u32) -> Vec<u8> {
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        (0..count).map(|_| next()).collect()
    }

    /// Sums as they are; those below are whole numbers that f32 holds.
    struct Exact;

    impl Finish for Exact {
        type Sum = i32;

        fn finish<const N: usize>(&self, sums: [i32; N], _: usize, _: usize) -> [f32; N] {
            sums.map(|sum| sum as f32)
        }
    }

    /// The numbers of rows whose other factor is `steps`, by hand.
    fn expected(x: &[u8], steps: &[i8], inputs: usize) -> Vec<f32> {
        let sum = |row: &[u8], weights: &[i8]| -> i32 {
            row.iter().zip(weights).map(|(x, w)| i32::from(*x) * i32::from(*w)).sum()
        };
        let rows = x.chunks_exact(inputs);
        rows.flat_map(|row| steps.chunks_exact(inputs).map(move |w| sum(row, w) as f32)).collect()
    }

    /// Rows of `inputs` in `stride` numbers.
    fn spread<T: From<u8> + Clone>(x: &[u8], inputs: usize, stride: usize) -> Vec<T> {
        let zeros = std::iter::repeat_n(0, stride - inputs);
        let rows = x.chunks_exact(inputs);
        rows.flat_map(|row| row.iter().copied().chain(zeros.clone())).map(T::from).collect()
    }

    #[allow(unsafe_code)]
    fn all(y: Vec<MaybeUninit<f32>>) -> Vec<f32> {
        // SAFETY: a product writes all of `y`.
        y.into_iter().map(|y| unsafe { y.assume_init() }).collect()
    }

    #[test]
    fn sums_are_exact_at_every_size_and_extreme() {
        if !supported() {
            return;
        }
        // The last one has more panels than stay in the cache together.
        let cases =
            [(1, 1, 1), (2, 8, 16), (3, 9, 17), (5, 512, 33), (4, 40, 16), (11, 2048, 20), (13, 2048, 150)];
        for (rows, inputs, outputs) in cases {
            let case = format!("{rows}, {inputs}, {outputs}");
            // The first row is 255 throughout.
            let x = [vec![255; inputs], bytes((rows - 1) * inputs, 3)].concat();
            let steps = |extreme: [[i8; 2]; 4], of: fn(u8) -> i8| -> Vec<i8> {
                let others = bytes(inputs * (outputs - 1), 9).into_iter().map(of);
                extreme.concat().into_iter().cycle().take(inputs).chain(others).collect()
            };
            // Neighbours of one sign come to at most 128; those of the first output come to just that.
            let narrow = steps([[64, 64], [-64, -64], [127, 1], [-127, 127]], |byte| byte.cast_signed() / 2);
            let wide = steps([[127, 127], [-127, -127], [127, 1], [-127, 127]], u8::cast_signed);
            let panels = Int8Panels::new(&narrow, inputs);
            let mut y = vec![MaybeUninit::uninit(); rows * outputs];
            panels.multiply(&spread::<u8>(&x, inputs, panels.stride()), &mut y, &Exact);
            assert_eq!(all(y), expected(&x, &narrow, inputs), "{case}");
            let panels = WideInt8Panels::new(&wide, inputs);
            let mut y = vec![MaybeUninit::uninit(); rows * outputs];
            panels.multiply(&spread::<i16>(&x, inputs, panels.stride()), &mut y, &Exact);
            assert_eq!(all(y), expected(&x, &wide, inputs), "{case}, wide");
        }
    }

    #[test]
    fn float_sums_are_exact_where_panels_do_not_stay_together() {
        if !supported() {
            return;
        }
        struct Same;
        impl Finish for Same {
            type Sum = f32;

            fn finish<const N: usize>(&self, sums: [f32; N], _: usize, _: usize) -> [f32; N] {
                sums
            }
        }
        let (rows, inputs, outputs) = (13, 512, 150);
        assert!(inputs * outputs * size_of::<f32>() > RESIDENT);
        // Small whole numbers, so that sums are exact in any order.
        let x: Vec<u8> = bytes(rows * inputs, 3).iter().map(|byte| byte % 8).collect();
        let weights: Vec<i8> =
            bytes(outputs * inputs, 9).iter().map(|byte| (byte % 8).cast_signed() - 4).collect();
        let weight: Vec<f32> = weights.iter().map(|&weight| f32::from(weight)).collect();
        let mut y = Vec::new();
        FloatPanels::new(&weight, inputs).multiply_into(&mut y, &spread::<f32>(&x, inputs, inputs), &Same);
        assert_eq!(y, expected(&x, &weights, inputs));
    }
}
