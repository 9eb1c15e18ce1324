use candle_core::{DType, Tensor};
use funasr_kernels::{Join, JoinRows};

use crate::{ROUNDS, Random, assert_refused, tensor, values};

#[test]
fn by_hand() {
    // One value a row; two layers are remembered.
    let joins = vec![
        Join { lead: 0, past: 2, fresh: 1, trail: 0, keep: 1..3 },
        Join { lead: 1, past: 0, fresh: 2, trail: 2, keep: 0..3 },
        Join { lead: 0, past: 0, fresh: 0, trail: 0, keep: 0..0 },
    ];
    let mut op =
        JoinRows::new(joins, vec![Some(tensor(&[1., 2., 3., 4.], &[2, 2, 1])), None, None], 2).unwrap();
    let fresh = tensor(&[7., f32::NAN, 8., 9., f32::NAN, f32::NAN], &[3, 2, 1]);
    for remembered in [[1., 2.], [3., 4.]] {
        let expected = [remembered[0], remembered[1], 7., 0., 0., 0., 8., 9., 0., 0., 0., 0., 0., 0., 0.];
        for y in [op.reference(&fresh).unwrap(), op.forward(&fresh).unwrap()] {
            assert_eq!((y.dims(), values(&y)), (&[3, 5, 1][..], expected.to_vec()));
        }
    }
    let kept = op.close().unwrap();
    let kept: Vec<_> = kept.iter().flatten().map(|kept| (kept.dims(), values(kept))).collect();
    assert_eq!(kept, [(&[2, 2, 1][..], vec![2., 7., 4., 7.]), (&[2, 3, 1], [0., 8., 9.].repeat(2))]);
}

/// Streams as they come, with rows for each of two or three layers.
pub struct Case {
    pub joins: Vec<Join>,
    pub past: Vec<Option<Tensor>>,
    pub layers: Vec<Tensor>,
}

impl Case {
    pub fn random(round: u64) -> Self {
        let mut random = Random(round);
        let [batch, time, width] = [random.within(1, 9), random.within(1, 30), random.within(1, 40)];
        let layers = random.within(1, 3);
        let join = |random: &mut Random| {
            let [lead, trail] = [0, 0].map(|_| random.within(0, 3));
            let [past, fresh] = [random.within(0, 70), random.within(0, time)];
            let end = random.within(0, lead + past + fresh + trail);
            Join { lead, past, fresh, trail, keep: random.within(0, end)..end }
        };
        let joins: Vec<Join> = (0..batch).map(|_| join(&mut random)).collect();
        let past =
            joins.iter().map(|join| (join.past > 0).then(|| random.tensor(&[layers, join.past, width])));
        let past = past.collect();
        let layers = (0..layers).map(|_| random.rows(batch, time, width)).collect();
        Self { joins, past, layers }
    }

    /// Joined rows of every layer, and what is kept, of remembered and of new rows that are converted so.
    pub fn run(&self, [past, fresh]: [&dyn Fn(&Tensor) -> Tensor; 2]) -> (Vec<Tensor>, Vec<Option<Tensor>>) {
        let past = self.past.iter().map(|rows| rows.as_ref().map(past)).collect();
        let mut op = JoinRows::new(self.joins.clone(), past, self.layers.len()).unwrap();
        let joined = self.layers.iter().map(|rows| op.forward(&fresh(rows)).unwrap()).collect();
        (joined, op.close().unwrap())
    }
}

#[test]
fn fast_equals_reference() {
    for round in 0..ROUNDS {
        let case = Case::random(round);
        let (joined, kept) = case.run([&Tensor::clone; 2]);
        // There is no fast version for f64.
        let (slow, slowly_kept) = case.run([&|x| x.to_dtype(DType::F64).unwrap(); 2]);
        let narrow = |x: &Tensor| x.to_dtype(DType::F32).unwrap();
        for (fast, slow) in joined.iter().zip(&slow) {
            assert_eq!((fast.dims(), values(fast)), (slow.dims(), values(&narrow(slow))), "round {round}");
        }
        for (b, (join, kept)) in case.joins.iter().zip(&kept).enumerate() {
            let rows =
                joined.iter().map(|x| x.get(b).and_then(|x| x.narrow(0, join.keep.start, join.keep.len())));
            let rows = Tensor::stack(&rows.collect::<Result<Vec<_>, _>>().unwrap(), 0).unwrap();
            let expected = (!join.keep.is_empty()).then(|| values(&rows));
            assert_eq!(kept.as_ref().map(values), expected, "round {round}");
            let slowly = slowly_kept[b].as_ref().map(|kept| values(&narrow(kept)));
            assert_eq!(slowly, expected, "round {round}");
        }
    }
}

#[test]
fn misfits_name_op_and_shapes() {
    let past = || vec![Some(tensor(&[1.; 8], &[1, 4, 2]))];
    let join = Join { lead: 0, past: 4, fresh: 3, trail: 0, keep: 0..7 };
    let refused = |join: &Join, past, layers, fresh: &[usize], parts: &[&str]| {
        let fresh = tensor(&vec![1.; fresh.iter().product()], fresh);
        let joined = JoinRows::new(vec![join.clone()], past, layers).and_then(|mut op| op.forward(&fresh));
        assert_refused(joined, &[&["join-rows"], parts].concat());
    };
    refused(&join, past(), 2, &[1, 3, 2], &["2 layers", "[1, 4, 2]"]);
    refused(&join, vec![None], 1, &[1, 3, 2], &["past: 4", "None"]);
    refused(&join, vec![], 1, &[1, 3, 2], &["1 joins and 0 pasts"]);
    refused(&Join { keep: 0..8, ..join.clone() }, past(), 1, &[1, 3, 2], &["keep: 0..8", "7 rows"]);
    refused(&join, past(), 1, &[1, 2, 2], &["fresh: 3", "[1, 2, 2]"]);
    refused(&join, past(), 1, &[1, 3, 3], &["[1, 4, 2]", "[1, 3, 3]"]);
    refused(&join, past(), 1, &[2, 3, 2], &["[2, 3, 2]", "1 streams"]);
    let op = || JoinRows::new(vec![join.clone()], past(), 1).unwrap();
    let fresh = tensor(&[1.; 6], &[1, 3, 2]);
    let twice = |mut op: JoinRows| op.forward(&fresh).and_then(|_| op.forward(&fresh));
    assert_refused(twice(op()), &["join-rows", "after 1 of 1 layers"]);
    let wider = |mut op: JoinRows| op.forward(&fresh).and_then(|_| op.forward(&tensor(&[1.; 9], &[1, 3, 3])));
    let start = Join { past: 0, keep: 0..3, ..join.clone() };
    assert_refused(
        wider(JoinRows::new(vec![start], vec![None], 2).unwrap()),
        &["join-rows", "(3, F32)", "(2, F32)"],
    );
    let closed = op().close().map(|_| fresh.clone());
    assert_refused(closed, &["join-rows", "0 of 1 layers were joined"]);
}
