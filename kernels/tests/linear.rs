use candle_core::{DType, Result, Tensor};
use funasr_kernels::{Activation, FloatWeight, LayerNorm, Linear, Norm};

use crate::{ROUNDS, Random, assert_close, assert_refused, edges, tensor, values};

const IDENTITY: Linear = Linear { activation: Activation::Identity, addends: &[] };
const RELU: Linear = Linear { activation: Activation::Relu, addends: &[] };

fn forward(op: &Linear, x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    op.forward(x, &FloatWeight::new(weight)?, bias)
}

#[test]
fn by_hand() {
    let x = tensor(&[1., 2., -3., 0.5], &[1, 2, 2]);
    let weight = tensor(&[1., 0., 0., 1., 2., -1.], &[3, 2]);
    let bias = tensor(&[10., 0., -1.], &[3]);
    let addend = tensor(&[1., 1., 1., -7., 0., 0.], &[1, 2, 3]);
    let (one, two) = ([&addend], [&addend, &addend]);
    let cases = [
        (IDENTITY, [11., 2., -1., 7., 0.5, -7.5]),
        (RELU, [11., 2., 0., 7., 0.5, 0.]),
        (Linear { addends: &one, ..IDENTITY }, [12., 3., 0., 0., 0.5, -7.5]),
        (Linear { addends: &two, ..RELU }, [13., 4., 1., 0., 0.5, 0.]),
    ];
    for (op, expected) in cases {
        let y = forward(&op, &x, &weight, &bias).unwrap();
        assert_eq!((y.dims(), values(&y)), (&[1, 2, 3][..], expected.to_vec()), "{op:?}");
        assert_eq!(values(&op.reference(&x, &weight, &bias).unwrap()), expected, "{op:?}");
    }
}

#[test]
fn fast_equals_reference() {
    for round in 0..ROUNDS {
        let mut random = Random(round);
        let [batch, time] = [random.within(1, 3), random.within(1, 40)];
        let [inputs, outputs] = [random.within(1, 70), random.within(1, 70)];
        let x = random.rows(batch, time, inputs);
        let weight = random.tensor(&[outputs, inputs]);
        let bias = random.tensor(&[outputs]);
        let addends: Vec<Tensor> =
            (0..random.within(0, 2)).map(|_| random.tensor(&[batch, time, outputs])).collect();
        let addends: Vec<&Tensor> = addends.iter().collect();
        for activation in [Activation::Identity, Activation::Relu] {
            let op = Linear { activation, addends: &addends };
            let fast = forward(&op, &x, &weight, &bias).unwrap();
            let reference = op.reference(&x, &weight, &bias).unwrap();
            let case = format!("round {round}, {activation:?}, {} addends, x {:?}", addends.len(), x.dims());
            assert_close(&case, &fast, &reference);
        }
    }
}

#[test]
fn edges_equal_reference() {
    for lengths in edges(11) {
        let mut random = Random(5);
        let (batch, time) = (lengths.batch(), lengths.max());
        let x = random.rows(batch, time, 17);
        let (weight, bias) = (random.tensor(&[19, 17]), random.tensor(&[19]));
        let addend = random.tensor(&[batch, time, 19]);
        let op = Linear { addends: &[&addend], ..RELU };
        let fast = forward(&op, &x, &weight, &bias).unwrap();
        assert_close(&format!("x {:?}", x.dims()), &fast, &op.reference(&x, &weight, &bias).unwrap());
    }
}

#[test]
fn a_norm_is_that_of_the_result() {
    let mut random = Random(7);
    let x = random.rows(2, 9, 17);
    let [weight, bias] = [random.tensor(&[19, 17]), random.tensor(&[19])];
    let [scale, shift] = [0, 1].map(|_| random.tensor(&[19]));
    let addend = random.tensor(&[2, 9, 19]);
    let norm = Norm { op: LayerNorm { eps: 1e-5 }, weight: &scale, bias: &shift };
    let op = Linear { addends: &[&addend], ..RELU };
    let [y, normed] = op.forward_norm(&x, &FloatWeight::new(&weight).unwrap(), &bias, &norm).unwrap();
    let expected = op.reference(&x, &weight, &bias).unwrap();
    assert_close("sums", &y, &expected);
    assert_close("norm", &normed, &norm.op.reference(&expected, &scale, &shift).unwrap());
}

#[test]
fn misfits_name_op_and_shapes() {
    let ones = |dims: &[usize]| tensor(&vec![1.0; dims.iter().product()], dims);
    let (x, weight) = (ones(&[1, 2, 3]), ones(&[4, 3]));
    assert_refused(
        forward(&IDENTITY, &x, &ones(&[4, 5]), &ones(&[4])),
        &["linear", "[1, 2, 3]", "[5, 4]", "[4]"],
    );
    assert_refused(forward(&IDENTITY, &x, &weight, &ones(&[3])), &["linear", "[1, 2, 3]", "[3, 4]", "[3]"]);
    let addend = ones(&[1, 3, 4]);
    let op = Linear { addends: &[&addend], ..IDENTITY };
    assert_refused(forward(&op, &x, &weight, &ones(&[4])), &["linear", "[1, 3, 4]", "[1, 2, 4]"]);
}

/// A row is the same whatever others are multiplied with it, and other formats take the definition.
#[test]
fn rows_alone_and_other_formats() {
    let mut random = Random(11);
    let (x, weight, bias) = (random.tensor(&[1, 200, 33]), random.tensor(&[50, 33]), random.tensor(&[50]));
    let all = forward(&IDENTITY, &x, &weight, &bias).unwrap();
    for (start, len) in [(0, 1), (3, 5), (90, 13), (199, 1)] {
        let part = forward(&IDENTITY, &x.narrow(1, start, len).unwrap(), &weight, &bias).unwrap();
        assert_eq!(values(&part), values(&all.narrow(1, start, len).unwrap()), "{len} rows from {start}");
    }
    let [x, weight, bias] = [x, weight, bias].map(|t| t.to_dtype(DType::F64).unwrap());
    let wide = forward(&IDENTITY, &x, &weight, &bias).unwrap().to_dtype(DType::F32).unwrap();
    assert_close("f64", &all, &wide);
    assert_eq!(forward(&IDENTITY, &x.narrow(1, 0, 0).unwrap(), &weight, &bias).unwrap().dims(), [1, 0, 50]);
}

/// Where the processor has no product of bf16, nothing is rounded.
#[test]
fn coarse_is_near_the_reference() {
    for round in 0..ROUNDS {
        let mut random = Random(round);
        let [rows, inputs, outputs] = [random.within(1, 70), random.within(1, 100), random.within(1, 50)];
        let op = Linear { activation: Activation::Relu, addends: &[] };
        let x = random.tensor(&[1, rows, inputs]);
        let [weight, bias] = [random.tensor(&[outputs, inputs]), random.tensor(&[outputs])];
        let fast = op.forward(&x, &FloatWeight::coarse(&weight).unwrap(), &bias).unwrap();
        let reference = op.reference(&x, &weight, &bias).unwrap();
        for (a, b) in values(&fast).into_iter().zip(values(&reference)) {
            // Two factors that are off by 2^-9 each, in sums of up to 100 products that go either way.
            assert!((a - b).abs() < 0.2, "round {round}: {a} and {b}");
        }
    }
}
