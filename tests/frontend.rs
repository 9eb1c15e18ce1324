//! The front end against FunASR's, stage by stage.

use candle_core::{Device, Tensor};
use funasr_candle::frontend::{Cmvn, Features, Frontend, FrontendConfig, OnlineFrontend, OnlineState};
use funasr_kernels::{Lengths, LfrCmvn};

use crate::golden::{FEATURE_TOLERANCE, Golden, max_error};

fn frontend(fs: u32, n_mels: usize, lfr: (usize, usize)) -> Frontend {
    let config = FrontendConfig { fs, n_mels, lfr_m: lfr.0, lfr_n: lfr.1, ..FrontendConfig::default() };
    Frontend::new(&config, None).unwrap()
}

#[track_caller]
fn check(golden: &Golden, name: &str, ours: &Features) {
    let reference = golden.values(name);
    assert_eq!(ours.values.len(), reference.len(), "{}: length of {name}", golden.name);
    let error = max_error(&ours.values, &reference);
    assert!(error <= FEATURE_TOLERANCE, "{}: {name} differs by {error:.2e}", golden.name);
}

#[test]
fn fbank_and_lfr_are_those_of_funasr() {
    for (file, fs) in [("frontend_16k", 16_000), ("frontend_8k", 8000)] {
        let golden = Golden::open(file);
        let mut signals = 0;
        for name in golden.names().into_iter().filter(|name| name.ends_with(".samples")) {
            let signal = name.trim_end_matches(".samples");
            let stages = frontend(fs, 80, (7, 6)).stages(&golden.values(name));
            check(&golden, &format!("{signal}.fbank"), &stages.fbank);
            let stacked = format!("{signal}.lfr_7_6");
            if golden.get(&stacked).is_some() {
                check(&golden, &stacked, &stages.lfr);
            }
            signals += 1;
        }
        assert!(signals >= 8, "{file} holds {signals} signals");
    }
}

#[test]
fn every_stacking_repeats_the_ends() {
    let golden = Golden::open("lfr_cmvn");
    let mut cases = 0;
    for name in golden.names().into_iter().filter(|name| name.starts_with("lfr_") && name.ends_with(".fbank"))
    {
        let case = name.trim_end_matches(".fbank");
        let numbers: Vec<usize> = case.split(['_', '.']).filter_map(|part| part.parse().ok()).collect();
        let fbank = golden.tensor(name);
        let fbank = Features { values: golden.values(name), width: fbank.dims()[fbank.rank() - 1] };
        let lfr = funasr_candle::frontend::Lfr { stack: numbers[0], stride: numbers[1] };
        assert_eq!(lfr.stack(&fbank).values, golden.values(&format!("{case}.out")), "{case}");
        cases += 1;
    }
    assert!(cases >= 8, "{cases} cases");
}

#[test]
fn cmvn_shifts_then_scales() {
    let golden = Golden::open("lfr_cmvn");
    let cmvn = Cmvn::new(golden.values("cmvn.shift"), golden.values("cmvn.scale")).unwrap();
    let width = golden.values("cmvn.shift").len();
    let mut features = Features { values: golden.values("cmvn.feats"), width };
    cmvn.apply(&mut features);
    assert_eq!(features.values, golden.values("cmvn.out"));
}

#[test]
fn online_rows_are_those_of_funasr_call_by_call() {
    let golden = Golden::open("frontend_online");
    let samples = golden.values("samples");
    let mut schedules = 0;
    for name in golden.names().into_iter().filter(|name| name.ends_with(".calls")) {
        let case = name.trim_end_matches(".calls");
        let numbers: Vec<usize> = case.split(['_', '.']).filter_map(|part| part.parse().ok()).collect();
        let frontend = frontend(16_000, 8, (numbers[0], numbers[1]));
        let online = OnlineFrontend::new(&frontend);
        let (mut state, mut at, mut rows, mut values) = (OnlineState::default(), 0, Vec::new(), Vec::new());
        let calls = golden.integers(name);
        for (call, &count) in calls.iter().enumerate() {
            let chunk = &samples[at..at + count as usize];
            let features = online.push(&mut state, chunk, call + 1 == calls.len());
            at += count as usize;
            rows.push(features.frames() as i64);
            values.extend(features.values);
        }
        assert_eq!(rows, golden.integers(&format!("{case}.rows")), "{case}");
        let group = case.split('.').next().unwrap();
        let feats = format!("{case}.feats");
        let name = if golden.get(&feats).is_some() { feats } else { format!("{group}.whole") };
        check(&golden, &name, &Features { values, width: 8 * numbers[0] });
        schedules += 1;
    }
    assert!(schedules >= 6, "{schedules} schedules");
}

#[test]
fn however_audio_is_cut_the_rows_are_the_offline_ones() {
    let golden = Golden::open("frontend_online");
    let samples = golden.values("samples");
    for lfr in [(7, 6), (5, 1), (1, 1), (2, 3)] {
        let frontend = frontend(16_000, 80, lfr);
        let whole = frontend.features(&samples);
        for piece in [1, 7, 160, 399, 400, 401, 960, 5000, samples.len()] {
            let online = OnlineFrontend::new(&frontend);
            let mut state = OnlineState::default();
            let mut values = Vec::new();
            for chunk in samples.chunks(piece) {
                values.extend(online.push(&mut state, chunk, false).values);
            }
            values.extend(online.push(&mut state, &[], true).values);
            assert!(values == whole.values, "lfr {lfr:?}, pieces of {piece}: other rows");
        }
    }
}

/// Where a network's device stacks and normalises, it does what the front end does: the rows are the same to the bit.
#[test]
fn frames_that_are_stacked_elsewhere_give_the_same_rows() {
    let golden = Golden::open("frontend_online");
    let samples = golden.values("samples");
    for lfr in [(7, 6), (5, 1), (1, 1), (2, 3)] {
        let config = FrontendConfig { lfr_m: lfr.0, lfr_n: lfr.1, ..FrontendConfig::default() };
        let column = |i: usize| 0.37 + (i % 11) as f32 / 7.0;
        let [shift, scale] =
            [-9.0, 0.1].map(|x| (0..config.feature_width()).map(|i| x * column(i)).collect::<Vec<_>>());
        let stack = LfrCmvn::new(lfr.into(), &shift, &scale, &Device::Cpu).unwrap();
        let frontend = Frontend::new(&config, Some(Cmvn::new(shift, scale).unwrap())).unwrap();
        let whole = frontend.features(&samples);
        for piece in [160, 401, 5000, samples.len()] {
            let online = OnlineFrontend::new(&frontend);
            let (mut state, mut values) = (OnlineState::default(), Vec::new());
            let mut pieces = samples.chunks(piece).peekable();
            while let Some(samples) = pieces.next() {
                let frames = online.push_frames(&mut state, samples, pieces.peek().is_none());
                let count = frames.fbank.frames();
                let fbank = Tensor::from_vec(frames.fbank.values, (1, count, 80), &Device::Cpu).unwrap();
                let rows = stack.forward(&fbank, &Lengths::full(1, count), 0..frames.rows).unwrap();
                values.extend(rows.flatten_all().unwrap().to_vec1::<f32>().unwrap());
            }
            assert!(values == whole.values, "lfr {lfr:?}, pieces of {piece}: other rows");
        }
    }
}
