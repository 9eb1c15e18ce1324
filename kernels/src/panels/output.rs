//! Where products write.

use std::marker::PhantomData;
use std::mem::MaybeUninit;

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

    /// The columns of a row.
    #[inline(always)]
    #[allow(unsafe_code)]
    pub(super) fn row(&mut self, row: usize) -> &mut [MaybeUninit<f32>] {
        assert!(row < self.rows);
        // SAFETY: `new` got all rows, of `stride` values, and these columns lie in them; what `split` made of one matrix has no column
        // twice, and of this part one row at a time is lent.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(row * self.stride), self.columns) }
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
            for row in 0..3 {
                for (i, place) in part.row(row).iter_mut().enumerate() {
                    place.write((row * 7 + first + i) as f32);
                }
            }
        }
        // SAFETY: all of them have been written.
        #[allow(unsafe_code)]
        let values: Vec<f32> = values.into_iter().map(|value| unsafe { value.assume_init() }).collect();
        assert_eq!(values, (0..21).map(|i| i as f32).collect::<Vec<_>>());
    }

    #[test]
    #[should_panic(expected = "row < self.rows")]
    fn a_row_beyond_the_last_is_refused() {
        Output::new(&mut [MaybeUninit::uninit(); 6], 3).row(2);
    }
}
