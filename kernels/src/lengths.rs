//! Valid lengths of the utterances in a padded batch.

use std::sync::Arc;
#[cfg(feature = "cuda")]
use std::sync::OnceLock;

#[cfg(feature = "cuda")]
use candle_core::CudaDevice;
use candle_core::{DType, Device, Result, Shape, Tensor};

/// How many of the `max` time steps of each batch item are valid.
///
/// Ops use it to skip padding; [`Lengths::mask`] is the same as a tensor, for reference code.
#[derive(Debug, Clone)]
pub struct Lengths {
    items: Arc<[usize]>,
    max: usize,
    /// The items on a GPU, once an op has read them there: all layers of a model share them.
    #[cfg(feature = "cuda")]
    uploaded: Arc<OnceLock<Tensor>>,
}

impl PartialEq for Lengths {
    fn eq(&self, other: &Self) -> bool {
        (&self.items, self.max) == (&other.items, other.max)
    }
}

impl Eq for Lengths {}

impl Lengths {
    /// Lengths of a batch padded to its longest item.
    pub fn new(items: impl Into<Arc<[usize]>>) -> Self {
        let items = items.into();
        let max = items.iter().copied().max().unwrap_or(0);
        Self::of(items, max)
    }

    /// A batch of `batch` items that all fill `max` steps.
    pub fn full(batch: usize, max: usize) -> Self {
        Self::of(vec![max; batch].into(), max)
    }

    fn of(items: Arc<[usize]>, max: usize) -> Self {
        Self {
            items,
            max,
            #[cfg(feature = "cuda")]
            uploaded: Arc::default(),
        }
    }

    /// The lengths, one an item.
    pub fn items(&self) -> &[usize] {
        &self.items
    }

    /// The padded length T.
    pub fn max(&self) -> usize {
        self.max
    }

    /// Number of items B.
    pub fn batch(&self) -> usize {
        self.items.len()
    }

    /// True if at least one item is shorter than the batch.
    pub fn padded(&self) -> bool {
        self.items.iter().any(|&n| n < self.max)
    }

    /// 1 for valid and 0 for padded steps, `[B, T]`.
    pub fn mask(&self, dtype: DType, device: &Device) -> Result<Tensor> {
        let ones = self.items.iter().flat_map(|&n| (0..self.max).map(move |t| f32::from(t < n)));
        Tensor::from_vec(ones.collect::<Vec<_>>(), (self.batch(), self.max), device)?.to_dtype(dtype)
    }

    /// The lengths `[B]` (u32) on a GPU; uploaded for the first op that asks.
    #[cfg(feature = "cuda")]
    pub(crate) fn on(&self, device: &CudaDevice) -> Result<Tensor> {
        let here = |x: &Tensor| x.device().as_cuda_device().is_ok_and(|other| other.id() == device.id());
        if let Some(uploaded) = self.uploaded.get().filter(|uploaded| here(uploaded)) {
            return Ok(uploaded.clone());
        }
        let items: Vec<u32> = self.items.iter().map(|&n| n as u32).collect();
        let tensor = Tensor::from_vec(items, self.batch(), &Device::Cuda(device.clone()))?;
        // Another device may have been first.
        let first = self.uploaded.get_or_init(|| tensor.clone());
        Ok(if here(first) { first.clone() } else { tensor })
    }

    /// Fails unless `x` is `[B, T, ..]` of these lengths.
    pub fn check(&self, op: &str, x: &Tensor) -> Result<()> {
        self.check_shape(op, x.shape())
    }

    /// The same of a shape.
    pub(crate) fn check_shape(&self, op: &str, shape: &Shape) -> Result<()> {
        if shape.dims().get(..2) != Some(&[self.batch(), self.max]) {
            candle_core::bail!(
                "{op}: input {shape:?} does not fit the lengths [{}, {}, ..]",
                self.batch(),
                self.max
            );
        }
        Ok(())
    }
}
