//! SeACo Paraformer with hotword lists of all sizes.

use candle_core::{D, Tensor};
use candle_nn::ops::log_softmax;
use funasr_candle::models::seaco::{Config, Output, SeacoParaformer};
use funasr_candle::nn::Lengths;
use serde_json::Value;

use super::{HOTWORD_LISTS, hotword_ids, item_rows, kept_ids, padded};
use crate::golden::Golden;

fn config(golden: &Golden) -> Value {
    golden.config(&["format_version", "frontend", "frontend_conf"])
}

struct Case {
    golden: Golden,
    model: SeacoParaformer,
    /// Name of each list and its embeddings, none for the list that is not given.
    lists: Vec<(&'static str, Option<Tensor>)>,
    items: usize,
}

impl Case {
    fn open(golden: Golden) -> Self {
        let config: Config = serde_json::from_value(config(&golden)).unwrap();
        let speech_width = golden.tensor("item0.speech").dim(2).unwrap();
        let model = SeacoParaformer::load(speech_width, &config, golden.weights()).unwrap();
        let vocab = config.paraformer.vocab_size as u64;
        let encode = |count| model.encode_hotwords(&hotword_ids(count, vocab)).unwrap();
        let lists = HOTWORD_LISTS.map(|(name, count)| (name, count.map(encode))).to_vec();
        let items = golden.json("items").as_array().unwrap().len();
        Self { golden, model, lists, items }
    }

    fn tokens(&self, item: usize) -> usize {
        self.golden.json("items")[item]["tokens"].as_u64().unwrap() as usize
    }

    /// What the model says to one item of a batch is what FunASR says to it alone.
    fn check_output(&self, output: &Output, row: usize, item: usize, list: &str) {
        let (golden, tokens) = (&self.golden, self.tokens(item));
        let own = |name: &str| format!("item{item}.{name}");
        let biased = |name: &str| format!("item{item}.{list}.{name}");
        let frames = golden.tensor(&own("speech")).dim(1).unwrap();
        golden.check(&own("encoder_out"), &item_rows(&output.encoder_out, row, frames));
        golden.check_values(&own("alphas"), &output.cif.alphas[row]);
        golden.check_values(&own("peaks"), &output.cif.peaks[row]);
        assert_eq!(output.cif.token_num.items()[row], tokens, "{}", golden.name);
        if tokens == 0 {
            return;
        }
        golden.check_values(&own("us_alphas"), &output.us_alphas[row]);
        golden.check(&own("acoustic_embeds"), &item_rows(&output.cif.acoustic_embeds, row, tokens));
        let hidden = item_rows(&output.decoder_hidden, row, tokens);
        golden.check(&own("decoder_hidden"), &hidden);
        if let Some((_, Some(hotwords))) = self.lists.iter().find(|(name, _)| *name == list) {
            if golden.get(&biased("hotword_scores")).is_some() {
                let tokens = Lengths::full(1, tokens);
                let scores = self.model.hotword_scores(&hidden, &tokens, &[Some(hotwords)]).unwrap();
                golden.check(&biased("hotword_scores"), &scores.squeeze(0).unwrap());
            }
            let bias = output.bias.as_ref().unwrap();
            golden.check(&biased("cif_attended"), &item_rows(&bias.cif_attended, row, tokens));
            golden.check(&biased("dec_attended"), &item_rows(&bias.dec_attended, row, tokens));
            golden.check(&biased("dha"), &item_rows(&bias.dha, row, tokens));
        }
        golden.check(&biased("decoder_log_probs"), &item_rows(&output.decoder_logits, row, tokens));
        let ids = kept_ids(&output.decoder_logits, row, tokens);
        assert_eq!(ids, golden.integers(&biased("ids")), "{}: {list}", golden.name);
    }
}

#[test]
fn seaco_stages() {
    let goldens = Golden::all("seaco_");
    assert!(goldens.len() >= 2);
    for case in goldens.into_iter().map(Case::open) {
        for (list, hotwords) in &case.lists {
            if let Some(reference) = case.golden.get(&format!("{list}.hotwords")) {
                assert_eq!(reference.dims(), hotwords.as_ref().unwrap().dims());
                case.golden.check(&format!("{list}.hotwords"), hotwords.as_ref().unwrap());
            }
            for item in 0..case.items {
                let speech = case.golden.tensor(&format!("item{item}.speech"));
                let lengths = Lengths::full(1, speech.dim(1).unwrap());
                let output = case.model.forward(speech, &lengths, &[hotwords.as_ref()]).unwrap();
                case.check_output(&output, 0, item, list);
            }
        }
    }
}

/// Every utterance with every list, all in one batch.
#[test]
fn seaco_batch_of_different_lists() {
    for case in Golden::all("seaco_").into_iter().map(Case::open) {
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

/// What an utterance attends to in a batch, where others are longer and have longer lists, is what it attends to alone; nothing
/// is there behind its list.
#[test]
fn seaco_scores_are_those_alone() {
    for case in Golden::all("seaco_").into_iter().map(Case::open) {
        let hidden: Vec<&Tensor> = (0..case.items)
            .filter(|&item| case.tokens(item) > 0)
            .map(|item| case.golden.tensor(&format!("item{item}.decoder_hidden")))
            .collect();
        let lists: Vec<&Tensor> = case.lists.iter().filter_map(|(_, list)| list.as_ref()).collect();
        let (batch, tokens) = padded(&hidden);
        let mine: Vec<&Tensor> = (0..hidden.len()).map(|i| lists[i % lists.len()]).collect();
        let longest = mine.iter().map(|list| list.dim(0).unwrap()).max().unwrap();
        assert!(hidden.len() > 1 && mine.iter().any(|list| list.dim(0).unwrap() < longest));
        let given: Vec<_> = mine.iter().copied().map(Some).collect();
        let scores = case.model.hotword_scores(&batch, &tokens, &given).unwrap();
        for (i, list) in mine.iter().enumerate() {
            let (own, count) = (Lengths::full(1, tokens.items()[i]), list.dim(0).unwrap());
            let alone = case.model.hotword_scores(hidden[i], &own, &[Some(list)]).unwrap();
            let row = scores.narrow(0, i, 1).unwrap();
            let difference =
                (row.narrow(1, 0, count).unwrap() - &alone).unwrap().abs().unwrap().max_all().unwrap();
            let scale = alone.max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(
                difference.to_scalar::<f32>().unwrap() <= 1e-5 * scale,
                "{}: {difference}",
                case.golden.name
            );
            let behind = row.narrow(1, count, longest - count).unwrap().flatten_all().unwrap();
            assert!(behind.to_vec1::<f32>().unwrap().iter().all(|&score| score < 1e-30));
        }
    }
}

/// The lists change what is recognised, and both decoders are heard: otherwise the tests above would prove little.
#[test]
fn seaco_goldens_tell_lists_apart() {
    for case in Golden::all("seaco_").into_iter().map(Case::open) {
        let item = case.items - 1;
        let of = |list: &str, stage: &str| case.golden.tensor(&format!("item{item}.{list}.{stage}"));
        let mut ids: Vec<Vec<i64>> =
            case.lists.iter().map(|(list, _)| of(list, "ids").to_vec1().unwrap()).collect();
        ids.sort();
        ids.dedup();
        assert!(ids.len() >= 3, "{}: {} different results", case.golden.name, ids.len());
        let rows = |stage: &str| of("three", stage).squeeze(0).unwrap().to_vec2::<f32>().unwrap();
        let replaced = rows("dha").iter().zip(rows("decoder_log_probs")).filter(|(a, b)| **a == *b).count();
        assert!(replaced > 0 && replaced < case.tokens(item), "{}: {replaced}", case.golden.name);
    }
}

/// Ten thousand hotwords, as many as a list may hold, and hotwords that are none.
#[test]
fn seaco_with_ten_thousand_hotwords() {
    let case = Case::open(Golden::open("seaco_basic"));
    let hotwords = case.model.encode_hotwords(&hotword_ids(10_000, 40)).unwrap();
    assert_eq!(hotwords.dim(0).unwrap(), 10_001);
    let first = case.model.encode_hotwords(&hotword_ids(1000, 40)).unwrap();
    let gap = (hotwords.narrow(0, 0, 1000).unwrap() - first.narrow(0, 0, 1000).unwrap()).unwrap();
    assert!(gap.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap() < 1e-6);
    let speech = case.golden.tensor("item2.speech");
    let lengths = Lengths::full(1, speech.dim(1).unwrap());
    let output = case.model.forward(speech, &lengths, &[Some(&hotwords)]).unwrap();
    assert_eq!(output.decoder_logits.dim(1).unwrap(), case.tokens(2));

    let cases: [(&[u32], &str); 2] =
        [(&[], "hotword 1 has no tokens"), (&[3, 40], "hotword 1: token 40 of a list of 40")];
    for (ids, message) in cases {
        let error = case.model.encode_hotwords(&[vec![3], ids.to_vec()]).unwrap_err().to_string();
        assert!(error.starts_with(message), "{error}");
    }
}

/// Without hotwords the second decoder is not asked, and every item's numbers are the decoder's.
#[test]
fn seaco_without_hotwords() {
    let case = Case::open(Golden::open("seaco_basic"));
    let speech = case.golden.tensor("item0.speech");
    let lengths = Lengths::full(1, speech.dim(1).unwrap());
    let output = case.model.forward(speech, &lengths, &[None]).unwrap();
    assert!(output.bias.is_none());
    let logits = case.model.decoder().logits(&output.decoder_hidden).unwrap();
    case.golden.check("item0.none.decoder_log_probs", &log_softmax(&logits, D::Minus1).unwrap());
    let error = case.model.forward(speech, &lengths, &[]).unwrap_err().to_string();
    assert!(error.starts_with("seaco paraformer: 0 hotword lists for 1 items"), "{error}");
}

#[test]
fn seaco_configurations_that_cannot_work_are_refused() {
    let golden = Golden::open("seaco_basic");
    let cases: [(&str, Value, &str); 8] = [
        ("/model_conf/inner_dim", 24.into(), "model_conf.inner_dim is 24"),
        ("/model_conf/NO_BIAS", 40.into(), "model_conf.NO_BIAS is 40, there are 40 tokens"),
        ("/model_conf/bias_encoder_type", "mean".into(), "mean"),
        ("/model_conf/sos", 3.into(), "sos"),
        ("/seaco_decoder_conf/att_layer_num", 5.into(), "att_layer_num is 5, layer 6 ranks"),
        ("/seaco_decoder_conf/use_output_layer", true.into(), "use_output_layer"),
        ("/seaco_decoder", "OtherDecoder".into(), "OtherDecoder"),
        ("/lora", 8.into(), "lora"),
    ];
    for (pointer, value, message) in cases {
        let mut json = config(&golden);
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        json.pointer_mut(parent).unwrap()[key] = value;
        let loaded = serde_json::from_value::<Config>(json).map_err(|error| error.to_string());
        let error = loaded.and_then(|config| {
            SeacoParaformer::load(42, &config, golden.weights()).map_err(|error| error.to_string())
        });
        let error = error.unwrap_err();
        assert!(error.contains(message), "{pointer}: {error}");
    }
}
