use candle_core::Tensor;
use funasr_kernels::{FsmnMemory, Lengths};

use crate::{ROUNDS, Random, assert_close, assert_refused, edges, tensor, values};

fn memory(offset: isize, dilation: usize, skip: bool, lengths: &[usize]) -> FsmnMemory {
    FsmnMemory { offset, dilation, skip, first: 0, lengths: Lengths::new(lengths.to_vec()) }
}

#[test]
fn by_hand() {
    // Two channels; the second taps are ten times the first.
    let x = tensor(&[1., 1., 2., 2., 3., 3., 4., 4.], &[1, 4, 2]);
    let taps = tensor(&[1., 10., 2., 20., 3., 30.], &[3, 2]);
    let cases: [(FsmnMemory, [f32; 4]); 6] = [
        (memory(-1, 1, false, &[4]), [8., 14., 20., 11.]),
        (memory(-1, 1, true, &[4]), [9., 16., 23., 15.]),
        (memory(-2, 1, false, &[4]), [3., 8., 14., 20.]),
        (memory(-4, 2, false, &[4]), [3., 6., 11., 16.]),
        (memory(1, 1, false, &[4]), [20., 11., 4., 0.]),
        (memory(-9, 1, false, &[4]), [0., 0., 0., 0.]),
    ];
    for (op, expected) in cases {
        let y = values(&op.forward(&x, &taps).unwrap());
        let skipped = if op.skip { values(&x) } else { vec![0.0; 8] };
        for (t, expected) in expected.iter().enumerate() {
            assert_eq!(y[2 * t], *expected, "{op:?}, frame {t}");
            // The taps of the second channel act on the same input.
            assert_eq!(
                y[2 * t + 1] - skipped[2 * t],
                10.0 * (y[2 * t] - skipped[2 * t]),
                "{op:?}, frame {t}"
            );
        }
        assert_eq!(values(&op.reference(&x, &taps).unwrap()), y, "{op:?}");
    }
}

#[test]
fn padding_is_neither_read_nor_written() {
    let x = tensor(&[1., 2., f32::NAN, 4., 5., 6.], &[2, 3, 1]);
    let taps = tensor(&[1., 1., 1.], &[3, 1]);
    let y = memory(-1, 1, true, &[2, 3]).forward(&x, &taps).unwrap();
    assert_eq!(values(&y), [4., 5., 0., 13., 20., 17.]);
}

#[test]
fn fast_equals_reference() {
    for round in 0..ROUNDS {
        let mut random = Random(round);
        let [batch, time, width] = [random.within(1, 4), random.within(1, 70), random.within(1, 80)];
        let [taps, dilation] = [random.within(1, 12), random.within(1, 3)];
        let reach = (taps - 1) * dilation;
        let op = FsmnMemory {
            offset: random.within(0, 2 * reach + 4) as isize - (reach + 2) as isize * 3 / 2,
            dilation,
            skip: random.flag(),
            first: random.within(0, time),
            lengths: random.lengths(batch, time),
        };
        let x = random.rows(batch, time, width);
        let x = if random.flag() { x } else { transposed(&x) };
        let taps = random.tensor(&[taps, width]);
        let fast = op.forward(&x, &taps).unwrap();
        assert_close(&format!("round {round}, {op:?}"), &fast, &op.reference(&x, &taps).unwrap());
        let addends = [random.tensor(fast.dims()), random.rows(batch, time - op.first, width)];
        let (added, sum) =
            (op.forward_add(&x, &taps, &[&addends[0], &addends[1]]), (&addends[0] + &addends[1]).unwrap());
        let expected = (op.reference(&x, &taps).unwrap() + sum).unwrap();
        assert_close(&format!("round {round}, {op:?}, added"), &added.unwrap(), &expected);
    }
}

/// Memories of the recogniser, of its decoder in a stream and of the voice detector.
#[test]
fn edges_equal_reference() {
    for (taps, offset, dilation, skip) in
        [(11, -5, 1, true), (11, -10, 1, false), (20, -19, 1, true), (3, 1, 2, false)]
    {
        for lengths in edges(taps) {
            let mut random = Random(taps as u64);
            let x = random.rows(lengths.batch(), lengths.max(), 12);
            let weights = random.tensor(&[taps, 12]);
            let case =
                format!("{taps} taps from {offset}, batch {}, time {}", lengths.batch(), lengths.max());
            let op = FsmnMemory { offset, dilation, skip, first: 0, lengths };
            let fast = op.forward(&x, &weights).unwrap();
            assert_close(&case, &fast, &op.reference(&x, &weights).unwrap());
        }
    }
}

/// The same values with rows that are not contiguous.
fn transposed(x: &Tensor) -> Tensor {
    x.transpose(1, 2).and_then(|x| x.contiguous()).and_then(|x| x.transpose(1, 2)).unwrap()
}

#[test]
fn misfits_name_op_and_shapes() {
    let ones = |dims: &[usize]| tensor(&vec![1.0; dims.iter().product()], dims);
    let op = memory(-1, 1, true, &[3]);
    assert_refused(op.forward(&ones(&[1, 3, 4]), &ones(&[3, 5])), &["fsmn-memory", "[1, 3, 4]", "[3, 5]"]);
    assert_refused(op.forward(&ones(&[2, 3, 4]), &ones(&[3, 4])), &["fsmn-memory", "[2, 3, 4]", "[1, 3"]);
    assert_refused(op.forward(&ones(&[1, 2, 4]), &ones(&[3, 4])), &["fsmn-memory", "[1, 2, 4]", "[1, 3"]);
    let added = op.forward_add(&ones(&[1, 3, 4]), &ones(&[3, 4]), &[&ones(&[1, 2, 4])]);
    assert_refused(added, &["fsmn-memory", "[1, 2, 4]", "[1, 3, 4]"]);
    let late = FsmnMemory { first: 4, ..op };
    assert_refused(late.forward(&ones(&[1, 3, 4]), &ones(&[3, 4])), &["fsmn-memory", "frame 4", "[1, 3, 4]"]);
}
