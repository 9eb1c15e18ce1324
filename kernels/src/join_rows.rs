//! What streams remember of their layers, and their new rows behind it.

use std::mem::MaybeUninit;
use std::ops::Range;
#[cfg(feature = "cuda")]
use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Result, Shape, Storage, Tensor, bail};
#[cfg(feature = "cuda")]
use candle_core::{CudaStorage, cuda::cudarc::driver::CudaSlice};
use rayon::prelude::*;

use crate::cpu;
#[cfg(feature = "cuda")]
use crate::cuda;

/// Joined rows that one thread copies at a time.
const BLOCK_ROWS: usize = 64;

/// How one stream is joined: zero rows, its remembered rows, new rows, zero rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Join {
    /// Zero rows in front.
    pub lead: usize,
    /// Remembered rows M.
    pub past: usize,
    /// New rows.
    pub fresh: usize,
    /// Zero rows behind.
    pub trail: usize,
    /// The K joined rows that are remembered next.
    pub keep: Range<usize>,
}

impl Join {
    /// Rows once joined.
    pub fn rows(&self) -> usize {
        self.lead + self.past + self.fresh + self.trail
    }
}

/// One step of some streams through some layers, of which each joins what it remembers with its new rows.
#[derive(Debug)]
pub struct JoinRows {
    pub(crate) joins: Vec<Join>,
    /// What each stream remembers, `[layers, M, W]`; none where M is 0.
    pub(crate) past: Vec<Option<Tensor>>,
    layers: usize,
    /// Layers that are done.
    pub(crate) layer: usize,
    /// What each remembers next of those.
    kept: Kept,
    /// Width and format of all rows, once there are new ones.
    kind: Option<(usize, DType)>,
    /// Where the kernel finds the rows of each stream, once the first layer has been launched.
    #[cfg(feature = "cuda")]
    pub(crate) table: OnceLock<CudaSlice<i64>>,
}

#[derive(Debug)]
enum Kept {
    /// No layer is done.
    Nothing,
    /// On the CPU: the rows of one layer after the other.
    Values(Vec<Vec<f32>>),
    /// `[layers, K, W]`, filled layer by layer; none where K is 0.
    Tensors(Vec<Option<Tensor>>),
}

impl JoinRows {
    /// Streams that are joined as `joins` say, in so many layers; `past` is what each remembers, `[layers, M, W]`, none where M is 0.
    ///
    /// # Errors
    /// Pasts that are not what the joins say.
    pub fn new(joins: Vec<Join>, past: Vec<Option<Tensor>>, layers: usize) -> Result<Self> {
        if past.len() != joins.len() {
            bail!("join-rows: {} joins and {} pasts", joins.len(), past.len());
        }
        for (join, past) in joins.iter().zip(&past) {
            let fits = match past.as_ref().map(Tensor::dims) {
                Some(dims) => dims.len() == 3 && dims[..2] == [layers, join.past],
                None => join.past == 0,
            };
            if !fits {
                let past = past.as_ref().map(Tensor::shape);
                bail!("join-rows: {join:?} and past {past:?} of {layers} layers do not fit");
            }
        }
        Ok(Self {
            joins,
            past,
            layers,
            layer: 0,
            kept: Kept::Nothing,
            kind: None,
            #[cfg(feature = "cuda")]
            table: OnceLock::new(),
        })
    }

    /// The next layer: new rows `[B, T, W]`, of which each stream has as many as its join says -> `[B, N, W]`, N the most joined
    /// rows of a stream; the others have zeros behind theirs.
    ///
    /// # Errors
    /// Rows that do not fit, rows to be kept that are none, more layers than were said.
    pub fn forward(&mut self, fresh: &Tensor) -> Result<Tensor> {
        self.check(fresh)?;
        if matches!(self.kept, Kept::Nothing) {
            self.kept = self.room(fresh)?;
        }
        let joined = if cpu::is_fast(fresh) {
            let fresh = if fresh.stride()[2] == 1 { fresh.clone() } else { fresh.contiguous()? };
            fresh.apply_op1_no_bwd(&Layer(self))?
        } else {
            self.reference(fresh)?
        };
        self.keep(&joined)?;
        self.layer += 1;
        Ok(joined)
    }

    /// The definition of the next layer, in plain candle operations; nothing is kept.
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

    /// What each stream remembers after the last layer, `[layers, K, W]`; none where K is 0.
    ///
    /// # Errors
    /// Layers that were not joined.
    pub fn close(self) -> Result<Vec<Option<Tensor>>> {
        if self.layer != self.layers {
            bail!("join-rows: {} of {} layers were joined", self.layer, self.layers);
        }
        match self.kept {
            Kept::Nothing => Ok(vec![None; self.joins.len()]),
            Kept::Tensors(kept) => Ok(kept),
            Kept::Values(kept) => {
                let width = self.kind.map_or(0, |(width, _)| width);
                let tensor = |(kept, join): (Vec<f32>, &Join)| {
                    let shape = (self.layers, join.keep.len(), width);
                    (!kept.is_empty()).then(|| Tensor::from_vec(kept, shape, &Device::Cpu)).transpose()
                };
                kept.into_iter().zip(&self.joins).map(tensor).collect()
            }
        }
    }

    /// N.
    pub(crate) fn rows(&self) -> usize {
        self.joins.iter().map(Join::rows).max().unwrap_or(0)
    }

    /// What each stream keeps, where the kernel is to write it.
    #[cfg(feature = "cuda")]
    pub(crate) fn kept_tensors(&self) -> &[Option<Tensor>] {
        match &self.kept {
            Kept::Tensors(kept) => kept,
            _ => &[],
        }
    }

    /// Room for what is kept of rows like `fresh`.
    fn room(&self, fresh: &Tensor) -> Result<Kept> {
        let width = fresh.dim(2)?;
        if cpu::is_fast(fresh) && fresh.device().is_cpu() {
            let room = |join: &Join| Vec::with_capacity(self.layers * join.keep.len() * width);
            return Ok(Kept::Values(self.joins.iter().map(room).collect()));
        }
        let room = |join: &Join| {
            let shape = (self.layers, join.keep.len(), width);
            // SAFETY: numbers of any bits are values, and each layer is written before `close` gives the whole away.
            #[allow(unsafe_code)]
            let room = || unsafe { Tensor::empty(shape, fresh.dtype(), fresh.device()) };
            (!join.keep.is_empty()).then(room).transpose()
        };
        Ok(Kept::Tensors(self.joins.iter().map(room).collect::<Result<_>>()?))
    }

    /// Notes what is kept of a layer that was joined.
    fn keep(&mut self, joined: &Tensor) -> Result<()> {
        match &mut self.kept {
            Kept::Values(kept) => {
                let (_, rows, width) = joined.dims3()?;
                let (storage, _) = joined.storage_and_layout();
                let Storage::Cpu(storage) = &*storage else { bail!("join-rows: rows on another device") };
                let streams = storage.as_slice::<f32>()?.par_chunks_exact((rows * width).max(1));
                kept.par_iter_mut().zip(&self.joins).zip(streams).for_each(|((kept, join), stream)| {
                    kept.extend_from_slice(&stream[join.keep.start * width..join.keep.end * width]);
                });
            }
            // The kernel has written it.
            Kept::Tensors(_) if cpu::is_fast(joined) => {}
            Kept::Tensors(kept) => {
                for (b, (kept, join)) in kept.iter().zip(&self.joins).enumerate() {
                    let Some(kept) = kept else { continue };
                    let rows = joined.narrow(0, b, 1)?.narrow(1, join.keep.start, join.keep.len())?;
                    kept.slice_set(&rows.contiguous()?, 0, self.layer)?;
                }
            }
            Kept::Nothing => {}
        }
        Ok(())
    }

    /// Whether the next layer can have these new rows.
    fn check(&mut self, fresh: &Tensor) -> Result<()> {
        let ((batch, time, width), rows) = (fresh.dims3()?, self.rows());
        let kind = (width, fresh.dtype());
        let first = *self.kind.get_or_insert(kind);
        if first != kind {
            bail!("join-rows: rows of {kind:?} after rows of {first:?}");
        }
        if batch != self.joins.len() || self.layer == self.layers {
            let (streams, layers) = (self.joins.len(), self.layers);
            bail!(
                "join-rows: new rows {:?} after {} of {layers} layers of {streams} streams",
                fresh.shape(),
                self.layer
            );
        }
        for (join, past) in self.joins.iter().zip(&self.past) {
            let as_wide = past.as_ref().is_none_or(|past| past.dims()[2] == width);
            let kept = join.keep.start <= join.keep.end && join.keep.end <= rows;
            if !as_wide || !kept || join.fresh > time {
                let (past, fresh) = (past.as_ref().map(Tensor::shape), fresh.shape());
                bail!(
                    "join-rows: {join:?} of at most {rows} rows, past {past:?} and new rows {fresh:?} do not fit"
                );
            }
        }
        Ok(())
    }
}

/// The next layer, as an op.
struct Layer<'a>(&'a JoinRows);

impl CustomOp1 for Layer<'_> {
    fn name(&self) -> &'static str {
        "join-rows"
    }

    fn cpu_fwd(&self, fresh: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let Self(op) = self;
        let fresh = cpu::Rows::new("join-rows", fresh, layout)?;
        let (rows, width) = (op.rows(), fresh.width);
        let held: Vec<_> = op.past.iter().map(|past| past.as_ref().map(Tensor::storage_and_layout)).collect();
        let mut past: Vec<&[f32]> = Vec::with_capacity(held.len());
        for held in &held {
            past.push(match held {
                Some((storage, layout)) => layer(storage, layout, op.layer)?,
                None => &[],
            });
        }
        let row = |b: usize, t: usize| {
            let join = &op.joins[b];
            let t = t.checked_sub(join.lead)?;
            match t.checked_sub(join.past) {
                None => Some(&past[b][t * width..][..width]),
                Some(new) => (new < join.fresh).then(|| fresh.row(b, new)),
            }
        };
        let y = cpu::filled([op.joins.len() * rows, width], 1..=BLOCK_ROWS, |y, first| {
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
        Ok((CpuStorage::F32(y), Shape::from((op.joins.len(), rows, width))))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, fresh: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        cuda::join_rows(self.0, (fresh, layout))
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
