use candle_core::cuda::WrapErr;
use candle_core::cuda::cudarc::driver::{DevicePtr, PushKernelArg};
use candle_core::{CudaStorage, Layout, Result, Tensor, bail};

use super::{LINEAR_ENDING, config, contiguous, for_format, ints, launch, values};

const THREADS: usize = 256;
/// Bytes that a thread of the packed version takes.
const PACK: usize = 16;

/// `y = relu(y + bias + addends)` in place, `relu` if it is asked for.
pub(crate) fn linear_ending(
    addends: &[&Tensor],
    relu: bool,
    (y, y_layout): (&mut CudaStorage, &Layout),
    (bias, bias_layout): (&CudaStorage, &Layout),
) -> Result<()> {
    const NAME: &str = "linear";
    let count = y_layout.shape().elem_count();
    let width = y_layout.dims().last().copied().unwrap_or(0);
    if bias_layout.dims() != [width] || y_layout.contiguous_offsets() != Some((0, count)) {
        bail!("{NAME}: products {:?} and bias {:?} do not fit", y_layout.shape(), bias_layout.shape());
    }
    if addends.len() > 2 {
        bail!("{NAME}: {} addends on a GPU, where 2 are the most", addends.len());
    }
    if count == 0 {
        return Ok(());
    }
    let [width32, relu] = ints(NAME, [width, usize::from(relu)])?;
    let device = y.device.clone();
    let held: Vec<_> = addends.iter().map(|addend| addend.storage_and_layout()).collect();
    if let Some((_, layout)) =
        held.iter().find(|(_, layout)| layout.shape() != y_layout.shape() || !layout.is_contiguous())
    {
        let (addend, result) = (layout.shape(), y_layout.shape());
        bail!("{NAME}: an addend of shape {addend:?} does not fit the result {result:?}");
    }
    for_format!(NAME, y, T => {
        let pack = PACK / size_of::<T>();
        let offsets = held.iter().map(|(_, layout)| layout.start_offset()).chain([bias_layout.start_offset(), width]);
        let packed = offsets.into_iter().all(|offset| offset % pack == 0);
        let bias = contiguous::<T>(NAME, bias, bias_layout)?;
        let mut others = Vec::with_capacity(held.len());
        for (storage, layout) in &held {
            others.push(values::<T>(NAME, storage, &device)?.slice(layout.start_offset()..));
        }
        let stream = device.cuda_stream();
        let pointers: Vec<_> = others.iter().map(|addend| addend.device_ptr(&stream)).collect();
        let pointer = |i: usize| pointers.get(i).map_or(0, |(pointer, _)| *pointer);
        let (one, two) = (pointer(0), pointer(1));
        let (threads, variant) = if packed { (count / pack, "_packed") } else { (count, "") };
        let function = LINEAR_ENDING.function::<T>(&device, variant)?;
        let config = config([threads.div_ceil(THREADS), 1, 1], THREADS)?;
        let (count, y) = (count as i64, y.as_cuda_slice_mut::<T>()?);
        launch!(LINEAR_ENDING, function, device, config, [y, &bias, &one, &two, &count, &width32, &relu]);
        Ok(())
    })
}
