use candle_core::cuda::WrapErr;
use candle_core::cuda::cudarc::driver::PushKernelArg;
use candle_core::{CudaStorage, Layout, Result, Shape, Tensor, bail};

use super::addends::hold;
use super::layer_norm::ROWS;
use super::{
    LINEAR_ENDING, LINEAR_NORM, WARP, config, contiguous, for_format, ints, launch, packed, room, values,
};
use crate::{Linear, Norm};

const NAME: &str = "linear";
const THREADS: usize = 256;

/// `y = relu(y + bias + addends)` in place, `relu` if the layer has one.
pub(crate) fn linear_ending(
    op: &Linear,
    (y, y_layout): (&mut CudaStorage, &Layout),
    (bias, bias_layout): (&CudaStorage, &Layout),
) -> Result<()> {
    let count = y_layout.shape().elem_count();
    let width = width(y_layout, bias_layout)?;
    if y_layout.contiguous_offsets() != Some((0, count)) {
        bail!("{NAME}: products {:?} are part of a tensor", y_layout.shape());
    }
    let addends = hold(NAME, op.addends, y_layout.shape())?;
    if count == 0 {
        return Ok(());
    }
    let [width32, relu] = ints(NAME, [width, op.relu().into()])?;
    let device = y.device.clone();
    for_format!(NAME, y, T => {
        let pack = packed::<T>(addends.offsets().chain([bias_layout.start_offset(), width]));
        let bias = contiguous::<T>(NAME, bias, bias_layout)?;
        addends.pointers::<T>(&device, |[one, two]| {
            let function = LINEAR_ENDING.function::<T>(&device, pack.variant)?;
            let config = config([(count / pack.values).div_ceil(THREADS), 1, 1], THREADS)?;
            let (count, y) = (count as i64, y.as_cuda_slice_mut::<T>()?);
            launch!(LINEAR_ENDING, function, device, config, [y, &bias, &one, &two, &count, &width32, &relu]);
            Ok(())
        })
    })
}

/// `[2, ..]`: that of `products`, and its norm.
pub(crate) fn linear_norm(
    op: &Linear,
    norm: &Norm,
    (products, layout): (&CudaStorage, &Layout),
    (layer_bias, layer_bias_layout): (&CudaStorage, &Layout),
) -> Result<(CudaStorage, Shape)> {
    let (shape, count) = (layout.shape(), layout.shape().elem_count());
    let width = width(layout, layer_bias_layout)?;
    let [(weight, weight_layout), (bias, bias_layout)] =
        [norm.weight, norm.bias].map(Tensor::storage_and_layout);
    let fits = |layout: &Layout| layout.dims() == [width] && layout.is_contiguous();
    if width == 0 || !fits(weight_layout) || !fits(bias_layout) {
        let [weight, bias] = [weight_layout, bias_layout].map(Layout::shape);
        bail!("{NAME}: a norm of weight {weight:?} and bias {bias:?} does not fit the result {shape:?}");
    }
    let addends = hold(NAME, op.addends, shape)?;
    let rows = count / width;
    let [rows32, width32, relu] = ints(NAME, [rows, width, op.relu().into()])?;
    let (device, eps) = (&products.device, norm.op.eps as f32);
    let both: Vec<usize> = [2].iter().chain(shape.dims()).copied().collect();
    for_format!(NAME, products, T => {
        let layouts = [layout, layer_bias_layout, weight_layout, bias_layout].map(Layout::start_offset);
        let pack = packed::<T>(addends.offsets().chain(layouts).chain([width]));
        let products = contiguous::<T>(NAME, products, layout)?;
        let layer_bias = contiguous::<T>(NAME, layer_bias, layer_bias_layout)?;
        let weight = values::<T>(NAME, &weight, device)?.slice(weight_layout.start_offset()..);
        let bias = values::<T>(NAME, &bias, device)?.slice(bias_layout.start_offset()..);
        let place = room::<T>(device, 2 * count)?;
        let (y, normed) = place.split_at(count);
        addends.pointers::<T>(device, |[one, two]| {
            if rows > 0 {
                let function = LINEAR_NORM.function::<T>(device, pack.variant)?;
                let config = config([rows.div_ceil(ROWS), 1, 1], ROWS * WARP)?;
                launch!(LINEAR_NORM, function, device, config, [
                    &products, &layer_bias, &one, &two, &relu, &weight, &bias, &y, &normed, &rows32, &width32, &eps,
                ]);
            }
            Ok(())
        })?;
        Ok((CudaStorage::wrap_cuda_slice(place, device.clone()), both.into()))
    })
}

/// Outputs of a layer.
fn width(products: &Layout, bias: &Layout) -> Result<usize> {
    let width = products.dims().last().copied().unwrap_or(0);
    if bias.dims() != [width] {
        bail!("{NAME}: products {:?} and bias {:?} do not fit", products.shape(), bias.shape());
    }
    Ok(width)
}
