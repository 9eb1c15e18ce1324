//! Products of rows and weights on x86 processors, in f32 and in 8 bits.
//!
//! Weights are ordered once as the products read them, whichever unit of the processor multiplies: panels of 16 outputs, which
//! a few rows go through while their sums stay in registers; there each sum becomes an output.

mod amx;
mod avx2;
mod avx512;
mod bf16;

use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
use std::ops::RangeInclusive;

use rayon::prelude::*;

use crate::cpu::Block;
use crate::output::Output;
use crate::room::{Lines, lines};
use crate::simd;

pub(crate) use bf16::round_bf16;

/// Outputs of a panel.
const COLUMNS: usize = 16;
/// Bytes of the panels that stay in a core's second-level cache while all rows go through them: so each weight is fetched once, and
/// rows as often as there are such panels.
const RESIDENT: usize = 256 << 10;
/// Groups by which weights are asked for before they are multiplied. They come from far: a model's do not fit a cache.
const AHEAD: usize = 24;

/// Bytes from a row to the next of which 16 rows have their values at a place in two sets of a core's first cache.
const CROWDED: usize = 2048;
/// Bytes by which such rows lie further apart: a line.
const APART: usize = 64;

/// Panels that all products take together without a rest.
const TILE: usize = 4;
/// Weights for which it is worthwhile to wake a thread.
const LEAST_BYTES: usize = 64 << 10;

/// Rows of a task. Fewer are not divided among threads, since each would fetch all weights: the outputs are.
pub(crate) const ROWS: RangeInclusive<usize> = 128..=512;

/// Weights `[in, out]`: for each 16 outputs, for each `GROUP` inputs, the weights of one output after the other. Zero where
/// the last panel and group are not full.
pub(crate) struct Panels<T, const GROUP: usize> {
    groups: Lines<[[T; GROUP]; COLUMNS]>,
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
/// In bf16, held as bits, two inputs.
pub(crate) type Bf16Panels = Panels<u16, 2>;

/// Panels that follow each other.
pub(crate) struct Part<'a, T, const GROUP: usize> {
    groups: &'a [[[T; GROUP]; COLUMNS]],
    /// Groups of a panel.
    depth: usize,
    /// Outputs before these.
    first: usize,
}

/// What becomes of sums.
pub(crate) trait Finish {
    /// Type of a sum.
    type Sum: Copy;

    /// The sums of rows, whose `place` is the first row and the first output; `put` gets each with its outputs, counted
    /// from the first. To be inlined into the product.
    fn finish<const N: usize>(
        &self,
        sums: &[[Self::Sum; N]],
        place: [usize; 2],
        put: impl FnMut(usize, [f32; N]),
    );
}

/// Whether this processor runs the products.
pub(crate) fn supported() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

/// Whether the product in 8 bits is exact for any weights, and not only for those whose neighbours fit 16 bits.
pub(crate) fn exact_int8() -> bool {
    avx512::supported_int8()
}

impl<T: Copy + Default + Send + Sync, const GROUP: usize> Panels<T, GROUP> {
    /// Orders `weight [out, in]`, with a multiple of `together` groups in a panel.
    fn ordered(weight: &[T], inputs: usize, together: usize) -> Self {
        let outputs = weight.len() / inputs;
        let depth = inputs.div_ceil(GROUP).next_multiple_of(together);
        let mut groups = lines([[T::default(); GROUP]; COLUMNS], outputs.div_ceil(COLUMNS) * depth);
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

    /// Orders `[out, in]` that lies in a larger matrix, with a multiple of `together` groups in a panel. Outputs are whole panels,
    /// zero behind those given. `convert` writes a row.
    #[inline(always)]
    fn ordered_rows(
        (values, stride): Block<'_>,
        [outputs, inputs]: [usize; 2],
        together: usize,
        convert: impl Fn(&[f32], &mut [T]),
    ) -> Self {
        let (panels, depth) = (outputs.div_ceil(COLUMNS), inputs.div_ceil(GROUP).next_multiple_of(together));
        let mut groups = lines([[T::default(); GROUP]; COLUMNS], panels * depth);
        // Of each row first what lies together, which takes whole vectors.
        let mut rows = vec![[T::default(); GROUP]; COLUMNS * depth];
        for (first, panel) in (0..outputs).step_by(COLUMNS).zip(groups.chunks_exact_mut(depth)) {
            for (output, row) in (first..outputs).zip(rows.chunks_exact_mut(depth)) {
                convert(&values[output * stride..][..inputs], &mut row.as_flattened_mut()[..inputs]);
            }
            turn(&rows, outputs - first, panel);
        }
        Self { groups, depth, outputs: panels * COLUMNS }
    }

    /// Orders `[in, out]` that lies in a larger matrix, with zeros behind it up to `depth` groups. `convert` writes a row.
    #[inline(always)]
    fn ordered_columns(
        (values, stride): Block<'_>,
        [inputs, outputs]: [usize; 2],
        depth: usize,
        convert: impl Fn(&[f32], &mut [T]),
    ) -> Self {
        let width = outputs.next_multiple_of(COLUMNS);
        let mut groups = lines([[T::default(); GROUP]; COLUMNS], width / COLUMNS * depth);
        // The rows that meet in a group first by themselves, which takes whole vectors.
        let mut rows = vec![T::default(); GROUP * width];
        let mut met = vec![[T::default(); GROUP]; width];
        for group in 0..inputs.div_ceil(GROUP) {
            for (input, row) in (group * GROUP..).zip(rows.chunks_exact_mut(width)) {
                match input < inputs {
                    true => convert(&values[input * stride..][..outputs], &mut row[..outputs]),
                    false => row.fill(T::default()),
                }
            }
            for (column, met) in met.iter_mut().enumerate() {
                for i in 0..GROUP {
                    met[i] = rows[i * width + column];
                }
            }
            let places = groups[group..].iter_mut().step_by(depth.max(1));
            places.zip(met.as_chunks().0).for_each(|(place, met)| *place = *met);
        }
        Self { groups, depth, outputs }
    }

    /// All of them.
    pub(crate) fn all(&self) -> Part<'_, T, GROUP> {
        Part { groups: &self.groups, depth: self.depth, first: 0 }
    }

    /// Values of a row of the product.
    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Values from a row of the other factor to the next; those behind its inputs are zero.
    pub(crate) fn stride(&self) -> usize {
        self.all().stride()
    }
}

impl<'a, T: Sync, const GROUP: usize> Part<'a, T, GROUP> {
    /// In parts, each on a thread of its own as far as there are threads; `multiply` gets the place of a part's outputs.
    pub(crate) fn on_threads(self, y: Output<'_>, multiply: impl Fn(Self, Output<'_>) + Sync) {
        let parts = rayon::current_num_threads().min(size_of_val(self.groups) / LEAST_BYTES);
        self.in_parts(parts, y, &multiply);
    }

    fn in_parts(self, parts: usize, y: Output<'_>, multiply: &(impl Fn(Self, Output<'_>) + Sync)) {
        let panels = self.groups.len() / self.depth;
        let left = (panels * (parts / 2) / parts.max(1)).next_multiple_of(TILE);
        if parts < 2 || left >= panels {
            return multiply(self, y);
        }
        let [y_left, y_right] = y.split_columns(left * COLUMNS);
        let (groups, others) = self.groups.split_at(left * self.depth);
        let first = self.first + left * COLUMNS;
        rayon::join(
            || Self { groups, ..self }.in_parts(parts / 2, y_left, multiply),
            || Self { groups: others, first, ..self }.in_parts(parts - parts / 2, y_right, multiply),
        );
    }

    /// Values of a row of the other factor. Rows of 8 bits are written for the product, wherever it wants them; in f32 they are where
    /// they are.
    fn stride(&self) -> usize {
        let inputs = self.depth * GROUP;
        let crowded = size_of::<T>() == 1 && inputs.is_multiple_of(CROWDED);
        inputs + if crowded { APART } else { 0 }
    }

    /// Panels that stay in the cache together, a multiple of `tile` but for the last ones, and the first one's place with them.
    fn resident(
        &self,
        tile: usize,
    ) -> impl Iterator<Item = (usize, &'a [[[T; GROUP]; COLUMNS]])> + use<'a, T, GROUP> {
        let panel = self.depth * size_of::<[[T; GROUP]; COLUMNS]>();
        let count = (RESIDENT / panel.max(1)).next_multiple_of(tile).max(tile);
        let groups = self.groups.chunks((count * self.depth).max(1));
        groups.enumerate().map(move |(i, panels)| (i * count, panels))
    }

    /// Writes the outputs of some rows, of which `row` is the first, and two panels, the second of which may not be there.
    #[inline(always)]
    fn put_pair<F: Finish>(
        &self,
        sums: &[[F::Sum; 2 * COLUMNS]],
        [row, panel]: [usize; 2],
        finish: &F,
        y: &mut Output,
    ) {
        let (column, rows) = (panel * COLUMNS, row..row + sums.len());
        if column + 2 * COLUMNS <= y.columns() {
            let mut block = y.block::<{ 2 * COLUMNS }>(rows, column);
            return finish.finish(sums, [row, self.first + column], |row, values| block.write(row, values));
        }
        for (i, sums) in sums.iter().enumerate() {
            for (sums, panel) in sums.as_chunks().0.iter().zip(panel..y.columns().div_ceil(COLUMNS)) {
                self.put(std::slice::from_ref(sums), [row + i, panel], finish, y);
            }
        }
    }

    /// The same of one panel.
    #[inline(always)]
    fn put<F: Finish>(
        &self,
        sums: &[[F::Sum; COLUMNS]],
        [row, panel]: [usize; 2],
        finish: &F,
        y: &mut Output,
    ) {
        let (column, rows) = (panel * COLUMNS, row..row + sums.len());
        if column + COLUMNS <= y.columns() {
            let mut block = y.block::<COLUMNS>(rows, column);
            return finish.finish(sums, [row, self.first + column], |row, values| block.write(row, values));
        }
        for column in column..y.columns() {
            let mut block = y.block::<1>(rows.clone(), column);
            for (i, sums) in sums.iter().enumerate() {
                let place = [row + i, self.first + column];
                finish.finish(&[[sums[column % COLUMNS]]], place, |_, value| block.write(i, value));
            }
        }
    }
}

impl Int8Panels {
    /// Orders `weight [out, in]`.
    pub(crate) fn new(weight: &[i8], inputs: usize) -> Self {
        Self::ordered(weight, inputs, if amx::supported() { amx::GROUPS } else { 1 })
    }
}

impl Part<'_, i8, 4> {
    /// Rows of [`Panels::stride`] bytes -> all of `y`.
    ///
    /// # Panics
    /// On a processor that does not support it.
    #[allow(unsafe_code)]
    pub(crate) fn multiply(self, rows: &[u8], mut y: Output<'_>, finish: &impl Finish<Sum = i32>) {
        assert!(supported());
        // SAFETY: the processor has what each function is compiled for.
        unsafe {
            if amx::supported() && rows.len() > amx::FEW * self.stride() {
                amx::multiply_int8(&self, rows, &mut y, finish);
            } else if avx512::supported_int8() {
                avx512::multiply_int8(&self, rows, &mut y, finish);
            } else {
                avx2::multiply_int8(&self, rows, &mut y, finish);
            }
        }
    }
}

impl WideInt8Panels {
    /// Orders `weight [out, in]`.
    pub(crate) fn new(weight: &[i8], inputs: usize) -> Self {
        Self::ordered(weight, inputs, 1)
    }
}

impl Part<'_, i8, 2> {
    /// Rows of [`Panels::stride`] steps -> all of `y`.
    ///
    /// # Panics
    /// On a processor that does not support it.
    #[allow(unsafe_code)]
    pub(crate) fn multiply(self, rows: &[i16], mut y: Output<'_>, finish: &impl Finish<Sum = i32>) {
        assert!(supported());
        // SAFETY: the processor has what the function is compiled for.
        unsafe { avx2::multiply_wide_int8(&self, rows, &mut y, finish) }
    }
}

impl FloatPanels {
    /// Orders `weight [out, in]`.
    pub(crate) fn new(weight: &[f32], inputs: usize) -> Self {
        Self::ordered(weight, inputs, 1)
    }

    /// Orders `[out, in]` that lies in a larger matrix.
    pub(crate) fn from_rows(values: Block<'_>, dims: [usize; 2]) -> Self {
        simd::dispatch(
            #[inline(always)]
            || Self::ordered_rows(values, dims, 1, |row, to| to.copy_from_slice(row)),
        )
    }

    /// Orders `[in, out]` that lies in a larger matrix, with zeros for inputs behind it up to `depth`.
    pub(crate) fn from_columns(values: Block<'_>, dims: [usize; 2], depth: usize) -> Self {
        simd::dispatch(
            #[inline(always)]
            || Self::ordered_columns(values, dims, depth, |row, to| to.copy_from_slice(row)),
        )
    }
}

impl Part<'_, f32, 1> {
    /// Rows `[rows, in]` -> all of `y`.
    ///
    /// # Panics
    /// On a processor that does not support it.
    #[allow(unsafe_code)]
    pub(crate) fn multiply(self, rows: &[f32], mut y: Output<'_>, finish: &impl Finish<Sum = f32>) {
        assert!(supported());
        // SAFETY: the processor has what each function is compiled for.
        unsafe {
            if avx512::supported() {
                avx512::multiply_float(&self, rows, &mut y, finish);
            } else {
                avx2::multiply_float(&self, rows, &mut y, finish);
            }
        }
    }
}

/// Turns the first `count` of 16 rows of elements, which lie one behind the other, into the columns of a panel.
#[inline(always)]
fn turn<E: Copy>(rows: &[E], count: usize, panel: &mut [[E; COLUMNS]]) {
    let depth = panel.len();
    let (blocks, _) = panel.as_chunks_mut::<16>();
    let blocks =
        if count >= COLUMNS && size_of::<E>() == 4 && avx512::supported() { blocks } else { &mut [] };
    let turned = blocks.len() * 16;
    for (i, block) in blocks.iter_mut().enumerate() {
        // SAFETY: the processor has what it is compiled for.
        #[allow(unsafe_code)]
        unsafe {
            avx512::turn(&rows[i * 16..], depth, block);
        }
    }
    for (i, group) in panel.iter_mut().enumerate().skip(turned) {
        for (to, row) in group.iter_mut().zip(rows.chunks_exact(depth)).take(count) {
            *to = row[i];
        }
    }
}

/// The `count` rows or panels of a tile, each of which has `len` elements; the last one again where there are fewer.
fn places<T, const N: usize>(all: &[T], len: usize) -> [&[T]; N] {
    let last = (all.len() / len).saturating_sub(1);
    std::array::from_fn(|i| &all[i.min(last) * len..][..len])
}

/// Lets the cache fetch what lies [`AHEAD`] groups behind this one, be it weights or not.
#[target_feature(enable = "sse")]
#[inline]
fn ask_for<T>(group: *const [T; COLUMNS]) {
    _mm_prefetch::<_MM_HINT_T0>(group.wrapping_add(AHEAD).cast());
}

#[cfg(test)]
mod tests {
    use std::mem::MaybeUninit;

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

        fn finish<const N: usize>(
            &self,
            sums: &[[i32; N]],
            _: [usize; 2],
            mut put: impl FnMut(usize, [f32; N]),
        ) {
            sums.iter().map(|sums| sums.map(|sum| sum as f32)).enumerate().for_each(|(row, y)| put(row, y));
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

    /// A product in 8 bits.
    type Multiply = unsafe fn(&Part<'_, i8, 4>, &[u8], &mut Output<'_>, &Exact);

    /// All that this processor has: it takes one, and the tests of the op would pass over the others. With each, whether it
    /// multiplies any weights exactly.
    fn int8_units() -> Vec<(&'static str, Multiply, bool)> {
        let units: [(_, Multiply, _, _); 3] = [
            ("AVX2", avx2::multiply_int8, false, supported()),
            ("AVX-512", avx512::multiply_int8, true, avx512::supported_int8()),
            ("AMX", amx::multiply_int8, true, amx::supported()),
        ];
        let there = units.into_iter().filter(|unit| unit.3);
        there.map(|(name, multiply, exact, _)| (name, multiply, exact)).collect()
    }

    #[test]
    #[allow(unsafe_code)]
    fn sums_are_exact_at_every_size_and_extreme() {
        // So that the last weights are divided, into unequal parts.
        let threads = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        // The last two have more panels than stay in the cache together.
        let cases = [
            (1, 1, 1),
            (2, 8, 16),
            (3, 9, 17),
            (5, 512, 33),
            (4, 40, 16),
            (11, 2048, 20),
            (17, 65, 49),
            (33, 64, 50),
            (50, 2048, 80),
            (13, 2048, 150),
            (70, 560, 500),
        ];
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
            for (name, multiply, exact) in int8_units() {
                for steps in [&narrow, &wide].into_iter().take(1 + usize::from(exact)) {
                    let panels = Int8Panels::new(steps, inputs);
                    let mut y = vec![MaybeUninit::uninit(); rows * outputs];
                    let x_spread = spread(&x, inputs, panels.stride());
                    threads.install(|| {
                        // SAFETY: this processor has the unit.
                        panels.all().on_threads(Output::new(&mut y, outputs), |part, mut y| unsafe {
                            multiply(&part, &x_spread, &mut y, &Exact)
                        });
                    });
                    assert_eq!(all(y), expected(&x, steps, inputs), "{case}, {name}");
                }
            }
            if supported() {
                let panels = WideInt8Panels::new(&wide, inputs);
                let mut y = vec![MaybeUninit::uninit(); rows * outputs];
                let x_spread = spread::<i16>(&x, inputs, panels.stride());
                let y_all = Output::new(&mut y, outputs);
                panels.all().on_threads(y_all, |part, y| part.multiply(&x_spread, y, &Exact));
                assert_eq!(all(y), expected(&x, &wide, inputs), "{case}, wide");
            }
        }
    }

    #[test]
    #[allow(unsafe_code)]
    fn float_sums_are_exact_where_panels_do_not_stay_together() {
        struct Same;
        impl Finish for Same {
            type Sum = f32;

            fn finish<const N: usize>(
                &self,
                sums: &[[f32; N]],
                _: [usize; 2],
                mut put: impl FnMut(usize, [f32; N]),
            ) {
                sums.iter().enumerate().for_each(|(row, sums)| put(row, *sums));
            }
        }
        type Multiply = unsafe fn(&Part<'_, f32, 1>, &[f32], &mut Output<'_>, &Same);
        let units: [(_, Multiply, _); 2] = [
            ("AVX2", avx2::multiply_float, supported()),
            ("AVX-512", avx512::multiply_float, avx512::supported()),
        ];
        let (rows, inputs, outputs) = (13, 512, 150);
        assert!(inputs * outputs * size_of::<f32>() > RESIDENT);
        // Small whole numbers, so that sums are exact in any order.
        let x: Vec<u8> = bytes(rows * inputs, 3).iter().map(|byte| byte % 8).collect();
        let weights: Vec<i8> =
            bytes(outputs * inputs, 9).iter().map(|byte| (byte % 8).cast_signed() - 4).collect();
        let weight: Vec<f32> = weights.iter().map(|&weight| f32::from(weight)).collect();
        let (panels, x_floats) = (FloatPanels::new(&weight, inputs), spread::<f32>(&x, inputs, inputs));
        for (name, multiply, _) in units.into_iter().filter(|unit| unit.2) {
            let mut y = vec![MaybeUninit::uninit(); rows * outputs];
            // SAFETY: this processor has the unit.
            unsafe { multiply(&panels.all(), &x_floats, &mut Output::new(&mut y, outputs), &Same) };
            assert_eq!(all(y), expected(&x, &weights, inputs), "{name}");
        }
    }
}
