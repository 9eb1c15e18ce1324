//! Low frame rate and normalisation where the network is: frames come there as they are, and not once for each row that they are in.

use std::ops::Range;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Tensor, bail};

#[cfg(feature = "cuda")]
use crate::cuda;
use crate::{Lengths, cpu, simd};

/// Rows that one thread writes at a time.
const BLOCK_ROWS: usize = 32;

/// `(row + shift) * scale` of rows of `stack` frames, every `stride` frames.
#[derive(Debug, Clone)]
pub struct LfrCmvn {
    pub(crate) stack: usize,
    pub(crate) stride: usize,
    /// Shift and scale, `[2, stack M]` in f32.
    pub(crate) cmvn: Tensor,
}

/// Rows of a batch of frames.
pub(crate) struct Call<'a> {
    pub(crate) op: &'a LfrCmvn,
    pub(crate) frames: &'a Lengths,
    pub(crate) rows: Range<usize>,
}

impl LfrCmvn {
    /// For rows of `stack` frames, every `stride` of them, and the shift and scale of a row; on a device.
    ///
    /// # Errors
    /// Vectors that are not as long as each other, or no multiple of `stack`.
    pub fn new([stack, stride]: [usize; 2], shift: &[f32], scale: &[f32], device: &Device) -> Result<Self> {
        let width = shift.len();
        if width != scale.len() || width == 0 || stack == 0 || stride == 0 || !width.is_multiple_of(stack) {
            let scales = scale.len();
            bail!("lfr-cmvn: {width} shifts and {scales} scales of rows of {stack} frames, every {stride}");
        }
        let cmvn = Tensor::from_vec([shift, scale].concat(), (2, width), device)?;
        Ok(Self { stack, stride, cmvn })
    }

    /// Some rows of `x [B, F, M]` in f32, of whose items `frames` are valid -> `[B, rows, stack M]`. Behind its last frame an item
    /// repeats that; of an item without frames all is shift and scale.
    pub fn forward(&self, x: &Tensor, frames: &Lengths, rows: Range<usize>) -> Result<Tensor> {
        frames.check("lfr-cmvn", x)?;
        if x.dim(2)? * self.stack != self.width() {
            bail!("lfr-cmvn: {} frames of {:?} are no row of {}", self.stack, x.shape(), self.width());
        }
        if rows.is_empty() {
            return Tensor::zeros((x.dim(0)?, 0, self.width()), x.dtype(), x.device());
        }
        if !cpu::is_fast(x) || x.elem_count() == 0 {
            return self.reference(x, frames, rows);
        }
        x.contiguous()?.apply_op1_no_bwd(&Call { op: self, frames, rows })
    }

    /// The definition, in plain candle operations.
    pub fn reference(&self, x: &Tensor, frames: &Lengths, rows: Range<usize>) -> Result<Tensor> {
        let (batch, time, width) = x.dims3()?;
        // A frame of zeros behind the last stands for those of an item that has none.
        let x = x.pad_with_zeros(1, 0, 1)?.reshape((batch * (time + 1), width))?;
        let mut from = Vec::with_capacity(batch * rows.len() * self.stack);
        for (item, &count) in frames.items().iter().enumerate() {
            let place =
                |frame: usize| item * (time + 1) + count.checked_sub(1).map_or(time, |last| frame.min(last));
            from.extend(
                rows.clone().flat_map(|row| self.frames_of(row).map(place)).map(|frame| frame as u32),
            );
        }
        let from = Tensor::from_vec(from, batch * rows.len() * self.stack, x.device())?;
        let stacked = x.index_select(&from, 0)?.reshape((batch, rows.len(), self.width()))?;
        stacked.broadcast_add(&self.cmvn.get(0)?)?.broadcast_mul(&self.cmvn.get(1)?)
    }

    /// Values of a row.
    pub(crate) fn width(&self) -> usize {
        self.cmvn.dims()[1]
    }

    fn frames_of(&self, row: usize) -> Range<usize> {
        row * self.stride..row * self.stride + self.stack
    }
}

impl CustomOp1 for Call<'_> {
    fn name(&self) -> &'static str {
        "lfr-cmvn"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let Self { op, frames, rows } = self;
        let x = cpu::Rows::new("lfr-cmvn", x, layout)?;
        let cmvn = op.cmvn.flatten_all()?.to_vec1::<f32>()?;
        let (shift, scale) = cmvn.split_at(op.width());
        let nothing = vec![0.0; x.width];
        let y = cpu::filled([x.batch * rows.len(), op.width()], 1..=BLOCK_ROWS, |y, first| {
            for (i, y) in (first..).zip(y.chunks_exact_mut(op.width())) {
                let (item, row) = (i / rows.len(), rows.start + i % rows.len());
                let last = frames.items()[item].checked_sub(1);
                let parts = y
                    .chunks_exact_mut(x.width)
                    .zip(shift.chunks_exact(x.width).zip(scale.chunks_exact(x.width)));
                for (frame, (y, (shift, scale))) in op.frames_of(row).zip(parts) {
                    let x = last.map_or(nothing.as_slice(), |last| x.row(item, frame.min(last)));
                    simd::dispatch(
                        #[inline(always)]
                        || {
                            for ((y, x), (shift, scale)) in y.iter_mut().zip(x).zip(shift.iter().zip(scale)) {
                                y.write((x + shift) * scale);
                            }
                        },
                    );
                }
            }
            Ok(())
        })?;
        Ok((CpuStorage::F32(y), Shape::from((x.batch, rows.len(), op.width()))))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        cuda::lfr_cmvn(self, (x, layout))
    }
}
