//! FSMN block of the voice activity detector: projection, memory over time, expansion
//! (FunASR `models/fsmn_vad_streaming/encoder.py`, `BasicBlock`).

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use funasr_kernels::FsmnMemory;

use super::{Lengths, Linear};

/// Shape of a block.
#[derive(Debug, Clone)]
pub struct FsmnBlockConfig {
    /// Width outside.
    pub linear_dim: usize,
    /// Width of the memory.
    pub proj_dim: usize,
    /// Taps into the past, the current frame included.
    pub lorder: usize,
    /// Taps into the future.
    pub rorder: usize,
    /// Frames between the taps into the past.
    pub lstride: usize,
    /// Frames between the taps into the future.
    pub rstride: usize,
}

/// The projected frames that the next chunk's memory of one item looks back on, `[1, (lorder - 1) * lstride, proj_dim]`.
pub type FsmnCache = Tensor;

/// `relu(affine(memory(linear(x))))`.
#[derive(Debug, Clone)]
pub struct FsmnBlock {
    linear: Linear,
    taps_left: Tensor,
    taps_right: Option<Tensor>,
    affine: Linear,
    config: FsmnBlockConfig,
}

impl FsmnBlock {
    /// Loads `linear.linear`, `fsmn_block.conv_left`, `fsmn_block.conv_right` if any, and `affine.linear`.
    pub fn load(config: &FsmnBlockConfig, vb: VarBuilder) -> Result<Self> {
        let FsmnBlockConfig { linear_dim, proj_dim, lorder, rorder, .. } = *config;
        if lorder == 0 {
            candle_core::bail!("fsmn block: lorder is 0");
        }
        let taps = |order: usize, name: &str| {
            vb.get((proj_dim, 1, order, 1), name)?.reshape((proj_dim, order))?.t()?.contiguous()
        };
        let right = || taps(rorder, "fsmn_block.conv_right.weight");
        Ok(Self {
            linear: Linear::load_no_bias(linear_dim, proj_dim, vb.pp("linear.linear"))?,
            taps_left: taps(lorder, "fsmn_block.conv_left.weight")?,
            taps_right: (rorder > 0).then(right).transpose()?,
            affine: Linear::load(proj_dim, linear_dim, vb.pp("affine.linear"))?,
            config: config.clone(),
        })
    }

    /// The cache of a stream before its first chunk.
    pub fn empty_cache(&self) -> Result<FsmnCache> {
        let frames = (self.config.lorder - 1) * self.config.lstride;
        let like = &self.taps_left;
        Tensor::zeros((1, frames, self.config.proj_dim), like.dtype(), like.device())
    }

    /// One chunk `[B, T, linear_dim]`; the cache of each item moves on by T frames. The look-ahead ends with the chunk.
    pub fn step(&self, x: &Tensor, caches: &mut [FsmnCache]) -> Result<Tensor> {
        let (batch, time, _) = x.dims3()?;
        let projected = self.linear.forward(x)?;
        let past = (self.config.lorder - 1) * self.config.lstride;
        let mut rows = Vec::with_capacity(2 * batch);
        for (item, cache) in caches.iter().enumerate() {
            rows.extend([cache.clone(), projected.narrow(0, item, 1)?]);
        }
        let history = Tensor::cat(&rows, 1)?.reshape((batch, past + time, self.config.proj_dim))?;
        let memory = FsmnMemory {
            offset: -(past as isize),
            dilation: self.config.lstride.max(1),
            skip: true,
            first: past,
            lengths: Lengths::full(batch, past + time),
        };
        let mut y = memory.forward(&history, &self.taps_left)?;
        for (item, cache) in caches.iter_mut().enumerate() {
            // A copy: a view would keep the rows of all items.
            *cache = history.narrow(0, item, 1)?.narrow(1, time, past)?.force_contiguous()?;
        }
        if let Some(taps) = &self.taps_right {
            let ahead = FsmnMemory {
                offset: self.config.rstride as isize,
                dilation: self.config.rstride.max(1),
                skip: false,
                first: 0,
                lengths: Lengths::full(batch, time),
            };
            y = (y + ahead.forward(&projected, taps)?)?;
        }
        self.affine.forward_relu(&y)
    }
}
