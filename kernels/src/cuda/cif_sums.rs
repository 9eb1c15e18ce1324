use candle_core::cuda::WrapErr;
use candle_core::cuda::cudarc::driver::PushKernelArg;
use candle_core::{CudaStorage, Device, Layout, Result, Shape};

use super::cif_fire::packed;
use super::{CIF_SUMS, config, contiguous, for_format, ints, launch, room, values};
use crate::CifSums;

/// Channels of a block.
const THREADS: usize = 128;

pub(crate) fn cif_sums(op: &CifSums, (x, layout): (&CudaStorage, &Layout)) -> Result<(CudaStorage, Shape)> {
    const NAME: &str = "cif-sums";
    op.check(layout.shape())?;
    let (batch, time, width) = layout.shape().dims3()?;
    let (device, tokens) = (&x.device, op.tokens);
    let (tracks, layout_of_tracks) = packed(op.fired, &Device::Cuda(device.clone()))?;
    let (tracks, _) = tracks.storage_and_layout();
    let tracks = values::<f32>(NAME, &tracks, device)?;
    let [time, columns, tokens32, width32] = ints(NAME, [time, layout_of_tracks.columns, tokens, width])?;
    for_format!(NAME, x, T => {
        let x = contiguous::<T>(NAME, x, layout)?;
        let y = room::<T>(device, batch * tokens * width)?;
        let function = CIF_SUMS.function::<T>(device, "")?;
        let config = config([width.div_ceil(THREADS), tokens, batch], THREADS)?;
        launch!(CIF_SUMS, function, device, config, [&x, tracks, &y, &time, &columns, &tokens32, &width32]);
        Ok((CudaStorage::wrap_cuda_slice(y, device.clone()), Shape::from((batch, tokens, width))))
    })
}
