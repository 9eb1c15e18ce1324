//! Every layout that `torch.load` accepts gives the same tensors. The files come from `generate.py`.

use funasr_convert::{ConvertOptions, Dtype};

use crate::{BARE, Case, fixture, tensors};

fn a() -> Vec<f64> {
    (0..6).map(|i| f64::from(i) * 0.5 - 1.0).collect()
}

fn b() -> Vec<f64> {
    [0.1f32, -2.5e-3, 7.0].map(f64::from).to_vec()
}

#[test]
fn containers_and_wrappers_give_the_same_tensors() {
    for name in [
        "archive",
        "big_endian",
        "both_prefixes",
        "legacy",
        "legacy_trained",
        "model",
        "model_state_dict",
        "module",
        "nested",
        "ordered",
        "parallel",
        "parameters",
        "plain",
        "protocol4",
        "state_dict",
        "trained",
    ] {
        let case = Case::new(BARE, &fixture(name));
        let report = case.converted();
        assert_eq!((report.tensors, report.parameters), (2, 9), "{name}");
        let tensors = tensors(&case.read("model.safetensors"));
        assert_eq!(tensors["a"], ("F32".into(), vec![2, 3], a()), "{name}");
        assert_eq!(tensors["b"], ("F32".into(), vec![3], b()), "{name}");
    }
}

#[test]
fn element_types_are_cast_or_kept() {
    let floats = ["float64", "float32", "float16", "bfloat16"];
    let whole = [
        ("int64", "I64"),
        ("int32", "I32"),
        ("int16", "I16"),
        ("int8", "I8"),
        ("uint8", "U8"),
        ("bool", "BOOL"),
    ];
    for (fixture_name, dtype, name) in [
        ("dtypes", Dtype::F32, "F32"),
        ("dtypes", Dtype::F16, "F16"),
        ("dtypes", Dtype::BF16, "BF16"),
        ("legacy_dtypes", Dtype::F32, "F32"),
    ] {
        let case = Case::new(BARE, &fixture(fixture_name));
        case.convert(&ConvertOptions { dtype, ..Default::default() }).unwrap();
        let tensors = tensors(&case.read("model.safetensors"));
        for float in floats {
            assert_eq!(tensors[float], (name.into(), vec![3], vec![1.5, -2.0, 0.0]), "{float} to {dtype}");
        }
        for (integer, name) in whole {
            let values = if integer == "bool" { vec![1.0, 0.0, 1.0] } else { vec![1.0, 2.0, 100.0] };
            assert_eq!(tensors[integer], (name.into(), vec![3], values), "{integer}");
        }
    }
}

#[test]
fn strided_and_shared_storages_come_out_in_row_major_order() {
    let cube = |i: usize, j: usize, k: usize| (i * 12 + j * 4 + k) as f64;
    let mut permuted = Vec::new();
    for k in 0..4 {
        for i in 0..2 {
            permuted.extend((0..3).map(|j| cube(i, j, k)));
        }
    }
    let range = |range: std::ops::Range<usize>| range.map(|i| i as f64).collect::<Vec<_>>();
    let expected = [
        ("transposed", vec![4, 2, 3], permuted),
        ("offset", vec![4], range(5..9)),
        ("column", vec![3], (0..3).map(|j| cube(1, j, 2)).collect()),
        ("every_third", vec![8], (0..8).map(|i| (i * 3) as f64).collect()),
        ("scalar", vec![], vec![2.5]),
        ("empty", vec![0, 4], vec![]),
        ("shared", vec![2, 3, 4], range(0..24)),
        ("one", vec![1, 1, 1], vec![cube(1, 1, 1)]),
    ];
    for name in ["strides", "legacy_strides"] {
        let case = Case::new(BARE, &fixture(name));
        assert_eq!(case.converted().tensors, expected.len());
        let tensors = tensors(&case.read("model.safetensors"));
        for (tensor, shape, values) in &expected {
            assert_eq!(tensors[*tensor], ("F32".into(), shape.clone(), values.clone()), "{tensor} of {name}");
        }
    }
}

#[test]
fn what_is_no_tensor_is_reported() {
    let case = Case::new(BARE, &fixture("both_prefixes"));
    let skipped: Vec<_> = case.converted().skipped.into_iter().map(|s| (s.name, s.reason)).collect();
    let reason = "not a tensor".to_owned();
    assert_eq!(skipped, [("note".into(), reason.clone()), ("none".into(), reason)]);
}

#[test]
fn weights_beyond_the_range_of_f16_are_refused_by_name() {
    let mut checkpoint = fixture("legacy");
    let seven = 7f32.to_le_bytes();
    let at = checkpoint.windows(4).rposition(|bytes| bytes == seven).unwrap();
    checkpoint[at..at + 4].copy_from_slice(&1e6f32.to_le_bytes());
    let case = Case::new(BARE, &checkpoint);
    let options = ConvertOptions { dtype: Dtype::F16, ..Default::default() };
    let error = case.convert(&options).unwrap_err().to_string();
    assert!(error.ends_with("model.pt: tensor `b`: 1e6 is beyond the range of f16"), "{error}");
    case.convert(&ConvertOptions { dtype: Dtype::BF16, ..options }).unwrap();
}
