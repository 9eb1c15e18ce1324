//! Segments of different lengths in padded batches.

use candle_core::Tensor;

use crate::device::Compute;
use crate::error::{Error, Result, catch};
use crate::frontend::Features;
use crate::nn::Lengths;

/// Groups `lengths` (any unit) so that each group, padded to its longest, stays within `budget`, and neighbours in
/// length share a group: little is padding. A length beyond the budget has a group of its own. Returns indices.
pub fn bucket(lengths: &[usize], budget: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&i| lengths[i]);
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for i in order {
        match groups.last_mut() {
            Some(group) if (group.len() + 1).saturating_mul(lengths[i]) <= budget => group.push(i),
            _ => groups.push(vec![i]),
        }
    }
    groups
}

/// Does `work` on all items together. If that fails or panics, it is done on each half, and so on: none fails for another, and
/// a batch that memory has no room for is done in parts that fit. A `work` that fails must have changed nothing.
pub fn confined<T, R>(items: &mut [T], work: &dyn Fn(&mut [T]) -> Result<Vec<R>>) -> Vec<Result<R>> {
    if items.is_empty() {
        return Vec::new();
    }
    match catch(|| work(items)) {
        Ok(results) => results.into_iter().map(Ok).collect(),
        Err(error) if items.len() == 1 => vec![Err(error)],
        Err(_) => {
            let (first, second) = items.split_at_mut(items.len() / 2);
            let mut results = confined(first, work);
            results.extend(confined(second, work));
            results
        }
    }
}

/// The result of a batch of one.
pub fn only<R>(mut results: Vec<R>) -> Result<R> {
    results.pop().ok_or_else(|| Error::inference("a batch of one has no result"))
}

/// Feature rows as one tensor `[B, T, D]` of the device's format, zero after the end of each item.
pub fn pad(items: &[&Features], compute: &Compute) -> Result<(Tensor, Lengths)> {
    let (rows, lengths) = pad_f32(items, compute)?;
    Ok((rows.to_dtype(compute.dtype)?, lengths))
}

/// [`pad`] in f32.
pub(super) fn pad_f32(items: &[&Features], compute: &Compute) -> Result<(Tensor, Lengths)> {
    let width = items.first().map_or(0, |item| item.width);
    let lengths = Lengths::new(items.iter().map(|item| item.frames()).collect::<Vec<_>>());
    let stride = lengths.max() * width;
    let fill = |values: &mut [f32]| {
        for (item, values) in items.iter().zip(values.chunks_mut(stride.max(1))) {
            let (rows, padding) = values.split_at_mut(item.values.len());
            rows.copy_from_slice(&item.values);
            padding.fill(0.0);
        }
    };
    Ok((compute.input([items.len(), lengths.max(), width], fill)?, lengths))
}
