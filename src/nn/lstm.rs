//! Long short-term memory, as `torch.nn.LSTM` with `batch_first` and packed sequences.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use funasr_kernels::{FloatWeight, Int8Weight, Lstm as LstmOp, StateWeight};

use super::{Lengths, Linear};
use crate::device::INT8_MARK;

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
    /// The input's part of the gates of all directions, with both of torch's biases.
    input: Linear,
    /// The states' part, one a direction.
    recurrent: Vec<StateWeight>,
}

impl Lstm {
    /// Loads `weight_ih_l<k> [4 H, in]`, `weight_hh_l<k> [4 H, H]`, `bias_ih_l<k>` and `bias_hh_l<k> [4 H]` for
    /// each layer, and the same with `_reverse` if bidirectional; rounds the weights to 8 bits if `vb` has an [`INT8_MARK`].
    pub fn load(config: &LstmConfig, vb: VarBuilder) -> Result<Self> {
        Self::load_with(config, vb.contains_tensor(INT8_MARK), vb)
    }

    /// [`Lstm::load`] in floats always.
    pub fn load_f32(config: &LstmConfig, vb: VarBuilder) -> Result<Self> {
        Self::load_with(config, false, vb)
    }

    fn load_with(config: &LstmConfig, int8: bool, vb: VarBuilder) -> Result<Self> {
        let directions = if config.bidirectional { 2 } else { 1 };
        let layer = |k| {
            let inputs = if k == 0 { config.inputs } else { directions * config.hidden };
            LstmLayer::load([inputs, config.hidden], &names(k, directions), int8, &vb)
        };
        Ok(Self { layers: (0..config.layers).map(layer).collect::<Result<_>>()? })
    }

    /// `x [B, T, in]` -> outputs of the last layer, `[B, T, H]` or, both directions side by side, `[B, T, 2 H]`;
    /// zero after an item's end. Its last state is the row of its last step (backwards: of its first).
    pub fn forward(&self, x: &Tensor, lengths: &Lengths) -> Result<Tensor> {
        lengths.check("lstm", x)?;
        let (op, mut x) = (LstmOp { lengths: lengths.clone() }, x.clone());
        for LstmLayer { input, recurrent } in &self.layers {
            x = op.forward(&input.forward(&x)?, recurrent)?;
        }
        Ok(x)
    }
}

/// What torch calls the directions of a layer.
fn names(layer: usize, directions: usize) -> Vec<String> {
    ["", "_reverse"][..directions].iter().map(|direction| format!("l{layer}{direction}")).collect()
}

impl LstmLayer {
    fn load([inputs, hidden]: [usize; 2], names: &[String], int8: bool, vb: &VarBuilder) -> Result<Self> {
        let get = |part: &str, width| {
            let all = names.iter().map(|name| vb.get((4 * hidden, width), &format!("{part}_{name}")));
            all.collect::<Result<Vec<_>>>()
        };
        let bias = |name| {
            vb.get(4 * hidden, &format!("bias_ih_{name}"))?
                + vb.get(4 * hidden, &format!("bias_hh_{name}"))?
        };
        let bias = Tensor::cat(&names.iter().map(bias).collect::<Result<Vec<_>>>()?, 0)?;
        let weight = Tensor::cat(&get("weight_ih", inputs)?, 0)?;
        let input = if int8 { Linear::new_int8(&weight, bias)? } else { Linear::new(&weight, bias)? };
        let recurrent = get("weight_hh", hidden)?;
        let lay_out = |weight: &Tensor| match int8 {
            true => Int8Weight::quantize(weight).map(StateWeight::Int8),
            false => FloatWeight::new(weight).map(StateWeight::Float),
        };
        Ok(Self { input, recurrent: recurrent.iter().map(lay_out).collect::<Result<_>>()? })
    }
}
