//! Inputs on their way to a GPU while it computes.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::cuda::WrapErr;
use candle_core::cuda::cudarc::driver::{CudaEvent, CudaStream, PinnedHostSlice};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, Device, Result, Shape, Storage, Tensor};

use super::room;

/// Uploads that may be on their way at a time.
const PLACES: usize = 3;

/// Copies inputs to a GPU in a stream of their own, so that those of the next batch come while this one is computed, and nobody
/// waits for what he has uploaded.
///
/// An input is written into pinned memory, from where the device fetches it into room of this stream; the stream of the work takes
/// it from there. It cannot be fetched right into a tensor: room for one is given in the order of the work, and may be in use
/// until the work comes there.
#[derive(Debug)]
pub struct Uploads {
    device: CudaDevice,
    stream: Arc<CudaStream>,
    places: [Mutex<Place>; PLACES],
    next: AtomicUsize,
}

/// Where an input waits to be fetched.
#[derive(Debug)]
struct Place {
    pinned: Option<PinnedHostSlice<f32>>,
    /// When the last one was.
    fetched: CudaEvent,
}

impl Uploads {
    /// A stream for uploads to a CUDA device.
    ///
    /// # Errors
    /// A device that is no CUDA device, or a driver that gives no stream.
    pub fn new(device: &Device) -> Result<Self> {
        let device = device.as_cuda_device()?.clone();
        let context = device.cuda_stream().context().clone();
        let place =
            || -> Result<_> { Ok(Mutex::new(Place { pinned: None, fetched: context.new_event(None).w()? })) };
        let places = [place()?, place()?, place()?];
        Ok(Self { stream: context.new_stream().w()?, device, places, next: AtomicUsize::new(0) })
    }

    /// A tensor of f32 whose values `fill` writes, all of them. It returns when they are written; the device fetches them later.
    ///
    /// # Errors
    /// No memory, or a driver that fails.
    pub fn upload(&self, shape: impl Into<Shape>, fill: impl FnOnce(&mut [f32])) -> Result<Tensor> {
        let shape = shape.into();
        let count = shape.elem_count();
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % PLACES;
        let mut place = self.places[turn].lock().unwrap_or_else(PoisonError::into_inner);
        let (work, fetches) = (self.device.cuda_stream(), &self.stream);
        place.fetched.synchronize().w()?;
        let values = place.room(count, fetches)?;
        fill(values);
        // SAFETY: floats of any bits are values, and all of these are fetched before anything reads them.
        #[allow(unsafe_code)]
        let mut staged = unsafe { fetches.alloc::<f32>(count.max(1)) }.w()?;
        fetches.memcpy_htod(&*values, &mut staged.slice_mut(..count)).w()?;
        place.fetched.record(fetches).w()?;
        work.wait(&place.fetched).w()?;
        let mut y = room::<f32>(&self.device, count)?;
        work.memcpy_dtod(&staged.slice(..count), &mut y).w()?;
        // Its room is given back in this stream, when the work has taken it.
        fetches.join(&work).w()?;
        drop(staged);
        let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(y, self.device.clone()));
        Ok(Tensor::from_storage(storage, shape, BackpropOp::none(), false))
    }
}

impl Place {
    /// So many values of pinned memory, from which everything has been fetched.
    #[allow(unsafe_code)]
    fn room(&mut self, count: usize, fetches: &CudaStream) -> Result<&mut [f32]> {
        let pinned = match self.pinned.take().filter(|pinned| pinned.len() >= count) {
            Some(pinned) => pinned,
            None => {
                let count = count.max(1).next_power_of_two();
                // SAFETY: floats of any bits are values, and no more of them is fetched than was written.
                unsafe { fetches.context().alloc_pinned::<f32>(count) }.w()?
            }
        };
        Ok(&mut self.pinned.insert(pinned).as_mut_slice().w()?[..count])
    }
}

impl Drop for Place {
    /// The device may still fetch from it.
    fn drop(&mut self) {
        let _ = self.fetched.synchronize();
    }
}
