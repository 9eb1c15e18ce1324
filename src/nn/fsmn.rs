//! FSMN block of the voice activity detector: projection, memory over time, expansion
//! (FunASR `models/fsmn_vad_streaming/encoder.py`, `BasicBlock`).

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use funasr_kernels::FsmnMemory;

use super::history::{Histories, Join};
use super::{History, Lengths, Linear};

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

impl FsmnBlockConfig {
    /// Frames that a memory looks back on.
    fn past(&self) -> usize {
        self.lorder.saturating_sub(1) * self.lstride
    }
}

/// Blocks one after the other. A stream remembers the projected frames that the next chunk's memories look back on,
/// `[layers, (lorder - 1) * lstride, proj_dim]`.
#[derive(Debug, Clone)]
pub struct FsmnStack {
    blocks: Vec<FsmnBlock>,
    config: FsmnBlockConfig,
}

impl FsmnStack {
    /// Loads `layers` blocks from `fsmn.*`.
    pub fn load(layers: usize, config: &FsmnBlockConfig, vb: VarBuilder) -> Result<Self> {
        let block = |i| FsmnBlock::load(config, vb.pp(format!("fsmn.{i}")));
        Ok(Self { blocks: (0..layers).map(block).collect::<Result<_>>()?, config: config.clone() })
    }

    /// The blocks, for those who want to replace them one by one.
    pub fn blocks(&self) -> &[FsmnBlock] {
        &self.blocks
    }

    /// Whether frames depend on those behind them in their chunk.
    pub fn looks_ahead(&self) -> bool {
        self.config.rorder > 0
    }

    /// What a stream remembers before its first chunk: frames of zeros.
    pub fn start(&self) -> Result<History> {
        let Some(FsmnBlock { taps_left: like, .. }) = self.blocks.first() else {
            return Ok(History::default());
        };
        History::zeros([self.blocks.len(), self.config.past(), self.config.proj_dim], like)
    }

    /// The next chunk of each stream, `[B, T, linear_dim]`; the memory of each moves on by T frames. The look-ahead ends with the
    /// chunk.
    pub fn step(&self, x: &Tensor, streams: &mut [History]) -> Result<Tensor> {
        let (past, fresh) = (self.config.past(), x.dim(1)?);
        let joins = vec![Join { lead: 0, fresh, trail: 0, keep: fresh..fresh + past }; streams.len()];
        let mut histories = Histories::open(&streams.iter().collect::<Vec<_>>(), &joins, self.blocks.len())?;
        let mut x = x.clone();
        for block in &self.blocks {
            x = block.step(&x, &mut histories)?;
        }
        streams.iter_mut().zip(histories.close()?).for_each(|(stream, history)| *stream = history);
        Ok(x)
    }
}

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
            linear: Linear::load_coarse_no_bias(linear_dim, proj_dim, vb.pp("linear.linear"))?,
            taps_left: taps(lorder, "fsmn_block.conv_left.weight")?,
            taps_right: (rorder > 0).then(right).transpose()?,
            affine: Linear::load_coarse(proj_dim, linear_dim, vb.pp("affine.linear"))?,
            config: config.clone(),
        })
    }

    fn step(&self, x: &Tensor, histories: &mut Histories) -> Result<Tensor> {
        let (batch, time, _) = x.dims3()?;
        let projected = self.linear.forward(x)?;
        let past = self.config.past();
        let memory = FsmnMemory {
            offset: -(past as isize),
            dilation: self.config.lstride.max(1),
            skip: true,
            first: past,
            lengths: histories.lengths().clone(),
        };
        let mut y = memory.forward(&histories.join(&projected)?, &self.taps_left)?;
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
