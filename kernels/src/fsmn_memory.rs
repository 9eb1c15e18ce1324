//! FSMN memory: a depthwise convolution over time, written as a shifted multiply-add.
//!
//! `y[t] = x[t] * skip + sum_k w[k] * x[t + offset + k * dilation]`, zero outside an item and in its padding.
//! A grouped convolution would run one convolution per channel; here every tap is one pass over a row of D.
//! Zhang et al., "Deep-FSMN for Large Vocabulary Continuous Speech Recognition", 2018; FunASR
//! `models/sanm/attention.py` (`forward_fsmn`) and `models/fsmn_vad_streaming/encoder.py` (`FSMNBlock`).

use std::mem::MaybeUninit;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};

#[cfg(feature = "cuda")]
use crate::cuda;
use crate::{Lengths, cpu, simd};

/// Output rows that one thread computes at a time.
const BLOCK_ROWS: usize = 32;

/// The memory of one layer, for one batch.
#[derive(Debug, Clone)]
pub struct FsmnMemory {
    /// Frame of the first tap, relative to the output frame; `-(K - 1)` is a causal memory.
    pub offset: isize,
    /// Frames between taps.
    pub dilation: usize,
    /// Whether the input itself is added.
    pub skip: bool,
    /// Output begins with this frame: those before are there to be looked back on.
    pub first: usize,
    /// Valid frames of each item.
    pub lengths: Lengths,
}

impl FsmnMemory {
    /// `x [B, T, D]`, `taps [K, D]` -> `[B, T - first, D]`.
    pub fn forward(&self, x: &Tensor, taps: &Tensor) -> Result<Tensor> {
        self.forward_add(x, taps, &[])
    }

    /// [`FsmnMemory::forward`] plus `addends` of the shape of the result, on a GPU two at most.
    pub fn forward_add(&self, x: &Tensor, taps: &Tensor, addends: &[&Tensor]) -> Result<Tensor> {
        self.lengths.check("fsmn-memory", x)?;
        if self.first > x.dim(1)? {
            bail!("fsmn-memory: output begins with frame {}, input has shape {:?}", self.first, x.shape());
        }
        if !cpu::is_fast(x) {
            return addends.iter().try_fold(self.reference(x, taps)?, |y, addend| y + *addend);
        }
        let x = if x.stride()[2] == 1 { x.clone() } else { x.contiguous()? };
        let addends = addends.iter().map(|addend| addend.contiguous()).collect::<Result<Vec<_>>>()?;
        x.apply_op2_no_bwd(taps, &Added { op: self, addends: &addends.iter().collect::<Vec<_>>() })
    }

    /// The definition, in plain candle operations.
    pub fn reference(&self, x: &Tensor, taps: &Tensor) -> Result<Tensor> {
        let (_, time, _) = x.dims3()?;
        let mask = self.lengths.mask(x.dtype(), x.device())?.unsqueeze(2)?;
        let x = x.broadcast_mul(&mask)?;
        let reach = self.dilation as isize * (taps.dim(0)? as isize - 1);
        let left = (-self.offset).max(0);
        let right = (self.offset + reach).max(0);
        let padded = x.pad_with_zeros(1, left as usize, right as usize)?;
        let mut y = if self.skip { x } else { x.zeros_like()? };
        for k in 0..taps.dim(0)? {
            let start = (left + self.offset) as usize + k * self.dilation;
            y = (y + padded.narrow(1, start, time)?.broadcast_mul(&taps.get(k)?)?)?;
        }
        y.broadcast_mul(&mask)?.narrow(1, self.first, time - self.first)
    }

    /// Row `t` of an item of `length` frames whose row `s` is `row(s)`.
    #[inline(always)]
    #[allow(unsafe_code)]
    fn row<'a, 'y>(
        &self,
        t: usize,
        length: usize,
        row: impl Fn(usize) -> &'a [f32],
        taps: &'a [f32],
        y: &'y mut [MaybeUninit<f32>],
    ) -> &'y mut [f32] {
        let y = if self.skip && t < length {
            y.write_copy_of_slice(row(t))
        } else {
            y.fill(MaybeUninit::new(0.0));
            // SAFETY: all of it has been written.
            unsafe { y.assume_init_mut() }
        };
        if t >= length {
            return y;
        }
        for (k, tap) in taps.chunks_exact(y.len()).enumerate() {
            let source = t as isize + self.offset + (k * self.dilation) as isize;
            if (0..length as isize).contains(&source) {
                for ((y, x), tap) in y.iter_mut().zip(row(source as usize)).zip(tap) {
                    *y += x * tap;
                }
            }
        }
        y
    }
}

/// The op with what is added to its result.
struct Added<'a> {
    op: &'a FsmnMemory,
    addends: &'a [&'a Tensor],
}

impl CustomOp2 for Added<'_> {
    fn name(&self) -> &'static str {
        "fsmn-memory"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        taps: &CpuStorage,
        taps_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let Self { op, addends } = self;
        let rows = cpu::Rows::new("fsmn-memory", x, x_layout)?;
        let (_, width) = taps_layout.shape().dims2()?;
        if width != rows.width || width == 0 {
            bail!("fsmn-memory: input {:?} and taps {:?} do not fit", x_layout.shape(), taps_layout.shape());
        }
        let taps = cpu::contiguous("fsmn-memory", taps, taps_layout)?;
        let time = rows.time - op.first;
        let shape = Shape::from((rows.batch, time, width));
        let held: Vec<_> = addends.iter().map(|addend| addend.storage_and_layout()).collect();
        let addends = cpu::addends("fsmn-memory", &held, &shape)?;
        let y = cpu::filled([rows.batch * time, width], 1..=BLOCK_ROWS, |y, start| {
            simd::dispatch(
                #[inline(always)]
                || {
                    for (i, y) in (start..).zip(y.chunks_exact_mut(width)) {
                        let (b, t) = (i / time, op.first + i % time);
                        let y = op.row(t, op.lengths.items()[b], |s| rows.row(b, s), taps, y);
                        for addend in &addends {
                            let addend = &addend[i * width..][..width];
                            y.iter_mut().zip(addend).for_each(|(y, x)| *y += x);
                        }
                    }
                },
            );
            Ok(())
        })?;
        Ok((CpuStorage::F32(y), shape))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        taps: &CudaStorage,
        taps_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        cuda::fsmn_memory(self.op, self.addends, (x, x_layout), (taps, taps_layout))
    }
}
