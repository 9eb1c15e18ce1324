use candle_core::cuda::WrapErr;
use candle_core::cuda::cudarc::driver::PushKernelArg;
use candle_core::{CudaStorage, Layout, Result, Shape};

use super::{CIF_SUMS, config, contiguous, for_format, ints, launch, room};
use crate::CifSums;

/// Channels of a block.
const THREADS: usize = 128;

/// Alphas and fires are some numbers a frame and a token; the frames stay where they are.
pub(crate) fn cif_sums(op: &CifSums, (x, layout): (&CudaStorage, &Layout)) -> Result<(CudaStorage, Shape)> {
    const NAME: &str = "cif-sums";
    op.check(layout.shape())?;
    let (batch, frames, width) = layout.shape().dims3()?;
    let (tokens, columns) = (op.tokens, frames + 1);
    let mut alphas = vec![0f32; batch * columns];
    let (mut fires, mut rests) = (vec![0u32; batch * tokens], vec![0f32; batch * tokens]);
    for (i, item) in op.items.iter().enumerate() {
        alphas[i * columns..][..item.alphas.len()].copy_from_slice(item.alphas);
        for (j, &(frame, rest)) in item.fires.iter().enumerate() {
            (fires[i * tokens + j], rests[i * tokens + j]) = (frame as u32, rest);
        }
    }
    let counts: Vec<u32> = op.items.iter().map(|item| item.fires.len() as u32).collect();
    let device = &x.device;
    let (alphas, rests) = (device.clone_htod(&alphas)?, device.clone_htod(&rests)?);
    let (fires, counts) = (device.clone_htod(&fires)?, device.clone_htod(&counts)?);
    let [frames, columns, tokens32, width32] = ints(NAME, [frames, columns, tokens, width])?;
    for_format!(NAME, x, T => {
        let x = contiguous::<T>(NAME, x, layout)?;
        let y = room::<T>(device, batch * tokens * width)?;
        let function = CIF_SUMS.function::<T>(device, "")?;
        let config = config([width.div_ceil(THREADS), tokens, batch], THREADS)?;
        launch!(CIF_SUMS, function, device, config, [
            &x, &alphas, &fires, &rests, &counts, &y, &frames, &columns, &tokens32, &width32,
        ]);
        Ok((CudaStorage::wrap_cuda_slice(y, device.clone()), Shape::from((batch, tokens, width))))
    })
}
