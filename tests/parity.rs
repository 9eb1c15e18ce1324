//! The models against FunASR Python on random weights, stage by stage: the first stage that differs is named.

use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;
use funasr_candle::models::ct_transformer::{self, CtTransformer};
use funasr_candle::models::fsmn_vad::{self, FsmnVad};
use funasr_candle::models::paraformer::{self, Paraformer};
use funasr_candle::nn::{Cif, Lengths};
use serde_json::Value;

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

/// Best token of each of the first `tokens` rows, without blank, start and end.
fn kept_ids(logits: &Tensor, item: usize, tokens: usize) -> Vec<i64> {
    if tokens == 0 {
        return Vec::new();
    }
    let logits = logits.get(item).unwrap().narrow(0, 0, tokens).unwrap();
    let best: Vec<u32> = logits.argmax(1).unwrap().to_vec1().unwrap();
    best.into_iter().filter(|&id| id > 2).map(i64::from).collect()
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
fn cif_fires_where_funasr_does() {
    let golden = Golden::open("cif");
    let sequences = golden.json("sequences");
    let sequences = sequences.as_object().unwrap();
    assert!(sequences.len() >= 8);
    for (name, facts) in sequences {
        let alphas = golden.values(&format!("{name}.alphas"));
        let with_tail = Cif::integrate(&alphas, true);
        assert_eq!(with_tail.peaks, golden.values(&format!("{name}.fires")), "{name}: peaks");
        let frames: Vec<i64> = with_tail.fire_frames().map(|frame| frame as i64).collect();
        assert_eq!(frames, golden.integers(&format!("{name}.fire_frames")), "{name}: firing frames");
        if !facts["near_integer"].as_bool().unwrap() {
            assert_eq!(with_tail.token_num as u64, facts["floor"].as_u64().unwrap(), "{name}: token_num");
            let rounded = Cif::integrate(&alphas, false).token_num;
            assert_eq!(rounded as u64, facts["round"].as_u64().unwrap(), "{name}: rounded token_num");
        }
    }
}

#[test]
fn fsmn_vad_scores_whole_and_in_chunks() {
    for golden in Golden::all("fsmn_vad_") {
        let config: fsmn_vad::Config = serde_json::from_value(golden.config(&[
            "format_version",
            "frontend",
            "frontend_conf",
            "model_conf",
            "vocab_size",
        ]))
        .unwrap();
        let model = FsmnVad::load(&config, golden.weights()).unwrap();
        let feats = golden.tensor("feats");
        let whole = model.step(&mut fsmn_vad::State::default(), feats).unwrap();
        golden.check("scores", &whole);
        let (mut state, mut at, mut chunks) = (fsmn_vad::State::default(), 0, Vec::new());
        for count in golden.integers("chunk_frames") {
            let chunk = feats.narrow(1, at, count as usize).unwrap();
            chunks.push(model.step(&mut state, &chunk).unwrap());
            at += count as usize;
        }
        golden.check("chunk_scores", &Tensor::cat(&chunks, 1).unwrap());
    }
}

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
