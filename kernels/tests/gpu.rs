//! Every op on a GPU beside its reference on the CPU, in every number format.
//!
//! Without a GPU these tests fail; `.ci/cuda` runs them on a driver that emulates one (`emulator/`).

use candle_core::{DType, Device, Tensor};
use funasr_kernels::{
    Activation, Attention, Best, CifSums, Fired, FloatWeight, FsmnMemory, LayerNorm, Lengths, Linear, Lstm,
    Norm, Unfold, Uploads, Visible, launches, open_cuda,
};

use crate::cif_fire::random_op;
use crate::cif_sums::{most, random_track};
use crate::join_rows::Case;
use crate::lstm::laid_out;
use crate::{Random, assert_refused, lfr_cmvn, tensor, values};

/// Random shapes tried for each op and format.
const ROUNDS: u64 = 12;

/// The formats, with the largest difference to what f32 gives from the same inputs, relative to its largest value: some
/// roundings of a value on the scale of the result.
const FORMATS: [(DType, f32); 3] = [(DType::F32, 2e-5), (DType::F16, 2e-3), (DType::BF16, 1.6e-2)];

fn gpu() -> Device {
    open_cuda(0).expect("these tests need a GPU, or the emulated driver of .ci/cuda")
}

/// A number format on a GPU.
type Format<'a> = (DType, &'a Device);

/// A tensor as a format holds it: on the CPU in f32, and on the GPU.
struct Both {
    cpu: Tensor,
    gpu: Tensor,
}

impl Both {
    fn new(x: &Tensor, dtype: DType, gpu: &Device) -> Self {
        let rounded = x.contiguous().and_then(|x| x.to_dtype(dtype)).unwrap();
        Self { cpu: rounded.to_dtype(DType::F32).unwrap(), gpu: rounded.to_device(gpu).unwrap() }
    }

    /// `[B, T, D]` of random values up to `scale`, whose padding is NaN on the GPU; rows lie in wider ones there.
    fn rows(random: &mut Random, lengths: &Lengths, width: usize, scale: f64, (dtype, gpu): Format) -> Self {
        let (batch, time) = (lengths.batch(), lengths.max());
        let whole = (random.tensor(&[batch, time, 3 * width]) * scale).unwrap();
        let at = if random.flag() { width } else { 0 };
        let cpu = whole.narrow(2, at, width).unwrap();
        let cpu = Self::new(&cpu, dtype, &Device::Cpu).cpu;
        let mut spoilt = values(&whole);
        for (row, spoilt) in spoilt.chunks_mut(3 * width).enumerate() {
            let valid = row % time < lengths.items()[row / time];
            let keep = if valid { at..at + width } else { 0..0 };
            (0..3 * width).filter(|i| !keep.contains(i)).for_each(|i| spoilt[i] = f32::NAN);
        }
        let whole = tensor(&spoilt, &[batch, time, 3 * width]);
        let gpu = Self::new(&whole, dtype, gpu).gpu.narrow(2, at, width).unwrap();
        Self { cpu, gpu }
    }
}

#[track_caller]
fn assert_near(what: &str, got: &Tensor, expected: &Tensor, tolerance: f32) {
    assert!(got.device().is_cuda(), "{what} left the GPU");
    assert_eq!(got.dims(), expected.dims(), "{what}: shape");
    let got = values(&got.to_device(&Device::Cpu).and_then(|x| x.to_dtype(DType::F32)).unwrap());
    let expected = values(expected);
    let scale = expected.iter().fold(1f32, |m, v| m.max(v.abs()));
    for (i, (g, e)) in got.iter().zip(&expected).enumerate() {
        assert!((g - e).abs() <= tolerance * scale, "{what}: value {i} is {g}, not {e}");
    }
}

/// How often a kernel was launched. Other tests may launch it, too.
fn launched(kernel: &str) -> u64 {
    launches().iter().find(|(name, _)| *name == kernel).unwrap().1
}

/// Runs `check` for each format, and fails unless the kernel was launched.
fn in_every_format(kernel: &str, check: impl Fn(DType, f32, &Device)) {
    let gpu = gpu();
    for (dtype, tolerance) in FORMATS {
        let before = launched(kernel);
        check(dtype, tolerance, &gpu);
        assert!(launched(kernel) > before, "{kernel} was not launched for {dtype:?}");
    }
}

/// Lengths of a batch: given ones first, then random ones.
fn batches(edges: &[&[usize]], longest: usize) -> Vec<(u64, Lengths)> {
    let edges = edges.iter().map(|items| Lengths::new(items.to_vec()));
    let random = (0..ROUNDS).map(|round| {
        let mut random = Random(round);
        let (batch, time) = (random.within(1, 4), random.within(1, longest));
        random.lengths(batch, time)
    });
    (0..).zip(edges.chain(random)).collect()
}

#[test]
fn fsmn_memory() {
    in_every_format("fsmn_memory", |dtype, tolerance, gpu| {
        for (round, lengths) in batches(&[&[1], &[2, 0, 1], &[10, 10], &[1000, 0]], 60) {
            let mut random = Random(round);
            let (width, kernel) = (random.within(1, 300), random.within(1, 21));
            let dilation = random.within(1, 3);
            let reach = (kernel - 1) * dilation;
            let op = FsmnMemory {
                offset: random.within(0, 2 * reach + 2) as isize - (reach + 1) as isize,
                dilation,
                skip: random.flag(),
                first: if random.flag() { 0 } else { random.within(0, lengths.max()) },
                lengths: lengths.clone(),
            };
            let x = Both::rows(&mut random, &lengths, width, 1.0, (dtype, gpu));
            let taps = Both::new(&random.tensor(&[kernel, width]), dtype, gpu);
            let expected = op.reference(&x.cpu, &taps.cpu).unwrap();
            let y = op.forward(&x.gpu, &taps.gpu).unwrap();
            assert_near(&format!("{dtype:?}, {op:?}, {width} wide"), &y, &expected, tolerance);
            let addends = [0, 1].map(|_| Both::new(&random.tensor(expected.dims()), dtype, gpu));
            let y = op.forward_add(&x.gpu, &taps.gpu, &[&addends[0].gpu, &addends[1].gpu]).unwrap();
            let expected = ((expected + &addends[0].cpu).unwrap() + &addends[1].cpu).unwrap();
            assert_near(&format!("{dtype:?}, {op:?}, {width} wide, added"), &y, &expected, tolerance);
        }
    });
}

#[test]
fn layer_norm() {
    in_every_format("layer_norm", |dtype, tolerance, gpu| {
        let shapes = [[1, 1, 1], [1, 1, 560], [3, 7, 512], [2, 5, 2048], [1, 6, 33]];
        for (round, dims) in (0..).zip(shapes) {
            let mut random = Random(round);
            let x = Both::new(&(random.tensor(&dims) * 20.0).unwrap(), dtype, gpu);
            let [weight, bias] = [0, 1].map(|_| Both::new(&random.tensor(&dims[2..]), dtype, gpu));
            for eps in [1e-12, 1e-5] {
                let op = LayerNorm { eps };
                let expected = op.reference(&x.cpu, &weight.cpu, &bias.cpu).unwrap();
                let y = op.forward(&x.gpu, &weight.gpu, &bias.gpu).unwrap();
                assert_near(&format!("{dtype:?}, {dims:?}, {eps}"), &y, &expected, tolerance);
            }
        }
    });
}

/// Zero rows open every stream, and a large mean hides a small variance from sums of squares.
#[test]
fn layer_norm_of_near_constant_rows() {
    let gpu = gpu();
    let rows: Vec<f32> = (0..512).map(|i| if i < 256 { 0.0 } else { 1000.0 + (i % 2) as f32 }).collect();
    let x = tensor(&rows, &[2, 256]).to_device(&gpu).unwrap();
    let [weight, bias] = [1.0, 0.0].map(|v| tensor(&[v; 256], &[256]).to_device(&gpu).unwrap());
    let y = LayerNorm { eps: 1e-12 }.forward(&x, &weight, &bias).unwrap();
    let expected: Vec<f32> =
        (0..512).map(|i| if i < 256 { 0.0 } else { (i % 2) as f32 * 2.0 - 1.0 }).collect();
    assert_near("rows", &y, &tensor(&expected, &[2, 256]), 1e-5);
}

/// A linear layer of random widths, with up to two addends, and its norm.
struct Layer {
    x: Both,
    weight: Both,
    /// Bias, and scale and shift of the norm.
    vectors: [Both; 3],
    addends: Vec<Both>,
}

impl Layer {
    fn random(round: u64, (dtype, gpu): Format) -> Self {
        let mut random = Random(round);
        let [time, inputs] = [random.within(1, 9), random.within(1, 40)];
        // Widths that 16 bytes divide, and others.
        let outputs = if random.flag() { 8 * random.within(1, 9) } else { random.within(1, 70) };
        let mut both = |dims: &[usize]| Both::new(&random.tensor(dims), dtype, gpu);
        Self {
            x: both(&[2, time, inputs]),
            weight: both(&[outputs, inputs]),
            vectors: [0; 3].map(|_| both(&[outputs])),
            addends: (0..round % 3).map(|_| both(&[2, time, outputs])).collect(),
        }
    }

    /// What is added, on the CPU and on the GPU.
    fn addends(&self) -> [Vec<&Tensor>; 2] {
        [self.addends.iter().map(|x| &x.cpu).collect(), self.addends.iter().map(|x| &x.gpu).collect()]
    }

    /// The weight, turned round where it lies; on the CPU, so that the product is all that runs elsewhere.
    fn laid_out(&self, (dtype, gpu): Format) -> FloatWeight {
        let turned = Both::new(&self.weight.cpu.t().unwrap(), dtype, gpu).gpu.t().unwrap();
        FloatWeight::new(&turned).unwrap()
    }

    fn case(&self, what: &str) -> String {
        format!(
            "{what}, {} addends, {:?} of {:?}",
            self.addends.len(),
            self.weight.cpu.dims(),
            self.x.cpu.dims()
        )
    }
}

#[test]
fn linear() {
    in_every_format("linear_ending", |dtype, tolerance, gpu| {
        for round in 0..ROUNDS {
            let layer = Layer::random(round, (dtype, gpu));
            let ([bias, ..], [cpu, on_gpu]) = (&layer.vectors, layer.addends());
            for activation in [Activation::Identity, Activation::Relu] {
                let op = Linear { activation, addends: &cpu };
                let expected = op.reference(&layer.x.cpu, &layer.weight.cpu, &bias.cpu).unwrap();
                let op = Linear { activation, addends: &on_gpu };
                let y = op.forward(&layer.x.gpu, &layer.laid_out((dtype, gpu)), &bias.gpu).unwrap();
                assert_near(&layer.case(&format!("{dtype:?}, {activation:?}")), &y, &expected, tolerance);
            }
        }
    });
}

#[test]
fn linear_norm() {
    in_every_format("linear_norm", |dtype, tolerance, gpu| {
        for round in 0..ROUNDS {
            let layer = Layer::random(round, (dtype, gpu));
            let ([bias, scale, shift], [cpu, on_gpu]) = (&layer.vectors, layer.addends());
            for activation in [Activation::Identity, Activation::Relu] {
                let case = layer.case(&format!("{dtype:?}, {activation:?}"));
                let op = Linear { activation, addends: &cpu };
                let expected = op.reference(&layer.x.cpu, &layer.weight.cpu, &bias.cpu).unwrap();
                let norm = Norm { op: LayerNorm { eps: 1e-5 }, weight: &scale.gpu, bias: &shift.gpu };
                let op = Linear { activation, addends: &on_gpu };
                let laid_out = layer.laid_out((dtype, gpu));
                let [y, normed] = op.forward_norm(&layer.x.gpu, &laid_out, &bias.gpu, &norm).unwrap();
                assert_near(&case, &y, &expected, tolerance);
                // The norm is that of what was rounded: a norm of few values that are nearly equal would tell roundings apart.
                let rounded = y.to_device(&Device::Cpu).and_then(|y| y.to_dtype(DType::F32)).unwrap();
                let expected = norm.op.reference(&rounded, &scale.cpu, &shift.cpu).unwrap();
                assert_near(&format!("{case}, norm"), &normed, &expected, tolerance);
            }
        }
    });
}

#[test]
fn lstm() {
    in_every_format("lstm_step", |dtype, tolerance, gpu| {
        for (round, lengths) in batches(&[&[1], &[2, 0, 1], &[5; 9], &[40, 7]], 12) {
            let mut random = Random(round);
            let hidden = if round == 0 { 300 } else { random.within(1, 40) };
            for directions in [1, 2] {
                let op = Lstm { lengths: lengths.clone() };
                let gates = Both::rows(&mut random, &lengths, directions * 4 * hidden, 3.0, (dtype, gpu));
                let gates = Both { gpu: contiguous(&gates.gpu, gpu), ..gates };
                let weight = |_| Both::new(&random.tensor(&[hidden, 4 * hidden]), dtype, gpu);
                let weights: Vec<Both> = (0..directions).map(weight).collect();
                let on_cpu: Vec<&Tensor> = weights.iter().map(|weight| &weight.cpu).collect();
                let on_gpu: Vec<Tensor> = weights.iter().map(|weight| weight.gpu.clone()).collect();
                let expected = op.reference(&gates.cpu, &on_cpu).unwrap();
                let y = op.forward(&gates.gpu, &laid_out(&on_gpu)).unwrap();
                assert_near(
                    &format!("{dtype:?}, {op:?}, {directions} of {hidden} units"),
                    &y,
                    &expected,
                    tolerance,
                );
            }
        }
    });
}

/// The same values one after the other, ordered on the CPU.
fn contiguous(x: &Tensor, gpu: &Device) -> Tensor {
    x.to_device(&Device::Cpu).and_then(|x| x.contiguous()?.to_device(gpu)).unwrap()
}

#[test]
fn attention() {
    in_every_format("attention", |dtype, tolerance, gpu| {
        let cases = batches(&[&[1], &[2, 0, 1], &[32, 33], &[64, 65, 31], &[150, 3]], 90);
        for (round, keys) in cases {
            let mut random = Random(round);
            let time = if random.flag() { keys.max() } else { random.within(1, 70) };
            let queries = random.lengths(keys.batch(), time);
            // Heads of the published models, of the demo models, and odd ones.
            let head = [128, 32, 16, 80, 13, 1][round as usize % 6];
            let heads = random.within(1, 4);
            let visible = match round % 3 {
                0 => Visible::All,
                1 => Visible::Past,
                _ => Visible::Split((0..keys.batch()).map(|_| random.within(0, keys.max() + 2)).collect()),
            };
            let op = Attention { heads, queries: queries.clone(), keys: keys.clone(), visible, bf16: false };
            // Scores far enough apart that some keys matter more than others.
            let q = Both::rows(&mut random, &queries, heads * head, 6.0, (dtype, gpu));
            let [k, v] = [0, 1].map(|_| Both::rows(&mut random, &keys, heads * head, 1.0, (dtype, gpu)));
            let expected = op.reference(&q.cpu, &k.cpu, &v.cpu).unwrap();
            let y = op.forward(&q.gpu, &k.gpu, &v.gpu).unwrap();
            assert_near(&format!("{dtype:?}, {op:?}, heads of {head}"), &y, &expected, tolerance);
        }
    });
}

#[test]
fn best() {
    in_every_format("best", |dtype, tolerance, gpu| {
        for (round, dims) in (0..).zip([[1, 1], [3, 8404], [7, 13], [2, 257], [5, 1000]]) {
            // Multiples of 1/8, so that 16 bits tie where f32 does.
            let mut random = Random(round);
            let eighths = (0..dims[0] * dims[1]).map(|_| random.within(0, 60) as f32 / 8.0 - 4.0);
            let x = Both::new(&tensor(&eighths.collect::<Vec<_>>(), &dims), dtype, gpu);
            // The reference leaves open which of equal values is meant; the CPU's version does not.
            for count in [1, 2, 20] {
                let best = Best { count };
                let expected = best.forward(&x.cpu).unwrap();
                let y = best.forward(&x.gpu).unwrap();
                let case = format!("{dtype:?}, {dims:?}, {best:?}");
                assert_near(&case, &y, &expected, tolerance.min(2e-5));
                // Places and values are copied, not computed.
                let exact = |y: &Tensor| values(&y.narrow(1, 0, y.dim(1).unwrap() - 1).unwrap());
                assert_eq!(exact(&y.to_device(&Device::Cpu).unwrap()), exact(&expected), "{case}");
            }
        }
    });
}

#[test]
fn best_of_what_is_not_finite() {
    let gpu = gpu();
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    let rows = [[0.0, nan, 1.0], [inf, 0.0, 1.0], [-inf, -inf, -inf], [-inf, 2.0, -inf]].concat();
    let rows = tensor(&rows, &[4, 3]).to_device(&gpu).unwrap();
    let best = |count| {
        let y = Best { count }.forward(&rows).unwrap();
        values(&y.to_device(&Device::Cpu).unwrap())
    };
    let y = best(1);
    assert!([2, 5, 8].iter().all(|&i| y[i].is_nan()), "{y:?}");
    assert_eq!(y[9..], [1.0, 2.0, 0.0]);
    let y = best(3);
    assert!([6, 13, 20].iter().all(|&i| y[i].is_nan()), "{y:?}");
    assert_eq!(y[21..], [1.0, 0.0, 2.0, 2.0, -inf, -inf, 0.0]);
}

#[test]
fn cif_sums() {
    in_every_format("cif_sums", |dtype, tolerance, gpu| {
        for round in 0..ROUNDS {
            let mut random = Random(round);
            let [batch, frames, width] = [random.within(1, 4), random.within(1, 60), random.within(1, 300)];
            let x = Both::new(&random.tensor(&[batch, frames, width]), dtype, gpu);
            let mut tracks = vec![random_track(&mut random, frames)];
            tracks.extend((1..batch).map(|i| random_track(&mut random, frames * i / batch)));
            tracks[0].token_num = tracks[0].token_num.saturating_sub(random.within(0, 1));
            let fired = Fired::new(tracks);
            let op = CifSums { fired: &fired, tokens: most(&fired).max(1) };
            let expected = op.reference(&x.cpu).unwrap();
            let y = op.forward(&x.gpu).unwrap();
            assert_near(&format!("{dtype:?}, [{batch}, {frames}, {width}]"), &y, &expected, tolerance);
        }
    });
}

/// From the alphas on all is the host's to the bit: where tokens fire, peaks, what goes to the next token, and how many there are.
#[test]
fn cif_fire() {
    let (gpu, before) = (gpu(), launched("cif_fire"));
    for (round, lengths) in batches(&[&[1], &[2, 0, 1], &[1023, 1024], &[2500, 1]], 300) {
        let mut random = Random(round);
        let op = random_op(&mut random, lengths.clone());
        let logits = (random.tensor(&[lengths.batch(), lengths.max()]) * 3.0).unwrap();
        let (expected, fired) =
            (op.reference(&logits).unwrap(), op.forward(&logits.to_device(&gpu).unwrap()).unwrap());
        for (track, expected) in fired.tracks().iter().zip(expected.tracks()) {
            let near = track.alphas.iter().zip(&expected.alphas).all(|(a, b)| (a - b).abs() <= 2e-6);
            assert!(near && track.alphas.len() == expected.alphas.len(), "{op:?}");
            let of_these = op.integration.track(track.alphas.clone(), op.tail.is_some());
            assert_eq!(track, &of_these, "{op:?}");
        }
        // The sums read the tracks where they are.
        let x = random.tensor(&[lengths.batch(), lengths.max(), 5]);
        let tokens = fired.token_num().max().max(most(&fired)).max(1);
        let y = CifSums { fired: &fired, tokens }.forward(&x.to_device(&gpu).unwrap()).unwrap();
        let host = Fired::new(fired.tracks().to_vec());
        let expected = CifSums { fired: &host, tokens }.reference(&x).unwrap();
        assert_near(&format!("{op:?}"), &y, &expected, 2e-5);
    }
    assert!(launched("cif_fire") > before);
}

#[test]
fn unfold() {
    in_every_format("unfold", |dtype, _, gpu| {
        for (round, lengths) in batches(&[&[1], &[2, 0, 1], &[40, 7]], 60) {
            let mut random = Random(round);
            let op = Unfold { before: random.within(0, 3), after: random.within(0, 3), lengths };
            let x = Both::rows(&mut random, &op.lengths, 1 + round as usize, 1.0, (dtype, gpu));
            let expected = op.reference(&x.cpu).unwrap();
            assert_near(&format!("{dtype:?}, {op:?}"), &op.forward(&x.gpu).unwrap(), &expected, 0.0);
        }
    });
}

/// Rounded as on the CPU, by an addition and a product.
#[test]
fn lfr_cmvn() {
    let (gpu, before) = (gpu(), launched("lfr_cmvn"));
    for round in 0..4 * ROUNDS {
        let case = lfr_cmvn::Case::random(round);
        let expected = case.op(&Device::Cpu).reference(&case.x, &case.frames, case.rows.clone()).unwrap();
        let x = case.x.to_device(&gpu).unwrap();
        let y = case.op(&gpu).forward(&x, &case.frames, case.rows.clone()).unwrap();
        assert_near(&format!("round {round}"), &y, &expected, 0.0);
    }
    assert!(launched("lfr_cmvn") > before);
}

/// Rows are copied: what is joined and kept is the same to the bit.
#[test]
fn join_rows() {
    in_every_format("join_rows", |dtype, _, gpu| {
        for round in 0..ROUNDS {
            let case = Case::random(round);
            let rounded = |x: &Tensor| x.to_dtype(dtype).and_then(|x| x.to_dtype(DType::F32)).unwrap();
            let (joined, kept) = case.run([&rounded; 2]);
            let past = |x: &Tensor| Both::new(x, dtype, gpu).gpu;
            let (gpu_joined, gpu_kept) = case.run([&past, &|x| in_wider_rows(x, dtype, gpu)]);
            for (y, expected) in gpu_joined.iter().zip(&joined) {
                assert_near(&format!("{dtype:?}, {round}, joined"), y, expected, 0.0);
            }
            for (y, expected) in gpu_kept.iter().zip(&kept) {
                assert_eq!(y.is_some(), expected.is_some());
                let (Some(y), Some(expected)) = (y, expected) else { continue };
                assert_near(&format!("{dtype:?}, {round}, kept"), y, expected, 0.0);
            }
        }
    });
}

/// The same rows in wider ones, which are NaN beside them.
fn in_wider_rows(x: &Tensor, dtype: DType, gpu: &Device) -> Tensor {
    let (x, width) = (x.to_dtype(dtype).unwrap(), x.dim(2).unwrap());
    let beside = Tensor::full(f32::NAN, x.shape(), &Device::Cpu).and_then(|x| x.to_dtype(dtype)).unwrap();
    let wide = Tensor::cat(&[&beside, &x], 2).and_then(|x| x.to_device(gpu)).unwrap();
    wide.narrow(2, width, width).unwrap()
}

/// Inputs of several threads and many sizes, none of which waits for another or for what is made of it, arrive as they were.
#[test]
fn uploads_arrive_as_they_were() {
    let gpu = gpu();
    let uploads = Uploads::new(&gpu).unwrap();
    let input = |size: usize, seed: usize| (0..size).map(move |i| ((i * 31 + seed) % 1009) as f32);
    let thread = |thread: usize| {
        let upload = |round: usize| {
            let (size, seed) = (1 + (round * 7919 + thread * 104_729) % 5000, 100 * thread + round);
            let x = uploads.upload((size, 1), |values| {
                values.iter_mut().zip(input(size, seed)).for_each(|(to, value)| *to = value);
            });
            // Later work of the device, and nothing that waits for it.
            (size, seed, x.unwrap(), Tensor::ones(3, DType::F32, &gpu).unwrap())
        };
        (0..40).map(upload).collect::<Vec<_>>()
    };
    let uploaded: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|i| scope.spawn(move || thread(i))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    for (size, seed, x, _) in uploaded {
        assert_eq!(x.dims(), [size, 1]);
        let arrived = values(&x.to_device(&Device::Cpu).unwrap());
        assert!(arrived.iter().copied().eq(input(size, seed)), "{size} values of {seed}");
    }
    assert_eq!(uploads.upload((2, 0), |_| ()).unwrap().dims(), [2, 0]);
}

#[test]
fn misfits_name_op_and_shapes() {
    let gpu = gpu();
    let ones = |dims: &[usize]| tensor(&vec![1.0; dims.iter().product()], dims).to_device(&gpu).unwrap();
    let lengths = Lengths::new(vec![3]);
    let memory = FsmnMemory { offset: -1, dilation: 1, skip: true, first: 0, lengths: lengths.clone() };
    assert_refused(
        memory.forward(&ones(&[1, 3, 4]), &ones(&[3, 5])),
        &["fsmn-memory", "[1, 3, 4]", "[3, 5]"],
    );
    assert_refused(memory.forward(&ones(&[1, 2, 4]), &ones(&[3, 4])), &["fsmn-memory", "[1, 2, 4]", "[1, 3"]);
    let norm = LayerNorm { eps: 1e-5 };
    assert_refused(norm.forward(&ones(&[2, 3]), &ones(&[4]), &ones(&[3])), &["layer-norm", "[2, 3]", "[4]"]);
    let (queries, visible) = (lengths.clone(), Visible::All);
    let op = Attention { heads: 1, queries, keys: lengths.clone(), visible, bf16: false };
    let wide = ones(&[1, 3, 136]);
    assert_refused(op.forward(&wide, &wide, &wide), &["attention", "136", "128"]);
    let (q, k) = (ones(&[1, 3, 8]), ones(&[1, 3, 16]));
    assert_refused(op.forward(&q, &k, &q), &["attention", "[1, 3, 8]", "[1, 3, 16]"]);
    let (lstm, weights) = (Lstm { lengths }, laid_out(&[ones(&[3, 12])]));
    assert_refused(lstm.forward(&ones(&[1, 3, 8]), &weights), &["lstm", "[1, 3, 8]", "(3, 12)"]);
    let weight = FloatWeight::new(&ones(&[3, 4]).t().unwrap()).unwrap();
    let addend = ones(&[2, 3]);
    let linear = Linear { activation: Activation::Relu, addends: &[&addend] };
    assert_refused(linear.forward(&ones(&[2, 3]), &weight, &ones(&[4])), &["linear", "[2, 3]", "[2, 4]"]);
    let (four, column) = (ones(&[4]), ones(&[4, 2]).narrow(1, 0, 1).unwrap().squeeze(1).unwrap());
    for (scale, named) in [(&addend, "[2, 3]"), (&column, "[4]")] {
        let norm = Norm { op: norm, weight: scale, bias: &four };
        let linear = Linear { activation: Activation::Relu, addends: &[] };
        let refused = linear.forward_norm(&ones(&[2, 3]), &weight, &four, &norm);
        assert_refused(refused.map(|[y, _]| y), &["linear", named, "[2, 4]"]);
    }
}
