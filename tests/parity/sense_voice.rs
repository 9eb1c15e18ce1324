//! SenseVoiceSmall: encoder, CTC and alignment.

use candle_core::Tensor;
use funasr_candle::decode::ctc;
use funasr_candle::models::sense_voice::{self, Language, QUERY_FRAMES, Query, SenseVoice};
use funasr_candle::nn::Lengths;

use crate::golden::Golden;

fn sense_voice(golden: &Golden) -> SenseVoice {
    let json = golden.config(&["format_version", "frontend", "frontend_conf"]);
    let config: sense_voice::Config = serde_json::from_value(json).unwrap();
    let speech_width = golden.tensor("item0.speech").dim(2).unwrap();
    SenseVoice::load(speech_width, &config, golden.weights()).unwrap()
}

fn queries(golden: &Golden) -> Vec<Query> {
    let items = golden.json("items");
    let query = |item: &serde_json::Value| Query {
        language: item["language"].as_str().unwrap().parse().unwrap(),
        text_norm: item["text_norm"] == "withitn",
    };
    items.as_array().unwrap().iter().map(query).collect()
}

/// Runs one utterance layer by layer and compares each stage before the next one is built on it; returns the largest
/// error by stage.
fn check_item(golden: &Golden, model: &SenseVoice, item: usize, query: Query) -> Vec<(String, f32)> {
    let mut errors = Vec::new();
    let mut check = |name: &str, ours: &Tensor| {
        errors.push((name.to_owned(), golden.check(&format!("item{item}.{name}"), ours)));
    };
    let speech = golden.tensor(&format!("item{item}.speech"));
    let (asked, lengths) = model.ask(speech, &Lengths::full(1, speech.dim(1).unwrap()), &[query]).unwrap();
    let encoder = model.encoder();
    let mut x = encoder.first().embed(&asked).unwrap();
    check("encoder_embed", &x);
    for (k, layer) in encoder.first().layers().iter().enumerate() {
        x = layer.forward(&x, &lengths).unwrap();
        check(&format!("encoder_layer_{k}"), &x);
    }
    x = encoder.first().after_norm().forward(&x).unwrap();
    check("after_norm", &x);
    for (k, layer) in encoder.tp_layers().iter().enumerate() {
        x = layer.forward(&x, &lengths).unwrap();
        check(&format!("tp_layer_{k}"), &x);
    }
    check("encoder_out", &encoder.tp_norm().forward(&x).unwrap());
    let output = model.forward(speech, &Lengths::full(1, speech.dim(1).unwrap()), &[query]).unwrap();
    check("ctc_logits", &output.ctc_logits);
    check_decoding(golden, item, &output.ctc_logits);
    errors
}

/// Ids, their frames and the times of those that are not tags; `logits` is `[1, T, V]`.
fn check_decoding(golden: &Golden, item: usize, logits: &Tensor) {
    let what = format!("{} item {item}", golden.name);
    let vocab = logits.dim(2).unwrap();
    let logits: Vec<f32> = logits.flatten_all().unwrap().to_vec1().unwrap();
    let emissions = ctc::greedy(&logits, vocab).unwrap();
    let ids: Vec<i64> = emissions.iter().map(|emission| i64::from(emission.id)).collect();
    assert_eq!(ids, golden.integers(&format!("item{item}.ids")), "{what}");
    let positions: Vec<i64> = emissions.iter().map(|emission| emission.position as i64).collect();
    assert_eq!(positions, golden.integers(&format!("item{item}.positions")), "{what}");
    let text: Vec<u32> = emissions.iter().filter(|e| e.position >= QUERY_FRAMES).map(|e| e.id).collect();
    let spans = ctc::token_spans(&logits[QUERY_FRAMES * vocab..], vocab, &text).unwrap();
    let spans: Vec<i64> = spans.into_iter().flatten().map(|ms| ms as i64).collect();
    assert_eq!(spans, golden.integers(&format!("item{item}.timestamps")), "{what}: times");
}

#[test]
fn sense_voice_stages() {
    let goldens = Golden::all("sense_voice_");
    assert_eq!(goldens.len(), 4);
    let mut asked = Vec::new();
    for golden in goldens {
        let model = sense_voice(&golden);
        let queries = queries(&golden);
        assert!(queries.len() >= 2);
        for (item, &query) in queries.iter().enumerate() {
            for (stage, error) in check_item(&golden, &model, item, query) {
                println!("{:24} item {item:2} {stage:16} {error:.1e}", golden.name);
            }
        }
        check_batch(&golden, &model, &queries);
        asked.extend(queries);
    }
    for language in ["auto", "zh", "en", "yue", "ja", "ko", "nospeech"] {
        let language: Language = language.parse().unwrap();
        for text_norm in [false, true] {
            assert!(asked.contains(&Query { language, text_norm }), "{language} is not in the goldens");
        }
    }
}

/// All utterances in one padded batch: each is what it is alone.
fn check_batch(golden: &Golden, model: &SenseVoice, queries: &[Query]) {
    let items: Vec<&Tensor> = (0..queries.len()).map(|i| golden.tensor(&format!("item{i}.speech"))).collect();
    let lengths = Lengths::new(items.iter().map(|x| x.dim(1).unwrap()).collect::<Vec<_>>());
    let padded: Vec<Tensor> =
        items.iter().map(|x| x.pad_with_zeros(1, 0, lengths.max() - x.dim(1).unwrap()).unwrap()).collect();
    let output = model.forward(&Tensor::cat(&padded, 0).unwrap(), &lengths, queries).unwrap();
    for (i, &frames) in output.lengths.items().iter().enumerate() {
        let item = |stage: &Tensor| {
            stage.narrow(0, i, 1).unwrap().narrow(1, 0, frames).unwrap().contiguous().unwrap()
        };
        golden.check(&format!("item{i}.encoder_out"), &item(&output.encoder_out));
        golden.check(&format!("item{i}.ctc_logits"), &item(&output.ctc_logits));
        check_decoding(golden, i, &item(&output.ctc_logits));
    }
}

#[test]
fn an_unknown_language_is_refused_with_the_known_ones() {
    for name in ["auto", "zh", "en", "yue", "ja", "ko", "nospeech"] {
        assert_eq!(name.parse::<Language>().unwrap().to_string(), name);
    }
    for name in ["", "ZH", "de", "zh "] {
        let error = name.parse::<Language>().unwrap_err().to_string();
        assert_eq!(error, format!("language {name:?} (known: auto, zh, en, yue, ja, ko, nospeech)"));
    }
}

#[test]
fn queries_must_fit_the_batch_and_tp_blocks_the_class() {
    let golden = Golden::open("sense_voice_no_tp");
    let speech = golden.tensor("item0.speech");
    let lengths = Lengths::full(1, speech.dim(1).unwrap());
    let error = sense_voice(&golden).forward(speech, &lengths, &[]).unwrap_err().to_string();
    assert!(error.contains("0 queries for 1 utterances"), "{error}");

    let golden = Golden::open("paraformer_basic");
    let mut json = golden.config(&["format_version", "frontend", "frontend_conf"]);
    json["encoder_conf"]["tp_blocks"] = 1.into();
    let config = serde_json::from_value(json).unwrap();
    let loaded = funasr_candle::models::paraformer::Paraformer::load(42, &config, golden.weights());
    let error = loaded.unwrap_err().to_string();
    assert!(error.contains("tp_blocks is 1"), "{error}");
}
