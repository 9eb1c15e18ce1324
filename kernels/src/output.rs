//! Where ops write.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Some rows and columns of a matrix whose values are still to be written. Parts of one matrix can be written by several threads.
pub(crate) struct Output<'a> {
    /// Of the first of these rows, the first of these columns.
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
    pub(crate) fn split_columns(self, column: usize) -> [Self; 2] {
        assert!(column <= self.columns);
        let start = self.start.wrapping_add(column);
        let others = Self { start, columns: self.columns - column, ..self };
        [Self { columns: column, ..self }, others]
    }

    /// The rows before `row`, and the others.
    pub(crate) fn split_rows(self, row: usize) -> [Self; 2] {
        assert!(row <= self.rows);
        let start = self.start.wrapping_add(row * self.stride);
        let others = Self { start, rows: self.rows - row, ..self };
        [Self { rows: row, ..self }, others]
    }

    /// In parts of `count` columns, the last of what is left.
    pub(crate) fn in_columns(self, count: usize) -> impl Iterator<Item = Self> {
        parts(self, move |rest| (rest.columns > count).then_some(count), Self::split_columns)
    }

    /// In parts of `count` rows, the last of what is left.
    pub(crate) fn in_rows(self, count: usize) -> impl Iterator<Item = Self> {
        parts(self, move |rest| (rest.rows > count).then_some(count), Self::split_rows)
    }

    /// Rows.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Values of a row.
    #[inline(always)]
    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    /// From a row to the next.
    pub(crate) fn stride(&self) -> usize {
        self.stride
    }

    /// The first value.
    pub(crate) fn as_mut_ptr(&mut self) -> *mut f32 {
        self.start.cast()
    }

    /// Writes the same everywhere.
    pub(crate) fn fill(mut self, value: f32) {
        for row in 0..self.rows {
            (0..self.columns).for_each(|column| self.block(row..row + 1, column).write(0, [value]));
        }
    }

    /// `N` columns from `column` on, of these rows.
    #[inline(always)]
    pub(crate) fn block<const N: usize>(&mut self, rows: Range<usize>, column: usize) -> Block<'_, N> {
        assert!(rows.end <= self.rows && column + N <= self.columns, "{rows:?}, {column} of an output");
        let start = self.start.wrapping_add(rows.start * self.stride + column);
        Block { start, rows: rows.len(), stride: self.stride, matrix: PhantomData }
    }
}

/// What `split` divides at `place`, again and again until that is none; no parts of nothing.
fn parts<'a>(
    all: Output<'a>,
    place: impl Fn(&Output<'a>) -> Option<usize>,
    split: impl Fn(Output<'a>, usize) -> [Output<'a>; 2],
) -> impl Iterator<Item = Output<'a>> {
    let mut rest = Some(all).filter(|all| all.rows > 0 && all.columns > 0);
    std::iter::from_fn(move || {
        let all = rest.take()?;
        let Some(place) = place(&all) else { return Some(all) };
        let [part, others] = split(all, place);
        rest = Some(others);
        Some(part)
    })
}

/// Appends a matrix `[rows, columns]`, of which `write` writes all.
#[allow(unsafe_code)]
pub(crate) fn append(y: &mut Vec<f32>, [rows, columns]: [usize; 2], write: impl FnOnce(Output<'_>)) {
    let (start, len) = (y.len(), rows * columns);
    y.reserve(len);
    write(Output::new(&mut y.spare_capacity_mut()[..len], columns));
    // SAFETY: these have been written.
    unsafe { y.set_len(start + len) };
}

/// `N` columns of some rows of an [`Output`].
pub(crate) struct Block<'a, const N: usize> {
    start: *mut MaybeUninit<f32>,
    rows: usize,
    stride: usize,
    matrix: PhantomData<&'a mut [MaybeUninit<f32>]>,
}

impl<const N: usize> Block<'_, N> {
    /// Writes a row.
    #[inline(always)]
    #[allow(unsafe_code)]
    pub(crate) fn write(&mut self, row: usize, values: [f32; N]) {
        assert!(row < self.rows);
        // SAFETY: `Output::new` got all rows, of `stride` values, and these columns lie in them; the parts of one matrix have no value
        // in common.
        unsafe { self.start.add(row * self.stride).cast::<[f32; N]>().write_unaligned(values) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_those_of_a_matrix() {
        let mut values = Vec::new();
        append(&mut values, [3, 7], |y| {
            let [left, right] = y.split_columns(4);
            for (first_row, part) in [0, 2].into_iter().zip(left.in_rows(2)) {
                for (first, mut part) in (0..4).step_by(3).zip(part.in_columns(3)) {
                    for column in 0..part.columns() {
                        let mut block = part.block(0..part.rows(), column);
                        for row in 0..block.rows {
                            block.write(row, [((first_row + row) * 7 + first + column) as f32]);
                        }
                    }
                }
            }
            right.fill(-1.0);
        });
        append(&mut Vec::new(), [0, 7], |nothing| assert!(nothing.in_rows(0).next().is_none()));
        let expected = (0..21).map(|i| if i % 7 < 4 { i as f32 } else { -1.0 });
        assert_eq!(values, expected.collect::<Vec<_>>());
    }

    #[test]
    #[should_panic(expected = "1..3, 0 of an output")]
    fn a_row_beyond_the_last_is_refused() {
        Output::new(&mut [MaybeUninit::uninit(); 6], 3).block::<1>(1..3, 0);
    }
}
