use candle_core::{DType, Tensor};
use funasr_kernels::{Activation, FloatWeight, Int8Weight, Linear, LinearInt8, Rounded};

use crate::{ROUNDS, Random, assert_close, assert_refused, tensor, values};

const IDENTITY: LinearInt8 = LinearInt8 { activation: Activation::Identity, addends: &[] };
const RELU: LinearInt8 = LinearInt8 { activation: Activation::Relu, addends: &[] };

fn forward(op: &LinearInt8, x: &Tensor, weight: &Tensor, bias: &Tensor) -> Tensor {
    op.forward(x, &Int8Weight::quantize(weight).unwrap(), bias).unwrap()
}

fn reference(op: &LinearInt8, x: &Tensor, weight: &Tensor, bias: &Tensor) -> Tensor {
    op.reference(x, &Rounded::new(weight).unwrap(), bias).unwrap()
}

/// Rows and weights that 8 bits hold exactly: integers from 0 to 255 and multiples of a scale.
#[test]
fn by_hand() {
    let x = tensor(&[255., 2., 0., 51., 0., -204.], &[1, 2, 3]);
    let weight = tensor(&[127., 0., -64., 0., 0., 0., 0., 2., 254.], &[3, 3]);
    let bias = tensor(&[10., 0., -1.], &[3]);
    let addend = tensor(&[1., 1., 1., -7., -7., 0.], &[1, 2, 3]);
    let addends = [&addend];
    let cases = [
        (IDENTITY, [32395., 0., 3., 19543., 0., -51817.]),
        (RELU, [32395., 0., 3., 19543., 0., 0.]),
        (LinearInt8 { addends: &addends, ..RELU }, [32396., 1., 4., 19536., 0., 0.]),
    ];
    for (op, expected) in cases {
        let expected = tensor(&expected, &[1, 2, 3]);
        for y in [forward(&op, &x, &weight, &bias), reference(&op, &x, &weight, &bias)] {
            assert_eq!(y.dims(), expected.dims());
            for (y, e) in values(&y).iter().zip(values(&expected)) {
                assert!((y - e).abs() <= 0.01 * e.abs().max(100.0), "{op:?}: {y}, not {e}");
            }
        }
    }
}

#[test]
fn fast_equals_reference() {
    for round in 0..ROUNDS {
        let mut random = Random(round);
        let [batch, time] = [random.within(1, 3), random.within(1, 90)];
        let [inputs, outputs] = [random.within(1, 70), random.within(1, 70)];
        let x = (random.rows(batch, time, inputs) * f64::from(1u32 << random.within(0, 20))).unwrap();
        let (weight, bias) = (random.tensor(&[outputs, inputs]), random.tensor(&[outputs]));
        let addends: Vec<Tensor> =
            (0..random.within(0, 2)).map(|_| random.tensor(&[batch, time, outputs])).collect();
        let addends: Vec<&Tensor> = addends.iter().collect();
        for activation in [Activation::Identity, Activation::Relu] {
            let op = LinearInt8 { activation, addends: &addends };
            let case = format!("round {round}, {activation:?}, {} addends, x {:?}", addends.len(), x.dims());
            assert_close(&case, &forward(&op, &x, &weight, &bias), &reference(&op, &x, &weight, &bias));
        }
    }
}

/// Input wider than one block of the product, which is 1024.
#[test]
fn wide_inputs_equal_reference() {
    let mut random = Random(1);
    let (x, weight) = (random.tensor(&[1, 9, 2500]), random.tensor(&[33, 2500]));
    let bias = random.tensor(&[33]);
    let reference = reference(&IDENTITY, &x, &weight, &bias);
    assert_close("2500 inputs", &forward(&IDENTITY, &x, &weight, &bias), &reference);
}

/// No step is further off than half of one, and scales are no larger than they have to be: the largest weight has the largest
/// step, or, where this processor wants it, neighbours come to as much as they may.
#[test]
fn rounded_weights_are_near() {
    let mut random = Random(5);
    let same = tensor(&[0.5; 12], &[2, 6]);
    for weight in [random.tensor(&[40, 513]), random.tensor(&[1, 1]), same, tensor(&[0.0; 4], &[2, 2])] {
        let rounded = Rounded::new(&weight).unwrap();
        let inputs = weight.dims()[1];
        for (j, row) in rounded.steps().chunks_exact(inputs).enumerate() {
            let exact: Vec<f32> = weight.get(j).unwrap().to_vec1().unwrap();
            let largest = row.iter().map(|step| step.unsigned_abs()).max().unwrap();
            let pairs = row.as_chunks::<2>().0.iter().map(|[a, b]| (i16::from(*a) + i16::from(*b)).abs());
            let (pair, zero) = (pairs.max().unwrap_or(0), exact.iter().all(|v| *v == 0.0));
            assert!(zero || largest == 127 || (126..=128).contains(&pair), "{largest}, {pair}");
            for (step, exact) in row.iter().zip(exact) {
                let error = (f32::from(*step) * rounded.scales()[j] - exact).abs();
                assert!(error <= 0.5001 * rounded.scales()[j], "{error} of output {j}, {:?}", weight.dims());
            }
        }
        let again = Rounded::from_steps(rounded.steps().to_vec(), rounded.scales().to_vec()).unwrap();
        assert_eq!(again.steps(), rounded.steps());
    }
    let refused = [(vec![-128, 0], vec![1.0]), (vec![1, 1], vec![f32::NAN])];
    for (steps, scales) in refused.into_iter().chain([(vec![1, 1, 1], vec![1.0, 1.0]), (vec![], vec![])]) {
        let error = Rounded::from_steps(steps, scales).unwrap_err().to_string();
        assert!(error.contains("linear_int8"), "{error}");
    }
}

/// Steps of another processor, whose neighbours do not fit 16 bits.
#[test]
fn weights_that_were_rounded_elsewhere_are_exact() {
    let mut random = Random(11);
    for [rows, inputs, outputs] in [[1, 2, 1], [7, 33, 18], [50, 512, 64]] {
        let steps = random.tensor(&[outputs * inputs]);
        let mut steps: Vec<i8> = values(&steps).iter().map(|v| (v * 127.0) as i8).collect();
        steps[..2].fill(127);
        let weight = Rounded::from_steps(steps, vec![0.01; outputs]).unwrap();
        let (x, bias) = (random.rows(1, rows, inputs), random.tensor(&[outputs]));
        let fast = RELU.forward(&x, &Int8Weight::pack(&weight), &bias).unwrap();
        assert_close("wide", &fast, &RELU.reference(&x, &weight, &bias).unwrap());
    }
}

#[test]
fn close_to_f32() {
    let mut random = Random(7);
    let (x, weight) = (random.tensor(&[1, 50, 512]), random.tensor(&[64, 512]));
    let bias = random.tensor(&[64]);
    let op = Linear { activation: Activation::Identity, addends: &[] };
    let exact = op.forward(&x, &FloatWeight::new(&weight).unwrap(), &bias).unwrap();
    let norm = |x: &Tensor| values(x).iter().map(|v| v * v).sum::<f32>().sqrt();
    let error = norm(&(forward(&IDENTITY, &x, &weight, &bias) - &exact).unwrap()) / norm(&exact);
    assert!(error < 0.01, "relative error {error}");
}

/// Zero, constant, huge, tiny rows; zero weights.
#[test]
fn rows_at_the_limits() {
    let rows = [
        ([0.0; 4], [0.0, 0.0]),
        ([3.0; 4], [6.0, 0.0]),
        ([-3.0; 4], [-6.0, 0.0]),
        ([1e38, -1e38, 2e38, -3e38], [-5e37, 0.0]),
        ([1e-40, 1e-42, -1e-44, 0.0], [0.0, 0.0]),
        ([1e-30, -1e-30, 0.0, 1e-30], [5e-31, 0.0]),
    ];
    let weight = tensor(&[0.5, 0.5, 0.5, 0.5, 0.0, 0.0, 0.0, 0.0], &[2, 4]);
    let bias = tensor(&[0.0, 0.0], &[2]);
    for (row, expected) in rows {
        let x = tensor(&row, &[1, 1, 4]);
        let largest = row.iter().fold(0f32, |largest, v| largest.max(v.abs()));
        for y in [forward(&IDENTITY, &x, &weight, &bias), reference(&IDENTITY, &x, &weight, &bias)] {
            for (y, e) in values(&y).iter().zip(expected) {
                assert!((y - e).abs() <= 0.01 * largest + 1e-37, "{row:?}: {y}, not {e}");
            }
        }
    }
}

#[test]
fn a_row_that_is_not_finite_is_nan_and_no_other() {
    let weight = tensor(&[1.0, -1.0, 0.5, 0.0], &[2, 2]);
    let bias = tensor(&[0.0, 0.0], &[2]);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let x = tensor(&[1.0, 2.0, bad, 2.0, 1.0, 2.0], &[1, 3, 2]);
        for op in [IDENTITY, RELU] {
            let fast = values(&forward(&op, &x, &weight, &bias));
            let reference = values(&reference(&op, &x, &weight, &bias));
            for (name, y) in [("fast", fast), ("reference", reference)] {
                let nan: Vec<bool> = y.iter().map(|v| v.is_nan()).collect();
                assert_eq!(nan, [false, false, true, true, false, false], "{name} of {bad}, {op:?}: {y:?}");
            }
        }
    }
}

#[test]
fn a_row_is_the_same_in_any_batch() {
    let mut random = Random(3);
    let (x, weight) = (random.tensor(&[3, 70, 24]), random.tensor(&[40, 24]));
    let (weight, bias) = (Int8Weight::quantize(&weight).unwrap(), random.tensor(&[40]));
    let all = IDENTITY.forward(&x, &weight, &bias).unwrap();
    for item in 0..3 {
        for (start, len) in [(0, 70), (5, 1), (60, 9)] {
            let part = |x: &Tensor| x.narrow(0, item, 1).and_then(|x| x.narrow(1, start, len)).unwrap();
            let alone = IDENTITY.forward(&part(&x), &weight, &bias).unwrap();
            assert_eq!(values(&alone), values(&part(&all)), "item {item}, {len} rows from {start}");
        }
    }
}

#[test]
fn no_rows_give_no_rows() {
    let weight = Int8Weight::quantize(&tensor(&[1.0; 6], &[2, 3])).unwrap();
    let x = Tensor::zeros((1, 0, 3), DType::F32, &candle_core::Device::Cpu).unwrap();
    assert_eq!(IDENTITY.forward(&x, &weight, &tensor(&[0.0; 2], &[2])).unwrap().dims(), [1, 0, 2]);
}

#[test]
fn misfits_name_op_and_shapes() {
    let ones = |dims: &[usize]| tensor(&vec![1.0; dims.iter().product()], dims);
    let (x, weight) = (ones(&[1, 2, 3]), Int8Weight::quantize(&ones(&[4, 3])).unwrap());
    let parts = ["linear_int8", "[1, 2, 5]", "[3, 4]", "[4]"];
    assert_refused(IDENTITY.forward(&ones(&[1, 2, 5]), &weight, &ones(&[4])), &parts);
    assert_refused(IDENTITY.forward(&x, &weight, &ones(&[3])), &["linear_int8", "[1, 2, 3]", "[3, 4]"]);
    let addend = ones(&[1, 3, 4]);
    let op = LinearInt8 { addends: &[&addend], ..IDENTITY };
    assert_refused(op.forward(&x, &weight, &ones(&[4])), &["linear_int8", "[1, 3, 4]", "[1, 2, 4]"]);
    let half = x.to_dtype(DType::F16).unwrap();
    assert_refused(IDENTITY.forward(&half, &weight, &ones(&[4])), &["linear_int8", "F16"]);
}

#[test]
fn weights_that_8_bits_cannot_hold_are_refused() {
    for bad in [f32::NAN, f32::INFINITY] {
        let weight = tensor(&[1.0, bad], &[1, 2]);
        let error = Int8Weight::quantize(&weight).unwrap_err().to_string();
        assert!(error.contains("linear_int8") && error.contains("not finite"), "{error}");
    }
    for dims in [[0, 3], [3, 0], [1, 40_000]] {
        let weight = Tensor::zeros(&dims, DType::F32, &candle_core::Device::Cpu).unwrap();
        let error = Int8Weight::quantize(&weight).unwrap_err().to_string();
        assert!(error.contains("linear_int8") && error.contains(&format!("{dims:?}")), "{error}");
    }
}
