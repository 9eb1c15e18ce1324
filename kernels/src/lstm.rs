//! The recurrent part of an LSTM layer, in one direction or both.
//!
//! `[i, f, g, o] = gates[t] + h W`, `c = sigmoid(f) c + sigmoid(i) tanh(g)`, `h = sigmoid(o) tanh(c)`, from
//! zero states. What comes from the input is a product over all steps and done before: see `Linear`. Hochreiter
//! and Schmidhuber, "Long Short-Term Memory", 1997; gates in the order of `torch.nn.LSTM`.

use std::cmp::Reverse;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use candle_nn::ops::sigmoid;
use rayon::prelude::*;

#[cfg(feature = "cuda")]
use crate::cuda;
use crate::softmax::exp;
use crate::{FloatWeight, Int8Weight, Lengths, LinearInt8, Rounded, cpu, simd};

/// The states' part of the gates of one direction, from H to 4 H.
#[derive(Debug, Clone)]
pub enum StateWeight {
    /// In floats.
    Float(FloatWeight),
    /// In 8 bits, to which the states are rounded, too, where they meet it. Every step reads all of the weight, so its size is
    /// what a step takes.
    Int8(Int8Weight),
}

impl StateWeight {
    /// H and 4 H.
    pub fn dims(&self) -> (usize, usize) {
        match self {
            Self::Float(weight) => weight.dims(),
            Self::Int8(weight) => weight.dims(),
        }
    }

    /// `h [rows, H]` -> `[rows, 4 H]`.
    fn product(&self, h: &[f32], ending: &cpu::Ending) -> Result<Vec<f32>> {
        match self {
            Self::Float(weight) => weight.product(h, ending),
            Self::Int8(weight) => weight.product(h, ending),
        }
    }
}

/// All steps of a batch.
#[derive(Debug, Clone)]
pub struct Lstm {
    /// Valid steps of each item.
    pub lengths: Lengths,
}

impl Lstm {
    /// `gates [B, T, N 4 H]` and the weights of N directions -> `[B, T, N H]`. The first goes from an item's first step to its last,
    /// the second from its last valid step to its first. Steps after an item's end are not read and come out as zero.
    pub fn forward(&self, gates: &Tensor, weights: &[StateWeight]) -> Result<Tensor> {
        self.lengths.check("lstm", gates)?;
        let hidden = hidden(gates.shape(), weights)?;
        if !cpu::is_fast(gates) {
            let weights = weights.iter().map(turned).collect::<Result<Vec<_>>>()?;
            return self.reference(gates, &weights);
        }
        gates.contiguous()?.apply_op1_no_bwd(&Steps { op: self, weights, hidden })
    }

    /// The definition, in plain candle operations, with weights `[H, 4 H]`.
    pub fn reference(&self, gates: &Tensor, weights: &[&Tensor]) -> Result<Tensor> {
        self.directions(gates, weights.len(), |direction, h| h.matmul(weights[direction]))
    }

    /// The definition in 8 bits, with weights `[4 H, H]`.
    pub fn reference_int8(&self, gates: &Tensor, weights: &[Rounded]) -> Result<Tensor> {
        let op = LinearInt8 { activation: crate::Activation::Identity, addends: &[] };
        let (count, width) = (weights.len(), gates.dim(2)? / weights.len().max(1));
        let nothing = Tensor::zeros(width, gates.dtype(), gates.device())?;
        self.directions(gates, count, |direction, h| op.reference(h, &weights[direction], &nothing))
    }

    /// `product` is what the states of a direction add to its gates.
    fn directions(
        &self,
        gates: &Tensor,
        count: usize,
        product: impl Fn(usize, &Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let gates = gates.chunk(count, 2)?;
        let all = gates.iter().enumerate().map(|(i, gates)| self.direction(gates, i == 1, |h| product(i, h)));
        Tensor::cat(&all.collect::<Result<Vec<_>>>()?, 2)
    }

    fn direction(
        &self,
        gates: &Tensor,
        reverse: bool,
        product: impl Fn(&Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let (batch, time, width) = gates.dims3()?;
        let hidden = width / 4;
        if time == 0 {
            return Tensor::zeros((batch, 0, hidden), gates.dtype(), gates.device());
        }
        let in_order = |x: &Tensor| if reverse { self.reversed(x) } else { Ok(x.clone()) };
        let gates = in_order(gates)?;
        let mut h = Tensor::zeros((batch, hidden), gates.dtype(), gates.device())?;
        let mut c = h.clone();
        let mut steps = Vec::with_capacity(time);
        for t in 0..time {
            let parts = (gates.narrow(1, t, 1)?.squeeze(1)? + product(&h)?)?.chunk(4, 1)?;
            let [i, f, g, o] = [0, 1, 2, 3].map(|k| &parts[k]);
            c = ((sigmoid(f)? * c)? + (sigmoid(i)? * g.tanh()?)?)?;
            h = (sigmoid(o)? * c.tanh()?)?;
            steps.push(h.clone());
        }
        let mask = self.lengths.mask(gates.dtype(), gates.device())?.unsqueeze(2)?;
        in_order(&Tensor::stack(&steps, 1)?)?.broadcast_mul(&mask)
    }

    /// The valid steps of each item from the last to the first; twice gives the input back.
    fn reversed(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, time, width) = x.dims3()?;
        let rows = self.lengths.items().iter().enumerate().flat_map(|(b, &length)| {
            (0..time).map(move |t| (b * time + if t < length { length - 1 - t } else { t }) as u32)
        });
        let rows = Tensor::from_vec(rows.collect::<Vec<_>>(), batch * time, x.device())?;
        x.reshape(((), width))?.contiguous()?.index_select(&rows, 0)?.reshape((batch, time, width))
    }

    /// All steps of the direction of number `direction`: `gates [B, T, N 4 H]` -> `[B, T, H]`.
    fn run(&self, gates: &[f32], weights: &[StateWeight], direction: usize) -> Result<Vec<f32>> {
        let (hidden, width) = weights[direction].dims();
        let (time, stride) = (self.lengths.max(), weights.len() * width);
        // Longest first: the items that still run are the first rows of the states.
        let mut items: Vec<(usize, usize)> = self.lengths.items().iter().copied().enumerate().collect();
        items.sort_by_key(|&(_, length)| Reverse(length));
        let mut y = vec![0f32; items.len() * time * hidden];
        let mut h = vec![0f32; items.len() * hidden];
        let (mut c, bias) = (h.clone(), vec![0f32; width]);
        let mut own = Vec::with_capacity(items.len() * width);
        for step in 0..time {
            let running = items.partition_point(|&(_, length)| length > step);
            let row = |&(b, n): &(usize, usize)| b * time + if direction == 1 { n - 1 - step } else { step };
            own.clear();
            for item in &items[..running] {
                own.extend_from_slice(&gates[row(item) * stride + direction * width..][..width]);
            }
            let ending = cpu::Ending { bias: &bias, addends: vec![&own], relu: false };
            let sums = weights[direction].product(&h[..running * hidden], &ending)?;
            let states = h.chunks_exact_mut(hidden).zip(c.chunks_exact_mut(hidden));
            for ((item, sums), (h, c)) in items[..running].iter().zip(sums.chunks_exact(width)).zip(states) {
                simd::dispatch(
                    #[inline(always)]
                    || update(sums, c, h),
                );
                y[row(item) * hidden..][..hidden].copy_from_slice(h);
            }
        }
        Ok(y)
    }
}

/// H, where gates and weights fit.
fn hidden(gates: &Shape, weights: &[StateWeight]) -> Result<usize> {
    let (_, _, width) = gates.dims3()?;
    let (hidden, columns) = weights.first().map_or((0, 0), StateWeight::dims);
    let alike = weights.iter().all(|weight| weight.dims() == (hidden, columns));
    if !alike || weights.len() > 2 || hidden == 0 || columns != 4 * hidden || width != weights.len() * columns
    {
        let weights: Vec<_> = weights.iter().map(StateWeight::dims).collect();
        bail!("lstm: gates {gates:?} and weights {weights:?} do not fit");
    }
    Ok(hidden)
}

/// New states of one item from its four gates.
#[inline(always)]
fn update(gates: &[f32], c: &mut [f32], h: &mut [f32]) {
    let hidden = c.len();
    let (i, rest) = gates.split_at(hidden);
    let (f, rest) = rest.split_at(hidden);
    let (g, o) = rest.split_at(hidden);
    for ((((c, h), (i, f)), g), o) in c.iter_mut().zip(h).zip(i.iter().zip(f)).zip(g).zip(o) {
        *c = sigmoid_of(*f) * *c + sigmoid_of(*i) * tanh(*g);
        *h = sigmoid_of(*o) * tanh(*c);
    }
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
fn sigmoid_of(x: f32) -> f32 {
    let e = exp(-x.abs());
    (if x < 0.0 { e } else { 1.0 }) / (1.0 + e)
}

#[inline(always)]
fn tanh(x: f32) -> f32 {
    let e = exp(-2.0 * x.abs());
    ((1.0 - e) / (1.0 + e)).copysign(x)
}

/// The weight `[H, 4 H]` as devices without a fast version multiply it.
fn turned(weight: &StateWeight) -> Result<&Tensor> {
    match weight {
        StateWeight::Float(weight) => weight.turned(),
        StateWeight::Int8(_) => bail!("lstm: 8 bits are for the CPU"),
    }
}

/// The op with what is no tensor.
struct Steps<'a> {
    op: &'a Lstm,
    weights: &'a [StateWeight],
    hidden: usize,
}

impl CustomOp1 for Steps<'_> {
    fn name(&self) -> &'static str {
        "lstm"
    }

    fn cpu_fwd(&self, gates: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let Self { op, weights, hidden } = self;
        let (batch, time, _) = layout.shape().dims3()?;
        let gates = cpu::contiguous("lstm", gates, layout)?;
        // On the threads of the pool, so that no step has to go there.
        let run = |direction| op.run(gates, weights, direction);
        let y = (0..weights.len()).into_par_iter().map(run).collect::<Result<Vec<_>>>()?;
        let shape = Shape::from((batch, time, weights.len() * hidden));
        let y = match y.as_slice() {
            [there, back] => {
                let rows = there.chunks_exact(*hidden).zip(back.chunks_exact(*hidden));
                rows.flat_map(|(there, back)| there.iter().chain(back)).copied().collect()
            }
            _ => y.concat(),
        };
        Ok((CpuStorage::F32(y), shape))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, gates: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let weights = self.weights.iter().map(turned).collect::<Result<Vec<_>>>()?;
        cuda::lstm(self.op, self.hidden, (gates, layout), &weights)
    }
}
