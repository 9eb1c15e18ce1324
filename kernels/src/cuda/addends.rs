//! Other tensors that a kernel adds to its result.

use std::ops::Deref;

use candle_core::cuda::cudarc::driver::DevicePtr;
use candle_core::{CudaDevice, Layout, Result, Shape, Storage, Tensor, bail};

use super::{Format, values};

/// What is added, locked.
pub(super) struct Addends<'a, S> {
    op: &'static str,
    held: Vec<(S, &'a Layout)>,
}

/// Those of a result.
pub(super) fn hold<'a>(
    op: &'static str,
    addends: &[&'a Tensor],
    result: &Shape,
) -> Result<Addends<'a, impl Deref<Target = Storage> + use<'a>>> {
    if addends.len() > 2 {
        bail!("{op}: {} addends on a GPU, where 2 are the most", addends.len());
    }
    let held: Vec<_> = addends.iter().map(|addend| addend.storage_and_layout()).collect();
    match held.iter().find(|(_, layout)| layout.shape() != result || !layout.is_contiguous()) {
        Some((_, layout)) => {
            bail!("{op}: an addend of shape {:?} does not fit the result {result:?}", layout.shape())
        }
        None => Ok(Addends { op, held }),
    }
}

impl<S: Deref<Target = Storage>> Addends<'_, S> {
    pub(super) fn offsets(&self) -> impl Iterator<Item = usize> {
        self.held.iter().map(|(_, layout)| layout.start_offset())
    }

    /// Their addresses on the device while `work` lasts; null for one that is not there.
    pub(super) fn pointers<T: Format>(
        &self,
        device: &CudaDevice,
        work: impl FnOnce([u64; 2]) -> Result<()>,
    ) -> Result<()> {
        let mut views = Vec::with_capacity(self.held.len());
        for (storage, layout) in &self.held {
            views.push(values::<T>(self.op, storage, device)?.slice(layout.start_offset()..));
        }
        let stream = device.cuda_stream();
        let pointers: Vec<_> = views.iter().map(|view| view.device_ptr(&stream)).collect();
        let pointer = |i: usize| pointers.get(i).map_or(0, |(pointer, _)| *pointer);
        work([pointer(0), pointer(1)])
    }
}
