use candle_core::{DType, Device, Result, Tensor};
use funasr_kernels::{Lengths, LfrCmvn};

use crate::{ROUNDS, Random, assert_refused, tensor, values};

/// A random op, frames for it with their lengths, and rows of them.
pub struct Case {
    shape: [usize; 2],
    cmvn: [Vec<f32>; 2],
    pub x: Tensor,
    pub frames: Lengths,
    pub rows: std::ops::Range<usize>,
}

impl Case {
    pub fn random(round: u64) -> Self {
        let mut random = Random(round);
        let [batch, time, width] = [random.within(1, 4), random.within(1, 30), random.within(1, 20)];
        let shape @ [stack, stride] = [random.within(1, 7), random.within(1, 6)];
        let cmvn = [0, 1].map(|_| values(&random.tensor(&[stack * width])));
        let first = random.within(0, time / stride);
        let frames = random.lengths(batch, time);
        Self {
            shape,
            cmvn,
            x: random.tensor(&[batch, time, width]),
            frames,
            rows: first..first + random.within(0, 9),
        }
    }

    pub fn op(&self, device: &Device) -> LfrCmvn {
        LfrCmvn::new(self.shape, &self.cmvn[0], &self.cmvn[1], device).unwrap()
    }
}

fn run(op: &LfrCmvn, x: &Tensor, rows: std::ops::Range<usize>) -> Result<Tensor> {
    op.forward(x, &Lengths::full(x.dims()[0], x.dims()[1]), rows)
}

/// Rows of three frames, every two; the last frame stands for those behind it.
#[test]
fn by_hand() {
    let op = LfrCmvn::new([3, 2], &[0.0, 1.0, 0.0], &[1.0, 10.0, -1.0], &Device::Cpu).unwrap();
    let x = tensor(&[1., 2., 3., 4., 7., 8., 9., 9.], &[2, 4, 1]);
    let frames = Lengths::new(vec![4, 2]);
    let expected = [[1., 30., -3.], [3., 50., -4.], [7., 90., -8.], [8., 90., -8.]];
    assert_eq!(values(&op.forward(&x, &frames, 0..2).unwrap()), expected.as_flattened());
    assert_eq!(values(&op.reference(&x, &frames, 0..2).unwrap()), expected.as_flattened());
    let y = values(&op.forward(&x, &frames, 1..2).unwrap());
    assert_eq!(y, [expected[1], expected[3]].concat());
    let y = op.forward(&x, &Lengths::new(vec![4, 0]), 0..1).unwrap();
    assert_eq!(values(&y)[3..], [0., 10., -0.]);
    assert_eq!(run(&op, &x, 1..1).unwrap().dims(), [2, 0, 3]);
}

#[test]
fn fast_equals_reference() {
    for round in 0..ROUNDS {
        let case = Case::random(round);
        let op = case.op(&Device::Cpu);
        let fast = op.forward(&case.x, &case.frames, case.rows.clone()).unwrap();
        let expected = op.reference(&case.x, &case.frames, case.rows.clone()).unwrap();
        assert_eq!(fast.dims(), expected.dims());
        assert_eq!(values(&fast), values(&expected), "round {round}");
    }
}

#[test]
fn misfits_name_op_and_shapes() {
    let op = LfrCmvn::new([2, 1], &[0.0; 4], &[1.0; 4], &Device::Cpu).unwrap();
    let ones = |dims: &[usize]| Tensor::ones(dims, DType::F32, &Device::Cpu).unwrap();
    assert_refused(run(&op, &ones(&[1, 3, 3]), 0..1), &["lfr-cmvn", "[1, 3, 3]", "4"]);
    let lengths = Lengths::new(vec![2]);
    assert_refused(op.forward(&ones(&[1, 3, 2]), &lengths, 0..1), &["lfr-cmvn", "[1, 3, 2]", "[1, 2"]);
    for (shape, shift, scale) in
        [([2, 1], 4, 3), ([3, 1], 4, 4), ([0, 1], 4, 4), ([2, 0], 4, 4), ([1, 1], 0, 0)]
    {
        let made = LfrCmvn::new(shape, &vec![0.0; shift], &vec![1.0; scale], &Device::Cpu);
        assert_refused(made.map(|_| ones(&[1])), &["lfr-cmvn"]);
    }
}
