//! Access to the CPU storage of op arguments.

use std::mem::MaybeUninit;
use std::ops::{Deref, RangeInclusive};
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{CpuStorage, DType, Layout, Result, Shape, Storage, Tensor, bail};
use rayon::prelude::*;

/// Whether [`take_references`] was called.
static REFERENCES: AtomicBool = AtomicBool::new(false);

/// Lets all ops that work in floats run their references, plain candle operations, from now on: `bench --references` shows what the
/// fast versions bring. To be called once, at the start of a program, before a model is loaded: weights laid out for a
/// fast version keep it. A setting of the process like [`set_threads`](crate::set_threads), and not an argument of every
/// op, because no model ever mixes the two; not a variable of the environment, which would slow a server down unasked; and
/// not a feature, with which the two could not be timed in turns without building twice.
pub fn take_references() {
    REFERENCES.store(true, Ordering::Relaxed);
}

/// True where ops have a fast version for `x`, and run it.
pub(crate) fn is_fast(x: &Tensor) -> bool {
    (is_f32_on_cpu(x) || x.device().is_cuda()) && !REFERENCES.load(Ordering::Relaxed)
}

/// True of what the CPU versions can read.
pub(crate) fn is_f32_on_cpu(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32
}

/// The values of a contiguous f32 argument.
pub(crate) fn contiguous<'a>(op: &str, storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let values = storage.as_slice::<f32>()?;
    match layout.contiguous_offsets() {
        // Which may begin behind the end of the storage.
        Some((start, end)) if start == end => Ok(&[]),
        Some((start, end)) => Ok(&values[start..end]),
        None => bail!("{op}: an argument of shape {:?} is not contiguous", layout.shape()),
    }
}

/// The values of contiguous f32 tensors that are to be added to a result of `shape`, of which `held` are the locks.
pub(crate) fn addends<'a, S: Deref<Target = Storage>>(
    op: &str,
    held: &'a [(S, &Layout)],
    shape: &Shape,
) -> Result<Vec<&'a [f32]>> {
    held.iter().map(|(storage, layout)| addend(op, storage, layout, shape)).collect()
}

fn addend<'a>(op: &str, storage: &'a Storage, layout: &Layout, shape: &Shape) -> Result<&'a [f32]> {
    if layout.shape() != shape {
        bail!("{op}: an addend of shape {:?} does not fit the result {shape:?}", layout.shape());
    }
    let Storage::Cpu(storage) = storage else { bail!("{op}: an addend is on another device") };
    contiguous(op, storage, layout)
}

/// `[.., in]` -> `[.., width]`.
pub(crate) fn with_width(shape: &Shape, width: usize) -> Shape {
    let mut dims = shape.dims().to_vec();
    if let Some(last) = dims.last_mut() {
        *last = width;
    }
    Shape::from(dims)
}

/// A matrix inside a larger one: its values from the first on, and the distance between rows.
pub(crate) type Block<'a> = (&'a [f32], usize);

/// A `[B, T, D]` argument whose rows are contiguous, wherever they lie: a slice of a wider tensor is read in place.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    values: &'a [f32],
    strides: [usize; 2],
    /// Rows of one item (T).
    pub time: usize,
    /// Values of one row (D).
    pub width: usize,
    /// Items (B).
    pub batch: usize,
}

impl<'a> Rows<'a> {
    pub(crate) fn new(op: &str, storage: &'a CpuStorage, layout: &Layout) -> Result<Self> {
        let (batch, time, width) = layout.shape().dims3()?;
        let stride = layout.stride();
        if stride[2] != 1 && width > 1 {
            bail!("{op}: the rows of an argument of shape {:?} are not contiguous", layout.shape());
        }
        let values = &storage.as_slice::<f32>()?[layout.start_offset()..];
        Ok(Self { values, strides: [stride[0], stride[1]], time, width, batch })
    }

    /// Row `t` of item `b`.
    pub(crate) fn row(&self, b: usize, t: usize) -> &'a [f32] {
        let start = b * self.strides[0] + t * self.strides[1];
        &self.values[start..start + self.width]
    }

    /// The rows of item `b`.
    pub(crate) fn item(&self, b: usize) -> Block<'a> {
        (&self.values[b * self.strides[0]..], self.strides[1])
    }
}

/// What happens to the sums of a linear layer: the bias and other tensors are added, and it is activated.
pub(crate) struct Ending<'a> {
    /// `[out]`.
    pub bias: &'a [f32],
    /// Of the shape of the result.
    pub addends: Vec<&'a [f32]>,
    /// Whether negative results become zero.
    pub relu: bool,
}

impl Ending<'_> {
    /// For the `N` outputs from `column` on of rows whose results begin at `start` of the whole. A number of them that the compiler
    /// knows, and copies instead of places, make it vectors in registers.
    #[inline(always)]
    pub(crate) fn at<const N: usize>(&self, column: usize, start: usize) -> EndingAt<'_, N> {
        let mut bias = [0.0; N];
        bias.copy_from_slice(&self.bias[column..][..N]);
        let least = if self.relu { 0.0 } else { f32::NEG_INFINITY };
        EndingAt { bias, least, addends: &self.addends, start: start + column, width: self.bias.len() }
    }
}

/// [`Ending`] for some outputs.
pub(crate) struct EndingAt<'a, const N: usize> {
    bias: [f32; N],
    /// The least value of a result.
    least: f32,
    addends: &'a [&'a [f32]],
    start: usize,
    width: usize,
}

impl<const N: usize> EndingAt<'_, N> {
    /// The results of a row from its sums.
    #[inline(always)]
    pub(crate) fn apply(&self, row: usize, sums: [f32; N]) -> [f32; N] {
        let mut y = sums;
        for (y, bias) in y.iter_mut().zip(self.bias) {
            *y += bias;
        }
        for addend in self.addends {
            let addend = &addend[self.start + row * self.width..][..N];
            for i in 0..N {
                y[i] += addend[i];
            }
        }
        for y in &mut y {
            // Written so that NaN stays.
            *y = if *y < self.least { self.least } else { *y };
        }
        y
    }
}

/// `x [rows, inputs]` -> `[rows, outputs]`, a block of `sizes` rows after the other, on all threads. `work` gets the rows of a block,
/// the place of their results and where in the whole it begins; on success all of it is written.
pub(crate) fn by_blocks(
    x: &[f32],
    [inputs, outputs]: [usize; 2],
    sizes: RangeInclusive<usize>,
    work: impl Fn(&[f32], &mut [MaybeUninit<f32>], usize) -> Result<()> + Sync,
) -> Result<Vec<f32>> {
    let rows = x.len() / inputs;
    filled([rows, outputs], sizes, |y, first| {
        let x = &x[first * inputs..][..y.len() / outputs * inputs];
        work(x, y, first * outputs)
    })
}

/// `[rows, width]`, a block of `sizes` rows after the other, on all threads: as many as there are threads only if that leaves the least
/// number to each. `work` gets the place of a block and its first row; on success all of the place is written.
#[allow(unsafe_code)]
pub(crate) fn filled(
    [rows, width]: [usize; 2],
    sizes: RangeInclusive<usize>,
    work: impl Fn(&mut [MaybeUninit<f32>], usize) -> Result<()> + Sync,
) -> Result<Vec<f32>> {
    let len = rows * width;
    let mut y: Vec<f32> = Vec::with_capacity(len);
    // As many for each thread, of one size: none waits while another does its last one.
    let count = rows.div_ceil(*sizes.end()).max(1).next_multiple_of(rayon::current_num_threads());
    let count = count.min((rows / sizes.start()).max(1));
    let block = rows.div_ceil(count).max(1);
    let places = y.spare_capacity_mut()[..len].par_chunks_mut((block * width).max(1)).enumerate();
    places.try_for_each(|(i, y)| work(y, i * block))?;
    // SAFETY: the blocks cover all `len` values, and `work` has written each of theirs.
    unsafe { y.set_len(len) };
    Ok(y)
}
