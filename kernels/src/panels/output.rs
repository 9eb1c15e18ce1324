//! Where products write.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Some columns of a matrix whose values are still to be written. Columns of one matrix can be written by several threads.
pub(crate) struct Output<'a> {
    /// Of the first row, the first of these columns.
    start: *mut MaybeUninit<f32>,
    rows: usize,
    columns: usize,
    /// From a row to the next.
    stride: usize,
    matrix: PhantomData<&'a mut [MaybeUninit<f32>]>,
}

// SAFETY: it stands for values that nothing else reaches while it lives, as a `&mut` to them would.
#[allow(unsafe_code)]
unsafe impl Send for Output<'_> {}

impl<'a> Output<'a> {
    /// All of `values [rows, columns]`.
    pub(crate) fn new(values: &'a mut [MaybeUninit<f32>], columns: usize) -> Self {
        let rows = values.len() / columns.max(1);
        Self { start: values.as_mut_ptr(), rows, columns, stride: columns, matrix: PhantomData }
    }

    /// The columns before `column`, and the others.
    pub(super) fn split(self, column: usize) -> [Self; 2] {
        assert!(column <= self.columns);
        let start = self.start.wrapping_add(column);
        let others = Self { start, columns: self.columns - column, ..self };
        [Self { columns: column, ..self }, others]
    }

    /// Values of a row.
    #[inline(always)]
    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    /// `N` columns from `column` on, of these rows.
    #[inline(always)]
    pub(super) fn block<const N: usize>(&mut self, rows: Range<usize>, column: usize) -> Block<'_, N> {
        assert!(rows.end <= self.rows && column + N <= self.columns, "{rows:?}, {column} of an output");
        let start = self.start.wrapping_add(rows.start * self.stride + column);
        Block { start, rows: rows.len(), stride: self.stride, matrix: PhantomData }
    }
}

/// `N` columns of some rows of an [`Output`].
pub(super) struct Block<'a, const N: usize> {
    start: *mut MaybeUninit<f32>,
    rows: usize,
    stride: usize,
    matrix: PhantomData<&'a mut [MaybeUninit<f32>]>,
}

impl<const N: usize> Block<'_, N> {
    /// Writes a row.
    #[inline(always)]
    #[allow(unsafe_code)]
    pub(super) fn write(&mut self, row: usize, values: [f32; N]) {
        assert!(row < self.rows);
        // SAFETY: `Output::new` got all rows, of `stride` values, and these columns lie in them; what `split` made of one matrix has no
        // column twice.
        unsafe { self.start.add(row * self.stride).cast::<[f32; N]>().write_unaligned(values) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_the_columns_of_a_matrix() {
        let mut values = vec![MaybeUninit::new(0.0); 3 * 7];
        let [left, right] = Output::new(&mut values, 7).split(4);
        for (mut part, first) in [(left, 0), (right, 4)] {
            for column in 0..part.columns() {
                let mut block = part.block(0..3, column);
                (0..3).for_each(|row| block.write(row, [(row * 7 + first + column) as f32]));
            }
        }
        // SAFETY: all of them have been written.
        #[allow(unsafe_code)]
        let values: Vec<f32> = values.into_iter().map(|value| unsafe { value.assume_init() }).collect();
        assert_eq!(values, (0..21).map(|i| i as f32).collect::<Vec<_>>());
    }

    #[test]
    #[should_panic(expected = "1..3, 0 of an output")]
    fn a_row_beyond_the_last_is_refused() {
        Output::new(&mut [MaybeUninit::uninit(); 6], 3).block::<1>(1..3, 0);
    }
}
