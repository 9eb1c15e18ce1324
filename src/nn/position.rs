//! Sinusoidal position code (FunASR `models/transformer/embedding.py`, `SinusoidalPositionEncoder`).
//!
//! For depth D and position p: `[sin(p e^(-i c)), cos(p e^(-i c))]`, `i = 0..D/2`, `c = ln(10000) / (D/2 - 1)`,
//! the halves one after the other. The first frame of an utterance has position 1.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use candle_core::{Result, Tensor, bail};

/// Positions whose code is computed at once for streams.
const BLOCK: usize = 128;
/// Blocks that are kept: a segment of voice detection is 60 s at most, 1000 positions. The sines of 20 s take as long as a layer; a GPU
/// would wait for them, and fetch them, in every batch.
const BLOCKS: usize = 8;
/// Sizes of what is kept for batches: a block, two, four, eight.
const SIZES: usize = BLOCKS.ilog2() as usize + 1;

/// Adds the code to feature rows. Clones share what is kept.
#[derive(Debug, Clone)]
pub struct SinusoidalPositionEncoder {
    depth: usize,
    /// `[BLOCK, D]` on the host, each once a stream has come there.
    blocks: Arc<[OnceLock<Vec<f32>>; BLOCKS]>,
    /// `[1, BLOCK 2^i, D]` where a model's features lie, in their format, each once an utterance was so long.
    tensors: Arc<[OnceLock<Tensor>; SIZES]>,
}

impl SinusoidalPositionEncoder {
    /// For rows of `depth` values, which is even and at least 4.
    pub fn new(depth: usize) -> Result<Self> {
        if depth < 4 || !depth.is_multiple_of(2) {
            bail!("position code: a depth of {depth} is not even and at least 4");
        }
        Ok(Self { depth, blocks: Arc::default(), tensors: Arc::default() })
    }

    /// Adds the code of positions `1 ..` to `x [B, T, D]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (_, time, depth) = x.dims3()?;
        if depth != self.depth {
            bail!("position code: rows {:?} are not {} wide", x.shape(), self.depth);
        }
        x.broadcast_add(&self.code_of(time, x)?.narrow(1, 0, time)?)
    }

    /// Adds the code of positions `before + 1 ..` to rows `[T, D]` on the host.
    pub fn add_to_rows(&self, rows: &mut [f32], before: usize) -> Result<()> {
        if !rows.len().is_multiple_of(self.depth) {
            bail!("position code: {} values are no rows of {}", rows.len(), self.depth);
        }
        let count = rows.len() / self.depth;
        let kept = (BLOCK * BLOCKS).saturating_sub(before).min(count);
        let (early, late) = rows.split_at_mut(kept * self.depth);
        for (position, row) in (before..).zip(early.chunks_exact_mut(self.depth)) {
            let (block, place) = (position / BLOCK, position % BLOCK);
            let first = block * BLOCK;
            let code = self.blocks[block].get_or_init(|| table(first..first + BLOCK, self.depth));
            add(row, &code[place * self.depth..][..self.depth]);
        }
        if !late.is_empty() {
            add(late, &table(before + kept..before + count, self.depth));
        }
        Ok(())
    }

    /// `[1, time or more, D]` of the kind of `x`, kept if it is not longer than what is.
    fn code_of(&self, time: usize, x: &Tensor) -> Result<Tensor> {
        let Some(size) = (0..SIZES).find(|size| time <= BLOCK << size) else { return self.code(time, x) };
        let like_x = |code: &&Tensor| code.dtype() == x.dtype() && code.device().same_device(x.device());
        if let Some(kept) = self.tensors[size].get().filter(like_x) {
            return Ok(kept.clone());
        }
        let code = self.code(BLOCK << size, x)?;
        self.tensors[size].get_or_init(|| code.clone());
        Ok(code)
    }

    /// `[1, time, D]` of the kind of `x`.
    fn code(&self, time: usize, x: &Tensor) -> Result<Tensor> {
        let code = table(0..time, self.depth);
        Tensor::from_vec(code, (1, time, self.depth), x.device())?.to_dtype(x.dtype())
    }
}

fn add(rows: &mut [f32], code: &[f32]) {
    rows.iter_mut().zip(code).for_each(|(x, code)| *x += code);
}

/// The code of the positions after these, all in f32 as FunASR computes it.
fn table(before: Range<usize>, depth: usize) -> Vec<f32> {
    let half = depth / 2;
    let step = (f64::ln(10000.0) / (half as f64 - 1.0)) as f32;
    let scales: Vec<f32> = (0..half).map(|i| (i as f32 * -step).exp()).collect();
    let mut code = Vec::with_capacity(before.len() * depth);
    for position in before.map(|before| (before + 1) as f32) {
        code.extend(scales.iter().map(|scale| (position * scale).sin()));
        code.extend(scales.iter().map(|scale| (position * scale).cos()));
    }
    code
}
