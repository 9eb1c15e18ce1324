//! Contextual Paraformer with hotword lists of all sizes.

use candle_core::{D, Tensor};
use candle_nn::ops::log_softmax;
use funasr_candle::models::contextual::{self, ContextualParaformer};
use funasr_candle::nn::Lengths;

use super::{HOTWORD_LISTS, hotword_ids, item_rows, kept_ids, padded};
use crate::golden::Golden;

struct Case {
    golden: Golden,
    model: ContextualParaformer,
    /// Name of each list and its embeddings, none for the list that is not given.
    lists: Vec<(&'static str, Option<Tensor>)>,
    items: usize,
}

impl Case {
    fn open(golden: Golden) -> Self {
        let json = golden.config(&["format_version", "frontend", "frontend_conf"]);
        let config: contextual::Config = serde_json::from_value(json).unwrap();
        let speech_width = golden.tensor("item0.speech").dim(2).unwrap();
        let model = ContextualParaformer::load(speech_width, &config, golden.weights()).unwrap();
        let vocab = config.vocab_size as u64;
        let encode = |count| model.encode_hotwords(&hotword_ids(count, vocab)).unwrap();
        let lists = HOTWORD_LISTS.map(|(name, count)| (name, count.map(encode))).to_vec();
        let items = golden.json("items").as_array().unwrap().len();
        Self { golden, model, lists, items }
    }

    fn tokens(&self, item: usize) -> usize {
        self.golden.json("items")[item]["tokens"].as_u64().unwrap() as usize
    }

    /// One utterance with one list, the decoder layer by layer.
    fn check_decoder(&self, item: usize, list: &str, hotwords: &Tensor) {
        let stage = |name: &str| format!("item{item}.{list}.{name}");
        let (decoder, golden) = (self.model.decoder(), &self.golden);
        let encoder_out = golden.tensor(&format!("item{item}.encoder_out"));
        let frames = Lengths::full(1, encoder_out.dim(1).unwrap());
        let tokens = Lengths::full(1, self.tokens(item));
        let mut x = golden.tensor(&format!("item{item}.acoustic_embeds")).clone();
        for (k, layer) in decoder.layers().iter().enumerate() {
            x = layer.forward(&x, &tokens, encoder_out, &frames).unwrap();
            golden.check(&stage(&format!("decoder_layer_{k}")), &x);
        }
        let (last, attention) = decoder.last_decoder();
        let own = last.forward(&x, &tokens, encoder_out, &frames).unwrap();
        golden.check(&stage("decoder_self"), &own);
        golden.check(&stage("decoder_src"), &attention.forward(&own, &tokens, encoder_out, &frames).unwrap());
        let (memory, counts) = (hotwords.unsqueeze(0).unwrap(), Lengths::full(1, hotwords.dim(0).unwrap()));
        let known = decoder.bias_decoder().forward(&own, &tokens, &memory, &counts).unwrap();
        golden.check(&stage("decoder_bias"), &known);
    }

    /// What the model says to one item of a batch is what FunASR says to it alone.
    fn check_output(&self, output: &contextual::Output, row: usize, item: usize, list: &str) {
        let (golden, tokens) = (&self.golden, self.tokens(item));
        let frames = golden.tensor(&format!("item{item}.speech")).dim(1).unwrap();
        golden.check(&format!("item{item}.encoder_out"), &item_rows(&output.encoder_out, row, frames));
        golden.check_values(&format!("item{item}.alphas"), &output.cif.alphas[row]);
        assert_eq!(output.cif.token_num.items()[row], tokens, "{}", golden.name);
        if tokens > 0 {
            let logits = item_rows(&output.decoder_logits, row, tokens);
            let log_probs = log_softmax(&logits, D::Minus1).unwrap();
            golden.check(&format!("item{item}.{list}.decoder_log_probs"), &log_probs);
            let ids = golden.integers(&format!("item{item}.{list}.ids"));
            assert_eq!(kept_ids(&output.decoder_logits, row, tokens), ids, "{}: {list}", golden.name);
        }
    }
}

#[test]
fn contextual_stages() {
    let goldens = Golden::all("contextual_");
    assert!(goldens.len() >= 3);
    for case in goldens.into_iter().map(Case::open) {
        for (list, hotwords) in &case.lists {
            if let Some(reference) = case.golden.get(&format!("{list}.hotwords")) {
                assert_eq!(reference.dims(), hotwords.as_ref().unwrap().dims());
                case.golden.check(&format!("{list}.hotwords"), hotwords.as_ref().unwrap());
            }
            for item in 0..case.items {
                let speech = case.golden.tensor(&format!("item{item}.speech"));
                let lengths = Lengths::full(1, speech.dim(1).unwrap());
                if let (Some(hotwords), 1..) = (hotwords, case.tokens(item)) {
                    case.check_decoder(item, list, hotwords);
                }
                let output = case.model.forward(speech, &lengths, &[hotwords.as_ref()]).unwrap();
                case.check_output(&output, 0, item, list);
            }
        }
    }
}

/// Every utterance with every list, all in one batch.
#[test]
fn contextual_batch_of_different_lists() {
    for case in Golden::all("contextual_").into_iter().map(Case::open) {
        let rows: Vec<(usize, &str, Option<&Tensor>)> = (0..case.items)
            .flat_map(|item| case.lists.iter().map(move |(name, list)| (item, *name, list.as_ref())))
            .collect();
        let speech =
            |row: &(usize, &str, Option<&Tensor>)| case.golden.tensor(&format!("item{}.speech", row.0));
        let (speech, lengths) = padded(&rows.iter().map(speech).collect::<Vec<_>>());
        let hotwords: Vec<_> = rows.iter().map(|row| row.2).collect();
        let output = case.model.forward(&speech, &lengths, &hotwords).unwrap();
        for (i, (item, list, _)) in rows.iter().enumerate() {
            case.check_output(&output, i, *item, list);
        }
    }
}
