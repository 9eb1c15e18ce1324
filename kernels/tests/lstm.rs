use candle_core::Tensor;
use funasr_kernels::{Lengths, Lstm};

use crate::{ROUNDS, Random, assert_close, assert_refused, edges, tensor, values};

fn lstm(reverse: bool, lengths: &[usize]) -> Lstm {
    Lstm { reverse, lengths: Lengths::new(lengths.to_vec()) }
}

/// Gates of one hidden unit that are open (or shut) for good and add 0.5 a step.
const ADD: [f32; 4] = [100., 100., 0.549_306_15, 100.];
const FORGET: [f32; 4] = [100., -100., 0.549_306_15, 100.];
const SILENT: [f32; 4] = [100., 100., 0.549_306_15, -100.];

#[test]
fn by_hand() {
    let weight = tensor(&[0.; 4], &[1, 4]);
    type Case = (&'static [[f32; 4]], bool, &'static [f32]);
    let cases: [Case; 5] = [
        (&[ADD, ADD, ADD], false, &[0.5, 1.0, 1.5]),
        (&[ADD, ADD, ADD], true, &[1.5, 1.0, 0.5]),
        (&[ADD, FORGET, ADD], false, &[0.5, 0.5, 1.0]),
        (&[ADD, FORGET, ADD], true, &[1.0, 0.5, 0.5]),
        (&[ADD, SILENT, ADD], false, &[0.5, f32::NEG_INFINITY, 1.5]),
    ];
    for (gates, reverse, cells) in cases {
        let op = lstm(reverse, &[gates.len()]);
        let gates = tensor(&gates.concat(), &[1, gates.len(), 4]);
        let open = |c: &f32| if c.is_finite() { c.tanh() } else { 0.0 };
        let expected = tensor(&cells.iter().map(open).collect::<Vec<_>>(), &[1, cells.len(), 1]);
        assert_close("fast", &op.forward(&gates, &weight).unwrap(), &expected);
        assert_close("reference", &op.reference(&gates, &weight).unwrap(), &expected);
    }
}

/// An item gives the same alone and in a batch, and what lies behind its end is not read.
#[test]
fn padding_is_neither_read_nor_written() {
    let mut random = Random(7);
    let (gates, weight) = (random.tensor(&[1, 3, 8]), random.tensor(&[2, 8]));
    let noise = tensor(&[f32::NAN; 16], &[1, 2, 8]);
    let longer = random.tensor(&[1, 5, 8]);
    let batch = Tensor::cat(&[&Tensor::cat(&[&gates, &noise], 1).unwrap(), &longer], 0).unwrap();
    for reverse in [false, true] {
        let alone = values(&lstm(reverse, &[3]).forward(&gates, &weight).unwrap());
        let both = values(&lstm(reverse, &[3, 5]).forward(&batch, &weight).unwrap());
        assert_eq!(both[..6], alone, "reverse: {reverse}");
        assert_eq!(both[6..10], [0.0; 4], "reverse: {reverse}");
    }
}

#[test]
fn fast_equals_reference() {
    for round in 0..ROUNDS {
        let mut random = Random(round);
        let [batch, time, hidden] = [random.within(1, 5), random.within(0, 20), random.within(1, 24)];
        let op = Lstm { reverse: random.flag(), lengths: random.lengths(batch, time) };
        let gates = (random.rows(batch, time, 4 * hidden) * 3.0).unwrap();
        let weight = random.tensor(&[hidden, 4 * hidden]);
        let fast = op.forward(&gates, &weight).unwrap();
        assert_close(&format!("round {round}, {op:?}"), &fast, &op.reference(&gates, &weight).unwrap());
    }
}

#[test]
fn edges_equal_reference() {
    for lengths in edges(2) {
        let mut random = Random(9);
        let gates = random.rows(lengths.batch(), lengths.max(), 4 * 5);
        let weight = random.tensor(&[5, 4 * 5]);
        for reverse in [false, true] {
            let op = Lstm { reverse, lengths: lengths.clone() };
            let case = format!("reverse: {reverse}, batch {}, time {}", lengths.batch(), lengths.max());
            let fast = op.forward(&gates, &weight).unwrap();
            assert_close(&case, &fast, &op.reference(&gates, &weight).unwrap());
        }
    }
}

#[test]
fn misfits_name_op_and_shapes() {
    let ones = |dims: &[usize]| tensor(&vec![1.0; dims.iter().product()], dims);
    let op = lstm(false, &[3]);
    assert_refused(op.forward(&ones(&[1, 3, 8]), &ones(&[3, 12])), &["lstm", "[1, 3, 8]", "[3, 12]"]);
    assert_refused(op.forward(&ones(&[1, 3, 8]), &ones(&[2, 6])), &["lstm", "[1, 3, 8]", "[2, 6]"]);
    assert_refused(op.forward(&ones(&[2, 3, 8]), &ones(&[2, 8])), &["lstm", "[2, 3, 8]", "[1, 3"]);
}
