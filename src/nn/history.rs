//! What the layers of a stream remember from chunk to chunk, for many streams at once.
//!
//! Each layer puts the remembered rows of each stream before its new ones and remembers some of the result.
//! Streams come in any grouping, so each owns its rows.

use std::ops::Range;

use candle_core::{Result, Tensor};
use funasr_kernels::{Join as RowJoin, JoinRows};

use super::Lengths;

/// The remembered rows of one stream, as many for each layer.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// `[layers, M, W]`; none where nothing is remembered.
    rows: Option<Tensor>,
}

impl History {
    /// Zeros `[layers, M, W]` of the kind of `like`.
    pub(super) fn zeros([layers, rows, width]: [usize; 3], like: &Tensor) -> Result<Self> {
        let zeros = || Tensor::zeros((layers, rows, width), like.dtype(), like.device());
        Ok(Self { rows: (rows > 0).then(zeros).transpose()? })
    }

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
    lengths: Lengths,
    rows: JoinRows,
}

impl Histories {
    /// Streams that are joined as `joins` say, in so many layers.
    pub fn open(histories: &[&History], joins: &[Join], layers: usize) -> Result<Self> {
        let join = |(history, join): (&&History, &Join)| RowJoin {
            lead: join.lead,
            past: history.len(),
            fresh: join.fresh,
            trail: join.trail,
            keep: join.keep.clone(),
        };
        let joins: Vec<RowJoin> = histories.iter().zip(joins).map(join).collect();
        let lengths = Lengths::new(joins.iter().map(RowJoin::rows).collect::<Vec<_>>());
        let past = histories.iter().map(|history| history.rows.clone()).collect();
        Ok(Self { lengths, rows: JoinRows::new(joins, past, layers)? })
    }

    /// Rows of each stream once joined.
    pub fn lengths(&self) -> &Lengths {
        &self.lengths
    }

    /// The new rows `[B, T, W]` of the next layer, padded to the longest stream's -> joined rows `[B, N, W]`, zero after each
    /// stream's last.
    pub fn join(&mut self, fresh: &Tensor) -> Result<Tensor> {
        self.rows.forward(fresh)
    }

    /// What each stream remembers after the last layer.
    pub fn close(self) -> Result<Vec<History>> {
        Ok(self.rows.close()?.into_iter().map(|rows| History { rows }).collect())
    }
}
