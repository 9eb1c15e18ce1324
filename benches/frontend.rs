//! Samples to features: `cargo bench --bench frontend`.

// A bench that cannot start has nobody to report to.
#![allow(clippy::expect_used)]

use std::f32::consts::TAU;
use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use funasr_candle::Result;
use funasr_candle::audio::Resampler;
use funasr_candle::frontend::{Cmvn, Frontend, FrontendConfig, OnlineFrontend, OnlineState};

const SECONDS: usize = 20;
const RATE: usize = 16_000;
/// Samples of a 200 ms piece.
const PIECE: usize = RATE / 5;

/// A sweep, so that no two frames are the same.
fn sweep(rate: usize) -> Vec<f32> {
    let phase = |i: usize| (i as f32 / rate as f32).powi(2) * 100.0 % 1.0;
    (0..SECONDS * rate).map(|i| 0.3 * (TAU * phase(i)).sin()).collect()
}

/// The front end of published 16 kHz Paraformers.
fn frontend() -> Result<Frontend> {
    let config = FrontendConfig { lfr_m: 7, lfr_n: 6, ..FrontendConfig::default() };
    let width = config.feature_width();
    Frontend::new(&config, Some(Cmvn::new(vec![-8.5; width], vec![0.2; width])?))
}

fn features(criterion: &mut Criterion) {
    let (samples, frontend) = (sweep(RATE), frontend().expect("a valid configuration"));
    let mut group = criterion.benchmark_group("frontend");
    group.throughput(Throughput::Elements(samples.len() as u64));
    group.bench_function("fbank_lfr_cmvn_20s", |b| b.iter(|| frontend.features(black_box(&samples))));
    group.bench_function("online_200ms_pieces_20s", |b| {
        b.iter(|| {
            let (online, mut state) = (OnlineFrontend::new(&frontend), OnlineState::default());
            let count = samples.len() / PIECE;
            let pieces = samples.chunks_exact(PIECE).enumerate();
            pieces.map(|(i, piece)| online.push(&mut state, piece, i + 1 == count).frames()).sum::<usize>()
        });
    });
    group.finish();
}

fn resample(criterion: &mut Criterion) {
    let samples = sweep(3 * RATE);
    let mut group = criterion.benchmark_group("resample");
    group.throughput(Throughput::Elements(samples.len() as u64));
    group.bench_function("48k_to_16k_20s", |b| {
        b.iter(|| {
            let mut resampler = Resampler::new(48_000, 16_000).expect("rates in bounds");
            let mut out = Vec::new();
            resampler.push(black_box(&samples), &mut out);
            resampler.finish(&mut out);
            out.len()
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).measurement_time(Duration::from_secs(2));
    targets = features, resample
}
criterion_main!(benches);
