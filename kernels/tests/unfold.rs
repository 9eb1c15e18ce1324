use candle_core::{DType, Tensor};
use funasr_kernels::{Lengths, Unfold};

use crate::{ROUNDS, Random, assert_close, assert_refused, edges, tensor, values};

#[test]
fn by_hand() {
    let op = Unfold { before: 1, after: 2, lengths: Lengths::new(vec![3, 1]) };
    let x = tensor(&[1., 2., 3., 4., f32::NAN, f32::NAN], &[2, 3, 1]);
    let expected =
        [[0., 1., 2., 3.], [1., 2., 3., 0.], [2., 3., 0., 0.], [0., 4., 0., 0.], [4., 0., 0., 0.], [0.; 4]];
    let expected = tensor(expected.as_flattened(), &[2, 3, 4]);
    assert_eq!(values(&op.forward(&x).unwrap()), values(&expected));
    assert_eq!(values(&op.reference(&x).unwrap()), values(&expected));
    // What the CPU has no fast version for.
    let x = x.to_dtype(DType::F64).unwrap();
    assert_close("f64", &op.forward(&x).unwrap().to_dtype(DType::F32).unwrap(), &expected);
}

fn check(random: &mut Random, lengths: Lengths, width: usize) {
    let op = Unfold { before: random.within(0, 3), after: random.within(0, 3), lengths };
    let x = random.rows(op.lengths.batch(), op.lengths.max(), width);
    let fast = op.forward(&x).unwrap();
    assert_eq!(fast.dims(), op.reference(&x).unwrap().dims());
    assert_close(&format!("{op:?}"), &fast, &op.reference(&x).unwrap());
}

#[test]
fn fast_equals_reference() {
    for round in 0..ROUNDS {
        let mut random = Random(round);
        let [batch, time, width] = [random.within(1, 5), random.within(0, 20), random.within(1, 24)];
        let lengths = random.lengths(batch, time);
        check(&mut random, lengths, width);
    }
    edges(3).into_iter().for_each(|lengths| check(&mut Random(9), lengths, 4));
}

#[test]
fn misfits_name_op_and_shapes() {
    let op = Unfold { before: 1, after: 1, lengths: Lengths::new(vec![3]) };
    let ones = |dims: &[usize]| Tensor::ones(dims, DType::F32, &candle_core::Device::Cpu).unwrap();
    assert_refused(op.forward(&ones(&[1, 2, 4])), &["unfold", "[1, 2, 4]", "[1, 3"]);
    assert_refused(op.forward(&ones(&[2, 3, 4])), &["unfold", "[2, 3, 4]", "[1, 3"]);
}
