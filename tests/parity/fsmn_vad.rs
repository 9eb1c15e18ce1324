//! FSMN-VAD scores, whole and in chunks.

use candle_core::Tensor;
use funasr_candle::models::fsmn_vad::{self, FsmnVad};

use crate::golden::Golden;

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
