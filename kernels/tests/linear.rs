use candle_core::Tensor;
use funasr_kernels::{Activation, Linear};

use crate::{ROUNDS, Random, assert_close, assert_refused, tensor, values};

const IDENTITY: Linear = Linear { activation: Activation::Identity, addends: &[] };
const RELU: Linear = Linear { activation: Activation::Relu, addends: &[] };

#[test]
fn by_hand() {
    let x = tensor(&[1., 2., -3., 0.5], &[1, 2, 2]);
    let weight = tensor(&[1., 0., 2., 0., 1., -1.], &[2, 3]);
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
        let y = op.forward(&x, &weight, &bias).unwrap();
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
        let weight = random.tensor(&[inputs, outputs]);
        let bias = random.tensor(&[outputs]);
        let addends: Vec<Tensor> =
            (0..random.within(0, 2)).map(|_| random.tensor(&[batch, time, outputs])).collect();
        let addends: Vec<&Tensor> = addends.iter().collect();
        for activation in [Activation::Identity, Activation::Relu] {
            let op = Linear { activation, addends: &addends };
            let fast = op.forward(&x, &weight, &bias).unwrap();
            let reference = op.reference(&x, &weight, &bias).unwrap();
            let case = format!("round {round}, {activation:?}, {} addends, x {:?}", addends.len(), x.dims());
            assert_close(&case, &fast, &reference);
        }
    }
}

#[test]
fn misfits_name_op_and_shapes() {
    let ones = |dims: &[usize]| tensor(&vec![1.0; dims.iter().product()], dims);
    let (x, weight) = (ones(&[1, 2, 3]), ones(&[3, 4]));
    assert_refused(
        IDENTITY.forward(&x, &ones(&[5, 4]), &ones(&[4])),
        &["linear", "[1, 2, 3]", "[5, 4]", "[4]"],
    );
    assert_refused(IDENTITY.forward(&x, &weight, &ones(&[3])), &["linear", "[1, 2, 3]", "[3, 4]", "[3]"]);
    let addend = ones(&[1, 3, 4]);
    let op = Linear { addends: &[&addend], ..IDENTITY };
    assert_refused(op.forward(&x, &weight, &ones(&[4])), &["linear", "[1, 3, 4]", "[1, 2, 4]"]);
}
