use candle_core::cuda::WrapErr;
use candle_core::cuda::cudarc::driver::PushKernelArg;
use candle_core::{CudaStorage, Layout, Result, Shape, Tensor, bail};

use super::addends::hold;
use super::{FSMN_MEMORY, Rows, config, contiguous, for_format, ints, launch, room, values};
use crate::FsmnMemory;

/// Channels of a block.
const THREADS: usize = 128;
/// Frames of a block: `ROWS` of the kernel.
const ROWS: usize = 8;

pub(crate) fn fsmn_memory(
    op: &FsmnMemory,
    addends: &[&Tensor],
    (x, x_layout): (&CudaStorage, &Layout),
    (taps, taps_layout): (&CudaStorage, &Layout),
) -> Result<(CudaStorage, Shape)> {
    const NAME: &str = "fsmn-memory";
    let (batch, time, width) = x_layout.shape().dims3()?;
    let (kernel, taps_width) = taps_layout.shape().dims2()?;
    if taps_width != width || width == 0 {
        bail!("{NAME}: input {:?} and taps {:?} do not fit", x_layout.shape(), taps_layout.shape());
    }
    op.lengths.check_shape(NAME, x_layout.shape())?;
    let Some(rows) = time.checked_sub(op.first) else {
        bail!("{NAME}: output begins with frame {}, input has shape {:?}", op.first, x_layout.shape());
    };
    let offset = i32::try_from(op.offset).map_err(candle_core::Error::wrap)?;
    // The last frame that a tap may reach for is a number, too.
    ints(
        NAME,
        [time.saturating_add(kernel.saturating_mul(op.dilation)).saturating_add(op.offset.unsigned_abs())],
    )?;
    let [time, first, width32, kernel, dilation] = ints(NAME, [time, op.first, width, kernel, op.dilation])?;
    let shape = Shape::from((batch, rows, width));
    let addends = hold(NAME, addends, &shape)?;
    let (device, skip) = (&x.device, i32::from(op.skip));
    let lengths = op.lengths.on(device)?;
    let (lengths, _) = lengths.storage_and_layout();
    let lengths = values::<u32>(NAME, &lengths, device)?;
    for_format!(NAME, x, T => {
        let Rows { values: x, strides: [item, row] } = Rows::<T>::new(NAME, x, x_layout)?;
        let taps = contiguous::<T>(NAME, taps, taps_layout)?;
        let y = room::<T>(device, batch * rows * width)?;
        addends.pointers::<T>(device, |[one, two]| {
            if batch * rows > 0 {
                let function = FSMN_MEMORY.function::<T>(device, "")?;
                let config = config([width.div_ceil(THREADS), rows.div_ceil(ROWS), batch], THREADS)?;
                launch!(FSMN_MEMORY, function, device, config, [
                    &x, &taps, &one, &two, lengths, &y, &item, &row, &time, &first, &width32, &kernel, &offset, &dilation, &skip,
                ]);
            }
            Ok(())
        })?;
        Ok((CudaStorage::wrap_cuda_slice(y, device.clone()), shape))
    })
}
