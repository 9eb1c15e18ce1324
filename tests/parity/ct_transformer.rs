//! CT-Transformer labels.

use candle_core::DType;
use funasr_candle::models::ct_transformer::{self, CtTransformer};
use funasr_candle::nn::Lengths;

use crate::golden::Golden;

fn ct_transformer(golden: &Golden) -> CtTransformer {
    let mut config = golden.config(&["format_version", "tokenizer", "tokenizer_conf"]);
    // A training option, which the converter drops.
    config["model_conf"].as_object_mut().unwrap().remove("ignore_id");
    let config: ct_transformer::Config = serde_json::from_value(config).unwrap();
    CtTransformer::load(&config, golden.weights()).unwrap()
}

#[test]
fn ct_transformer_labels() {
    for golden in Golden::all("ct_transformer_") {
        let model = ct_transformer(&golden);
        let items = golden.names().iter().filter(|name| name.ends_with(".ids")).count();
        assert!(items >= 3);
        for item in 0..items {
            let ids = golden.tensor(&format!("item{item}.ids")).to_dtype(DType::U32).unwrap();
            let words = ids.elem_count();
            let logits = model.forward(&ids.reshape((1, words)).unwrap(), &Lengths::full(1, words)).unwrap();
            golden.check(&format!("item{item}.logits"), &logits);
            let labels: Vec<u32> = logits.squeeze(0).unwrap().argmax(1).unwrap().to_vec1().unwrap();
            let labels: Vec<i64> = labels.into_iter().map(i64::from).collect();
            assert_eq!(labels, golden.integers(&format!("item{item}.labels")), "{}", golden.name);
        }
    }
}
