//! Writes `model.safetensors`, one block of elements in memory at a time.
//!
//! The file is written by hand, 8 bytes of header length, a JSON header and the elements, because the header must be
//! the same bytes for the same input and the elements must not all be in memory.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

use half::{bf16, f16, slice::HalfFloatSliceExt};
use serde::Serialize;

use crate::{
    Dtype,
    checkpoint::Checkpoint,
    cmvn::Cmvn,
    error::{Error, Result},
    torch::{Element, Tensor},
};

/// Everything that goes into the file.
pub(crate) struct Weights<'a> {
    pub(crate) checkpoint: &'a Checkpoint,
    pub(crate) cmvn: Option<&'a Cmvn>,
    pub(crate) dtype: Dtype,
    pub(crate) metadata: BTreeMap<String, String>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum HeaderEntry {
    Metadata(BTreeMap<String, String>),
    Tensor { dtype: &'static str, shape: Vec<u64>, data_offsets: [u64; 2] },
}

#[derive(Clone, Copy)]
enum Payload<'a> {
    Tensor(&'a Tensor),
    Values(&'a [f32]),
}

impl Payload<'_> {
    fn element(self, dtype: Dtype) -> Element {
        match self {
            Self::Tensor(tensor) if tensor.storage.element.is_float() => dtype.element(),
            Self::Tensor(tensor) => tensor.storage.element,
            // Normalisation happens in f32 whatever the network computes in.
            Self::Values(_) => Element::F32,
        }
    }

    fn shape(self) -> Vec<u64> {
        match self {
            Self::Tensor(tensor) => tensor.shape.clone(),
            Self::Values(values) => vec![values.len() as u64],
        }
    }

    fn len(self) -> u64 {
        match self {
            Self::Tensor(tensor) => tensor.len,
            Self::Values(values) => values.len() as u64,
        }
    }
}

impl Weights<'_> {
    /// # Errors
    /// A failing read or write, or a weight that the target type cannot hold.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let payloads = self.payloads();
        let header = self
            .header(&payloads)
            .map_err(|cause| Error::Io { path: path.to_owned(), source: cause.into() })?;
        let mut out = BufWriter::new(File::create(path).map_err(Error::io(path))?);
        let mut write = |bytes: &[u8]| out.write_all(bytes).map_err(Error::io(path));
        write(&(header.len() as u64).to_le_bytes())?;
        write(&header)?;
        for (name, payload) in payloads {
            match payload {
                Payload::Tensor(tensor) => self.write_tensor(name, tensor, &mut write)?,
                Payload::Values(values) => write(&encode(values, Dtype::F32))?,
            }
        }
        out.flush().map_err(Error::io(path))
    }

    /// Names and contents in file order: wide elements first, so that every tensor is aligned; then by name.
    fn payloads(&self) -> Vec<(&str, Payload<'_>)> {
        let tensors =
            self.checkpoint.tensors.iter().map(|(name, tensor)| (name.as_str(), Payload::Tensor(tensor)));
        let cmvn = self.cmvn.iter().flat_map(|cmvn| {
            [
                ("frontend.cmvn_scale", Payload::Values(&cmvn.scale)),
                ("frontend.cmvn_shift", Payload::Values(&cmvn.shift)),
            ]
        });
        let mut payloads: Vec<_> = tensors.chain(cmvn).collect();
        payloads
            .sort_by_key(|(name, payload)| (std::cmp::Reverse(payload.element(self.dtype).size()), *name));
        payloads
    }

    fn header(&self, payloads: &[(&str, Payload<'_>)]) -> serde_json::Result<Vec<u8>> {
        let mut entries = BTreeMap::from([("__metadata__", HeaderEntry::Metadata(self.metadata.clone()))]);
        let mut at = 0;
        for (name, payload) in payloads {
            let element = payload.element(self.dtype);
            let end = at + payload.len() * element.size();
            let (dtype, shape) = (element.safetensors_name(), payload.shape());
            entries.insert(name, HeaderEntry::Tensor { dtype, shape, data_offsets: [at, end] });
            at = end;
        }
        let mut header = serde_json::to_vec(&entries)?;
        // The elements start at a multiple of eight.
        header.resize(header.len().next_multiple_of(8), b' ');
        Ok(header)
    }

    fn write_tensor(
        &self,
        name: &str,
        tensor: &Tensor,
        mut write: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let from = tensor.storage.element;
        if !from.is_float() || from == self.dtype.element() {
            return self.checkpoint.stream(tensor, write);
        }
        self.checkpoint.stream(tensor, |block| {
            let bytes = cast(block, from, self.dtype).map_err(|value| {
                let dtype = self.dtype;
                self.checkpoint.refuse(name, format!("{value:e} is beyond the range of {dtype}"))
            })?;
            write(&bytes)
        })
    }
}

/// Little-endian floats of type `from` as little-endian floats of `to`.
///
/// # Errors
/// The first finite value that would become infinite.
fn cast(block: &[u8], from: Element, to: Dtype) -> std::result::Result<Vec<u8>, f64> {
    let (values, overflow) = match from {
        Element::F64 => {
            let wide: Vec<f64> = numbers(block, f64::from_le_bytes).collect();
            let narrow: Vec<f32> = wide.iter().map(|value| *value as f32).collect();
            let overflow = wide.iter().zip(&narrow).find(|(w, n)| w.is_finite() && !n.is_finite());
            (narrow.clone(), overflow.map(|(wide, _)| *wide))
        }
        Element::F16 => (numbers(block, f16::from_le_bytes).map(f32::from).collect(), None),
        Element::BF16 => (numbers(block, bf16::from_le_bytes).map(f32::from).collect(), None),
        _ => (numbers(block, f32::from_le_bytes).collect::<Vec<f32>>(), None),
    };
    let limit = to.largest();
    let overflow = overflow.or_else(|| {
        values.iter().find(|value| value.is_finite() && value.abs() > limit).map(|value| f64::from(*value))
    });
    match overflow {
        Some(value) => Err(value),
        None => Ok(encode(&values, to)),
    }
}

fn numbers<const N: usize, T>(block: &[u8], read: fn([u8; N]) -> T) -> impl Iterator<Item = T> {
    block.as_chunks::<N>().0.iter().map(move |bytes| read(*bytes))
}

fn encode(values: &[f32], to: Dtype) -> Vec<u8> {
    match to {
        Dtype::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        Dtype::F16 => {
            let mut narrow = vec![f16::ZERO; values.len()];
            narrow.convert_from_f32_slice(values);
            narrow.iter().flat_map(|value| value.to_le_bytes()).collect()
        }
        Dtype::BF16 => {
            let mut narrow = vec![bf16::ZERO; values.len()];
            narrow.convert_from_f32_slice(values);
            narrow.iter().flat_map(|value| value.to_le_bytes()).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::{Element, cast};
    use crate::Dtype;

    #[test]
    fn casts_round_to_nearest_and_refuse_overflow() {
        let f32s = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>();
        let block = f32s(&[0.1, -65519.0, f32::INFINITY]);
        let expected = [0.1f32, -65504.0, f32::INFINITY].map(|v| f16::from_f32(v).to_le_bytes());
        assert_eq!(cast(&block, Element::F32, Dtype::F16).unwrap(), expected.concat());
        let bf16s = [0.1f32, -65519.0, f32::INFINITY].map(|v| bf16::from_f32(v).to_le_bytes());
        assert_eq!(cast(&block, Element::F32, Dtype::BF16).unwrap(), bf16s.concat());

        let f64s = |value: f64| value.to_le_bytes().to_vec();
        assert_eq!(cast(&f64s(0.1), Element::F64, Dtype::F32).unwrap(), 0.1f32.to_le_bytes());
        for (block, from, to, value) in [
            (f32s(&[1.0, 65520.0]), Element::F32, Dtype::F16, 65520.0),
            (f32s(&[-f32::MAX]), Element::F32, Dtype::BF16, f64::from(-f32::MAX)),
            (f64s(1e39), Element::F64, Dtype::F32, 1e39),
            (f64s(1e39), Element::F64, Dtype::F16, 1e39),
        ] {
            assert_eq!(cast(&block, from, to), Err(value));
        }
    }
}
