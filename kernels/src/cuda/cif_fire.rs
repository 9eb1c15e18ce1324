use candle_core::cuda::WrapErr;
use candle_core::cuda::cudarc::driver::PushKernelArg;
use candle_core::{CudaStorage, Device, Layout, Result, Shape, Tensor};

use super::{CIF_FIRE, config, contiguous, ints, launch, values};
use crate::{Cif, CifFire, Fired, Integration};

/// Threads of an item.
const THREADS: usize = 256;

/// How a track lies in a row of f32: planes of alphas, peaks, frames of the firings and their rests, each `columns` wide; then the
/// numbers of alphas, firings, tokens and frames. They are below 2^24.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packed {
    pub(super) columns: usize,
}

impl Packed {
    const PLANES: usize = 4;
    const COUNTS: usize = 4;

    fn width(self) -> usize {
        Self::PLANES * self.columns + Self::COUNTS
    }

    fn of(packed: &Tensor) -> Result<Self> {
        Ok(Self { columns: (packed.dim(1)? - Self::COUNTS) / Self::PLANES })
    }

    fn unpack(self, row: &[f32]) -> Cif {
        let (planes, counts) = row.split_at(Self::PLANES * self.columns);
        let plane = |i: usize| &planes[i * self.columns..][..self.columns];
        let [known, fired, token_num, frames] = [0, 1, 2, 3].map(|i| counts[i] as usize);
        let fires = plane(2).iter().zip(plane(3)).take(fired);
        Cif {
            token_num,
            alphas: plane(0)[..known].to_vec(),
            peaks: plane(1)[..known].to_vec(),
            fires: fires.map(|(&frame, &rest)| (frame as usize, rest)).collect(),
            frames,
        }
    }

    fn pack(self, track: &Cif, row: &mut [f32]) {
        let (planes, counts) = row.split_at_mut(Self::PLANES * self.columns);
        for (i, values) in [&track.alphas, &track.peaks].into_iter().enumerate() {
            planes[i * self.columns..][..values.len()].copy_from_slice(values);
        }
        for (i, &(frame, rest)) in track.fires.iter().enumerate() {
            (planes[2 * self.columns + i], planes[3 * self.columns + i]) = (frame as f32, rest);
        }
        let numbers = [track.alphas.len(), track.fires.len(), track.token_num, track.frames];
        counts.copy_from_slice(&numbers.map(|number| number as f32));
    }
}

/// The [`Packed`] track of each item.
pub(crate) fn cif_fire(
    op: &CifFire,
    (logits, layout): (&CudaStorage, &Layout),
) -> Result<(CudaStorage, Shape)> {
    const NAME: &str = "cif-fire";
    op.lengths.check_shape(NAME, layout.shape())?;
    let (batch, time) = layout.shape().dims2()?;
    let packed = Packed { columns: op.lengths.max() + usize::from(op.tail.is_some()) };
    let device = &logits.device;
    let [time, columns, _] = ints(NAME, [time, packed.columns, packed.width()])?;
    let lengths = op.lengths.on(device)?;
    let (lengths, _) = lengths.storage_and_layout();
    let lengths = values::<u32>(NAME, &lengths, device)?;
    let logits = contiguous::<f32>(NAME, logits, layout)?;
    // Peaks and firings are written as far as there are any.
    let y = device.alloc_zeros::<f32>(batch * packed.width())?;
    let ([smooth, noise], tail) = (op.scale, op.tail.unwrap_or(-1.0));
    let stepwise = i32::from(op.integration == Integration::Stepwise);
    let function = CIF_FIRE.function::<f32>(device, "")?;
    launch!(
        CIF_FIRE,
        function,
        device,
        config([batch, 1, 1], THREADS)?,
        [&logits, lengths, &y, &time, &columns, &smooth, &noise, &tail, &stepwise,]
    );
    Ok((CudaStorage::wrap_cuda_slice(y, device.clone()), Shape::from((batch, packed.width()))))
}

/// What the kernel wrote, read: the one time that the host waits for the device within a forward.
pub(crate) fn read_tracks(packed: Tensor) -> Result<Fired> {
    let (rows, layout) = (packed.to_vec2()?, Packed::of(&packed)?);
    let tracks = rows.iter().map(|row: &Vec<f32>| layout.unpack(row)).collect();
    Ok(Fired { tracks, packed: Some(packed) })
}

/// The tracks where the kernel of the sums reads them: uploaded, unless they were found there.
pub(super) fn packed(fired: &Fired, device: &Device) -> Result<(Tensor, Packed)> {
    if let Some(packed) = &fired.packed {
        return Ok((packed.clone(), Packed::of(packed)?));
    }
    let columns = fired.tracks.iter().map(|track| track.alphas.len()).max().unwrap_or(0);
    let layout = Packed { columns };
    let mut rows = vec![0f32; fired.tracks.len() * layout.width()];
    let items = fired.tracks.iter().zip(rows.chunks_exact_mut(layout.width()));
    items.for_each(|(track, row)| layout.pack(track, row));
    Ok((Tensor::from_vec(rows, (fired.tracks.len(), layout.width()), device)?, layout))
}
