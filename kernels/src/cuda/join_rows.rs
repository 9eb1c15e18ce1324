use candle_core::cuda::WrapErr;
use candle_core::cuda::cudarc::driver::{CudaSlice, DevicePtr, PushKernelArg};
use candle_core::{CudaDevice, CudaStorage, Layout, Result, Shape, Tensor, bail};

use super::{Format, JOIN_ROWS, Rows, config, for_format, ints, launch, room, values};
use crate::JoinRows;

const NAME: &str = "join-rows";
/// Channels of a block.
const THREADS: usize = 128;
/// Numbers that the table has of a stream: `Stream` of the kernel.
const COLUMNS: usize = 7;

/// The next layer: joined rows, and in place what is kept of them.
pub(crate) fn join_rows(
    op: &JoinRows,
    (fresh, layout): (&CudaStorage, &Layout),
) -> Result<(CudaStorage, Shape)> {
    let (batch, _, width) = layout.shape().dims3()?;
    let (device, rows) = (&fresh.device, op.rows());
    let [width32, layer] = ints(NAME, [width, op.layer])?;
    for_format!(NAME, fresh, T => {
        let table = match op.table.get() {
            Some(table) => table,
            None => {
                let table = table::<T>(op, device)?;
                op.table.get_or_init(|| table)
            }
        };
        let Rows { values: fresh, strides: [item, row] } = Rows::<T>::new(NAME, fresh, layout)?;
        let y = room::<T>(device, batch * rows * width)?;
        if batch * rows * width > 0 {
            let function = JOIN_ROWS.function::<T>(device, "")?;
            let config = config([rows, batch, 1], THREADS)?;
            launch!(JOIN_ROWS, function, device, config, [&fresh, &item, &row, table, &y, &width32, &layer]);
        }
        Ok((CudaStorage::wrap_cuda_slice(y, device.clone()), Shape::from((batch, rows, width))))
    })
}

/// Where the rows of each stream come from and go to: uploaded once, for all layers.
fn table<T: Format>(op: &JoinRows, device: &CudaDevice) -> Result<CudaSlice<i64>> {
    let mut table = Vec::with_capacity(op.joins.len() * COLUMNS);
    for ((join, past), kept) in op.joins.iter().zip(&op.past).zip(op.kept_tensors()) {
        let (past, kept) = (place::<T>(past.as_ref(), device)?, place::<T>(kept.as_ref(), device)?);
        let sizes = [join.lead, join.past, join.fresh, join.keep.start, join.keep.len()];
        table.extend([past, kept].into_iter().chain(sizes.map(|size| size as i64)));
    }
    device.clone_htod(&table)
}

/// Where the values of a tensor begin; nowhere if there is none. `op` holds it until the last layer.
fn place<T: Format>(tensor: Option<&Tensor>, device: &CudaDevice) -> Result<i64> {
    let Some(tensor) = tensor else { return Ok(0) };
    let (storage, layout) = tensor.storage_and_layout();
    if !layout.is_contiguous() {
        bail!("{NAME}: what is remembered, {:?}, is not contiguous", layout.shape());
    }
    let values = values::<T>(NAME, &storage, device)?.slice(layout.start_offset()..);
    let stream = device.cuda_stream();
    let (pointer, _) = values.device_ptr(&stream);
    Ok(pointer as i64)
}
