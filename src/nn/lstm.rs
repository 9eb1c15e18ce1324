//! Long short-term memory, as `torch.nn.LSTM` with `batch_first` and packed sequences.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use funasr_kernels::Lstm as LstmOp;

use super::{Lengths, Linear};

/// Shape of an [`Lstm`].
#[derive(Debug, Clone, Copy)]
pub struct LstmConfig {
    /// Width of the input.
    pub inputs: usize,
    /// Width H of the state of one direction.
    pub hidden: usize,
    /// Layers, each on the output of the one before.
    pub layers: usize,
    /// Whether every layer also runs backwards.
    pub bidirectional: bool,
}

/// The layers. An item of a batch gives what it gives alone: the backward direction starts at its own last step.
#[derive(Debug, Clone)]
pub struct Lstm {
    layers: Vec<LstmLayer>,
}

#[derive(Debug, Clone)]
struct LstmLayer {
    forward: Direction,
    backward: Option<Direction>,
}

#[derive(Debug, Clone)]
struct Direction {
    /// The input's part of the four gates, with both of torch's biases.
    input: Linear,
    /// `[H, 4 H]`.
    recurrent: Tensor,
    reverse: bool,
}

impl Lstm {
    /// Loads `weight_ih_l<k> [4 H, in]`, `weight_hh_l<k> [4 H, H]`, `bias_ih_l<k>` and `bias_hh_l<k> [4 H]` for
    /// each layer, and the same with `_reverse` if bidirectional.
    pub fn load(config: &LstmConfig, vb: VarBuilder) -> Result<Self> {
        let directions = if config.bidirectional { 2 } else { 1 };
        let layer = |k| {
            let inputs = if k == 0 { config.inputs } else { directions * config.hidden };
            let load = |reverse| Direction::load([inputs, config.hidden], k, reverse, &vb);
            let backward = config.bidirectional.then(|| load(true)).transpose()?;
            Ok(LstmLayer { forward: load(false)?, backward })
        };
        Ok(Self { layers: (0..config.layers).map(layer).collect::<Result<_>>()? })
    }

    /// `x [B, T, in]` -> outputs of the last layer, `[B, T, H]` or, both directions side by side, `[B, T, 2 H]`;
    /// zero after an item's end. Its last state is the row of its last step (backwards: of its first).
    pub fn forward(&self, x: &Tensor, lengths: &Lengths) -> Result<Tensor> {
        lengths.check("lstm", x)?;
        let mut x = x.clone();
        for layer in &self.layers {
            x = layer.forward(&x, lengths)?;
        }
        Ok(x)
    }
}

impl LstmLayer {
    fn forward(&self, x: &Tensor, lengths: &Lengths) -> Result<Tensor> {
        let Some(backward) = &self.backward else { return self.forward.run(x, lengths) };
        let (there, back) = rayon::join(|| self.forward.run(x, lengths), || backward.run(x, lengths));
        Tensor::cat(&[there?, back?], 2)
    }
}

impl Direction {
    fn load([inputs, hidden]: [usize; 2], layer: usize, reverse: bool, vb: &VarBuilder) -> Result<Self> {
        let name = |part: &str| format!("{part}_l{layer}{}", if reverse { "_reverse" } else { "" });
        let bias = (vb.get(4 * hidden, &name("bias_ih"))? + vb.get(4 * hidden, &name("bias_hh"))?)?;
        let recurrent = vb.get((4 * hidden, hidden), &name("weight_hh"))?;
        Ok(Self {
            input: Linear::new(&vb.get((4 * hidden, inputs), &name("weight_ih"))?, bias)?,
            recurrent: recurrent.t()?.contiguous()?,
            reverse,
        })
    }

    fn run(&self, x: &Tensor, lengths: &Lengths) -> Result<Tensor> {
        let op = LstmOp { reverse: self.reverse, lengths: lengths.clone() };
        op.forward(&self.input.forward(x)?, &self.recurrent)
    }
}
