//! The recurrent part of one LSTM direction.
//!
//! `[i, f, g, o] = gates[t] + h W`, `c = sigmoid(f) c + sigmoid(i) tanh(g)`, `h = sigmoid(o) tanh(c)`, from
//! zero states. What comes from the input is a product over all steps and done before: see `Linear`. Hochreiter
//! and Schmidhuber, "Long Short-Term Memory", 1997; gates in the order of `torch.nn.LSTM`.

use std::cmp::Reverse;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};
use candle_nn::ops::sigmoid;

#[cfg(feature = "cuda")]
use crate::cuda;
use crate::{Lengths, cpu, linear::accumulate_product};

/// One direction over one batch.
#[derive(Debug, Clone)]
pub struct Lstm {
    /// From each item's last valid step to its first.
    pub reverse: bool,
    /// Valid steps of each item.
    pub lengths: Lengths,
}

impl Lstm {
    /// `gates [B, T, 4 H]`, `weight [H, 4 H]` -> `[B, T, H]`. Steps after an item's end are not read and come out
    /// as zero.
    pub fn forward(&self, gates: &Tensor, weight: &Tensor) -> Result<Tensor> {
        self.lengths.check("lstm", gates)?;
        let (hidden, width) = weight.dims2()?;
        if gates.dim(2)? != width || width != 4 * hidden || hidden == 0 {
            bail!("lstm: gates {:?} and weight {:?} do not fit", gates.shape(), weight.shape());
        }
        if !cpu::is_fast(gates) {
            return self.reference(gates, weight);
        }
        gates.contiguous()?.apply_op2_no_bwd(weight, self)
    }

    /// The definition, in plain candle operations.
    pub fn reference(&self, gates: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let (batch, time, _) = gates.dims3()?;
        let hidden = weight.dim(0)?;
        if time == 0 {
            return Tensor::zeros((batch, 0, hidden), gates.dtype(), gates.device());
        }
        let gates = self.in_order(gates)?;
        let mut h = Tensor::zeros((batch, hidden), gates.dtype(), gates.device())?;
        let mut c = h.clone();
        let mut steps = Vec::with_capacity(time);
        for t in 0..time {
            let parts = (gates.narrow(1, t, 1)?.squeeze(1)? + h.matmul(weight)?)?.chunk(4, 1)?;
            let [i, f, g, o] = [0, 1, 2, 3].map(|k| &parts[k]);
            c = ((sigmoid(f)? * c)? + (sigmoid(i)? * g.tanh()?)?)?;
            h = (sigmoid(o)? * c.tanh()?)?;
            steps.push(h.clone());
        }
        let mask = self.lengths.mask(gates.dtype(), gates.device())?.unsqueeze(2)?;
        self.in_order(&Tensor::stack(&steps, 1)?)?.broadcast_mul(&mask)
    }

    /// The valid steps of each item in the order of the direction; twice gives the input back.
    fn in_order(&self, x: &Tensor) -> Result<Tensor> {
        if !self.reverse {
            return Ok(x.clone());
        }
        let (batch, time, width) = x.dims3()?;
        let rows = self.lengths.items().iter().enumerate().flat_map(|(b, &length)| {
            (0..time).map(move |t| (b * time + if t < length { length - 1 - t } else { t }) as u32)
        });
        let rows = Tensor::from_vec(rows.collect::<Vec<_>>(), batch * time, x.device())?;
        x.reshape(((), width))?.contiguous()?.index_select(&rows, 0)?.reshape((batch, time, width))
    }

    /// Runs all steps: `gates [B, T, 4 H]` -> `y [B, T, H]`, zero before.
    fn run(&self, gates: &[f32], weight: &[f32], hidden: usize, y: &mut [f32]) {
        let time = self.lengths.max();
        // Longest first: the items that still run are the first rows of the states.
        let mut items: Vec<(usize, usize)> = self.lengths.items().iter().copied().enumerate().collect();
        items.sort_by_key(|&(_, length)| Reverse(length));
        let mut h = vec![0f32; items.len() * hidden];
        let mut c = h.clone();
        let mut sums = vec![0f32; items.len() * 4 * hidden];
        for step in 0..time {
            let running = items.partition_point(|&(_, length)| length > step);
            let row = |&(b, n): &(usize, usize)| b * time + if self.reverse { n - 1 - step } else { step };
            for (sums, item) in sums.chunks_exact_mut(4 * hidden).zip(&items[..running]) {
                sums.copy_from_slice(&gates[row(item) * 4 * hidden..][..4 * hidden]);
            }
            // Before the first step all states are zero.
            if step > 0 {
                let [states, gates] = [hidden, 4 * hidden].map(|width| running * width);
                accumulate_product(&h[..states], weight, &mut sums[..gates], [running, hidden, 4 * hidden]);
            }
            let states = h.chunks_exact_mut(hidden).zip(c.chunks_exact_mut(hidden));
            for ((item, sums), (h, c)) in
                items[..running].iter().zip(sums.chunks_exact(4 * hidden)).zip(states)
            {
                update(sums, c, h);
                y[row(item) * hidden..][..hidden].copy_from_slice(h);
            }
        }
    }
}

/// New states of one item from its four gates.
fn update(gates: &[f32], c: &mut [f32], h: &mut [f32]) {
    let hidden = c.len();
    let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
    for (k, (c, h)) in c.iter_mut().zip(h).enumerate() {
        let [i, f, g, o] = [0, 1, 2, 3].map(|gate| gates[gate * hidden + k]);
        *c = sigmoid(f) * *c + sigmoid(i) * g.tanh();
        *h = sigmoid(o) * c.tanh();
    }
}

impl CustomOp2 for Lstm {
    fn name(&self) -> &'static str {
        "lstm"
    }

    fn cpu_fwd(
        &self,
        gates: &CpuStorage,
        gates_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (batch, time, _) = gates_layout.shape().dims3()?;
        let (hidden, _) = weight_layout.shape().dims2()?;
        let gates = cpu::contiguous("lstm", gates, gates_layout)?;
        let weight = cpu::contiguous("lstm", weight, weight_layout)?;
        let mut y = vec![0f32; batch * time * hidden];
        self.run(gates, weight, hidden, &mut y);
        Ok((CpuStorage::F32(y), Shape::from((batch, time, hidden))))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        gates: &CudaStorage,
        gates_layout: &Layout,
        weight: &CudaStorage,
        weight_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        cuda::lstm(self, (gates, gates_layout), (weight, weight_layout))
    }
}
