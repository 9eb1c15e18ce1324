//! What the layers of a stream remember from chunk to chunk, for many streams at once.
//!
//! Each layer puts the remembered rows of each stream before its new ones and remembers some of the result.
//! Streams come in any grouping, so each owns its rows.

use std::ops::Range;

use candle_core::{DType, Device, Result, Storage, Tensor, bail};
use funasr_kernels::{Join as RowJoin, JoinRows};
use rayon::prelude::*;

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
    way: Way,
}

#[derive(Debug)]
enum Way {
    Copied(Copied),
    Indexed(Indexed),
}

impl Histories {
    /// Streams that are joined as `joins` say, for rows of the kind of `like`; new rows come padded to the longest stream's.
    pub fn open(histories: &[&History], joins: &[Join], like: &Tensor) -> Result<Self> {
        let rows = |(history, join): (&&History, &Join)| RowJoin {
            lead: join.lead,
            past: history.len(),
            fresh: join.fresh,
            trail: join.trail,
        };
        let rows: Vec<RowJoin> = histories.iter().zip(joins).map(rows).collect();
        let lengths = Lengths::new(rows.iter().map(RowJoin::rows).collect::<Vec<_>>());
        let way = if like.device().is_cpu() && like.dtype() == DType::F32 {
            Way::Copied(Copied::open(histories, joins, rows))
        } else {
            Way::Indexed(Indexed::open(histories, joins, &lengths, like.device())?)
        };
        Ok(Self { lengths, way })
    }

    /// Rows of each stream once joined.
    pub fn lengths(&self) -> &Lengths {
        &self.lengths
    }

    /// The new rows `[B, T, W]` of the next layer -> joined rows `[B, N, W]`, zero after each stream's last.
    pub fn join(&mut self, fresh: &Tensor) -> Result<Tensor> {
        match &mut self.way {
            Way::Copied(copied) => copied.join(fresh),
            Way::Indexed(indexed) => indexed.join(fresh, self.lengths.max()),
        }
    }

    /// What each stream remembers after the last layer.
    pub fn close(self) -> Result<Vec<History>> {
        match self.way {
            Way::Copied(copied) => copied.close(),
            Way::Indexed(indexed) => indexed.close(),
        }
    }
}

/// On the CPU: each row is copied where it belongs, once joined and once remembered.
#[derive(Debug)]
struct Copied {
    past: Vec<Option<Tensor>>,
    rows: Vec<RowJoin>,
    keep: Vec<Range<usize>>,
    /// What each stream remembers of the layers so far.
    kept: Vec<Vec<f32>>,
    layer: usize,
    width: usize,
}

impl Copied {
    fn open(histories: &[&History], joins: &[Join], rows: Vec<RowJoin>) -> Self {
        let keep: Vec<Range<usize>> = joins.iter().map(|join| join.keep.clone()).collect();
        let room = |(history, keep): (&&History, &Range<usize>)| {
            let size = history.rows().map_or(0, |rows| rows.elem_count() / rows.dims()[1]);
            Vec::with_capacity(size * keep.len())
        };
        let kept = histories.iter().zip(&keep).map(room).collect();
        let past = histories.iter().map(|history| history.rows().cloned()).collect();
        Self { past, rows, keep, kept, layer: 0, width: 0 }
    }

    fn join(&mut self, fresh: &Tensor) -> Result<Tensor> {
        let joined = JoinRows { joins: &self.rows, past: &self.past, layer: self.layer }.forward(fresh)?;
        let (_, rows, width) = joined.dims3()?;
        let (storage, _) = joined.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else { bail!("history: rows on another device") };
        let values = storage.as_slice::<f32>()?;
        let streams = values.par_chunks_exact((rows * width).max(1));
        self.kept.par_iter_mut().zip(&self.keep).zip(streams).for_each(|((kept, keep), stream)| {
            kept.extend_from_slice(&stream[keep.start * width..keep.end * width]);
        });
        (self.layer, self.width) = (self.layer + 1, width);
        Ok(joined.clone())
    }

    fn close(self) -> Result<Vec<History>> {
        let history = |(kept, keep): (Vec<f32>, Range<usize>)| {
            let shape = (self.layer, keep.len(), self.width);
            let rows = (!kept.is_empty()).then(|| Tensor::from_vec(kept, shape, &Device::Cpu)).transpose()?;
            Ok(History { rows })
        };
        self.kept.into_iter().zip(self.keep).map(history).collect()
    }
}

/// On a GPU: a few operations a layer, however many streams there are. Where every row comes from is worked out once; each layer
/// is one concatenation and two look-ups by index.
#[derive(Debug)]
struct Indexed {
    /// `[layers, rows of all streams, W]`.
    past: Option<Tensor>,
    /// Row of `[past of the layer ; new rows ; zero row]` that each joined row is.
    joined: Tensor,
    /// Joined row that each kept row is.
    kept: Option<Tensor>,
    kept_lengths: Vec<usize>,
    /// Kept rows of the layers so far.
    layers: Vec<Tensor>,
}

impl Indexed {
    fn open(histories: &[&History], joins: &[Join], lengths: &Lengths, device: &Device) -> Result<Self> {
        let rows: Vec<&Tensor> = histories.iter().filter_map(|history| history.rows()).collect();
        let past = (!rows.is_empty()).then(|| Tensor::cat(&rows, 1)).transpose()?;
        let past_rows: usize = histories.iter().map(|history| history.len()).sum();
        let stride = joins.iter().map(|join| join.fresh).max().unwrap_or(0);
        let zero = past_rows + joins.len() * stride;
        let sources = sources(histories, joins, past_rows, stride, zero);

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
        Ok(Self { past, joined, kept, kept_lengths, layers: Vec::new() })
    }

    fn join(&mut self, fresh: &Tensor, rows: usize) -> Result<Tensor> {
        let (batch, _, width) = fresh.dims3()?;
        let zero = Tensor::zeros((1, width), fresh.dtype(), fresh.device())?;
        let past = self.past.as_ref().map(|past| past.get(self.layers.len())).transpose()?;
        let parts: Vec<Tensor> = past.into_iter().chain([fresh.reshape(((), width))?, zero]).collect();
        let joined = Tensor::cat(&parts, 0)?.index_select(&self.joined, 0)?;
        if let Some(kept) = &self.kept {
            self.layers.push(joined.index_select(kept, 0)?);
        }
        joined.reshape((batch, rows, width))
    }

    fn close(self) -> Result<Vec<History>> {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A CPU takes the one way, a GPU the other.
    #[test]
    fn both_ways_remember_the_same() {
        let rows = |count: usize, seed: usize| -> Vec<f32> {
            (0..count * 3).map(|i| ((i + seed) * 7919 % 101) as f32).collect()
        };
        let remembered = |count: usize, seed: usize| {
            let rows = Tensor::from_vec(rows(2 * count, seed), (2, count, 3), &Device::Cpu);
            History { rows: Some(rows.unwrap()) }
        };
        let histories = [remembered(4, 1), History::default(), remembered(2, 2)];
        let histories: Vec<&History> = histories.iter().collect();
        let joins = [
            Join { lead: 0, fresh: 5, trail: 0, keep: 3..8 },
            Join { lead: 2, fresh: 3, trail: 1, keep: 0..6 },
            Join { lead: 0, fresh: 1, trail: 0, keep: 3..3 },
        ];
        let fresh = |seed| Tensor::from_vec(rows(15, seed), (3, 5, 3), &Device::Cpu).unwrap();
        let mut copied = Histories::open(&histories, &joins, &fresh(0)).unwrap();
        assert!(matches!(copied.way, Way::Copied(_)));
        let lengths = copied.lengths.clone();
        let indexed = Indexed::open(&histories, &joins, &lengths, &Device::Cpu).unwrap();
        let mut indexed = Histories { lengths, way: Way::Indexed(indexed) };
        let values = |x: Tensor| (x.dims().to_vec(), x.flatten_all().unwrap().to_vec1::<f32>().unwrap());
        for layer in 3..5 {
            let joined = [&mut copied, &mut indexed].map(|way| values(way.join(&fresh(layer)).unwrap()));
            assert_eq!(joined[0], joined[1]);
        }
        let kept = [copied, indexed].map(|way| {
            let rows = way.close().unwrap().into_iter().map(|history| history.rows.map(values));
            rows.collect::<Vec<_>>()
        });
        assert_eq!(kept[0], kept[1]);
        assert_eq!(kept[0].iter().map(Option::is_some).collect::<Vec<_>>(), [true, true, false]);
    }
}
