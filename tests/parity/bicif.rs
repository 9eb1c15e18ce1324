//! BiCIF Paraformer: what it adds to the plain one, and the token times made of it.

use candle_core::Tensor;
use funasr_candle::decode::timestamps::{CifTrack, token_spans, ts_prediction_lfr6_standard, us_peaks};
use funasr_candle::models::bicif::{BiCifParaformer, Config, Output};
use funasr_candle::nn::{Integration, Lengths};
use proptest::prelude::*;
use serde_json::Value;

use super::kept_ids;
use crate::golden::Golden;

/// FunASR reads the times with this rate, and no more than as many weights a frame, whatever the head made.
const RATE: usize = 3;

fn config(golden: &Golden) -> Value {
    golden.config(&["format_version", "frontend", "frontend_conf"])
}

fn bicif(golden: &Golden) -> BiCifParaformer {
    let config: Config = serde_json::from_value(config(golden)).unwrap();
    let speech_width = golden.tensor("item0.speech").dim(2).unwrap();
    BiCifParaformer::load(speech_width, &config, golden.weights()).unwrap()
}

/// The stages of one utterance, each built on those before.
fn check_item(golden: &Golden, model: &BiCifParaformer, item: usize) {
    let stage = |name: &str| format!("item{item}.{name}");
    let speech = golden.tensor(&stage("speech"));
    let lengths = Lengths::full(1, speech.dim(1).unwrap());
    let encoder_out = model.encoder().forward(speech, &lengths).unwrap();
    golden.check(&stage("encoder_out"), &encoder_out);
    let cif = model.predictor().forward(&encoder_out, &lengths).unwrap();
    golden.check_values(&stage("alphas"), &cif.alphas[0]);
    golden.check_values(&stage("peaks"), &cif.peaks[0]);
    if cif.token_num.max() > 0 {
        golden.check(&stage("acoustic_embeds"), &cif.acoustic_embeds);
        golden.check(&stage("upsampled"), &model.predictor().upsample(&encoder_out, &lengths).unwrap());
    }
    check_output(golden, item, &model.forward(speech, &lengths).unwrap(), 0);
}

/// Item `row` of a batch against item `item` of the golden file.
fn check_output(golden: &Golden, item: usize, output: &Output, row: usize) {
    let stage = |name: &str| format!("item{item}.{name}");
    let expected = &golden.json("items")[item];
    let [frames, tokens] = ["frames", "tokens"].map(|key| expected[key].as_u64().unwrap() as usize);
    let part = |x: &Tensor, n: usize| x.narrow(0, row, 1).unwrap().narrow(1, 0, n).unwrap();
    golden.check(&stage("encoder_out"), &part(&output.encoder_out, frames));
    golden.check_values(&stage("alphas"), &output.cif.alphas[row]);
    assert_eq!(output.cif.token_num.items()[row], tokens, "{}: tokens of item {item}", golden.name);
    let ids = kept_ids(&output.decoder_logits, row, tokens);
    assert_eq!(ids, golden.integers(&stage("ids")), "{}: ids of item {item}", golden.name);
    let us_alphas = &output.us_alphas[row];
    if tokens == 0 {
        assert!(us_alphas.iter().all(|&alpha| alpha == 0.0), "{}: item {item}", golden.name);
        return;
    }
    golden.check(&stage("decoder_logits"), &part(&output.decoder_logits, tokens));
    golden.check_values(&stage("us_alphas"), us_alphas);
    golden.check_values(&stage("us_peaks"), &us_peaks(us_alphas));
    check_times(
        &format!("{}: item {item}", golden.name),
        us_alphas,
        frames,
        expected,
        [ids.len(), tokens - 1],
    );
}

/// The times of a text of `counts[0]` tokens and of one of `counts[1]`, exactly.
fn check_times(case: &str, us_alphas: &[f32], frames: usize, expected: &Value, counts: [usize; 2]) {
    let peaks = us_peaks(us_alphas);
    let read = us_alphas.len().min(RATE * frames);
    let track = CifTrack { alphas: &us_alphas[..read], peaks: &peaks[..read], upsample_rate: RATE as u32 };
    for (key, count) in ["timestamps", "timestamps_eos"].into_iter().zip(counts) {
        let times: Vec<[i64; 2]> = serde_json::from_value(expected[key].clone()).unwrap();
        let found = ts_prediction_lfr6_standard(track, count, 0.0);
        assert_eq!(found.len(), count, "{case}: {key}");
        // From one frame FunASR gives no times at all.
        assert!(
            found == times || (frames == 1 && times.is_empty()),
            "{case}: {key}: {found:?}, not {times:?}"
        );
    }
}

#[test]
fn bicif_stages() {
    let goldens = Golden::all("bicif_");
    assert!(goldens.len() >= 7);
    for golden in goldens {
        let model = bicif(&golden);
        let items: Vec<usize> = (0..golden.json("items").as_array().unwrap().len()).collect();
        items.iter().for_each(|&item| check_item(&golden, &model, item));
        let speech: Vec<&Tensor> =
            items.iter().map(|item| golden.tensor(&format!("item{item}.speech"))).collect();
        let lengths = Lengths::new(speech.iter().map(|x| x.dim(1).unwrap()).collect::<Vec<_>>());
        let pad = |x: &&Tensor| x.pad_with_zeros(1, 0, lengths.max() - x.dim(1).unwrap()).unwrap();
        let padded: Vec<Tensor> = speech.iter().map(pad).collect();
        let output = model.forward(&Tensor::cat(&padded, 0).unwrap(), &lengths).unwrap();
        items.iter().for_each(|&item| check_output(&golden, item, &output, item));
    }
}

#[test]
fn unknown_options_are_refused_by_name() {
    let base = config(&Golden::open("bicif_published"));
    let cases: [(&str, &str, Value); 5] = [
        ("predictor_conf", "upsample_type", "cnn_attn".into()),
        ("predictor_conf", "upsample_rate", 3.into()),
        ("predictor_conf", "tail_treshold", 0.3.into()),
        ("model_conf", "beam_size", 3.into()),
        ("", "predictor", "CifPredictorV2".into()),
    ];
    for (section, key, value) in cases {
        let mut json = base.clone();
        let place = if section.is_empty() { &mut json } else { &mut json[section] };
        place[key] = value.clone();
        let error = serde_json::from_value::<Config>(json).unwrap_err().to_string();
        assert!(error.contains(value.as_str().unwrap_or(key)), "{section}.{key}: {error}");
    }
}

/// By hand: the sum before each firing, and what is left over goes on to the next token.
#[test]
fn stepwise_integration_takes_one_from_each_firing() {
    type Case = (&'static [f32], &'static [f32], &'static [usize], usize);
    let cases: [Case; 5] = [
        (&[], &[], &[], 0),
        (&[0.25, 0.5], &[0.25, 0.75], &[], 0),
        (&[0.5, 0.75, 0.5, 0.25], &[0.5, 1.25, 0.75, 1.0], &[1, 3], 2),
        // One firing a frame at most: the rest waits.
        (&[2.5, 0.0, 0.25], &[2.5, 1.5, 0.75], &[0, 1], 2),
        (&[1.0, 1.0], &[1.0, 1.0], &[0, 1], 2),
    ];
    for (alphas, peaks, fires, tokens) in cases {
        let track = Integration::Stepwise.track(alphas.to_vec(), true);
        assert_eq!(track.peaks, peaks, "{alphas:?}");
        assert_eq!(track.fire_frames().collect::<Vec<_>>(), fires, "{alphas:?}");
        assert_eq!(track.token_num, tokens, "{alphas:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    /// Whatever the head says and however many tokens the decoder kept.
    #[test]
    fn any_us_alphas_give_ordered_spans_within_the_frames(
        us_alphas in prop::collection::vec(0f32..0.5, 0..180),
        positions in prop::collection::btree_set(0usize..60, 0..40),
    ) {
        let peaks = us_peaks(&us_alphas);
        let positions: Vec<usize> = positions.into_iter().collect();
        let track = CifTrack { alphas: &us_alphas, peaks: &peaks, upsample_rate: RATE as u32 };
        let spans = token_spans(track, &positions);
        prop_assert_eq!(spans.len(), positions.len());
        prop_assert!(spans.iter().flatten().is_sorted(), "{spans:?}");
        prop_assert!(spans.iter().all(|span| span[1] <= 20 * us_alphas.len() as u64), "{spans:?}");
    }
}
