//! `selftest` as a user meets it: that it passes on this machine, and that it fails where it has to.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{Device, Tensor};
use funasr_kernels::multiplies_bf16;
use serde_json::Value;

use crate::cli::{Desk, Outcome, repository};

type Stages = HashMap<String, Tensor>;

fn selftest(desk: &Desk, args: &[&str]) -> Outcome {
    desk.run(&[&["selftest", "--offline"], args].concat())
}

fn recording(model: &str) -> String {
    repository("models/selftest").join(format!("{model}.safetensors")).display().to_string()
}

fn load(path: impl AsRef<Path>) -> Stages {
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

fn save(desk: &Desk, name: &str, stages: &Stages) -> String {
    let made_by = HashMap::from([("made_by".to_owned(), "a test".to_owned())]);
    desk.write(name, safetensors::serialize(stages, Some(made_by)).unwrap())
}

/// Adds `by` times the largest value to the value in the middle.
fn nudge(tensors: &mut Stages, name: &str, by: f32) {
    let tensor = &tensors[name];
    let mut values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
    let middle = values.len() / 2;
    values[middle] += by * values.iter().fold(0.0f32, |scale, value| scale.max(value.abs()));
    let nudged = Tensor::from_vec(values, tensor.dims(), &Device::Cpu).unwrap();
    tensors.insert(name.to_owned(), nudged);
}

#[test]
fn every_stage_is_that_of_funasr() {
    let expected: BTreeMap<&str, &[&str]> = BTreeMap::from([
        (
            "demo",
            &[
                "speech",
                "encoder_out",
                "alphas",
                "token_num",
                "acoustic_embeds",
                "decoder_logits",
                "ids",
                "text",
            ][..],
        ),
        (
            "demo-online",
            &[
                "speech",
                "chunk_frames",
                "encoder_out",
                "alphas",
                "chunk_tokens",
                "acoustic_embeds",
                "decoder_logits",
                "ids",
                "text",
            ],
        ),
        ("demo-punc", &["punc_logits", "ids", "marks", "text"]),
        ("demo-punc-realtime", &["punc_logits", "ids", "marks", "text"]),
        ("demo-sensevoice", &["speech", "encoder_out", "ctc_logits", "ids", "text"]),
        ("fsmn-vad", &["fbank", "vad_scores", "segments"]),
    ]);
    let count: usize = expected.values().map(|stages| stages.len()).sum();
    let desk = Desk::new();
    for dtype in ["f32", "int8"] {
        let mut lines = selftest(&desk, &["--dtype", dtype, "--format", "json"]).json();
        let end = lines.pop().unwrap();
        assert_eq!((&end["stages"], &end["passed"]), (&count.into(), &count.into()), "{dtype}");
        assert_eq!((&end["device"], &end["dtype"]), (&"cpu".into(), &dtype.into()));
        assert!(end["reference"].as_str().unwrap().contains("FunASR Python 1.4.16"), "{end}");
        let mut found: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for line in &lines {
            let text = |key: &str| line[key].as_str().unwrap();
            assert_eq!(line["pass"], true, "{dtype}: {line}");
            assert!(line["error"].as_f64() <= line["tolerance"].as_f64(), "{line}");
            found.entry(text("model")).or_default().push(text("stage"));
        }
        assert!(found.iter().map(|(model, stages)| (*model, &stages[..])).eq(expected.clone()), "{found:?}");
        // Rounding is seen, and only where layers are rounded; those of voice detection to bf16, if to anything.
        let off = |model: &str, stage: &str| {
            let line = lines.iter().find(|line| line["model"] == model && line["stage"] == stage);
            line.unwrap()["error"].as_f64().unwrap()
        };
        assert_eq!(off("demo", "encoder_out") > 1e-3, dtype == "int8");
        let coarse = dtype == "int8" && multiplies_bf16();
        assert_eq!(off("fsmn-vad", "vad_scores") > 1e-4, coarse);
    }
    let table = selftest(&desk, &["--model", "fsmn-vad"]).ok();
    let rows: Vec<&str> = table.lines().collect();
    assert_eq!(rows.len(), 4, "{table}");
    assert!(rows[..3].iter().all(|row| row.starts_with("fsmn-vad ") && row.ends_with("  pass")), "{table}");
    assert!(rows[3].starts_with("3 of 3 stages pass; cpu, f32, "), "{table}");
}

#[test]
fn an_altered_recording_fails_at_the_altered_stage() {
    type Alter = fn(&mut Stages);
    fn bytes(text: &str) -> Tensor {
        Tensor::new(text.as_bytes(), &Device::Cpu).unwrap()
    }
    let cases: [(&str, Alter, &str, &str); 7] = [
        ("demo", |stages| nudge(stages, "encoder_out", 0.002), "encoder_out", "FAIL"),
        ("demo", |stages| nudge(stages, "decoder_logits", f32::NAN), "decoder_logits", "FAIL"),
        (
            "demo",
            |stages| {
                stages.insert("text".into(), bytes("把摄像头开"));
            },
            "text",
            "FAIL: 把摄像头关, not 把摄像头开",
        ),
        (
            "demo-sensevoice",
            |stages| {
                let longer = stages["ids"].pad_with_zeros(1, 0, 1).unwrap();
                stages.insert("ids".into(), longer);
            },
            "ids",
            "FAIL: shape [1, 9]",
        ),
        (
            "demo-online",
            |stages| {
                let stage = stages["alphas"].clone();
                stages.insert("us_alphas".into(), stage);
            },
            "us_alphas",
            "FAIL: missing",
        ),
        (
            "fsmn-vad",
            |stages| {
                stages.insert("segments".into(), Tensor::new(&[[0i64, 1470]], &Device::Cpu).unwrap());
            },
            "segments",
            "FAIL",
        ),
        ("demo-punc", |stages| nudge(stages, "punc_logits", 0.002), "punc_logits", "FAIL"),
    ];
    let desk = Desk::new();
    for (model, alter, stage, verdict) in cases {
        let mut stages = load(recording(model));
        let same = save(&desk, "same.safetensors", &stages);
        selftest(&desk, &["--model", model, "--recording", &same]).ok();
        alter(&mut stages);
        let altered = save(&desk, "altered.safetensors", &stages);
        let outcome = selftest(&desk, &["--model", model, "--recording", &altered]);
        let [error] = outcome.errors()[..] else { panic!("{}", outcome.stderr) };
        assert!(
            error.ends_with(&format!("1 of {} stages fail: {model} {stage}", stages.len())),
            "{model} {stage}: {error}"
        );
        let failed: Vec<&str> = outcome.stdout.lines().filter(|row| row.contains("FAIL")).collect();
        let [row] = failed[..] else { panic!("{}", outcome.stdout) };
        assert!(row.contains(&format!(" {stage} ")) && row.ends_with(verdict), "{row}");
        assert!(outcome.stdout.lines().last().unwrap().contains("; reference: a test"));
    }
}

#[test]
fn an_altered_weight_fails_from_its_stage_on() {
    let desk = Desk::new();
    let directory = desk.model("demo");
    let args = ["--model", "./demo", "--recording", &recording("demo"), "--format", "json"];
    selftest(&desk, &args).ok();
    let mut weights = load(directory.join("model.safetensors"));
    nudge(&mut weights, "decoder.output_layer.weight", 1.0);
    candle_core::safetensors::save(&weights, directory.join("model.safetensors")).unwrap();
    let outcome = selftest(&desk, &args);
    assert_eq!(outcome.code, 1, "{}", outcome.stderr);
    let lines = outcome.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let failed: Vec<String> = lines
        .filter(|line| line["pass"] == false)
        .map(|line| line["stage"].as_str().unwrap().into())
        .collect();
    assert_eq!(failed.first().map(String::as_str), Some("decoder_logits"), "{}", outcome.stdout);
}

#[test]
fn other_models_are_compared_with_themselves_in_f32() {
    let desk = Desk::new();
    desk.model("demo");
    let table = selftest(&desk, &["--model", "./demo", "--dtype", "int8"]).ok();
    let last = table.lines().last().unwrap();
    assert!(last.ends_with("reference: ./demo itself on the CPU in f32, not FunASR"), "{table}");
    assert!(table.lines().any(|row| row.contains(" lfr ")), "{table}");
    // In the same format there is nothing to compare, and that is not called a pass.
    desk.model("fsmn-vad");
    let detector = ["--model", "./fsmn-vad", "--dtype", "int8"];
    let mut same: Vec<&[&str]> = vec![&["--model", "./demo"]];
    match multiplies_bf16() {
        true => drop(selftest(&desk, &detector).ok()),
        false => same.push(&detector),
    }
    for args in same {
        let outcome = selftest(&desk, args);
        let error = outcome.error();
        assert!(error.contains(args[1]) && error.contains("--recording"), "{error}");
    }
}

#[test]
fn what_cannot_be_tested_is_an_error() {
    let desk = Desk::new();
    let text = desk.write("text.safetensors", "no tensors");
    let unsigned = desk
        .write("unsigned.safetensors", safetensors::serialize(&load(recording("demo-punc")), None).unwrap());
    let empty = save(&desk, "empty.safetensors", &Stages::new());
    let cases: [(&[&str], &[&str]); 8] = [
        (&["--model", "dmo"], &["dmo", "demo"]),
        (&["--dtype", "bf16"], &["dtype bf16 needs a GPU"]),
        (&["--device", "cuda:99"], &["device cuda:99"]),
        (&["--device", "cuda:0", "--dtype", "int8"], &["int8 is for the CPU"]),
        (&["--model", "demo", "--recording", "none.safetensors"], &["none.safetensors"]),
        (&["--model", "demo", "--recording", &text], &["text.safetensors", "recorded stages"]),
        (&["--model", "demo", "--recording", &unsigned], &["unsigned.safetensors", "made_by"]),
        (&["--model", "demo", "--recording", &empty], &["no stage is recorded"]),
    ];
    for (args, parts) in cases {
        let outcome = selftest(&desk, args);
        let error = outcome.error();
        assert!(parts.iter().all(|part| error.contains(part)), "{args:?}: {error}");
    }
    let outcome = selftest(&desk, &["--model", "demo", "--recording", &recording("fsmn-vad")]);
    assert!(outcome.errors()[0].contains("2 of 3 stages fail: demo vad_scores, demo segments"));
}
