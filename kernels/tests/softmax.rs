use funasr_kernels::Softmax;

use crate::{ROUNDS, Random, assert_close, tensor, values};

#[test]
fn by_hand() {
    let x = tensor(&[3f32.ln(), 0.0, 1e4, -1e4], &[2, 2]);
    let expected = tensor(&[0.75, 0.25, 1.0, 0.0], &[2, 2]);
    for y in [Softmax.forward(&x), Softmax.reference(&x)] {
        assert_close("two rows", &y.unwrap(), &expected);
    }
}

#[test]
fn fast_equals_reference() {
    for round in 0..ROUNDS {
        let mut random = Random(round);
        let dims = [random.within(1, 3), random.within(0, 80), random.within(1, 300)];
        let x = (random.tensor(&dims) * 20.0).unwrap();
        let case = format!("round {round}, {dims:?}");
        assert_close(&case, &Softmax.forward(&x).unwrap(), &Softmax.reference(&x).unwrap());
    }
    let rows = Random(1).rows(2, 40, 17);
    assert_close("a slice", &Softmax.forward(&rows).unwrap(), &Softmax.reference(&rows).unwrap());
}

#[test]
fn a_row_that_is_not_a_number_stays_none_and_spoils_no_other() {
    let y = values(&Softmax.forward(&tensor(&[1., f32::NAN, 1., 1.], &[2, 2])).unwrap());
    assert!(y[0].is_nan() && y[1].is_nan());
    assert_eq!(y[2..], [0.5, 0.5]);
}
