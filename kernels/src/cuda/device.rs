//! GPUs as the ops want them.

use std::ffi::c_void;

use candle_core::cuda::WrapErr;
use candle_core::cuda::cudarc::driver::{result, sys};
use candle_core::{CudaDevice, Device, Result};

/// Opens the GPU of this index.
///
/// All threads that compute on it put their work into one stream: what one thread has computed another may use, without any
/// event between them. [`Uploads`](super::Uploads) alone has another. Memory that is freed stays with the process, up to the
/// most that was ever in use, where the driver would give it back and take it anew for every batch.
///
/// # Errors
/// No such GPU, or a driver that does not fit.
#[allow(unsafe_code)]
pub fn open_cuda(index: usize) -> Result<Device> {
    let device = Device::new_cuda_with_stream(index)?;
    let cuda = device.as_cuda_device()?;
    // SAFETY: events order streams, and tensors are used in this one alone; uploads have memory and events of their own. No memory
    // of one device is used on another.
    unsafe { cuda.disable_event_tracking() };
    let (pool, mut threshold) = (pool(cuda)?, u64::MAX);
    let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the pool is the device's own; the attribute is a number of 64 bits, which lives until the call returns.
    unsafe { result::mem_pool::set_attribute(pool, attribute, (&raw mut threshold).cast::<c_void>()).w()? };
    Ok(device)
}

/// Where memory for tensors comes from.
#[allow(unsafe_code)]
fn pool(device: &CudaDevice) -> Result<sys::CUmemoryPool> {
    // SAFETY: the device was opened.
    unsafe { result::device::get_default_mem_pool(device.cuda_stream().context().cu_device()).w() }
}

/// The most bytes of the GPU's memory that tensors of this process have ever taken at a time.
///
/// # Errors
/// A device that is no CUDA device, or a driver that does not answer.
#[allow(unsafe_code)]
pub fn peak_memory(device: &Device) -> Result<u64> {
    let (pool, mut bytes) = (pool(device.as_cuda_device()?)?, 0u64);
    let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
    // SAFETY: the pool is the device's own; the attribute is a number of 64 bits, which lives until the call returns.
    unsafe { result::mem_pool::get_attribute(pool, attribute, (&raw mut bytes).cast::<c_void>()).w()? };
    Ok(bytes)
}

/// Bytes of the GPU's memory that are in use, by whomever.
///
/// # Errors
/// A device that is no CUDA device, or a driver that does not answer.
pub fn memory_in_use(device: &Device) -> Result<usize> {
    let (free, total) = device.as_cuda_device()?.cuda_stream().context().mem_get_info().w()?;
    Ok(total - free)
}
