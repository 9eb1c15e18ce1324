use candle_core::Tensor;
use funasr_kernels::{Attention, Lengths, Visible};

use crate::{ROUNDS, Random, assert_close, assert_refused, edges, tensor, values};

fn attention(heads: usize, queries: &[usize], keys: &[usize]) -> Attention {
    let (queries, keys) = (Lengths::new(queries.to_vec()), Lengths::new(keys.to_vec()));
    Attention { heads, queries, keys, visible: Visible::All, bf16: false }
}

#[test]
fn by_hand() {
    // Width 1, so the scores are q * k: ln 3 and 0 weigh 3 : 1.
    let (q, k) = (tensor(&[3f32.ln(), 0.0], &[1, 2, 1]), tensor(&[1., 0.], &[1, 2, 1]));
    let v = tensor(&[8., 4.], &[1, 2, 1]);
    let op = attention(1, &[2], &[2]);
    assert_close("one head", &op.forward(&q, &k, &v).unwrap(), &tensor(&[7., 6.], &[1, 2, 1]));

    // Two heads of width 1 see nothing of each other.
    let both = |a: [f32; 2], b: [f32; 2]| tensor(&[a[0], b[0], a[1], b[1]], &[1, 2, 2]);
    let (ln3, ln7) = (3f32.ln(), 7f32.ln());
    let op = attention(2, &[2], &[2]);
    let y = op.forward(&both([ln3, 0.], [ln7, 0.]), &both([1., 0.], [1., 0.]), &both([8., 4.], [0., 8.]));
    assert_close("two heads", &y.unwrap(), &both([7., 6.], [1., 4.]));
}

#[test]
fn padding_is_neither_read_nor_written() {
    let nan = f32::NAN;
    let q = tensor(&[0., nan, 1., 2.], &[2, 2, 1]);
    let kv = tensor(&[5., nan, nan, nan], &[2, 2, 1]);
    let y = attention(1, &[1, 2], &[1, 0]).forward(&q, &kv, &kv);
    // `Lengths` take the longest for T, so give the keys one full item.
    assert_refused(y, &["attention", "[2, 2, 1]"]);
    let q = tensor(&[0., nan, 1., 2., 0., 0.], &[3, 2, 1]);
    let kv = tensor(&[5., nan, nan, nan, 2., 4.], &[3, 2, 1]);
    let y = attention(1, &[1, 2, 2], &[1, 0, 2]).forward(&q, &kv, &kv).unwrap();
    assert_eq!(values(&y), [5., 0., 0., 0., 3., 3.]);
}

/// Equal scores, so the output is the mean of the values seen.
#[test]
fn hidden_keys_have_no_weight() {
    let zeros = tensor(&[0.; 8], &[2, 4, 1]);
    let v = tensor(&[1., 3., 8., 16., 2., 4., 9., f32::NAN], &[2, 4, 1]);
    let all = [7.0, 7.0, 7.0, 7.0, 5., 5., 5., 0.];
    let cases = [
        (Visible::All, all),
        (Visible::Past, [1., 2., 4., 7., 2., 3., 5., 0.]),
        (Visible::Split([0, 1].into()), all),
        // Only queries before p - 1 are limited; p beyond the keys limits none.
        (Visible::Split([2, 3].into()), [2., 7., 7., 7., 5., 5., 5., 0.]),
        (Visible::Split([3, 2].into()), [4., 4., 7., 7., 3., 5., 5., 0.]),
        (Visible::Split([4, 9].into()), all),
    ];
    for (visible, expected) in cases {
        let op = Attention { visible, ..attention(1, &[4, 3], &[4, 3]) };
        assert_eq!(values(&op.forward(&zeros, &zeros, &v).unwrap()), expected, "{:?}", op.visible);
    }
}

#[test]
fn large_scores_do_not_overflow() {
    let q = tensor(&[1e4, -1e4], &[1, 2, 1]);
    let (k, v) = (tensor(&[1., -1.], &[1, 2, 1]), tensor(&[2., 6.], &[1, 2, 1]));
    let y = attention(1, &[2], &[2]).forward(&q, &k, &v).unwrap();
    assert_eq!(values(&y), [2., 6.]);
}

#[test]
fn fast_equals_reference() {
    for round in 0..ROUNDS {
        let mut random = Random(round);
        let [batch, heads] = [random.within(1, 4), random.within(1, 5)];
        let [queries, keys] = [random.within(1, 30), random.within(1, 50)];
        let width = heads * random.within(1, 20);
        let op = Attention {
            heads,
            queries: random.lengths(batch, queries),
            keys: random.lengths(batch, keys),
            visible: match round % 3 {
                0 => Visible::All,
                1 => Visible::Past,
                _ => Visible::Split((0..batch).map(|_| random.within(0, keys + 2)).collect()),
            },
            bf16: false,
        };
        let q = (random.rows(batch, queries, width) * 3.0).unwrap();
        let (k, v) = (random.rows(batch, keys, width), random.rows(batch, keys, width));
        let fast = op.forward(&q, &k, &v).unwrap();
        let reference = op.reference(&q, &k, &v).unwrap();
        assert_close(&format!("round {round}, {op:?}"), &fast, &reference);
        let rounded = Attention { bf16: true, ..op }.forward(&q, &k, &v).unwrap();
        for (a, b) in values(&rounded).into_iter().zip(values(&reference)) {
            // Scores of up to 40 that are off by 2^-9 of themselves.
            assert!((a - b).abs() < 0.1, "round {round}, in bf16: {a} and {b}");
        }
    }
}

/// What is rounded to bf16 may be padded and not finite as well.
#[test]
fn rows_in_bf16_are_alone() {
    let mut random = Random(5);
    let [q, k, v] = [0, 1, 2].map(|_| random.tensor(&[2, 40, 64]));
    let op = Attention { bf16: true, ..attention(2, &[40, 33], &[40, 17]) };
    let y = values(&op.forward(&q, &k, &v).unwrap());
    let mut bad = values(&q);
    bad[3 * 64] = f32::NAN;
    let other = values(&op.forward(&tensor(&bad, &[2, 40, 64]), &k, &v).unwrap());
    assert!(other[3 * 64..3 * 64 + 32].iter().all(|y| y.is_nan()), "the head of a row that is not finite");
    for (i, (a, b)) in y.iter().zip(&other).enumerate().filter(|(i, _)| !(3 * 64..3 * 64 + 32).contains(i)) {
        assert_eq!(a, b, "{i}");
    }
    assert!(y[(40 + 33) * 64..].iter().all(|&y| y == 0.0), "padding");
    let alone = Attention { bf16: true, ..attention(2, &[33], &[17]) };
    let item = |x: &Tensor, rows| x.narrow(0, 1, 1).unwrap().narrow(1, 0, rows).unwrap();
    let alone = alone.forward(&item(&q, 33), &item(&k, 17), &item(&v, 17)).unwrap();
    assert_eq!(values(&alone), y[40 * 64..(40 + 33) * 64]);
}

/// Frames among themselves, a few to very many and very many to a few; of very many among themselves the reference would hold
/// more scores than memory has room for.
#[test]
fn edges_equal_reference() {
    for lengths in edges(11) {
        let (batch, few) = (lengths.batch(), Lengths::full(lengths.batch(), 3));
        let pairs = [(lengths.clone(), few.clone()), (few, lengths.clone()), (lengths.clone(), lengths)];
        for (queries, keys) in pairs.into_iter().filter(|(q, k)| q.max().min(k.max()) < 10_000) {
            let mut random = Random(11);
            let q = random.rows(batch, queries.max(), 8);
            let [k, v] = [0, 1].map(|_| random.rows(batch, keys.max(), 8));
            let case = format!("batch {batch}, {} queries, {} keys", queries.max(), keys.max());
            for visible in [Visible::All, Visible::Past] {
                let op = Attention { visible, ..attention(2, queries.items(), keys.items()) };
                assert_close(&case, &op.forward(&q, &k, &v).unwrap(), &op.reference(&q, &k, &v).unwrap());
            }
        }
    }
}

/// The models pass q, k and v as three slices of one product.
#[test]
fn slices_of_one_tensor_are_read_in_place() {
    let mut random = Random(7);
    let qkv = random.tensor(&[2, 9, 3 * 8]);
    let [q, k, v] = [0, 8, 16].map(|at| qkv.narrow(2, at, 8).unwrap());
    let op = attention(4, &[9, 5], &[9, 5]);
    let copied = op.forward(&q.copy().unwrap(), &k.copy().unwrap(), &v.copy().unwrap()).unwrap();
    assert_eq!(values(&op.forward(&q, &k, &v).unwrap()), values(&copied));
    assert_close("reference", &op.reference(&q, &k, &v).unwrap(), &copied);
}

#[test]
fn misfits_name_op_and_shapes() {
    let ones = |dims: &[usize]| tensor(&vec![1.0; dims.iter().product()], dims);
    let op = attention(2, &[3], &[5]);
    let (q, kv) = (ones(&[1, 3, 4]), ones(&[1, 5, 4]));
    assert_refused(op.forward(&kv, &kv, &kv), &["attention", "[1, 5, 4]", "[1, 3"]);
    assert_refused(op.forward(&q, &q, &kv), &["attention", "[1, 3, 4]", "[1, 5"]);
    assert_refused(op.forward(&q, &kv, &q), &["attention", "[1, 3, 4]", "[1, 5"]);
    assert_refused(op.forward(&q, &ones(&[1, 5, 6]), &kv), &["attention", "[1, 3, 4]", "[1, 5, 6]"]);
    assert_refused(op.forward(&q, &kv, &ones(&[1, 5, 2])), &["attention", "[1, 3, 4]", "[1, 5, 2]"]);
    let split = Attention { visible: Visible::Split([1, 2].into()), ..op.clone() };
    assert_refused(split.forward(&q, &kv, &kv), &["attention", "2 split indexes", "1 items"]);
    for heads in [0, 3] {
        let op = Attention { heads, ..op.clone() };
        assert_refused(op.forward(&q, &kv, &kv), &["attention", "4", &heads.to_string()]);
    }
}
