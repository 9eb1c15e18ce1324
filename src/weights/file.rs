//! A safetensors file whose tensors are read when they are asked for.
//!
//! Every weight is laid out anew for its product (see `nn::Linear`), so a mapped file would stay in memory beside what was
//! made from it. Read tensor by tensor, a model takes its own size and that of one tensor more; and a file that is cut
//! short under a running program is an error, where a mapping is a signal.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use bytemuck::Pod;
use candle_core::{Device, Result, Tensor, WithDType, bail};
use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use crate::error::Error;

/// Most bytes of a header, as in the safetensors library.
const MAX_HEADER: u64 = 100_000_000;
/// Bytes before the header: its length.
const PREFIX: u64 = 8;

/// The tensors of a file, or of bytes that are compiled in.
pub(super) struct TensorFile {
    index: Metadata,
    /// Where the first tensor begins.
    start: u64,
    bytes: Bytes,
}

enum Bytes {
    File(Mutex<File>),
    Slice(&'static [u8]),
}

impl TensorFile {
    /// Opens a file and reads its header.
    pub fn open(path: &Path) -> crate::error::Result<Self> {
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        let size = file.metadata().map_err(|e| Error::io(path, e))?.len();
        Self::new(Bytes::File(Mutex::new(file)), size).map_err(|e| Error::weights(path, super::one_line(&e)))
    }

    /// Takes bytes that need not be aligned.
    pub fn embedded(bytes: &'static [u8]) -> Result<Self> {
        Self::new(Bytes::Slice(bytes), bytes.len() as u64)
    }

    fn new(bytes: Bytes, size: u64) -> Result<Self> {
        let mut length = [0; PREFIX as usize];
        bytes.read(0, &mut length)?;
        let length = u64::from_le_bytes(length);
        if length > MAX_HEADER || length > size {
            bail!("not a safetensors file: a header of {length} bytes in {size}");
        }
        let mut header = vec![0; length as usize];
        bytes.read(PREFIX, &mut header)?;
        let index: Metadata = serde_json::from_slice(&header)
            .map_err(|e| candle_core::Error::Msg(format!("not a safetensors file: {e}")))?;
        let start = PREFIX + length;
        let end = index.tensors().values().map(|info| info.data_offsets.1 as u64).max().unwrap_or(0);
        if start + end != size {
            bail!("the file has {size} bytes, and its header tells of {}", start + end);
        }
        Ok(Self { index, start, bytes })
    }

    /// What the file says of itself.
    pub fn metadata(&self) -> HashMap<String, String> {
        self.index.metadata().clone().unwrap_or_default()
    }

    pub fn names(&self) -> Vec<String> {
        self.index.tensors().into_keys().collect()
    }

    pub fn contains(&self, name: &str) -> bool {
        self.index.info(name).is_some()
    }

    /// Whether the tensor is one of 8-bit steps, see [`super::int8`].
    pub fn is_steps(&self, name: &str) -> bool {
        self.index.info(name).is_some_and(|info| info.dtype == Dtype::I8)
    }

    /// The tensor in the type that the file has it in; 8-bit steps as the bytes that they are, candle having no type for them.
    pub fn load(&self, name: &str, device: &Device) -> Result<Tensor> {
        let Some(info) = self.index.info(name) else { bail!("tensor `{name}` is missing") };
        match info.dtype {
            Dtype::F32 => self.values::<f32>(info, device),
            Dtype::F16 => self.values::<f16>(info, device),
            Dtype::BF16 => self.values::<bf16>(info, device),
            Dtype::F64 => self.values::<f64>(info, device),
            Dtype::I64 => self.values::<i64>(info, device),
            Dtype::U8 | Dtype::I8 => self.values::<u8>(info, device),
            Dtype::U32 => self.values::<u32>(info, device),
            other => bail!("tensor `{name}` holds {other:?}, which no model here has"),
        }
    }

    /// Elements are little-endian, as on every processor that this is built for.
    fn values<T: Pod + WithDType>(&self, info: &TensorInfo, device: &Device) -> Result<Tensor> {
        let mut values = vec![T::zeroed(); info.shape.iter().product()];
        self.bytes.read(self.start + info.data_offsets.0 as u64, bytemuck::cast_slice_mut(&mut values))?;
        Tensor::from_vec(values, info.shape.as_slice(), device)
    }
}

impl Bytes {
    /// Fills `place` with what lies from `start` on.
    fn read(&self, start: u64, place: &mut [u8]) -> Result<()> {
        match self {
            Self::File(file) => {
                let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
                file.seek(SeekFrom::Start(start))?;
                file.read_exact(place)?;
            }
            Self::Slice(bytes) => {
                let part = bytes.get(start as usize..).and_then(|rest| rest.get(..place.len()));
                let Some(part) = part else { bail!("{} bytes are missing", place.len()) };
                place.copy_from_slice(part);
            }
        }
        Ok(())
    }
}
