//! Where and in which number format a model runs.

use std::str::FromStr;
#[cfg(feature = "cuda")]
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
#[cfg(feature = "cuda")]
use funasr_kernels::{Uploads, open_cuda};

use crate::error::{Error, Result};

/// A device by name: `cpu`, `cuda:0`, `metal`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DeviceName {
    /// The processor.
    #[default]
    Cpu,
    /// The NVIDIA GPU of this number.
    Cuda(usize),
    /// The Apple GPU.
    Metal,
}

impl FromStr for DeviceName {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name.split_once(':').unwrap_or((name, "0")) {
            ("cpu", "0") => Ok(Self::Cpu),
            ("metal", "0") => Ok(Self::Metal),
            ("cuda", index) if index.parse::<usize>().is_ok() => Ok(Self::Cuda(index.parse().unwrap_or(0))),
            _ => Err(Error::Device(format!("unknown device `{name}`; known: cpu, cuda:N, metal"))),
        }
    }
}

impl std::fmt::Display for DeviceName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
            Self::Metal => f.write_str("metal"),
        }
    }
}

impl DeviceName {
    /// Opens the device. One that is absent, or for which this build has no support, is an error.
    ///
    /// # Errors
    /// [`Error::Device`], with what is missing.
    pub fn open(self) -> Result<Device> {
        let feature = match self {
            Self::Cuda(_) if !cfg!(feature = "cuda") => Some("cuda"),
            Self::Metal if !cfg!(feature = "metal") => Some("metal"),
            _ => None,
        };
        if let Some(feature) = feature {
            return Err(Error::Device(format!(
                "device {self}: this program was built without it; build with --features {feature} (docs/cuda.md)"
            )));
        }
        let absent = |e: candle_core::Error| {
            let cause = e.to_string();
            let cause = cause.lines().next().unwrap_or_default();
            Error::Device(format!("device {self} is not available: {cause}"))
        };
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda(index) => open_cuda(index).map_err(absent),
            Self::Metal => Device::new_metal(0).map_err(absent),
        }
    }
}

#[cfg(not(feature = "cuda"))]
fn open_cuda(index: usize) -> candle_core::Result<Device> {
    Device::new_cuda(index)
}

/// Number format of weights and activations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Precision {
    /// 32-bit floats.
    #[default]
    F32,
    /// 16-bit floats with the range of f32.
    Bf16,
    /// 16-bit floats.
    F16,
    /// Linear layers that bear it in 8-bit integers, all else in 32-bit floats; see [`crate::nn::Linear`].
    Int8,
}

impl FromStr for Precision {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "f32" => Ok(Self::F32),
            "bf16" => Ok(Self::Bf16),
            "f16" => Ok(Self::F16),
            "int8" => Ok(Self::Int8),
            _ => Err(Error::Device(format!("unknown dtype `{name}`; known: f32, bf16, f16, int8"))),
        }
    }
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::Int8 => "int8",
        })
    }
}

/// Behind the prefix of a layer, a name that a [`VarBuilder`](candle_nn::VarBuilder) contains if the layer is
/// to compute in 8 bits. Layers that lose too much by it do not ask.
pub const INT8_MARK: &str = "int8";

/// The same for layers that 8 bits cost too much, but bf16 does not: there if others compute in 8 bits.
pub const BF16_MARK: &str = "bf16";

/// Behind the prefix of a layer whose weight a file has in 8 bits: the tensor of its scales, `[out]`.
pub const STORED_SCALE: &str = "weight_scale";

/// An opened device with the number format used on it.
#[derive(Debug, Clone)]
pub struct Compute {
    /// The device.
    pub device: Device,
    /// The format of activations, and of weights where `int8` does not apply.
    pub dtype: DType,
    /// Whether linear layers round weights and activations to 8 bits.
    pub int8: bool,
    /// How inputs come to a CUDA device.
    #[cfg(feature = "cuda")]
    uploads: Option<Arc<Uploads>>,
}

impl Compute {
    /// Opens `device`; the CPU computes in f32 and int8, a GPU in floats.
    pub fn open(device: DeviceName, precision: Precision) -> Result<Self> {
        let fault = match (device, precision) {
            (DeviceName::Cpu, Precision::Bf16 | Precision::F16) => {
                Some(format!("the CPU computes in f32 or int8; dtype {precision} needs a GPU"))
            }
            (DeviceName::Cuda(_) | DeviceName::Metal, Precision::Int8) => {
                Some(format!("dtype int8 is for the CPU; device {device} computes in f32, bf16 or f16"))
            }
            _ => None,
        };
        if let Some(message) = fault {
            return Err(Error::Unsupported(message));
        }
        Self::on(device.open()?, precision)
    }

    /// Computes in `precision` on a device that is open.
    ///
    /// # Errors
    /// A GPU that does not take inputs.
    pub fn on(device: Device, precision: Precision) -> Result<Self> {
        let dtype = match precision {
            Precision::F32 | Precision::Int8 => DType::F32,
            Precision::Bf16 => DType::BF16,
            Precision::F16 => DType::F16,
        };
        #[cfg(feature = "cuda")]
        let uploads = device.is_cuda().then(|| Uploads::new(&device).map(Arc::new)).transpose()?;
        Ok(Self {
            device,
            dtype,
            int8: precision == Precision::Int8,
            #[cfg(feature = "cuda")]
            uploads,
        })
    }

    /// f32 on the processor.
    pub fn cpu() -> Self {
        Self {
            device: Device::Cpu,
            dtype: DType::F32,
            int8: false,
            #[cfg(feature = "cuda")]
            uploads: None,
        }
    }

    /// A tensor of f32 on the device of the values that `fill` writes, all of them. A CUDA device fetches them while it still computes
    /// what it was asked before.
    ///
    /// # Errors
    /// [`Error::Inference`]: no memory, or a device that fails.
    pub fn input<const N: usize>(&self, shape: [usize; N], fill: impl FnOnce(&mut [f32])) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if let Some(uploads) = &self.uploads {
            return Ok(uploads.upload(&shape[..], fill)?);
        }
        let mut values = vec![0.0; shape.iter().product()];
        fill(&mut values);
        Ok(Tensor::from_vec(values, &shape[..], &self.device)?)
    }

    /// The format that this is.
    pub fn precision(&self) -> Precision {
        match self.dtype {
            _ if self.int8 => Precision::Int8,
            DType::BF16 => Precision::Bf16,
            DType::F16 => Precision::F16,
            _ => Precision::F32,
        }
    }

    /// The format of layers that take bf16 where others take 8 bits, if this is a CPU that multiplies it.
    pub fn coarse_precision(&self) -> Precision {
        match self.precision() {
            Precision::Int8 if funasr_kernels::multiplies_bf16() => Precision::Bf16,
            Precision::Int8 => Precision::F32,
            precision => precision,
        }
    }

    /// The most bytes of a GPU's memory that this process has ever taken at a time; nothing for a device without memory of its
    /// own, or that does not tell.
    pub fn peak_device_bytes(&self) -> Option<u64> {
        #[cfg(feature = "cuda")]
        if self.device.is_cuda() {
            return funasr_kernels::peak_memory(&self.device).ok();
        }
        None
    }
}
