use candle_core::Tensor;
use funasr_kernels::{FloatWeight, Int8Weight, Lengths, Lstm, Rounded, StateWeight};

use crate::{ROUNDS, Random, assert_close, assert_refused, edges, tensor, values};

fn lstm(lengths: &[usize]) -> Lstm {
    Lstm { lengths: Lengths::new(lengths.to_vec()) }
}

/// Laid out, from `[H, 4 H]`.
pub(super) fn laid_out(weights: &[Tensor]) -> Vec<StateWeight> {
    let lay_out = |weight: &Tensor| StateWeight::Float(FloatWeight::new(&weight.t().unwrap()).unwrap());
    weights.iter().map(lay_out).collect()
}

fn reference(op: &Lstm, gates: &Tensor, weights: &[Tensor]) -> Tensor {
    op.reference(gates, &weights.iter().collect::<Vec<_>>()).unwrap()
}

/// Gates of one hidden unit that are open (or shut) for good and add 0.5 a step.
const ADD: [f32; 4] = [100., 100., 0.549_306_15, 100.];
const FORGET: [f32; 4] = [100., -100., 0.549_306_15, 100.];
const SILENT: [f32; 4] = [100., 100., 0.549_306_15, -100.];

/// Both directions read the same gates: what the cells hold after each step from the first, and from the last.
#[test]
fn by_hand() {
    let weights = [0, 1].map(|_| tensor(&[0.; 4], &[1, 4]));
    type Case = (&'static [[f32; 4]], [&'static [f32]; 2]);
    let cases: [Case; 3] = [
        (&[ADD, ADD, ADD], [&[0.5, 1.0, 1.5], &[1.5, 1.0, 0.5]]),
        (&[ADD, FORGET, ADD], [&[0.5, 0.5, 1.0], &[1.0, 0.5, 0.5]]),
        (&[ADD, SILENT, ADD], [&[0.5, f32::NEG_INFINITY, 1.5], &[1.5, f32::NEG_INFINITY, 0.5]]),
    ];
    for (gates, [there, back]) in cases {
        let op = lstm(&[gates.len()]);
        let both: Vec<f32> = gates.iter().flat_map(|gates| gates.repeat(2)).collect();
        let both = tensor(&both, &[1, gates.len(), 8]);
        let open = |c: f32| if c.is_finite() { c.tanh() } else { 0.0 };
        let expected: Vec<f32> = there.iter().zip(back).flat_map(|(a, b)| [open(*a), open(*b)]).collect();
        let expected = tensor(&expected, &[1, gates.len(), 2]);
        assert_close("fast", &op.forward(&both, &laid_out(&weights)).unwrap(), &expected);
        assert_close("reference", &reference(&op, &both, &weights), &expected);
        let one = both.narrow(2, 0, 4).unwrap();
        let expected = expected.narrow(2, 0, 1).unwrap();
        assert_close("one", &op.forward(&one, &laid_out(&weights[..1])).unwrap(), &expected);
    }
}

/// An item gives the same alone and in a batch, and what lies behind its end is not read.
#[test]
fn padding_is_neither_read_nor_written() {
    let mut random = Random(7);
    let gates = random.tensor(&[1, 3, 16]);
    let weights = laid_out(&[random.tensor(&[2, 8]), random.tensor(&[2, 8])]);
    let noise = tensor(&[f32::NAN; 32], &[1, 2, 16]);
    let longer = random.tensor(&[1, 5, 16]);
    let batch = Tensor::cat(&[&Tensor::cat(&[&gates, &noise], 1).unwrap(), &longer], 0).unwrap();
    let alone = values(&lstm(&[3]).forward(&gates, &weights).unwrap());
    let both = values(&lstm(&[3, 5]).forward(&batch, &weights).unwrap());
    assert_eq!(both[..12], alone);
    assert_eq!(both[12..20], [0.0; 8]);
}

/// One direction or both, on a batch of random lengths.
struct Case {
    op: Lstm,
    gates: Tensor,
    /// `[H, 4 H]`.
    weights: Vec<Tensor>,
}

impl Case {
    fn random(round: u64) -> Self {
        let mut random = Random(round);
        let [batch, time, hidden] = [random.within(1, 5), random.within(0, 20), random.within(1, 24)];
        let count = random.within(1, 2);
        let op = Lstm { lengths: random.lengths(batch, time) };
        let gates = (random.rows(batch, time, count * 4 * hidden) * 3.0).unwrap();
        Self { op, gates, weights: (0..count).map(|_| random.tensor(&[hidden, 4 * hidden])).collect() }
    }
}

#[test]
fn fast_equals_reference() {
    for round in 0..ROUNDS {
        let Case { op, gates, weights } = Case::random(round);
        let fast = op.forward(&gates, &laid_out(&weights)).unwrap();
        assert_close(&format!("round {round}, {op:?}"), &fast, &reference(&op, &gates, &weights));
    }
}

/// A state at the border of two steps may be rounded to either, which all later steps see.
#[test]
fn int8_equals_its_reference() {
    let (mut most, mut sum, mut count) = (0f32, 0f32, 0);
    for round in 0..ROUNDS {
        let Case { op, gates, weights } = Case::random(round);
        let round = |weight: &Tensor| Rounded::new(&weight.t().unwrap()).unwrap();
        let rounded: Vec<Rounded> = weights.iter().map(round).collect();
        let packed: Vec<_> = rounded.iter().map(|r| StateWeight::Int8(Int8Weight::pack(r))).collect();
        let fast = values(&op.forward(&gates, &packed).unwrap());
        let expected = values(&op.reference_int8(&gates, &rounded).unwrap());
        for (a, b) in fast.iter().zip(&expected) {
            most = most.max((a - b).abs());
            sum += (a - b).abs();
        }
        count += fast.len();
    }
    assert!(most < 0.02 && sum / (count as f32) < 1e-5, "{most} at most, {} on average", sum / count as f32);
}

#[test]
fn edges_equal_reference() {
    for lengths in edges(2) {
        let mut random = Random(9);
        let gates = random.rows(lengths.batch(), lengths.max(), 2 * 4 * 5);
        let weights = [random.tensor(&[5, 4 * 5]), random.tensor(&[5, 4 * 5])];
        let op = Lstm { lengths: lengths.clone() };
        let case = format!("batch {}, time {}", lengths.batch(), lengths.max());
        let fast = op.forward(&gates, &laid_out(&weights)).unwrap();
        assert_close(&case, &fast, &reference(&op, &gates, &weights));
    }
}

/// Far from zero, at it and where f32 ends, the gates are what the standard functions make of them.
#[test]
fn gates_of_any_size() {
    let inputs = [0.0, -0.0, 1e-30, -1e-4, 0.3, -2.0, 9.5, -20.0, 88.0, -88.0, 1e4, -1e4, f32::MAX, f32::MIN];
    let gates: Vec<f32> =
        inputs.iter().flat_map(|&x| [x, 0.0, 1.0, 1.0].into_iter().chain([1.0, 0.0, x, x])).collect();
    let op = lstm(&vec![1; 2 * inputs.len()]);
    let gates = tensor(&gates, &[2 * inputs.len(), 1, 4]);
    let weight = [tensor(&[0.0; 4], &[1, 4])];
    let fast = op.forward(&gates, &laid_out(&weight)).unwrap();
    assert_close("gates", &fast, &reference(&op, &gates, &weight));
    let nothing = tensor(&[0.0, f32::NAN, 0.0, 0.0], &[1, 1, 4]);
    assert!(values(&lstm(&[1]).forward(&nothing, &laid_out(&weight)).unwrap())[0].is_nan());
}

#[test]
fn misfits_name_op_and_shapes() {
    let ones = |dims: &[usize]| tensor(&vec![1.0; dims.iter().product()], dims);
    let (op, weights) = (lstm(&[3]), |dims: &[usize]| laid_out(&[ones(dims)]));
    assert_refused(op.forward(&ones(&[1, 3, 8]), &weights(&[3, 12])), &["lstm", "[1, 3, 8]", "(3, 12)"]);
    assert_refused(op.forward(&ones(&[1, 3, 8]), &weights(&[2, 6])), &["lstm", "[1, 3, 8]", "(2, 6)"]);
    assert_refused(op.forward(&ones(&[2, 3, 8]), &weights(&[2, 8])), &["lstm", "[2, 3, 8]", "[1, 3"]);
    assert_refused(op.forward(&ones(&[1, 3, 8]), &[]), &["lstm", "[1, 3, 8]", "[]"]);
    let unlike = laid_out(&[ones(&[2, 8]), ones(&[1, 4])]);
    assert_refused(op.forward(&ones(&[1, 3, 12]), &unlike), &["lstm", "[1, 3, 12]", "(1, 4)"]);
}
