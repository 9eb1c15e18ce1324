//! The product of 8-bit rows and weights on x86 processors with AVX2 and without VNNI.
//!
//! `vpmaddubsw` multiplies 32 pairs of bytes and adds neighbours in 16 bits, which [`crate::Rounded`] sees to that they
//! fit; `vpmaddwd` adds neighbours of these in 32 bits. Twice the products of f32 in an instruction of the same cost.

use std::arch::x86_64::{
    __m256i, _mm256_add_epi32, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_maddubs_epi16,
    _mm256_set1_epi16, _mm256_set1_epi32, _mm256_setzero_si256, _mm256_storeu_si256,
};

/// Outputs of a panel.
const COLUMNS: usize = 16;
/// Inputs of an output that lie together: their products meet in one sum of 32 bits.
const GROUP: usize = 4;
/// Rows that share the weights they load.
const ROWS: usize = 4;

/// The weights of a group of inputs, output by output.
type Group = [i8; GROUP * COLUMNS];

/// Weights `[in, out]` in the order in which the product reads them, zero where the last panel and group are not full.
pub(crate) struct Panels {
    groups: Vec<Group>,
    /// Groups of a panel.
    depth: usize,
}

impl Panels {
    /// Whether this processor runs the product.
    pub(crate) fn supported() -> bool {
        is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
    }

    /// Orders `steps [out, in]`.
    pub(crate) fn new(steps: &[i8], inputs: usize) -> Self {
        let (outputs, depth) = (steps.len() / inputs, inputs.div_ceil(GROUP));
        let mut groups = vec![[0; GROUP * COLUMNS]; outputs.div_ceil(COLUMNS) * depth];
        for (output, row) in steps.chunks_exact(inputs).enumerate() {
            let (panel, column) = (output / COLUMNS, output % COLUMNS);
            for (group, weights) in groups[panel * depth..].iter_mut().zip(row.chunks(GROUP)) {
                group[column * GROUP..][..weights.len()].copy_from_slice(weights);
            }
        }
        Self { groups, depth }
    }

    /// Bytes of a row of the other factor; those behind its inputs are zero.
    pub(crate) fn stride(&self) -> usize {
        self.depth * GROUP
    }

    /// Hands the sums of each row and panel to `take(row, panel, sums)`; columns behind the last output hold nothing.
    ///
    /// # Panics
    /// On a processor that does not support it.
    #[allow(unsafe_code)]
    pub(crate) fn multiply(&self, rows: &[u8], take: impl FnMut(usize, usize, &[i32; COLUMNS])) {
        assert!(Self::supported());
        // SAFETY: the processor has what the function is compiled for.
        unsafe { self.multiply_avx2(rows, take) }
    }

    #[target_feature(enable = "avx2,fma")]
    fn multiply_avx2(&self, rows: &[u8], mut take: impl FnMut(usize, usize, &[i32; COLUMNS])) {
        let stride = self.stride();
        for (p, panel) in self.groups.chunks_exact(self.depth).enumerate() {
            let tiles = rows.chunks_exact(ROWS * stride);
            let rest = tiles.remainder().chunks_exact(stride);
            let mut row = 0;
            for rows in tiles {
                for sums in &tile::<ROWS>(rows, panel) {
                    take(row, p, sums);
                    row += 1;
                }
            }
            for rows in rest {
                take(row, p, &tile::<1>(rows, panel)[0]);
                row += 1;
            }
        }
    }
}

/// Products of `N` rows, one behind the other, with a panel.
#[target_feature(enable = "avx2")]
#[inline]
#[allow(unsafe_code)]
fn tile<const N: usize>(rows: &[u8], panel: &[Group]) -> [[i32; COLUMNS]; N] {
    let stride = panel.len() * GROUP;
    assert!(rows.len() == N * stride);
    let ones = _mm256_set1_epi16(1);
    let mut sums = [[_mm256_setzero_si256(); 2]; N];
    for (i, group) in panel.iter().enumerate() {
        let weights = group.as_ptr().cast::<__m256i>();
        // SAFETY: a group is two vectors long, and these loads need no alignment.
        let weights: [_; 2] = std::array::from_fn(|half| unsafe { _mm256_loadu_si256(weights.add(half)) });
        for (r, sums) in sums.iter_mut().enumerate() {
            // SAFETY: group `i` of row `r` lies in `rows`, whose length was asserted; the load needs no alignment. A slice
            // would be read into another register first, which costs half of the speed.
            let inputs = unsafe {
                let group = rows.as_ptr().add(r * stride + i * GROUP).cast::<i32>();
                _mm256_set1_epi32(group.read_unaligned())
            };
            for (sum, weights) in sums.iter_mut().zip(weights) {
                let pairs = _mm256_maddubs_epi16(inputs, weights);
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, ones));
            }
        }
    }
    let mut numbers = [[0; COLUMNS]; N];
    for (numbers, sums) in numbers.iter_mut().zip(sums) {
        for (half, sum) in sums.into_iter().enumerate() {
            // SAFETY: half of the numbers have the size of a vector, and the store needs no alignment.
            unsafe { _mm256_storeu_si256(numbers.as_mut_ptr().add(8 * half).cast(), sum) };
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

    #[test]
    fn sums_are_exact_at_every_size_and_extreme() {
        if !Panels::supported() {
            return;
        }
        let cases = [(1, 1, 1), (2, 8, 16), (3, 9, 17), (5, 512, 33), (4, 40, 16), (11, 2048, 20)];
        for (rows, inputs, outputs) in cases {
            // Neighbours of one sign come to at most 128; those of the first output come to just that, against 255.
            let half = |byte: u8| (byte as i8) / 2;
            let mut steps: Vec<i8> = bytes(inputs * outputs, 9).into_iter().map(half).collect();
            let extreme = [[64, 64], [-64, -64], [127, 1], [-127, 127]].concat();
            steps[..inputs].iter_mut().zip(extreme.into_iter().cycle()).for_each(|(step, v)| *step = v);
            let panels = Panels::new(&steps, inputs);
            let mut x = vec![0u8; rows * panels.stride()];
            for (i, row) in x.chunks_exact_mut(panels.stride()).enumerate() {
                let values = if i == 0 { vec![255; inputs] } else { bytes(inputs, i as u32) };
                row[..inputs].copy_from_slice(&values);
            }
            let mut y = vec![None; rows * outputs];
            panels.multiply(&x, |row, panel, sums| {
                for (sum, column) in sums.iter().zip(panel * COLUMNS..outputs.min((panel + 1) * COLUMNS)) {
                    assert!(y[row * outputs + column].replace(*sum).is_none());
                }
            });
            for (i, sum) in y.into_iter().enumerate() {
                let (row, column) = (i / outputs, i % outputs);
                let weights = &steps[column * inputs..][..inputs];
                let products = x[row * panels.stride()..].iter().zip(weights);
                let expected: i32 = products.map(|(x, w)| i32::from(*x) * i32::from(*w)).sum();
                assert_eq!(sum, Some(expected), "row {row}, column {column} of {rows}, {inputs}, {outputs}");
            }
        }
    }
}
