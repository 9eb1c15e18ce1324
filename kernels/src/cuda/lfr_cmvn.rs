use candle_core::cuda::WrapErr;
use candle_core::cuda::cudarc::driver::PushKernelArg;
use candle_core::{CudaStorage, Layout, Result, Shape};

use super::{LFR_CMVN, config, contiguous, ints, launch, room, values};
use crate::LfrCmvn;
use crate::lfr_cmvn::Call;

const THREADS: usize = 128;

pub(crate) fn lfr_cmvn(call: &Call, (x, layout): (&CudaStorage, &Layout)) -> Result<(CudaStorage, Shape)> {
    const NAME: &str = "lfr-cmvn";
    let Call { op, frames, rows } = call;
    frames.check_shape(NAME, layout.shape())?;
    let (batch, time, width) = layout.shape().dims3()?;
    let (LfrCmvn { stack, stride, .. }, count) = (op, rows.len());
    let [time, width, stack, stride, first, _] =
        ints(NAME, [time, width, *stack, *stride, rows.start, rows.end.saturating_mul(*stride) + stack])?;
    let device = &x.device;
    let lengths = frames.on(device)?;
    let (lengths, _) = lengths.storage_and_layout();
    let lengths = values::<u32>(NAME, &lengths, device)?;
    let (cmvn, _) = op.cmvn.storage_and_layout();
    let cmvn = values::<f32>(NAME, &cmvn, device)?;
    let x = contiguous::<f32>(NAME, x, layout)?;
    let y = room::<f32>(device, batch * count * op.width())?;
    let function = LFR_CMVN.function::<f32>(device, "")?;
    launch!(
        LFR_CMVN,
        function,
        device,
        config([count, batch, 1], THREADS)?,
        [&x, cmvn, lengths, &y, &time, &width, &stack, &stride, &first,]
    );
    Ok((CudaStorage::wrap_cuda_slice(y, device.clone()), Shape::from((batch, count, op.width()))))
}
