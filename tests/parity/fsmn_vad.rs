//! FSMN-VAD scores, whole and in chunks.

use candle_core::Tensor;
use funasr_candle::models::fsmn_vad::{self, FsmnVad};

use crate::golden::Golden;

fn load(golden: &Golden) -> FsmnVad {
    let config = golden.config(&["format_version", "frontend", "frontend_conf", "model_conf", "vocab_size"]);
    let config: fsmn_vad::Config = serde_json::from_value(config).unwrap();
    FsmnVad::load(&config, golden.weights()).unwrap()
}

#[test]
fn fsmn_vad_scores_whole_and_in_chunks() {
    for golden in Golden::all("fsmn_vad_") {
        let model = load(&golden);
        let feats = golden.tensor("feats");
        let whole = model.step(&mut [model.start().unwrap()], feats).unwrap();
        golden.check("scores", &whole);
        let (mut state, mut at, mut chunks) = ([model.start().unwrap()], 0, Vec::new());
        for count in golden.integers("chunk_frames") {
            let chunk = feats.narrow(1, at, count as usize).unwrap();
            chunks.push(model.step(&mut state, &chunk).unwrap());
            at += count as usize;
        }
        golden.check("chunk_scores", &Tensor::cat(&chunks, 1).unwrap());
    }
}

#[test]
fn streams_in_one_batch_score_as_alone() {
    for golden in Golden::all("fsmn_vad_") {
        let model = load(&golden);
        let feats = golden.tensor("feats");
        let piece = |at: usize, frames: usize| feats.narrow(1, at, frames).unwrap();
        // One stream at its start, one that has heard something.
        let mut alone = [[model.start().unwrap()], [model.start().unwrap()]];
        model.step(&mut alone[1], &piece(0, 5)).unwrap();
        let mut together = alone.concat();
        for at in [5, 8] {
            let both = [piece(at, 3), piece(at + 3, 3)];
            let scores = model.step(&mut together, &Tensor::cat(&both, 0).unwrap()).unwrap();
            for (i, state) in alone.iter_mut().enumerate() {
                let expected = model.step(state, &both[i]).unwrap();
                let expected = expected.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                assert_eq!(scores.get(i).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap(), expected);
            }
        }
    }
}
