//! Model files whose linear layers are stored in 8 bits.
//!
//! Such a layer has its `weight` as signed steps and its scales, one for each output, as `weight_scale`; see
//! [`funasr_kernels::Rounded`]. Which layers have is what their loading says: a model is loaded once in 8 bits, and what
//! it rounded is written.

use std::borrow::Cow;
use std::path::Path;

use bytemuck::cast_slice;
use candle_core::{DType, Device, Tensor};
use funasr_kernels::Rounded;
use safetensors::tensor::{Dtype, View};

use super::{ModelFiles, WEIGHTS_FILE, one_line, weights_name};
use crate::device::STORED_SCALE;
use crate::error::{Error, Result};

/// A tensor about to be written.
struct Stored {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl View for &Stored {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

impl ModelFiles {
    /// Writes the tensors to `directory`: weights of layers that computed in 8 bits when a model was built of these files as
    /// steps, everything else in f32.
    ///
    /// # Errors
    /// A layer whose weight 8 bits cannot hold; a failing read or write.
    pub fn write_int8(&self, directory: &Path) -> Result<()> {
        let fail = |e: candle_core::Error| Error::weights(weights_name(&self.origin), one_line(&e));
        let layers = self.rounded_layers();
        let mut stored = Vec::new();
        let mut names = self.tensors.names();
        names.sort_unstable();
        for name in names {
            let tensor = self.tensors.load(&name, &Device::Cpu).map_err(fail)?;
            let layer = name.strip_suffix(".weight").filter(|layer| layers.contains(*layer));
            match layer {
                Some(layer) => {
                    let rounded = Rounded::new(&floats(&tensor).map_err(fail)?).map_err(fail)?;
                    let (shape, bytes) = (tensor.dims().to_vec(), cast_slice(rounded.steps()).to_vec());
                    stored.push((name.clone(), Stored { dtype: Dtype::I8, shape, bytes }));
                    let (shape, bytes) =
                        (vec![rounded.scales().len()], cast_slice(rounded.scales()).to_vec());
                    stored.push((
                        format!("{layer}.{STORED_SCALE}"),
                        Stored { dtype: Dtype::F32, shape, bytes },
                    ));
                }
                None => {
                    let values = floats(&tensor).and_then(|t| t.flatten_all()?.to_vec1::<f32>());
                    let bytes = cast_slice(&values.map_err(fail)?).to_vec();
                    stored.push((name, Stored { dtype: Dtype::F32, shape: tensor.dims().to_vec(), bytes }));
                }
            }
        }
        let path = directory.join(WEIGHTS_FILE);
        let mut metadata = self.tensors.metadata();
        metadata.insert("dtype".to_owned(), "int8".to_owned());
        let views = stored.iter().map(|(name, tensor)| (name, tensor));
        safetensors::serialize_to_file(views, Some(metadata), &path).map_err(|e| Error::weights(&path, e))
    }
}

fn floats(tensor: &Tensor) -> candle_core::Result<Tensor> {
    tensor.to_dtype(DType::F32)
}
