use funasr_kernels::LayerNorm;

use crate::{ROUNDS, Random, assert_close, assert_refused, edges, tensor, values};

#[test]
fn by_hand() {
    let x = tensor(&[1., 3., 5., 5., -2., 2.], &[3, 2]);
    let (weight, bias) = (tensor(&[2., 1.], &[2]), tensor(&[0., 10.], &[2]));
    // The second row has no variance; eps keeps it at the bias.
    let expected = tensor(&[-2., 11., 0., 10., -2., 11.], &[3, 2]);
    let op = LayerNorm { eps: 1e-12 };
    assert_close("fast", &op.forward(&x, &weight, &bias).unwrap(), &expected);
    assert_close("reference", &op.reference(&x, &weight, &bias).unwrap(), &expected);
}

/// `E[x^2] - E[x]^2` in f32 gives nothing but rounding here.
#[test]
fn a_small_variance_on_a_large_mean_is_kept() {
    let width = 512;
    let row: Vec<f32> = (0..width).map(|i| 1000.0 + if i % 2 == 0 { 0.5 } else { -0.5 }).collect();
    let (weight, bias) = (tensor(&vec![1.0; width], &[width]), tensor(&vec![0.0; width], &[width]));
    let y = LayerNorm { eps: 1e-12 }.forward(&tensor(&row, &[1, width]), &weight, &bias).unwrap();
    assert!(values(&y).iter().enumerate().all(|(i, &v)| v == if i % 2 == 0 { 1.0 } else { -1.0 }));
}

#[test]
fn fast_equals_reference() {
    for round in 0..ROUNDS {
        let mut random = Random(round);
        let [batch, time, width] = [random.within(1, 3), random.within(1, 60), random.within(2, 90)];
        let x = (random.rows(batch, time, width) * 20.0).unwrap();
        let x = if random.flag() { x } else { x.transpose(0, 1).unwrap() };
        let (weight, bias) = (random.tensor(&[width]), random.tensor(&[width]));
        let op = LayerNorm { eps: if random.flag() { 1e-5 } else { 1e-12 } };
        let fast = op.forward(&x, &weight, &bias).unwrap();
        let reference = op.reference(&x, &weight, &bias).unwrap();
        assert_close(&format!("round {round}, x {:?}", x.dims()), &fast, &reference);
    }
}

/// A padded frame is a row like any other, and a row of zeros has no variance.
#[test]
fn edges_equal_reference() {
    let op = LayerNorm { eps: 1e-12 };
    for lengths in edges(11) {
        let mut random = Random(3);
        let x = random.rows(lengths.batch(), lengths.max(), 24);
        let mask = lengths.mask(x.dtype(), x.device()).and_then(|mask| mask.unsqueeze(2)).unwrap();
        let x = x.broadcast_mul(&mask).unwrap();
        let [weight, bias] = [0, 1].map(|_| random.tensor(&[24]));
        let case = format!("batch {}, time {}", lengths.batch(), lengths.max());
        let fast = op.forward(&x, &weight, &bias).unwrap();
        assert_close(&case, &fast, &op.reference(&x, &weight, &bias).unwrap());
    }
}

#[test]
fn misfits_name_op_and_shapes() {
    let ones = |dims: &[usize]| tensor(&vec![1.0; dims.iter().product()], dims);
    let op = LayerNorm { eps: 1e-5 };
    let x = ones(&[2, 3]);
    assert_refused(op.forward(&x, &ones(&[4]), &ones(&[3])), &["layer-norm", "[2, 3]", "[4]"]);
    assert_refused(op.forward(&x, &ones(&[3]), &ones(&[2])), &["layer-norm", "[2, 3]", "[3]", "[2]"]);
    assert_refused(op.forward(&ones(&[2, 0]), &ones(&[0]), &ones(&[0])), &["layer-norm", "[2, 0]"]);
}
