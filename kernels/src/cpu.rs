//! Access to the CPU storage of op arguments.

use candle_core::{CpuStorage, DType, Layout, Result, Shape, Storage, Tensor, bail};

/// True where the fast CPU versions apply.
pub(crate) fn is_f32_on_cpu(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32
}

/// The values of a contiguous f32 argument.
pub(crate) fn contiguous<'a>(op: &str, storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let values = storage.as_slice::<f32>()?;
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&values[start..end]),
        None => bail!("{op}: an argument of shape {:?} is not contiguous", layout.shape()),
    }
}

/// The values of a contiguous f32 tensor that is to be added to a result of `shape`.
pub(crate) fn addend<'a>(
    op: &str,
    storage: &'a Storage,
    layout: &Layout,
    shape: &Shape,
) -> Result<&'a [f32]> {
    if layout.shape() != shape {
        bail!("{op}: an addend of shape {:?} does not fit the result {shape:?}", layout.shape());
    }
    let Storage::Cpu(storage) = storage else { bail!("{op}: an addend is on another device") };
    contiguous(op, storage, layout)
}

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

    /// All values from the first row of item `b` on, and the distance between its rows.
    pub(crate) fn item(&self, b: usize) -> (&'a [f32], usize) {
        (&self.values[b * self.strides[0]..], self.strides[1])
    }
}
