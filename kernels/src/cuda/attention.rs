use candle_core::backend::BackendStorage;
use candle_core::cuda::WrapErr;
use candle_core::cuda::cudarc::driver::{DevicePtr, PushKernelArg};
use candle_core::{CudaStorage, DType, Layout, Result, Shape, bail};

use super::{ATTENTION, Rows, config, for_format, ints, launch, room, values};
use crate::{Attention, Visible};

const THREADS: usize = 128;
/// Widest head: `WIDTH` of the kernel.
const MAX_WIDTH: usize = 128;

/// Queries of a block, which tensor cores take more of.
fn queries_of_a_block(dtype: DType) -> usize {
    if dtype == DType::F32 { 32 } else { 64 }
}

pub(crate) fn attention(
    op: &Attention,
    (q, q_layout): (&CudaStorage, &Layout),
    (k, k_layout): (&CudaStorage, &Layout),
    (v, v_layout): (&CudaStorage, &Layout),
) -> Result<(CudaStorage, Shape)> {
    const NAME: &str = "attention";
    let (batch, time, width) = q_layout.shape().dims3()?;
    if k_layout.dims()[2] != width || v_layout.dims()[2] != width {
        bail!("{NAME}: queries {q_layout:?}, keys {k_layout:?}, values {v_layout:?}");
    }
    op.queries.check_shape(NAME, q_layout.shape())?;
    op.keys.check_shape(NAME, k_layout.shape())?;
    op.keys.check_shape(NAME, v_layout.shape())?;
    let head_width = width / op.heads;
    if head_width > MAX_WIDTH {
        bail!("{NAME}: heads of {head_width} on a GPU, where {MAX_WIDTH} is the most");
    }
    let [time32, heads, width32] = ints(NAME, [time, op.heads, head_width])?;
    let (device, scale) = (&q.device, (head_width as f32).powf(-0.5));
    let (query_lengths, key_lengths) = (op.queries.on(device)?, op.keys.on(device)?);
    let (query_lengths, _) = query_lengths.storage_and_layout();
    let (key_lengths, _) = key_lengths.storage_and_layout();
    let query_lengths = values::<u32>(NAME, &query_lengths, device)?;
    let key_lengths = values::<u32>(NAME, &key_lengths, device)?;
    // The kernel's kinds; the last comes with an index for each item.
    let (visible, splits) = match &op.visible {
        Visible::All => (0i32, None),
        Visible::Past => (1, None),
        Visible::Split(indexes) => {
            let indexes: Vec<u32> =
                indexes.iter().map(|&index| index.min(i32::MAX as usize) as u32).collect();
            (2, Some(device.clone_htod(&indexes)?))
        }
    };
    let stream = device.cuda_stream();
    let splits = splits.as_ref().map(|splits| splits.device_ptr(&stream));
    let splits = splits.as_ref().map_or(0, |(pointer, _)| *pointer);
    let grid = [time.div_ceil(queries_of_a_block(q.dtype())), op.heads, batch];
    for_format!(NAME, q, T => {
        let Rows { values: q, strides: [q_item, q_row] } = Rows::<T>::new(NAME, q, q_layout)?;
        let Rows { values: k, strides: [k_item, k_row] } = Rows::<T>::new(NAME, k, k_layout)?;
        let Rows { values: v, strides: [v_item, v_row] } = Rows::<T>::new(NAME, v, v_layout)?;
        let y = room::<T>(device, batch * time * width)?;
        if batch * time * head_width > 0 {
            let function = ATTENTION.function::<T>(device, "")?;
            let config = config(grid, THREADS)?;
            launch!(ATTENTION, function, device, config, [
                &q, &k, &v, query_lengths, key_lengths, &splits, &y, &q_item, &q_row, &k_item, &k_row, &v_item, &v_row,
                &time32, &heads, &width32, &visible, &scale,
            ]);
        }
        Ok((CudaStorage::wrap_cuda_slice(y, device.clone()), q_layout.shape().clone()))
    })
}
