//! Each kernel on a GPU at the shapes of Paraformer-large for 20 s of audio: how long it takes, and how near it comes to a copy, the
//! measure of what the memory gives. Products give their rate of arithmetic instead.
//!
//! ```text
//! cargo bench --features cuda --bench gpu -- --batch 32 --dtype bf16
//! ```
//!
//! Every run waits for the one before, and the device for none: the clock goes from the first launch to the end of the last.

// A bench that cannot start has nobody to report to.
#![allow(clippy::expect_used)]

use std::time::Instant;

use candle_core::{DType, Device, Result, Tensor};
use clap::Parser;
use funasr_candle::device::{Compute, DeviceName, Precision};
use funasr_kernels::{
    Activation, Attention, Best, CifFire, CifSums, FloatWeight, FsmnMemory, Integration, Join, JoinRows,
    LayerNorm, Lengths, Linear, Lstm, Norm, StateWeight, Unfold, Visible,
};

/// LFR frames of 20 s, and tokens.
const T: usize = 334;
const TOKENS: usize = 150;
/// Width of the model, inside its feed-forward layers, and of the vocabulary.
const D: usize = 512;
const FF: usize = 2048;
const VOCAB: usize = 8404;
/// Taps of the memory, attention heads.
const K: usize = 11;
const H: usize = 4;
/// Values of what is copied: far more than a cache holds.
const COPY: usize = 1 << 26;

#[derive(Parser)]
struct Args {
    /// Which GPU
    #[arg(long, default_value = "cuda:0")]
    device: DeviceName,
    /// f32, f16 or bf16
    #[arg(long, default_value = "bf16")]
    dtype: Precision,
    /// Items of a batch
    #[arg(long, default_value_t = 32)]
    batch: usize,
    /// Runs of each kernel
    #[arg(long, default_value_t = 100)]
    runs: usize,
    #[arg(long, hide = true)]
    bench: bool,
}

/// What a run moves or computes at least.
enum Work {
    /// Values read and written.
    Values(usize),
    /// Multiplications, each with an addition.
    Products(usize),
}

struct Bench {
    device: Device,
    dtype: DType,
    batch: usize,
    runs: usize,
    /// Bytes a second of a copy.
    copy: f64,
}

impl Bench {
    fn state_weight(&self) -> Result<StateWeight> {
        Ok(StateWeight::Float(FloatWeight::new(&self.random(&[4 * D, D])?)?))
    }

    fn random(&self, dims: &[usize]) -> Result<Tensor> {
        Tensor::randn(0f32, 1.0, dims, &Device::Cpu)?.to_dtype(self.dtype)?.to_device(&self.device)
    }

    /// Seconds of a run.
    fn time(&self, run: &dyn Fn() -> Result<Tensor>) -> Result<f64> {
        run()?;
        self.device.synchronize()?;
        let start = Instant::now();
        for _ in 0..self.runs {
            run()?;
        }
        self.device.synchronize()?;
        Ok(start.elapsed().as_secs_f64() / self.runs as f64)
    }

    fn row(&self, name: &str, work: &Work, run: &dyn Fn() -> Result<Tensor>) -> Result<()> {
        let seconds = self.time(run)?;
        let rate = match work {
            Work::Values(count) => {
                let rate = (count * self.dtype.size_in_bytes()) as f64 / seconds;
                format!("{:.0} GB/s | {:.2}", rate / 1e9, rate / self.copy)
            }
            Work::Products(count) => format!("{:.1} TFLOP/s | ", 2.0 * *count as f64 / seconds / 1e12),
        };
        println!("| {name} | {:.1} | {rate} |", seconds * 1e6);
        Ok(())
    }

    fn all(&self) -> Result<()> {
        let (batch, rows) = (self.batch, self.batch * T);
        let (frames, lengths) = (self.random(&[batch, T, D])?, Lengths::full(batch, T));
        let [weight, bias] = [self.random(&[D])?, self.random(&[D])?];
        let norm = LayerNorm { eps: 1e-12 };
        self.row("layer_norm", &Work::Values(2 * rows * D), &|| norm.forward(&frames, &weight, &bias))?;

        let offset = -((K as isize - 1) / 2);
        let memory = FsmnMemory { offset, dilation: 1, skip: true, first: 0, lengths: lengths.clone() };
        let taps = self.random(&[K, D])?;
        self.row("fsmn_memory", &Work::Values(2 * rows * D), &|| memory.forward(&frames, &taps))?;

        let qkv = self.random(&[batch, T, 3 * D])?;
        let [q, k, v] = [qkv.narrow(2, 0, D)?, qkv.narrow(2, D, D)?, qkv.narrow(2, 2 * D, D)?];
        let queries = lengths.clone();
        let attention =
            Attention { heads: H, queries, keys: lengths.clone(), visible: Visible::All, bf16: false };
        self.row("attention", &Work::Products(2 * rows * T * D), &|| attention.forward(&q, &k, &v))?;

        let wide = FloatWeight::new(&self.random(&[FF, D])?)?;
        let wide_bias = self.random(&[FF])?;
        let linear = Linear { activation: Activation::Relu, addends: &[] };
        self.row("linear, 512 to 2048, ReLU", &Work::Products(rows * D * FF), &|| {
            linear.forward(&frames, &wide, &wide_bias)
        })?;

        // The end of a layer: beside the product, a residual is read, and sums and their norm are written.
        let narrow = FloatWeight::new(&self.random(&[D, D])?)?;
        let residual = [&frames];
        let linear = Linear { activation: Activation::Identity, addends: &residual };
        let norm = Norm { op: norm, weight: &weight, bias: &bias };
        self.row("linear, 512 to 512, residual, norm", &Work::Products(rows * D * D), &|| {
            let [y, _] = linear.forward_norm(&frames, &narrow, &bias, &norm)?;
            Ok(y)
        })?;

        // The predictor: its convolution as a product, alphas of 0.3, and as many tokens as they make.
        let unfold = Unfold { before: 1, after: 1, lengths: lengths.clone() };
        self.row("unfold, 3 frames", &Work::Values(batch * T * 4 * D), &|| unfold.forward(&frames))?;
        let logits = Tensor::full(-0.85f32, (batch, T), &self.device)?;
        let (scale, tail) = ([1.0, 0.0], Some(0.45));
        let fire = CifFire { lengths, scale, tail, integration: Integration::Prefix };
        self.row("cif_fire, read by the host", &Work::Values(batch * 5 * T), &|| {
            fire.forward(&logits).map(|_| logits.clone())
        })?;
        let fired = fire.forward(&logits)?;
        let tokens = fired.token_num().max();
        let sums = CifSums { fired: &fired, tokens };
        self.row("cif_sums", &Work::Values(batch * (T + tokens) * D), &|| sums.forward(&frames))?;

        let logits = self.random(&[batch, TOKENS, VOCAB])?;
        let read = Work::Values(batch * TOKENS * VOCAB);
        for (name, count) in [("best", 1), ("best, 20 of a row", 20)] {
            self.row(name, &read, &|| Best { count }.forward(&logits))?;
        }

        // A step of as many streams: keys and values of 4 chunks and of the new one.
        let join = Join { lead: 0, past: 40, fresh: 15, trail: 0, keep: 10..50 };
        let past = vec![Some(self.random(&[1, join.past, 2 * D])?); batch];
        let fresh = self.random(&[batch, join.fresh, 2 * D])?;
        let moved = Work::Values(batch * (2 * join.rows() + join.keep.len()) * 2 * D);
        self.row("join_rows, with its table", &moved, &|| {
            JoinRows::new(vec![join.clone(); batch], past.clone(), 1)?.forward(&fresh)
        })?;

        // 1000 hotwords of at most 4 tokens.
        let (words, steps) = (1000, 4);
        let gates = self.random(&[words, steps, 4 * D])?;
        let weights = [self.state_weight()?, self.state_weight()?];
        let lstm = Lstm { lengths: Lengths::full(words, steps) };
        self.row("lstm_step, 4 of 1000 hotwords", &Work::Products(words * steps * D * 4 * D), &|| {
            lstm.forward(&gates, &weights[..1])
        })?;

        // The timestamp head: both directions over three steps a frame.
        let gates = self.random(&[batch, 3 * T, 2 * 4 * D])?;
        let lstm = Lstm { lengths: Lengths::full(batch, 3 * T) };
        let products = Work::Products(batch * 3 * T * 2 * D * 4 * D);
        self.row("lstm_step, both directions", &products, &|| lstm.forward(&gates, &weights))
    }
}

fn main() {
    let args = Args::parse();
    let compute = Compute::open(args.device, args.dtype).expect("a GPU");
    let (device, dtype) = (compute.device, compute.dtype);
    let mut bench = Bench { device, dtype, batch: args.batch, runs: args.runs, copy: 0.0 };
    let source = Tensor::zeros(COPY, DType::F32, &bench.device).expect("memory for a tensor");
    let seconds = bench.time(&|| source.copy()).expect("a copy");
    bench.copy = (2 * COPY * DType::F32.size_in_bytes()) as f64 / seconds;
    println!(
        "{}, {}, batch {}: a copy moves {:.0} GB/s\n",
        args.device,
        args.dtype,
        args.batch,
        bench.copy / 1e9
    );
    println!("| kernel | us | rate | of a copy |\n| --- | --- | --- | --- |");
    bench.all().expect("fitting shapes");
}
