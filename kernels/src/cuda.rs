//! Launching the kernels of `cuda/` on candle's device.
//!
//! One kernel is one file there and has one launcher here, which is the op's `cuda_fwd`: it checks what the kernel addresses by,
//! and fails where there is no kernel for what it gets. Nothing is computed elsewhere instead.

mod addends;
mod attention;
mod best;
mod cif_fire;
mod cif_sums;
mod device;
mod fsmn_memory;
mod join_rows;
mod layer_norm;
mod lfr_cmvn;
mod linear_ending;
mod lstm;
mod unfold;
mod uploads;

use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::cuda::CudaDType;
use candle_core::cuda::cudarc::driver::{CudaFunction, CudaSlice, CudaView, DeviceRepr, LaunchConfig};
use candle_core::{CudaDevice, CudaStorage, Layout, Result, Storage, bail};
use half::{bf16, f16};

pub(crate) use attention::attention;
pub(crate) use best::best;
pub(crate) use cif_fire::{cif_fire, read_tracks};
pub(crate) use cif_sums::cif_sums;
pub use device::{memory_in_use, open_cuda, peak_memory};
pub(crate) use fsmn_memory::fsmn_memory;
pub(crate) use join_rows::join_rows;
pub(crate) use layer_norm::layer_norm;
pub(crate) use lfr_cmvn::lfr_cmvn;
pub(crate) use linear_ending::{linear_ending, linear_norm};
pub(crate) use lstm::lstm;
pub(crate) use unfold::unfold;
pub use uploads::Uploads;

/// Threads of a warp.
const WARP: usize = 32;

/// What `build.rs` compiled, one constant a kernel.
mod ptx {
    include!(concat!(env!("OUT_DIR"), "/ptx.rs"));
}

/// A kernel in every number format.
struct Kernel {
    name: &'static str,
    ptx: &'static str,
    launches: AtomicU64,
}

static ATTENTION: Kernel = Kernel::new("attention", ptx::ATTENTION);
static BEST: Kernel = Kernel::new("best", ptx::BEST);
static CIF_FIRE: Kernel = Kernel::new("cif_fire", ptx::CIF_FIRE);
static CIF_SUMS: Kernel = Kernel::new("cif_sums", ptx::CIF_SUMS);
static FSMN_MEMORY: Kernel = Kernel::new("fsmn_memory", ptx::FSMN_MEMORY);
static JOIN_ROWS: Kernel = Kernel::new("join_rows", ptx::JOIN_ROWS);
static LAYER_NORM: Kernel = Kernel::new("layer_norm", ptx::LAYER_NORM);
static LFR_CMVN: Kernel = Kernel::new("lfr_cmvn", ptx::LFR_CMVN);
static LINEAR_ENDING: Kernel = Kernel::new("linear_ending", ptx::LINEAR_ENDING);
static LINEAR_NORM: Kernel = Kernel::new("linear_norm", ptx::LINEAR_NORM);
static LSTM_STEP: Kernel = Kernel::new("lstm_step", ptx::LSTM_STEP);
static UNFOLD: Kernel = Kernel::new("unfold", ptx::UNFOLD);

/// How often each kernel was launched by this process: tests read here that a model ran on them. Nothing else does.
pub fn launches() -> Vec<(&'static str, u64)> {
    let kernels = [
        &ATTENTION,
        &BEST,
        &CIF_FIRE,
        &CIF_SUMS,
        &FSMN_MEMORY,
        &JOIN_ROWS,
        &LAYER_NORM,
        &LFR_CMVN,
        &LINEAR_ENDING,
        &LINEAR_NORM,
        &LSTM_STEP,
        &UNFOLD,
    ];
    kernels.map(|kernel| (kernel.name, kernel.launches.load(Ordering::Relaxed))).to_vec()
}

impl Kernel {
    const fn new(name: &'static str, ptx: &'static str) -> Self {
        Self { name, ptx, launches: AtomicU64::new(0) }
    }

    /// The function for a number format; `variant` is between the names of the kernel and of the format.
    fn function<T: Format>(&self, device: &CudaDevice, variant: &str) -> Result<CudaFunction> {
        let name = format!("{}{variant}_{}", self.name, T::NAME);
        Ok(device.get_or_load_custom_func(&name, self.name, self.ptx)?.into_cuda_function())
    }
}

/// A number format that kernels exist in.
trait Format: CudaDType + DeviceRepr + 'static {
    /// What names of functions end in.
    const NAME: &'static str;
}

impl Format for f32 {
    const NAME: &'static str = "f32";
}

impl Format for f16 {
    const NAME: &'static str = "f16";
}

impl Format for bf16 {
    const NAME: &'static str = "bf16";
}

/// Evaluates `$body` with `$T` as the type of the numbers of a storage.
macro_rules! for_format {
    ($op:expr, $storage:expr, $T:ident => $body:expr) => {
        match candle_core::backend::BackendStorage::dtype(&*$storage) {
            candle_core::DType::F32 => {
                type $T = f32;
                $body
            }
            candle_core::DType::F16 => {
                type $T = half::f16;
                $body
            }
            candle_core::DType::BF16 => {
                type $T = half::bf16;
                $body
            }
            other => candle_core::bail!("{}: no kernel for numbers of {other:?}", $op),
        }
    };
}

/// Launches a function of a kernel with references to its arguments, in the order of its parameters.
macro_rules! launch {
    ($kernel:expr, $function:expr, $device:expr, $config:expr, [$($argument:expr),+ $(,)?]) => {{
        let stream = $device.cuda_stream();
        let mut launch = stream.launch_builder(&$function);
        $(launch.arg($argument);)+
        // SAFETY: launchers pass what the kernel declares, and have checked that all it addresses by sizes, strides and
        // lengths lies in its arguments.
        #[allow(unsafe_code)]
        let launched = unsafe { launch.launch($config) };
        launched.w()?;
        $kernel.launches.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }};
}

use {for_format, launch};

fn config(grid: [usize; 3], threads: usize) -> Result<LaunchConfig> {
    let [x, y, z] = grid.map(|count| count as u32);
    if grid[0] > i32::MAX as usize || grid[1..].iter().any(|&count| count > u16::MAX as usize) {
        bail!("cuda: a grid of {grid:?} blocks is too large");
    }
    Ok(LaunchConfig { grid_dim: (x, y, z), block_dim: (threads as u32, 1, 1), shared_mem_bytes: 0 })
}

/// How many values a thread takes at once, and what functions that do are called.
struct Pack {
    values: usize,
    variant: &'static str,
}

/// 16 bytes if rows of these widths begin at multiples of them, and arguments at these offsets; one value otherwise.
fn packed<T>(mut offsets_and_widths: impl Iterator<Item = usize>) -> Pack {
    let values = 16 / size_of::<T>();
    match offsets_and_widths.all(|place| place.is_multiple_of(values)) {
        true => Pack { values, variant: "_packed" },
        false => Pack { values: 1, variant: "" },
    }
}

/// Sizes as the kernels take them.
fn ints<const N: usize>(op: &str, sizes: [usize; N]) -> Result<[i32; N]> {
    if sizes.iter().any(|&size| i32::try_from(size).is_err()) {
        bail!("{op}: one of {sizes:?} is too large for a GPU");
    }
    Ok(sizes.map(|size| size as i32))
}

/// The values of a tensor that an op holds, which lies on this device.
fn values<'a, T: CudaDType>(op: &str, storage: &'a Storage, device: &CudaDevice) -> Result<&'a CudaSlice<T>> {
    match storage {
        Storage::Cuda(storage) if storage.device.id() == device.id() => storage.as_cuda_slice::<T>(),
        _ => bail!("{op}: an argument is on another device"),
    }
}

/// The values of an argument from its first one on.
fn view<'a, T: Format>(storage: &'a CudaStorage, layout: &Layout) -> Result<CudaView<'a, T>> {
    Ok(storage.as_cuda_slice::<T>()?.slice(layout.start_offset()..))
}

/// The same of a contiguous argument.
fn contiguous<'a, T: Format>(op: &str, storage: &'a CudaStorage, layout: &Layout) -> Result<CudaView<'a, T>> {
    if !layout.is_contiguous() {
        bail!("{op}: an argument of shape {:?} is not contiguous", layout.shape());
    }
    view(storage, layout)
}

/// A `[B, T, D]` argument whose rows are contiguous, wherever they lie.
struct Rows<'a, T> {
    values: CudaView<'a, T>,
    /// Values from one item, and from one row, to the next.
    strides: [i64; 2],
}

impl<'a, T: Format> Rows<'a, T> {
    fn new(op: &str, storage: &'a CudaStorage, layout: &Layout) -> Result<Self> {
        let (_, _, width) = layout.shape().dims3()?;
        let stride = layout.stride();
        if stride[2] != 1 && width > 1 {
            bail!("{op}: the rows of an argument of shape {:?} are not contiguous", layout.shape());
        }
        Ok(Self { values: view(storage, layout)?, strides: [stride[0] as i64, stride[1] as i64] })
    }
}

/// Room for `count` values, none of which are set.
#[allow(unsafe_code)]
fn room<T: Format>(device: &CudaDevice, count: usize) -> Result<CudaSlice<T>> {
    // SAFETY: floats of any bits are values, and the kernels that get this write all of it before anything reads it. There
    // is no allocation of nothing.
    unsafe { device.alloc::<T>(count.max(1)) }
}
