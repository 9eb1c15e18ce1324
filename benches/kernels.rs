//! Each op beside its definition, at the shapes of Paraformer-large for 20 s of audio:
//! `cargo bench --bench kernels`.

// A bench that cannot start has nobody to report to.
#![allow(clippy::expect_used)]

use std::time::Duration;

use candle_core::{Device, Result, Tensor};
use criterion::{Criterion, criterion_group, criterion_main};
use funasr_kernels::{
    Activation, Attention, FloatWeight, FsmnMemory, Int8Weight, LayerNorm, Lengths, Linear, LinearInt8, Lstm,
    StateWeight, Visible,
};

/// LFR frames of 20 s.
const T: usize = 334;
/// Width of the model.
const D: usize = 512;
/// Width inside the feed-forward layers.
const FF: usize = 2048;
/// Taps of the memory.
const K: usize = 11;
/// Attention heads.
const H: usize = 4;

fn random(dims: &[usize]) -> Tensor {
    Tensor::randn(0f32, 1.0, dims, &Device::Cpu).expect("memory for a tensor")
}

fn compare(
    criterion: &mut Criterion,
    op: &str,
    fast: impl Fn() -> Result<Tensor>,
    reference: impl Fn() -> Result<Tensor>,
) {
    let mut group = criterion.benchmark_group(op);
    group.bench_function("fast", |b| b.iter(|| fast().expect("fitting shapes")));
    group.bench_function("reference", |b| b.iter(|| reference().expect("fitting shapes")));
    group.finish();
}

fn linear(criterion: &mut Criterion) {
    let op = Linear { activation: Activation::Relu, addends: &[] };
    let (x, weight, bias) = (random(&[1, T, D]), random(&[FF, D]), random(&[FF]));
    let laid_out = FloatWeight::new(&weight).expect("memory for a tensor");
    let run = || op.forward(&x, &laid_out, &bias);
    compare(criterion, "linear_relu_512_2048", run, || op.reference(&x, &weight, &bias));
}

/// Beside the f32 op, which is what it replaces.
fn linear_int8(criterion: &mut Criterion) {
    let (op, float) = (
        LinearInt8 { activation: Activation::Relu, addends: &[] },
        Linear { activation: Activation::Relu, addends: &[] },
    );
    let (x, weight, bias) = (random(&[1, T, D]), random(&[FF, D]), random(&[FF]));
    let floats = FloatWeight::new(&weight).expect("memory for a tensor");
    let weight = Int8Weight::quantize(&weight).expect("finite weights");
    let run = || op.forward(&x, &weight, &bias);
    compare(criterion, "linear_int8_relu_512_2048", run, || float.forward(&x, &floats, &bias));
}

fn layer_norm(criterion: &mut Criterion) {
    let op = LayerNorm { eps: 1e-12 };
    let (x, weight, bias) = (random(&[1, T, D]), random(&[D]), random(&[D]));
    let run = || op.forward(&x, &weight, &bias);
    compare(criterion, "layer_norm_512", run, || op.reference(&x, &weight, &bias));
}

fn fsmn_memory(criterion: &mut Criterion) {
    let offset = -((K as isize - 1) / 2);
    let op = FsmnMemory { offset, dilation: 1, skip: true, first: 0, lengths: Lengths::full(1, T) };
    let (x, taps) = (random(&[1, T, D]), random(&[K, D]));
    compare(criterion, "fsmn_memory_11_taps", || op.forward(&x, &taps), || op.reference(&x, &taps));
}

fn attention(criterion: &mut Criterion) {
    let lengths = Lengths::full(1, T);
    let (queries, keys, visible) = (lengths.clone(), lengths, Visible::All);
    let op = Attention { heads: H, queries, keys, visible, bf16: false };
    let [q, k, v] = [(); 3].map(|()| random(&[1, T, D]));
    compare(criterion, "attention_4_heads", || op.forward(&q, &k, &v), || op.reference(&q, &k, &v));
}

/// The timestamp head: both directions over three steps a frame, and in 8 bits beside that.
fn lstm(criterion: &mut Criterion) {
    let op = Lstm { lengths: Lengths::full(1, 3 * T) };
    let gates = random(&[1, 3 * T, 2 * 4 * D]);
    let weights = [0, 1].map(|_| random(&[4 * D, D]));
    let floats = weights
        .each_ref()
        .map(|weight| StateWeight::Float(FloatWeight::new(weight).expect("memory for a tensor")));
    let int8 = weights
        .each_ref()
        .map(|weight| StateWeight::Int8(Int8Weight::quantize(weight).expect("finite weights")));
    let turned = weights
        .each_ref()
        .map(|weight| weight.t().and_then(|w| w.contiguous()).expect("memory for a tensor"));
    let turned: Vec<_> = turned.iter().collect();
    let run = || op.forward(&gates, &floats);
    compare(criterion, "lstm_512", run, || op.reference(&gates, &turned));
    compare(criterion, "lstm_int8_512", || op.forward(&gates, &int8), run);
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = linear, linear_int8, layer_norm, fsmn_memory, attention, lstm
}
criterion_main!(benches);
