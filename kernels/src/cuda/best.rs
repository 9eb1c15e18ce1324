use candle_core::cuda::WrapErr;
use candle_core::cuda::cudarc::driver::PushKernelArg;
use candle_core::{CudaStorage, Layout, Result, Shape, bail};

use super::{BEST, config, contiguous, for_format, ints, launch, room};
use crate::{Best, cpu};

/// Threads of a row: the kernel's `WARPS * WARP`.
const THREADS: usize = 256;

pub(crate) fn best(op: &Best, (x, layout): (&CudaStorage, &Layout)) -> Result<(CudaStorage, Shape)> {
    const NAME: &str = "best";
    let width = layout.dims().last().copied().unwrap_or(0);
    if width == 0 {
        bail!("{NAME}: rows of nothing, {:?}", layout.shape());
    }
    let rows = layout.shape().elem_count() / width;
    let columns = 2 * op.count + 1;
    let [width, count] = ints(NAME, [width, op.count])?;
    let device = &x.device;
    for_format!(NAME, x, T => {
        let x = contiguous::<T>(NAME, x, layout)?;
        let y = room::<f32>(device, rows * columns)?;
        if rows > 0 {
            let function = BEST.function::<T>(device, "")?;
            launch!(BEST, function, device, config([rows, 1, 1], THREADS)?, [&x, &y, &width, &count]);
        }
        Ok((CudaStorage::wrap_cuda_slice(y, device.clone()), cpu::with_width(layout.shape(), columns)))
    })
}
