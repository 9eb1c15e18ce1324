//! Valid lengths of the utterances in a padded batch.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};

/// How many of the `max` time steps of each batch item are valid.
///
/// Ops use it to skip padding; [`Lengths::mask`] is the same as a tensor, for reference code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lengths {
    items: Arc<[usize]>,
    max: usize,
}

impl Lengths {
    /// Lengths of a batch padded to its longest item.
    pub fn new(items: impl Into<Arc<[usize]>>) -> Self {
        let items = items.into();
        let max = items.iter().copied().max().unwrap_or(0);
        Self { items, max }
    }

    /// A batch of `batch` items that all fill `max` steps.
    pub fn full(batch: usize, max: usize) -> Self {
        Self { items: vec![max; batch].into(), max }
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

    /// Fails unless `x` is `[B, T, ..]` of these lengths.
    pub fn check(&self, op: &str, x: &Tensor) -> Result<()> {
        let (batch, time) = (x.dim(0)?, x.dim(1)?);
        if (batch, time) != (self.batch(), self.max) {
            candle_core::bail!(
                "{op}: input {:?} does not fit the lengths [{}, {}, ..]",
                x.shape(),
                self.batch(),
                self.max
            );
        }
        Ok(())
    }
}
