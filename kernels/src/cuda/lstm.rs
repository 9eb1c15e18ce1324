use candle_core::cuda::WrapErr;
use candle_core::cuda::cudarc::driver::PushKernelArg;
use candle_core::{CudaStorage, Layout, Result, Shape, bail};

use super::{LSTM_STEP, config, contiguous, for_format, ints, launch, values};
use crate::Lstm;

/// Threads, hidden units and items of a block: the kernel's `WARPS * WARP`, `UNITS` and `ITEMS`.
const THREADS: usize = 256;
const UNITS: usize = 8;
const ITEMS: usize = 8;

/// All steps, one launch after the other.
pub(crate) fn lstm(
    op: &Lstm,
    (gates, gates_layout): (&CudaStorage, &Layout),
    (weight, weight_layout): (&CudaStorage, &Layout),
) -> Result<(CudaStorage, Shape)> {
    const NAME: &str = "lstm";
    let (batch, time, width) = gates_layout.shape().dims3()?;
    let (hidden, columns) = weight_layout.shape().dims2()?;
    if hidden == 0 || columns != 4 * hidden || width != columns {
        bail!("{NAME}: gates {:?} and weight {:?} do not fit", gates_layout.shape(), weight_layout.shape());
    }
    op.lengths.check_shape(NAME, gates_layout.shape())?;
    let [batch32, time32, hidden32] = ints(NAME, [batch, time, hidden])?;
    let (device, reverse) = (&gates.device, i32::from(op.reverse));
    let lengths = op.lengths.on(device)?;
    let (lengths, _) = lengths.storage_and_layout();
    let lengths = values::<u32>(NAME, &lengths, device)?;
    let state = || device.alloc_zeros::<f32>((batch * hidden).max(1));
    let (mut before, mut after, cells) = (state()?, state()?, state()?);
    for_format!(NAME, gates, T => {
        let gates = contiguous::<T>(NAME, gates, gates_layout)?;
        let weight = contiguous::<T>(NAME, weight, weight_layout)?;
        // Steps behind an item's end stay zero.
        let y = device.alloc_zeros::<T>((batch * time * hidden).max(1))?;
        let function = LSTM_STEP.function::<T>(device, "")?;
        let config = config([hidden.div_ceil(UNITS), batch.div_ceil(ITEMS), 1], THREADS)?;
        for step in 0..if batch > 0 { time32 } else { 0 } {
            launch!(LSTM_STEP, function, device, config, [
                &gates, &weight, lengths, &before, &after, &cells, &y, &batch32, &time32, &hidden32, &step, &reverse,
            ]);
            std::mem::swap(&mut before, &mut after);
        }
        Ok((CudaStorage::wrap_cuda_slice(y, device.clone()), Shape::from((batch, time, hidden))))
    })
}
