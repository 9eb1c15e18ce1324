//! Streaming Paraformer, chunk by chunk and cache by cache, alone and in any company.

use std::collections::BTreeMap;

use candle_core::{DType, Tensor};
use funasr_candle::models::paraformer_online::{self, Output, ParaformerStreaming, State, StreamOptions};
use funasr_candle::nn::{Chunk, ChunkSize, SinusoidalPositionEncoder};
use proptest::prelude::*;
use serde::Deserialize;

use super::kept_ids;
use crate::golden::{DEVICE, Golden, STAGE_TOLERANCE, max_error};

#[derive(Deserialize)]
struct StreamFacts {
    chunks: Vec<ChunkFacts>,
}

#[derive(Deserialize)]
struct ChunkFacts {
    kind: String,
    ids: Vec<i64>,
}

struct Case {
    golden: Golden,
    model: ParaformerStreaming,
    options: StreamOptions,
    streams: Vec<StreamFacts>,
}

impl Case {
    fn all() -> Vec<Self> {
        let cases: Vec<Self> = Golden::all("online_").into_iter().map(Self::new).collect();
        assert!(cases.len() >= 6);
        cases
    }

    fn new(golden: Golden) -> Self {
        let json = golden.config(&["format_version", "frontend", "frontend_conf"]);
        let config: paraformer_online::Config = serde_json::from_value(json).unwrap();
        let width = golden.tensor("frontend.cmvn_shift").dim(0).unwrap();
        let model = ParaformerStreaming::load(width, &config, golden.weights()).unwrap();
        let (chunk_size, encoder, decoder): ([i64; 3], i64, i64) =
            serde_json::from_value(golden.json("options")).unwrap();
        let options = StreamOptions {
            chunk_size: ChunkSize::new(chunk_size).unwrap(),
            encoder_look_back: usize::try_from(encoder).ok(),
            decoder_look_back: usize::try_from(decoder).unwrap_or(0),
        };
        let streams = serde_json::from_value(golden.json("streams")).unwrap();
        Self { golden, model, options, streams }
    }

    fn rows(&self, stream: usize, chunk: usize) -> Vec<f32> {
        match self.streams[stream].chunks[chunk].kind.as_str() {
            "tail" => Vec::new(),
            _ => self.golden.values(&format!("stream{stream}.chunk{chunk}.speech")),
        }
    }

    fn chunk<'a>(&self, stream: usize, chunk: usize, rows: &'a [f32]) -> Chunk<'a> {
        match self.streams[stream].chunks[chunk].kind.as_str() {
            "next" => Chunk::Next(rows),
            "last" => Chunk::Last(rows),
            _ => Chunk::Tail,
        }
    }

    /// One step of one stream alone.
    fn step(&self, state: &mut State, stream: usize, chunk: usize) -> Output {
        let rows = self.rows(stream, chunk);
        self.model.step(&mut [state], &[self.chunk(stream, chunk, &rows)]).unwrap()
    }
}

fn ids(output: &Output, stream: usize) -> Vec<i64> {
    match (output.fired.iter().position(|&i| i == stream), &output.decoder_logits) {
        (Some(row), Some(logits)) => kept_ids(logits, row, output.cif.tokens.items()[stream]),
        _ => Vec::new(),
    }
}

/// Largest error by stage.
type Errors = BTreeMap<&'static str, f32>;

/// Compares the stages of one chunk in order.
fn check_stages(case: &Case, output: &Output, [stream, chunk]: [usize; 2], errors: &mut Errors) {
    let golden = &case.golden;
    let stage = |name: &str| format!("stream{stream}.chunk{chunk}.{name}");
    let fires = golden.get(&stage("acoustic_embeds")).map_or(0, |embeds| embeds.dim(1).unwrap());
    let alphas = Tensor::new(output.cif.alphas[0].as_slice(), &DEVICE).unwrap().unsqueeze(0).unwrap();
    let mut stages = vec![("encoder_out", &output.encoder_out), ("alphas", &alphas)];
    if let Some(logits) = &output.decoder_logits {
        stages.extend([("acoustic_embeds", &output.cif.acoustic_embeds), ("decoder_logits", logits)]);
    }
    for (name, ours) in stages {
        note(errors, name, golden.check(&stage(name), ours));
    }
    let what = format!("{}: stream {stream}, chunk {chunk}", golden.name);
    assert_eq!((output.cif.tokens.items(), output.cif.fires[0].len()), (&[fires][..], fires), "{what}");
    assert_eq!(ids(output, 0), case.streams[stream].chunks[chunk].ids, "{what}: ids");
}

/// Compares what is carried on with FunASR's caches.
fn check_caches(case: &Case, state: &State, [stream, chunk]: [usize; 2], errors: &mut Errors) {
    let golden = &case.golden;
    let stage = |name: &str| format!("stream{stream}.chunk{chunk}.cache.{name}");
    let encoder = state.encoder();
    assert_eq!(golden.integers(&stage("start_idx")), [encoder.position() as i64], "{}", golden.name);
    note(errors, "feats", golden.check_values(&stage("feats"), encoder.context()));
    note(errors, "cif_alphas", golden.check_values(&stage("cif_alphas"), &[state.cif().alpha()]));
    let memories: Vec<&Tensor> = state.decoder().memories().into_iter().filter_map(|m| m.rows()).collect();
    let memories = (!memories.is_empty()).then(|| Tensor::cat(&memories, 0).unwrap());
    let histories = [
        ("cif_hidden", state.cif().hidden().rows().cloned()),
        ("encoder_kv", encoder.history().rows().cloned()),
        ("decoder_kv", state.decoder().cross().rows().cloned()),
        ("fsmn", memories),
    ];
    for (name, ours) in histories {
        let exists = (ours.is_some(), golden.get(&stage(name)).is_some());
        assert_eq!(exists.0, exists.1, "{}: {name} after chunk {chunk}", golden.name);
        if let Some(ours) = &ours {
            note(errors, name, golden.check(&stage(name), ours));
        }
    }
}

fn note(errors: &mut Errors, stage: &'static str, error: f32) {
    let worst = errors.entry(stage).or_default();
    *worst = worst.max(error);
}

#[test]
fn paraformer_online_stages_and_caches() {
    for case in Case::all() {
        let mut errors = Errors::new();
        for (stream, facts) in case.streams.iter().enumerate() {
            let mut state = case.model.start(&case.options).unwrap();
            for chunk in 0..facts.chunks.len() {
                let output = case.step(&mut state, stream, chunk);
                check_stages(&case, &output, [stream, chunk], &mut errors);
                if case.golden.get(&format!("stream{stream}.chunk{chunk}.cache.start_idx")).is_some() {
                    check_caches(&case, &state, [stream, chunk], &mut errors);
                }
            }
        }
        println!("{}: {errors:?}", case.golden.name);
        // A tenth of what is allowed: nothing adds up from chunk to chunk.
        let worst = errors.values().fold(0f32, |worst, error| worst.max(*error));
        assert!(worst < STAGE_TOLERANCE / 10.0, "{}: {errors:?}", case.golden.name);
    }
}

// -------------------------------------------------------------------------------------------------- batch invariance

/// A stream of a case, cut as the case says or otherwise.
#[derive(Clone, Copy)]
struct Member {
    stream: usize,
    options: StreamOptions,
}

/// Ids and logits of one stream's chunk.
type Chunked = (Vec<i64>, Vec<f32>);

fn chunked(output: &Output, stream: usize) -> Chunked {
    let row = output.fired.iter().position(|&i| i == stream);
    let logits = row.zip(output.decoder_logits.as_ref()).map(|(row, logits)| {
        let logits = logits.get(row).unwrap().narrow(0, 0, output.cif.tokens.items()[stream]).unwrap();
        logits.flatten_all().unwrap().to_vec1().unwrap()
    });
    (ids(output, stream), logits.unwrap_or_default())
}

/// Each stream of the case as it says, and once more cut and looking back otherwise (on the same rows).
fn members(case: &Case) -> Vec<Member> {
    let stride = case.options.chunk_size.stride() as i64;
    let chunk_size = ChunkSize::new([2, stride - 1, 4]).unwrap();
    let other = StreamOptions { chunk_size, encoder_look_back: Some(1), decoder_look_back: 2 };
    let streams = 0..case.streams.len();
    streams.flat_map(|stream| [case.options, other].map(|options| Member { stream, options })).collect()
}

/// Runs the members to their ends, in round `r` those of which the bit is set in `rounds[r]` (all, if none
/// is).
fn together(case: &Case, members: &[Member], rounds: &[u32]) -> Vec<Vec<Chunked>> {
    let mut states: Vec<State> = members.iter().map(|m| case.model.start(&m.options).unwrap()).collect();
    let mut results: Vec<Vec<Chunked>> = vec![Vec::new(); members.len()];
    for round in 0.. {
        let open = |i: &usize| results[*i].len() < case.streams[members[*i].stream].chunks.len();
        let left: Vec<usize> = (0..members.len()).filter(open).collect();
        if left.is_empty() {
            break;
        }
        let bits = rounds[round % rounds.len()];
        let picked: Vec<usize> = left.iter().copied().filter(|i| bits >> i & 1 == 1).collect();
        let picked = if picked.is_empty() { left } else { picked };
        let place = |i: usize| (members[i].stream, results[i].len());
        let rows: Vec<Vec<f32>> = picked.iter().map(|&i| case.rows(place(i).0, place(i).1)).collect();
        let chunks: Vec<Chunk> =
            picked.iter().zip(&rows).map(|(&i, rows)| case.chunk(place(i).0, place(i).1, rows)).collect();
        let mut parts: BTreeMap<usize, &mut State> = states.iter_mut().enumerate().collect();
        let mut parts: Vec<&mut State> = picked.iter().map(|i| parts.remove(i).unwrap()).collect();
        let output = case.model.step(&mut parts, &chunks).unwrap();
        for (row, i) in picked.into_iter().enumerate() {
            results[i].push(chunked(&output, row));
        }
    }
    results
}

fn assert_alike(what: &str, got: &[Vec<Chunked>], alone: &[Vec<Chunked>]) {
    for (member, (got, alone)) in got.iter().zip(alone).enumerate() {
        assert_eq!(got.len(), alone.len());
        for (chunk, (got, alone)) in got.iter().zip(alone).enumerate() {
            assert_eq!((&got.0, got.1.len()), (&alone.0, alone.1.len()), "{what}: {member}, chunk {chunk}");
            let error = max_error(&got.1, &alone.1);
            assert!(error <= 1e-5, "{what}: logits of {member}, chunk {chunk} differ by {error:.1e}");
        }
    }
}

#[test]
fn a_stream_is_the_same_in_any_company() {
    for case in Case::all() {
        let members = members(&case);
        let alone: Vec<Vec<Chunked>> =
            members.iter().flat_map(|member| together(&case, &[*member], &[1])).collect();
        assert!(
            alone.iter().flatten().any(|(ids, _)| ids.is_empty()) || case.golden.name != "online_residual"
        );
        assert_alike(&case.golden.name, &together(&case, &members, &[u32::MAX]), &alone);
        let config = ProptestConfig { cases: 6, failure_persistence: None, ..Default::default() };
        let rng = prop::test_runner::TestRng::deterministic_rng(prop::test_runner::RngAlgorithm::ChaCha);
        prop::test_runner::TestRunner::new_with_rng(config, rng)
            .run(&prop::collection::vec(any::<u32>(), 5), |rounds| {
                assert_alike(&case.golden.name, &together(&case, &members, &rounds), &alone);
                Ok(())
            })
            .unwrap();
    }
}

/// Positions of a stream of hours: still those of f32 in torch.
#[test]
fn late_positions_are_coded_in_f32() {
    let (depth, before) = (560, 120_000);
    let encoder = SinusoidalPositionEncoder::new(depth).unwrap();
    let mut rows = vec![0f32; 2 * depth];
    encoder.add_to_rows(&mut rows, before).unwrap();
    // sin and cos of 120001 and 120002 with the first scales.
    for (i, expected) in [(0, 120_001f32.sin()), (280, 120_001f32.cos()), (560, 120_002f32.sin())] {
        assert_eq!(rows[i], expected);
    }
    assert!(SinusoidalPositionEncoder::new(4).unwrap().add_to_rows(&mut [0.0; 5], 0).is_err());
    assert!([0, 2, 5].iter().all(|&depth| SinusoidalPositionEncoder::new(depth).is_err()));
}

/// A position has the same code whatever was asked for before, on the host and where features lie, among those that are kept and
/// behind them.
#[test]
fn positions_are_the_same_kept_or_not() {
    let (depth, longest) = (6, 1100);
    let mut expected = vec![0f32; longest * depth];
    let rows = expected.chunks_exact_mut(depth).enumerate();
    rows.for_each(|(before, row)| {
        SinusoidalPositionEncoder::new(depth).unwrap().add_to_rows(row, before).unwrap()
    });
    let encoder = SinusoidalPositionEncoder::new(depth).unwrap();
    for (time, before) in [(3, 1020), (5, 1022), (4, 1030), (1, 0), (1100, 0), (7, 126), (129, 0), (7, 0)] {
        let mut rows = vec![0f32; time * depth];
        encoder.add_to_rows(&mut rows, before).unwrap();
        assert_eq!(rows, expected[before * depth..][..rows.len()], "{time} after {before}");
        for batch in [1, 2] {
            let zeros = Tensor::zeros((batch, time, depth), DType::F32, &DEVICE).unwrap();
            let code = encoder.forward(&zeros).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(code, expected[..time * depth].repeat(batch), "{time} of {batch}");
        }
    }
    assert!(encoder.forward(&Tensor::zeros((1, 2, 4), DType::F32, &DEVICE).unwrap()).is_err());
}

#[test]
fn unusable_steps_are_errors() {
    let case = Case::new(Golden::open("online_basic"));
    let mut state = case.model.start(&case.options).unwrap();
    for chunk in [Chunk::Next(&[]), Chunk::Last(&[]), Chunk::Next(&[0.0; 27])] {
        assert!(case.model.step(&mut [&mut state], &[chunk]).is_err(), "{chunk:?}");
    }
    assert!(case.model.step(&mut [], &[]).is_err());
    assert!(case.model.step(&mut [&mut state], &[]).is_err());
}
