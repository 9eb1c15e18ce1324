//! Plain Paraformer, and how strictly its files are read.

use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;
use funasr_candle::models::paraformer::{self, Paraformer};
use funasr_candle::nn::Lengths;
use serde_json::Value;

use super::kept_ids;
use crate::golden::Golden;

fn paraformer(golden: &Golden) -> Paraformer {
    let json = golden.config(&["format_version", "frontend", "frontend_conf", "tokenizer", "tokenizer_conf"]);
    let config: paraformer::Config = serde_json::from_value(json).unwrap();
    let speech_width = golden.tensor("item0.speech").dim(2).unwrap();
    Paraformer::load(speech_width, &config, golden.weights()).unwrap()
}

/// Runs one utterance layer by layer and compares each stage before the next one is built on it.
fn check_paraformer_item(golden: &Golden, model: &Paraformer, item: usize) -> Vec<i64> {
    let stage = |name: &str| format!("item{item}.{name}");
    let speech = golden.tensor(&stage("speech"));
    let lengths = Lengths::full(1, speech.dim(1).unwrap());
    let mut x = model.encoder().embed(speech).unwrap();
    golden.check(&stage("encoder_embed"), &x);
    for (k, layer) in model.encoder().layers().iter().enumerate() {
        x = layer.forward(&x, &lengths).unwrap();
        golden.check(&stage(&format!("encoder_layer_{k}")), &x);
    }
    let encoder_out = model.encoder().after_norm().forward(&x).unwrap();
    golden.check(&stage("encoder_out"), &encoder_out);

    let cif = model.predictor().forward(&encoder_out, &lengths).unwrap();
    golden.check_values(&stage("alphas"), &cif.alphas[0]);
    golden.check_values(&stage("peaks"), &cif.peaks[0]);
    let expected = &golden.json("items")[item];
    assert_eq!(cif.token_num.items(), [expected["tokens"].as_u64().unwrap() as usize], "{}", golden.name);
    let ids = golden.integers(&stage("ids"));
    if cif.token_num.max() == 0 {
        return ids;
    }
    golden.check(&stage("acoustic_embeds"), &cif.acoustic_embeds);
    let mut x = cif.acoustic_embeds.clone();
    for (k, layer) in model.decoder().layers().iter().enumerate() {
        x = layer.forward(&x, &cif.token_num, &encoder_out, &lengths).unwrap();
        golden.check(&stage(&format!("decoder_layer_{k}")), &x);
    }
    let output = model.forward(speech, &lengths).unwrap();
    golden.check(&stage("decoder_logits"), &output.decoder_logits);
    assert_eq!(kept_ids(&output.decoder_logits, 0, cif.token_num.items()[0]), ids, "{}: ids", golden.name);
    ids
}

#[test]
fn paraformer_stages() {
    let goldens = Golden::all("paraformer_");
    assert!(goldens.len() >= 6);
    for golden in goldens {
        let model = paraformer(&golden);
        let items = golden.json("items").as_array().unwrap().len();
        assert!(items >= 2);
        let ids: Vec<Vec<i64>> =
            (0..items).map(|item| check_paraformer_item(&golden, &model, item)).collect();
        check_paraformer_batch(&golden, &model, &ids);
    }
}

/// All utterances in one padded batch: each stage of each is what it is alone.
fn check_paraformer_batch(golden: &Golden, model: &Paraformer, ids: &[Vec<i64>]) {
    let items: Vec<&Tensor> = (0..ids.len()).map(|i| golden.tensor(&format!("item{i}.speech"))).collect();
    let lengths = Lengths::new(items.iter().map(|x| x.dim(1).unwrap()).collect::<Vec<_>>());
    let padded: Vec<Tensor> =
        items.iter().map(|x| x.pad_with_zeros(1, 0, lengths.max() - x.dim(1).unwrap()).unwrap()).collect();
    let output = model.forward(&Tensor::cat(&padded, 0).unwrap(), &lengths).unwrap();
    for (i, ids) in ids.iter().enumerate() {
        let frames = lengths.items()[i];
        let encoder_out = output.encoder_out.narrow(0, i, 1).unwrap().narrow(1, 0, frames).unwrap();
        golden.check(&format!("item{i}.encoder_out"), &encoder_out);
        golden.check_values(&format!("item{i}.alphas"), &output.cif.alphas[i]);
        let tokens = output.cif.token_num.items()[i];
        if tokens > 0 {
            let logits = output.decoder_logits.narrow(0, i, 1).unwrap().narrow(1, 0, tokens).unwrap();
            golden.check(&format!("item{i}.decoder_logits"), &logits);
        }
        assert_eq!(&kept_ids(&output.decoder_logits, i, tokens), ids, "{}: ids of item {i}", golden.name);
    }
}

#[test]
fn unknown_configuration_is_refused_by_name() {
    let golden = Golden::open("paraformer_basic");
    let base = golden.config(&["format_version", "frontend", "frontend_conf", "tokenizer", "tokenizer_conf"]);
    let cases: [(&str, Value); 6] = [
        ("/encoder_conf/concat_after", true.into()),
        ("/encoder_conf/normalize_before", false.into()),
        ("/encoder_conf/input_layer", "conv2d".into()),
        ("/encoder", "ConformerEncoder".into()),
        ("/predictor_conf/upsample_type", "cnn".into()),
        ("/lora", 8.into()),
    ];
    for (pointer, value) in cases {
        let mut json = base.clone();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        json.pointer_mut(parent).unwrap()[key] = value.clone();
        let error = serde_json::from_value::<paraformer::Config>(json).unwrap_err().to_string();
        let value = value.as_str().unwrap_or(key);
        assert!(error.contains(key) || error.contains(value), "{pointer}: {error}");
    }
}

#[test]
fn a_missing_tensor_is_named() {
    let golden = Golden::open("paraformer_basic");
    let config =
        golden.config(&["format_version", "frontend", "frontend_conf", "tokenizer", "tokenizer_conf"]);
    let config: paraformer::Config = serde_json::from_value(config).unwrap();
    let nothing = VarBuilder::from_tensors(Default::default(), DType::F32, &candle_core::Device::Cpu);
    let error = Paraformer::load(560, &config, nothing).unwrap_err().to_string();
    assert!(error.contains("encoder.encoders0.0.norm1.weight"), "{error}");
}
