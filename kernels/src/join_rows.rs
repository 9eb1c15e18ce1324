//! What streams remember of a layer, and their new rows behind it.

use std::mem::MaybeUninit;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Storage, Tensor, bail};

use crate::cpu;

/// Joined rows that one thread copies at a time.
const BLOCK_ROWS: usize = 64;

/// How one stream is joined: zero rows, its remembered rows, new rows, zero rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Join {
    /// Zero rows in front.
    pub lead: usize,
    /// Remembered rows M.
    pub past: usize,
    /// New rows.
    pub fresh: usize,
    /// Zero rows behind.
    pub trail: usize,
}

impl Join {
    /// Rows once joined.
    pub fn rows(&self) -> usize {
        self.lead + self.past + self.fresh + self.trail
    }
}

/// The join of one layer, for some streams.
#[derive(Debug, Clone, Copy)]
pub struct JoinRows<'a> {
    /// One a stream.
    pub joins: &'a [Join],
    /// What each remembers, `[layers, M, W]`; none where M is 0.
    pub past: &'a [Option<Tensor>],
    /// The layer.
    pub layer: usize,
}

impl JoinRows<'_> {
    /// New rows `[B, T, W]`, of which each stream has as many as its join says -> `[B, N, W]`, N the most joined rows of a stream;
    /// the others have zeros behind theirs.
    pub fn forward(&self, fresh: &Tensor) -> Result<Tensor> {
        self.check(fresh)?;
        if !cpu::is_f32_on_cpu(fresh) || !cpu::is_fast(fresh) {
            return self.reference(fresh);
        }
        let fresh = if fresh.stride()[2] == 1 { fresh.clone() } else { fresh.contiguous()? };
        fresh.apply_op1_no_bwd(self)
    }

    /// The definition, in plain candle operations.
    pub fn reference(&self, fresh: &Tensor) -> Result<Tensor> {
        let width = fresh.dim(2)?;
        let zeros = |rows: usize| Tensor::zeros((rows, width), fresh.dtype(), fresh.device());
        let stream = |(b, join): (usize, &Join)| {
            let past = self.past[b].as_ref().map(|past| past.get(self.layer)).transpose()?;
            let new = fresh.get(b)?.narrow(0, 0, join.fresh)?;
            let behind = zeros(join.trail + self.rows() - join.rows())?;
            let parts: Vec<Tensor> =
                [zeros(join.lead)?].into_iter().chain(past).chain([new, behind]).collect();
            Tensor::cat(&parts, 0)
        };
        let streams: Vec<Tensor> = self.joins.iter().enumerate().map(stream).collect::<Result<_>>()?;
        Tensor::stack(&streams, 0)
    }

    /// N.
    fn rows(&self) -> usize {
        self.joins.iter().map(Join::rows).max().unwrap_or(0)
    }

    fn check(&self, fresh: &Tensor) -> Result<()> {
        let (batch, time, width) = fresh.dims3()?;
        if self.joins.len() != batch || self.past.len() != batch {
            bail!("join-rows: {} joins and {} pasts for {batch} streams", self.joins.len(), self.past.len());
        }
        for (join, past) in self.joins.iter().zip(self.past) {
            let fits = match past {
                Some(past) => {
                    let (layers, rows, columns) = past.dims3()?;
                    self.layer < layers && (rows, columns) == (join.past, width)
                }
                None => join.past == 0,
            };
            if !fits || join.fresh > time {
                let past = past.as_ref().map(Tensor::shape);
                let (layer, fresh) = (self.layer, fresh.shape());
                bail!(
                    "join-rows: {join:?}, past {past:?} of layer {layer} and new rows {fresh:?} do not fit"
                );
            }
        }
        Ok(())
    }
}

impl CustomOp1 for JoinRows<'_> {
    fn name(&self) -> &'static str {
        "join-rows"
    }

    fn cpu_fwd(&self, fresh: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let fresh = cpu::Rows::new("join-rows", fresh, layout)?;
        let (rows, width) = (self.rows(), fresh.width);
        let held: Vec<_> =
            self.past.iter().map(|past| past.as_ref().map(Tensor::storage_and_layout)).collect();
        let mut past: Vec<&[f32]> = Vec::with_capacity(held.len());
        for held in &held {
            past.push(match held {
                Some((storage, layout)) => layer(storage, layout, self.layer)?,
                None => &[],
            });
        }
        let row = |b: usize, t: usize| {
            let join = &self.joins[b];
            let t = t.checked_sub(join.lead)?;
            match t.checked_sub(join.past) {
                None => Some(&past[b][t * width..][..width]),
                Some(new) => (new < join.fresh).then(|| fresh.row(b, new)),
            }
        };
        let y = cpu::filled([self.joins.len() * rows, width], 1..=BLOCK_ROWS, |y, first| {
            for (i, y) in (first..).zip(y.chunks_exact_mut(width)) {
                match row(i / rows, i % rows) {
                    Some(row) => {
                        y.write_copy_of_slice(row);
                    }
                    None => y.fill(MaybeUninit::new(0.0)),
                }
            }
            Ok(())
        })?;
        Ok((CpuStorage::F32(y), Shape::from((self.joins.len(), rows, width))))
    }
}

/// The rows of one layer of `[layers, M, W]`.
fn layer<'a>(storage: &'a Storage, layout: &Layout, layer: usize) -> Result<&'a [f32]> {
    match storage {
        Storage::Cpu(storage) => {
            let size = layout.shape().elem_count() / layout.dims()[0];
            Ok(&cpu::contiguous("join-rows", storage, layout)?[layer * size..][..size])
        }
        _ => bail!("join-rows: what is remembered is on another device"),
    }
}
