//! Sinusoidal position code (FunASR `models/transformer/embedding.py`, `SinusoidalPositionEncoder`).
//!
//! For depth D and position p: `[sin(p e^(-i c)), cos(p e^(-i c))]`, `i = 0..D/2`, `c = ln(10000) / (D/2 - 1)`,
//! the halves one after the other. The first frame of an utterance has position 1.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use candle_core::{Result, Tensor, bail};

/// Positions whose code is kept: as many as a segment of voice detection has, which is 60 s at most. The sines of 20 s take as long as
/// a layer; a GPU would wait for them, and fetch them, in every batch.
const LISTED: usize = 1024;

/// Adds the code to feature rows. Clones share what is kept.
#[derive(Debug, Clone)]
pub struct SinusoidalPositionEncoder {
    depth: usize,
    /// `[LISTED, D]`, for streams, once one has asked.
    rows: Arc<OnceLock<Vec<f32>>>,
    /// The same where a model's features lie, in their format.
    tensor: Arc<OnceLock<Tensor>>,
}

impl SinusoidalPositionEncoder {
    /// For rows of `depth` values, which is even and at least 4.
    pub fn new(depth: usize) -> Result<Self> {
        if depth < 4 || !depth.is_multiple_of(2) {
            bail!("position code: a depth of {depth} is not even and at least 4");
        }
        Ok(Self { depth, rows: Arc::default(), tensor: Arc::default() })
    }

    /// Adds the code of positions `1 ..` to `x [B, T, D]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (_, time, depth) = x.dims3()?;
        if depth != self.depth {
            bail!("position code: rows {:?} are not {} wide", x.shape(), self.depth);
        }
        let like_x = |code: &&Tensor| code.dtype() == x.dtype() && code.device().same_device(x.device());
        let code = match self.tensor.get().filter(like_x) {
            Some(kept) if time <= LISTED => kept.clone(),
            _ => self.code(time.max(LISTED), x)?,
        };
        if time <= LISTED {
            self.tensor.get_or_init(|| code.clone());
        }
        x.broadcast_add(&code.narrow(1, 0, time)?)
    }

    /// Adds the code of positions `before + 1 ..` to rows `[T, D]` on the host.
    pub fn add_to_rows(&self, rows: &mut [f32], before: usize) -> Result<()> {
        if !rows.len().is_multiple_of(self.depth) {
            bail!("position code: {} values are no rows of {}", rows.len(), self.depth);
        }
        let listed = self.rows.get_or_init(|| table(0..LISTED, self.depth));
        let (start, end) = (before * self.depth, before * self.depth + rows.len());
        match listed.get(start..end) {
            Some(code) => add(rows, code),
            None => add(rows, &table(before..before + rows.len() / self.depth, self.depth)),
        }
        Ok(())
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
