use candle_core::Tensor;
use funasr_kernels::{Join, JoinRows};

use crate::{ROUNDS, Random, assert_refused, tensor, values};

#[test]
fn by_hand() {
    // One value a row; two layers are remembered.
    let past = [Some(tensor(&[1., 2., 3., 4.], &[2, 2, 1])), None];
    let joins =
        [Join { lead: 0, past: 2, fresh: 1, trail: 0 }, Join { lead: 1, past: 0, fresh: 2, trail: 2 }];
    let fresh = tensor(&[7., f32::NAN, 8., 9.], &[2, 2, 1]);
    for (layer, remembered) in [[1., 2.], [3., 4.]].into_iter().enumerate() {
        let op = JoinRows { joins: &joins, past: &past, layer };
        let expected = [remembered[0], remembered[1], 7., 0., 0., 0., 8., 9., 0., 0.];
        for y in [op.forward(&fresh).unwrap(), op.reference(&fresh).unwrap()] {
            assert_eq!((y.dims(), values(&y)), (&[2, 5, 1][..], expected.to_vec()), "layer {layer}");
        }
    }
}

#[test]
fn fast_equals_reference() {
    for round in 0..ROUNDS {
        let mut random = Random(round);
        let [batch, time, width] = [random.within(1, 9), random.within(1, 30), random.within(1, 40)];
        let layers = random.within(1, 3);
        let mut join = || Join {
            lead: random.within(0, 3),
            past: random.within(0, 70),
            fresh: random.within(0, time),
            trail: random.within(0, 3),
        };
        let joins: Vec<Join> = (0..batch).map(|_| join()).collect();
        let past: Vec<Option<Tensor>> = joins
            .iter()
            .map(|join| (join.past > 0).then(|| random.tensor(&[layers, join.past, width])))
            .collect();
        let fresh = random.rows(batch, time, width);
        let op = JoinRows { joins: &joins, past: &past, layer: random.within(0, layers - 1) };
        let [fast, reference] = [op.forward(&fresh).unwrap(), op.reference(&fresh).unwrap()];
        assert_eq!((fast.dims(), values(&fast)), (reference.dims(), values(&reference)), "round {round}");
    }
}

#[test]
fn misfits_name_op_and_shapes() {
    let fresh = tensor(&[1.; 6], &[1, 3, 2]);
    let past = [Some(tensor(&[1.; 8], &[1, 4, 2]))];
    let joins = [Join { lead: 0, past: 4, fresh: 3, trail: 0 }];
    let op = JoinRows { joins: &joins, past: &past, layer: 0 };
    assert_refused(JoinRows { layer: 1, ..op }.forward(&fresh), &["join-rows", "layer 1", "[1, 4, 2]"]);
    assert_refused(JoinRows { past: &[None], ..op }.forward(&fresh), &["join-rows", "past: 4", "None"]);
    assert_refused(JoinRows { past: &[], ..op }.forward(&fresh), &["join-rows", "0 pasts for 1 streams"]);
    assert_refused(op.forward(&tensor(&[1.; 4], &[1, 2, 2])), &["join-rows", "fresh: 3", "[1, 2, 2]"]);
    assert_refused(op.forward(&tensor(&[1.; 9], &[1, 3, 3])), &["join-rows", "[1, 4, 2]", "[1, 3, 3]"]);
}
