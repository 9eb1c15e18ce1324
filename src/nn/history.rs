//! What the layers of a stream remember from chunk to chunk, for many streams at once.
//!
//! Each layer puts the remembered rows of each stream before its new ones and remembers some of the result.
//! Streams come in any grouping, so each owns its rows. A step costs a few operations a layer, however many
//! streams it has: where every row comes from is worked out once, and each layer is one concatenation and two
//! look-ups by index.

use std::ops::Range;

use candle_core::{Device, Result, Tensor};

use super::Lengths;

/// The remembered rows of one stream, as many for each layer.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// `[layers, M, W]`; none where nothing is remembered.
    rows: Option<Tensor>,
}

impl History {
    /// `[layers, M, W]`, unless nothing is remembered.
    pub fn rows(&self) -> Option<&Tensor> {
        self.rows.as_ref()
    }

    /// Rows M of each layer.
    pub fn len(&self) -> usize {
        self.rows.as_ref().map_or(0, |rows| rows.dims()[1])
    }

    /// True if nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One step of one stream: zero rows, remembered rows, new rows and zero rows are joined, and a part is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Join {
    /// Zero rows in front.
    pub lead: usize,
    /// New rows.
    pub fresh: usize,
    /// Zero rows behind.
    pub trail: usize,
    /// What is remembered of the joined rows.
    pub keep: Range<usize>,
}

/// The histories of the streams of one step, gone through layer by layer.
#[derive(Debug)]
pub(super) struct Histories {
    /// `[layers, rows of all streams, W]`.
    past: Option<Tensor>,
    /// Row of `[past of the layer ; new rows ; zero row]` that each joined row is.
    joined: Tensor,
    lengths: Lengths,
    /// Joined row that each kept row is.
    kept: Option<Tensor>,
    kept_lengths: Vec<usize>,
    /// Kept rows of the layers so far.
    layers: Vec<Tensor>,
}

impl Histories {
    /// Streams that are joined as `joins` say; new rows come padded to the longest stream's.
    pub fn open(histories: &[&History], joins: &[Join], device: &Device) -> Result<Self> {
        let rows: Vec<&Tensor> = histories.iter().filter_map(|history| history.rows()).collect();
        let past = (!rows.is_empty()).then(|| Tensor::cat(&rows, 1)).transpose()?;
        let past_rows: usize = histories.iter().map(|history| history.len()).sum();
        let stride = joins.iter().map(|join| join.fresh).max().unwrap_or(0);
        let zero = past_rows + joins.len() * stride;
        let sources = sources(histories, joins, past_rows, stride, zero);
        let lengths = Lengths::new(sources.iter().map(Vec::len).collect::<Vec<_>>());

        let padded = |rows: &Vec<usize>| {
            rows.iter().copied().chain(std::iter::repeat(zero)).take(lengths.max()).collect::<Vec<_>>()
        };
        let joined = index(sources.iter().flat_map(padded), device)?;
        let kept = |(stream, join): (usize, &Join)| join.keep.clone().map(move |row| (stream, row));
        let kept: Vec<_> = joins.iter().enumerate().flat_map(kept).collect();
        let kept = kept.into_iter().map(|(stream, row)| stream * lengths.max() + row);
        let kept_lengths: Vec<usize> = joins.iter().map(|join| join.keep.len()).collect();
        let any = kept_lengths.iter().any(|&n| n > 0);
        let kept = any.then(|| index(kept, device)).transpose()?;
        Ok(Self { past, joined, lengths, kept, kept_lengths, layers: Vec::new() })
    }

    /// Rows of each stream once joined.
    pub fn lengths(&self) -> &Lengths {
        &self.lengths
    }

    /// The new rows `[B, T, W]` of the next layer -> joined rows `[B, N, W]`, zero after each stream's last.
    pub fn join(&mut self, fresh: &Tensor) -> Result<Tensor> {
        let (batch, _, width) = fresh.dims3()?;
        let zero = Tensor::zeros((1, width), fresh.dtype(), fresh.device())?;
        let past = self.past.as_ref().map(|past| past.get(self.layers.len())).transpose()?;
        let parts: Vec<Tensor> = past.into_iter().chain([fresh.reshape(((), width))?, zero]).collect();
        let joined = Tensor::cat(&parts, 0)?.index_select(&self.joined, 0)?;
        if let Some(kept) = &self.kept {
            self.layers.push(joined.index_select(kept, 0)?);
        }
        joined.reshape((batch, self.lengths.max(), width))
    }

    /// What each stream remembers after the last layer.
    pub fn close(self) -> Result<Vec<History>> {
        if self.layers.is_empty() {
            return Ok(vec![History::default(); self.kept_lengths.len()]);
        }
        let layers = Tensor::stack(&self.layers, 0)?;
        let mut start = 0;
        let own = |length: usize| {
            // A copy: a view would keep the rows of all streams alive.
            let rows = layers.narrow(1, start, length)?.force_contiguous()?;
            start += length;
            Ok(History { rows: (length > 0).then_some(rows) })
        };
        self.kept_lengths.into_iter().map(own).collect()
    }
}

/// Where the joined rows of each stream come from.
fn sources(
    histories: &[&History],
    joins: &[Join],
    past_rows: usize,
    stride: usize,
    zero: usize,
) -> Vec<Vec<usize>> {
    let mut start = 0;
    let mut stream = |(i, (history, join)): (usize, (&&History, &Join))| {
        let past = start..start + history.len();
        start = past.end;
        let fresh = past_rows + i * stride;
        let zeros = |count| std::iter::repeat_n(zero, count);
        zeros(join.lead).chain(past).chain(fresh..fresh + join.fresh).chain(zeros(join.trail)).collect()
    };
    histories.iter().zip(joins).enumerate().map(&mut stream).collect()
}

fn index(rows: impl Iterator<Item = usize>, device: &Device) -> Result<Tensor> {
    Tensor::new(rows.map(|row| row as u32).collect::<Vec<_>>(), device)
}
