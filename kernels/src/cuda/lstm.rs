use candle_core::cuda::WrapErr;
use candle_core::cuda::cudarc::driver::PushKernelArg;
use candle_core::{CudaStorage, Layout, Result, Shape, Tensor, bail};

use super::{LSTM_STEP, config, contiguous, for_format, ints, launch, values};
use crate::Lstm;

/// Threads, hidden units and items of a block: the kernel's `WARPS * WARP`, `UNITS` and `ITEMS`.
const THREADS: usize = 256;
const UNITS: usize = 8;
const ITEMS: usize = 8;

/// All steps of `weights`, `[H, 4 H]` for each of one or two directions, one launch after the other.
pub(crate) fn lstm(
    op: &Lstm,
    hidden: usize,
    (gates, layout): (&CudaStorage, &Layout),
    weights: &[&Tensor],
) -> Result<(CudaStorage, Shape)> {
    const NAME: &str = "lstm";
    let (batch, time, _) = layout.shape().dims3()?;
    op.lengths.check_shape(NAME, layout.shape())?;
    let held: Vec<_> = weights.iter().map(|weight| weight.storage_and_layout()).collect();
    let ([(there, there_layout), ..], Some((back, back_layout))) = (held.as_slice(), held.last()) else {
        bail!("{NAME}: no weight")
    };
    if !there_layout.is_contiguous() || !back_layout.is_contiguous() {
        bail!("{NAME}: a weight of shape {:?} is not contiguous", there_layout.shape());
    }
    let directions = weights.len();
    let [batch32, time32, hidden32] = ints(NAME, [batch, time, hidden])?;
    let device = &gates.device;
    let lengths = op.lengths.on(device)?;
    let (lengths, _) = lengths.storage_and_layout();
    let lengths = values::<u32>(NAME, &lengths, device)?;
    let state = || device.alloc_zeros::<f32>((directions * batch * hidden).max(1));
    let (mut before, mut after, cells) = (state()?, state()?, state()?);
    for_format!(NAME, gates, T => {
        let gates = contiguous::<T>(NAME, gates, layout)?;
        let there = values::<T>(NAME, there, device)?.slice(there_layout.start_offset()..);
        let back = values::<T>(NAME, back, device)?.slice(back_layout.start_offset()..);
        // Steps behind an item's end stay zero.
        let y = device.alloc_zeros::<T>((batch * time * directions * hidden).max(1))?;
        let function = LSTM_STEP.function::<T>(device, "")?;
        let config = config([hidden.div_ceil(UNITS), batch.div_ceil(ITEMS), directions], THREADS)?;
        for step in 0..if batch > 0 { time32 } else { 0 } {
            launch!(LSTM_STEP, function, device, config, [
                &gates, &there, &back, lengths, &before, &after, &cells, &y, &batch32, &time32, &hidden32, &step,
            ]);
            std::mem::swap(&mut before, &mut after);
        }
        let shape = Shape::from((batch, time, directions * hidden));
        Ok((CudaStorage::wrap_cuda_slice(y, device.clone()), shape))
    })
}
