//! CT-Transformer: stages and labels, of whole texts and in real time.

use candle_core::{DType, Tensor};
use funasr_candle::models::ct_transformer::{self, CtTransformer};
use funasr_candle::nn::Lengths;
use serde_json::Value;

use crate::golden::Golden;

fn config(golden: &Golden) -> ct_transformer::Config {
    let mut config = golden.config(&["format_version", "tokenizer", "tokenizer_conf"]);
    // A training option, which the converter drops.
    config["model_conf"].as_object_mut().unwrap().remove("ignore_id");
    serde_json::from_value(config).unwrap()
}

fn load(golden: &Golden) -> CtTransformer {
    CtTransformer::load(&config(golden), golden.weights()).unwrap()
}

fn word_ids(golden: &Golden, item: usize) -> Tensor {
    let ids = golden.tensor(&format!("item{item}.ids")).to_dtype(DType::U32).unwrap();
    ids.unsqueeze(0).unwrap()
}

fn items(golden: &Golden) -> usize {
    golden.names().iter().filter(|name| name.ends_with(".ids")).count()
}

/// Compares each stage before the next one is built on it. What depends on the VAD index has `vad` in its name.
fn check_stages(golden: &Golden, model: &CtTransformer, item: usize, vad: Option<usize>) {
    let stage = |name: &str| {
        let own = vad.map(|index| format!("item{item}.vad{index}.{name}"));
        own.filter(|own| golden.get(own).is_some()).unwrap_or_else(|| format!("item{item}.{name}"))
    };
    let words = word_ids(golden, item);
    let (lengths, vad_indexes) = (Lengths::full(1, words.dim(1).unwrap()), [vad.unwrap_or(0)]);
    let mut x = model.embed(&words).unwrap();
    golden.check(&stage("encoder_embed"), &x);
    for (k, layer) in model.encoder().layers().iter().enumerate() {
        x = layer.forward_visible(&x, &lengths, model.visible(k, &vad_indexes)).unwrap();
        golden.check(&stage(&format!("encoder_layer_{k}")), &x);
    }
    x = model.encoder().after_norm().forward(&x).unwrap();
    golden.check(&stage("encoder_out"), &x);
    let logits = model.forward(&words, &lengths, &vad_indexes).unwrap();
    golden.check(&stage("logits"), &logits);
    let labels: Vec<u32> = logits.squeeze(0).unwrap().argmax(1).unwrap().to_vec1().unwrap();
    let labels: Vec<i64> = labels.into_iter().map(i64::from).collect();
    assert_eq!(labels, golden.integers(&stage("labels")), "{}", golden.name);
}

#[test]
fn ct_transformer_labels() {
    for golden in Golden::all("ct_transformer_") {
        let model = load(&golden);
        assert_eq!(items(&golden), 5);
        (0..items(&golden)).for_each(|item| check_stages(&golden, &model, item, None));
    }
}

/// The VAD indexes of an item, from the names of its stages.
fn vad_indexes(golden: &Golden, item: usize) -> Vec<usize> {
    let prefix = format!("item{item}.vad");
    let index = |name: &&str| name.strip_prefix(&prefix)?.strip_suffix(".labels")?.parse().ok();
    golden.names().iter().filter_map(index).collect()
}

#[test]
fn ct_transformer_labels_in_real_time() {
    let goldens = Golden::all("ct_realtime_");
    assert_eq!(goldens.len(), 4);
    for golden in goldens {
        let model = load(&golden);
        let mut cases = 0;
        for item in 0..items(&golden) {
            for index in vad_indexes(&golden, item) {
                check_stages(&golden, &model, item, Some(index));
                cases += 1;
            }
        }
        assert_eq!(cases, 3 + 3 + 6 + 6 + 6, "lengths 1, 2, 7, 20, 50");
    }
}

/// Every item with another VAD index, in one batch.
#[test]
fn a_batch_in_real_time_is_as_its_items() {
    for golden in Golden::all("ct_realtime_") {
        let model = load(&golden);
        let ids: Vec<Tensor> = (0..items(&golden)).map(|item| word_ids(&golden, item)).collect();
        let lengths = Lengths::new(ids.iter().map(Tensor::elem_count).collect::<Vec<_>>());
        let padded: Vec<Tensor> = ids
            .iter()
            .map(|ids| ids.pad_with_zeros(1, 0, lengths.max() - ids.elem_count()).unwrap())
            .collect();
        for pick in 0..6 {
            let of = |item| {
                let all = vad_indexes(&golden, item);
                all[pick % all.len()]
            };
            let vad_indexes: Vec<usize> = (0..ids.len()).map(of).collect();
            let logits = model.forward(&Tensor::cat(&padded, 0).unwrap(), &lengths, &vad_indexes).unwrap();
            for (item, &length) in lengths.items().iter().enumerate() {
                let own = logits.narrow(0, item, 1).unwrap().narrow(1, 0, length).unwrap();
                golden.check(&format!("item{item}.vad{}.logits", vad_indexes[item]), &own);
            }
        }
    }
}

#[test]
fn the_encoder_belongs_to_the_class() {
    let golden = Golden::open("ct_realtime_shifted");
    let mut config = config(&golden);
    config.model = ct_transformer::Class::CTTransformer;
    let error = CtTransformer::load(&config, golden.weights()).unwrap_err().to_string();
    assert!(error.starts_with("encoder is SANMVadEncoder, but a CTTransformer has a SANMEncoder"), "{error}");
    let mut json = golden.config(&["format_version"]);
    json["encoder"] = Value::from("SANMEncoderChunkOpt");
    assert!(serde_json::from_value::<ct_transformer::Config>(json).is_err());
}
