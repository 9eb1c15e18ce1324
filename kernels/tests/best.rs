use funasr_kernels::Best;

use crate::{ROUNDS, Random, assert_close, assert_refused, edges, tensor, values};

#[test]
fn by_hand() {
    let (ln2, ln3) = (2f32.ln(), 3f32.ln());
    // Of equal values the first; probabilities 3 of 6, 2 of 5, nearly all.
    let x = tensor(&[0., ln2, ln3, ln2, 0., ln2, 0., f32::NEG_INFINITY, 5.], &[3, 3]);
    let expected = [2., ln3, -ln2, 0., ln2, -2.5f32.ln(), 2., 5., -(-5f32).exp().ln_1p()];
    assert_close("best", &Best.forward(&x).unwrap(), &tensor(&expected, &[3, 3]));
}

#[test]
fn fast_equals_reference() {
    for round in 0..ROUNDS {
        let mut random = Random(round);
        let [rows, width] = [random.within(1, 40), random.within(1, 300)];
        let x = (random.tensor(&[2, rows, width]) * 8.0).unwrap();
        let (fast, reference) = (Best.forward(&x).unwrap(), Best.reference(&x).unwrap());
        assert_close(&format!("round {round}"), &fast, &reference);
    }
}

#[test]
fn edges_equal_reference() {
    for lengths in edges(11) {
        let x = Random(2).tensor(&[lengths.batch(), lengths.max(), 7]);
        let case = format!("batch {}, time {}", lengths.batch(), lengths.max());
        assert_close(&case, &Best.forward(&x).unwrap(), &Best.reference(&x).unwrap());
    }
}

#[test]
fn what_is_not_finite_has_no_probability() {
    for bad in [f32::NAN, f32::INFINITY] {
        let y = values(&Best.forward(&tensor(&[0., bad, 1., 0., 1., 2.], &[2, 3])).unwrap());
        assert!(y[2].is_nan() && y[5].is_finite(), "{y:?}");
    }
    assert!(values(&Best.forward(&tensor(&[f32::NEG_INFINITY; 2], &[1, 2])).unwrap())[2].is_nan());
}

#[test]
fn misfits_name_op_and_shapes() {
    assert_refused(Best.forward(&tensor(&[], &[3, 0])), &["best", "[3, 0]"]);
}
