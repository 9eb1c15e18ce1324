use funasr_kernels::Best;

use crate::{ROUNDS, Random, assert_close, assert_refused, edges, tensor, values};

const ONE: Best = Best { count: 1 };

#[test]
fn by_hand() {
    let (ln2, ln3) = (2f32.ln(), 3f32.ln());
    // Of equal values the first; probabilities 3 of 6, 2 of 5, nearly all.
    let x = tensor(&[0., ln2, ln3, ln2, 0., ln2, 0., f32::NEG_INFINITY, 5.], &[3, 3]);
    let expected = [2., ln3, -ln2, 0., ln2, -2.5f32.ln(), 2., 5., -(-5f32).exp().ln_1p()];
    assert_close("best", &ONE.forward(&x).unwrap(), &tensor(&expected, &[3, 3]));
}

/// In order, the first of equal ones before the others, whatever comes before or behind; not more than there are.
#[test]
fn several_by_hand() {
    let x = tensor(&[0., 3., -1., 3., 3., f32::NEG_INFINITY, 0., 0., 0., 0.], &[2, 5]);
    let y = values(&Best { count: 3 }.forward(&x).unwrap());
    assert_eq!(y[..6], [1., 3., 4., 3., 3., 3.]);
    assert_eq!(y[7..13], [1., 2., 3., 0., 0., 0.]);
    let y = Best { count: 20 }.forward(&x).unwrap();
    assert_eq!(y.dims(), [2, 11]);
    assert_eq!(values(&y)[..10], [1., 3., 4., 0., 2., 3., 3., 3., 0., -1.]);
    assert_eq!(values(&y)[11..21], [1., 2., 3., 4., 0., 0., 0., 0., 0., f32::NEG_INFINITY]);
}

#[test]
fn fast_equals_reference() {
    for round in 0..ROUNDS {
        let mut random = Random(round);
        let [rows, width] = [random.within(1, 40), random.within(1, 300)];
        let best = Best { count: if random.flag() { 1 } else { random.within(1, 30) } };
        let x = (random.tensor(&[2, rows, width]) * 8.0).unwrap();
        let (fast, reference) = (best.forward(&x).unwrap(), best.reference(&x).unwrap());
        assert_close(&format!("round {round}, {best:?}"), &fast, &reference);
    }
}

#[test]
fn edges_equal_reference() {
    for lengths in edges(11) {
        let x = Random(2).tensor(&[lengths.batch(), lengths.max(), 7]);
        for best in [ONE, Best { count: 5 }] {
            let case = format!("batch {}, time {}, {best:?}", lengths.batch(), lengths.max());
            assert_close(&case, &best.forward(&x).unwrap(), &best.reference(&x).unwrap());
        }
    }
}

#[test]
fn what_is_not_finite_has_no_probability() {
    for best in [ONE, Best { count: 2 }] {
        let last = 2 * best.count;
        for bad in [f32::NAN, f32::INFINITY] {
            let y = values(&best.forward(&tensor(&[0., bad, 1., 0., 1., 2.], &[2, 3])).unwrap());
            assert!(y[last].is_nan() && y[2 * last + 1].is_finite(), "{y:?}");
        }
        let y = values(&best.forward(&tensor(&[f32::NEG_INFINITY; 2], &[1, 2])).unwrap());
        assert!(y[last].is_nan(), "{y:?}");
    }
}

/// However many values are no numbers, and wherever, a row only loses its probability.
#[test]
fn rows_full_of_nan_are_passed() {
    for round in 0..ROUNDS {
        let mut random = Random(round);
        let (width, best) = (random.within(2, 60), Best { count: random.within(1, 30) });
        let mut x = values(&random.tensor(&[width]));
        for _ in 0..random.within(1, width) {
            x[random.within(0, width - 1)] = f32::NAN;
        }
        let y = values(&best.forward(&tensor(&x, &[1, width])).unwrap());
        assert!(y[y.len() - 1].is_nan(), "round {round}: {x:?}");
    }
}

#[test]
fn misfits_name_op_and_shapes() {
    assert_refused(ONE.forward(&tensor(&[], &[3, 0])), &["best", "[3, 0]"]);
    assert_refused(Best { count: 0 }.forward(&tensor(&[1.], &[1, 1])), &["best", "0 places", "[1, 1]"]);
}
