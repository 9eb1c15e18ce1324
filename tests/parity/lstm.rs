//! LSTM layers against torch, alone and in a padded batch.

use candle_core::{Device, Tensor};
use funasr_candle::nn::{Lengths, Lstm, LstmConfig};

use crate::golden::Golden;

#[test]
fn lstm_gives_what_torch_does() {
    let golden = Golden::open("lstm");
    let cases = golden.json("cases");
    let cases = cases.as_object().unwrap();
    assert!(cases.len() >= 5);
    for (name, case) in cases {
        let number = |key: &str| case[key].as_u64().unwrap() as usize;
        let config = LstmConfig {
            inputs: number("inputs"),
            hidden: number("hidden"),
            layers: number("layers"),
            bidirectional: case["bidirectional"].as_bool().unwrap(),
        };
        let lstm = Lstm::load(&config, golden.weights().pp(name)).unwrap();
        let steps: Vec<usize> = serde_json::from_value(case["steps"].clone()).unwrap();
        for (i, &count) in steps.iter().enumerate() {
            let x = golden.tensor(&format!("{name}.item{i}.x"));
            golden.check(&format!("{name}.item{i}.y"), &lstm.forward(x, &Lengths::full(1, count)).unwrap());
        }
        let y = lstm.forward(&padded(&golden, name, &steps), &Lengths::new(steps.clone())).unwrap();
        for (i, &count) in steps.iter().enumerate() {
            let y = y.narrow(0, i, 1).unwrap();
            golden.check(&format!("{name}.item{i}.y"), &y.narrow(1, 0, count).unwrap());
        }
    }
}

/// All items of a case in one batch, with large values in the padding.
fn padded(golden: &Golden, name: &str, steps: &[usize]) -> Tensor {
    let longest = steps.iter().max().unwrap();
    let item = |i: usize| {
        let x = golden.tensor(&format!("{name}.item{i}.x"));
        let missing = (1, longest - steps[i], x.dim(2).unwrap());
        let padding = Tensor::full(9f32, missing, &Device::Cpu).unwrap().to_device(x.device()).unwrap();
        Tensor::cat(&[x, &padding], 1).unwrap()
    };
    Tensor::cat(&(0..steps.len()).map(item).collect::<Vec<_>>(), 0).unwrap()
}
