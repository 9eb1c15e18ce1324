use candle_core::cuda::WrapErr;
use candle_core::cuda::cudarc::driver::PushKernelArg;
use candle_core::{CudaStorage, Layout, Result, Shape, bail};

use super::{LAYER_NORM, WARP, config, contiguous, for_format, ints, launch, packed, room};
use crate::LayerNorm;

/// Rows of a block, one a warp.
pub(super) const ROWS: usize = 4;

pub(crate) fn layer_norm(
    op: &LayerNorm,
    (x, x_layout): (&CudaStorage, &Layout),
    (weight, weight_layout): (&CudaStorage, &Layout),
    (bias, bias_layout): (&CudaStorage, &Layout),
) -> Result<(CudaStorage, Shape)> {
    const NAME: &str = "layer-norm";
    let shape = x_layout.shape();
    let width = shape.dims().last().copied().unwrap_or(0);
    let (weight_shape, bias_shape) = (weight_layout.shape(), bias_layout.shape());
    if width == 0 || weight_shape.dims() != [width] || bias_shape.dims() != [width] {
        bail!("{NAME}: input {shape:?}, weight {weight_shape:?} and bias {bias_shape:?} do not fit");
    }
    let rows = shape.elem_count() / width;
    let [rows32, width32] = ints(NAME, [rows, width])?;
    let (device, eps) = (&x.device, op.eps as f32);
    for_format!(NAME, x, T => {
        let offsets = [x_layout, weight_layout, bias_layout].map(Layout::start_offset);
        let pack = packed::<T>(offsets.into_iter().chain([width]));
        let x = contiguous::<T>(NAME, x, x_layout)?;
        let weight = contiguous::<T>(NAME, weight, weight_layout)?;
        let bias = contiguous::<T>(NAME, bias, bias_layout)?;
        let y = room::<T>(device, rows * width)?;
        if rows > 0 {
            let function = LAYER_NORM.function::<T>(device, pack.variant)?;
            let config = config([rows.div_ceil(ROWS), 1, 1], ROWS * WARP)?;
            launch!(LAYER_NORM, function, device, config, [&x, &weight, &bias, &y, &rows32, &width32, &eps]);
        }
        Ok((CudaStorage::wrap_cuda_slice(y, device.clone()), shape.clone()))
    })
}
