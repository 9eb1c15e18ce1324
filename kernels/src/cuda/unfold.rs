use candle_core::cuda::WrapErr;
use candle_core::cuda::cudarc::driver::PushKernelArg;
use candle_core::{CudaStorage, Layout, Result, Shape};

use super::{Rows, UNFOLD, config, for_format, ints, launch, room, values};
use crate::Unfold;

const THREADS: usize = 256;

pub(crate) fn unfold(op: &Unfold, (x, layout): (&CudaStorage, &Layout)) -> Result<(CudaStorage, Shape)> {
    const NAME: &str = "unfold";
    op.lengths.check_shape(NAME, layout.shape())?;
    let (batch, time, width) = layout.shape().dims3()?;
    let wide = op.taps() * width;
    let [width32, taps, before, _] = ints(NAME, [width, op.taps(), op.before, wide])?;
    let device = &x.device;
    let lengths = op.lengths.on(device)?;
    let (lengths, _) = lengths.storage_and_layout();
    let lengths = values::<u32>(NAME, &lengths, device)?;
    for_format!(NAME, x, T => {
        let Rows { values: x, strides: [item, row] } = Rows::<T>::new(NAME, x, layout)?;
        let y = room::<T>(device, batch * time * wide)?;
        let function = UNFOLD.function::<T>(device, "")?;
        launch!(UNFOLD, function, device, config([time, batch, 1], THREADS)?, [
            &x, &item, &row, lengths, &y, &width32, &taps, &before,
        ]);
        Ok((CudaStorage::wrap_cuda_slice(y, device.clone()), Shape::from((batch, time, wide))))
    })
}
