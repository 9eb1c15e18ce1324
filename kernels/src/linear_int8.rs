//! `y = activation(x W + b + addends)` with `x` and `W` in 8 bits.

mod rows;

use std::mem::MaybeUninit;
use std::ops::RangeInclusive;
use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp2, DType, Device, Layout, Result, Shape, Storage, Tensor, bail};
use rayon::prelude::*;
use rten_gemm::{GemmExecutor, GemmInputA, GemmInputB, GemmUninitOptions, PackedBMatrix};
use rten_tensor::NdTensorView;

#[cfg(target_arch = "x86_64")]
use crate::output::Output;
#[cfg(target_arch = "x86_64")]
use crate::panels::{self, Finish, Int8Panels, WideInt8Panels};
use crate::{Activation, cpu, simd};
use rows::Rows;

/// Largest input width: `2^15 * 255 * 127`, and the same again for the zero points, fits 32 bits.
const MAX_INPUTS: usize = 1 << 15;
/// Largest step of an activation.
const TOP: f32 = 255.0;
/// Largest step of a weight.
const LIMIT: f32 = 127.0;
/// Largest sum of two neighbouring steps that [`Int8Panels`] multiply exactly: 255 times that fits 16 bits.
const PAIR_LIMIT: i32 = 128;

/// [`crate::Linear`] where weights and activations are rounded to 8 bits and multiplied as integers.
///
/// Each row of `x` has a scale and a zero point of its own, by which the 256 steps reach from its least to its largest
/// value and meet zero: what other rows hold makes no difference to it. The sums are exact. A row with a value that is
/// not finite comes out as NaN.
#[derive(Debug, Clone, Copy)]
pub struct LinearInt8<'a> {
    /// Applied to the sum.
    pub activation: Activation,
    /// Added before the activation; contiguous, of the shape of the result.
    pub addends: &'a [&'a Tensor],
}

/// A weight `[out, in]` rounded to 8 bits: `steps[j] * scales[j]` for output `j`.
///
/// Steps reach from -127 to 127. On x86 processors with AVX2 alone, which add the products of neighbours in 16 bits, scales are
/// as large as those need: where weights are distributed evenly, up to twice as large. What was rounded elsewhere is multiplied
/// exactly there, too, but more slowly.
#[derive(Debug, Clone)]
pub struct Rounded {
    /// `[out, in]`.
    steps: Vec<i8>,
    /// `[out]`.
    scales: Vec<f32>,
    inputs: usize,
}

impl Rounded {
    /// Rounds `weight [out, in]`, which is f32 on the CPU, with the smallest scales that this processor multiplies fast.
    ///
    /// # Errors
    /// A weight that is not finite, or more inputs than 32 bits can sum.
    pub fn new(weight: &Tensor) -> Result<Self> {
        let (outputs, inputs) = weight.dims2()?;
        if !cpu::is_f32_on_cpu(weight) || inputs == 0 || outputs == 0 {
            bail!("linear_int8: no 8 bits for a weight {:?} of {:?}", weight.shape(), weight.dtype());
        }
        let weight = weight.contiguous()?;
        let (storage, layout) = weight.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else { bail!("linear_int8: a weight on another device") };
        let values = cpu::contiguous("linear_int8", storage, layout)?;
        let mut steps = vec![0i8; values.len()];
        let pairs = adds_pairs();
        let rows = values.par_chunks_exact(inputs).zip(steps.par_chunks_exact_mut(inputs));
        let round = |(row, steps): (&[f32], &mut [i8])| {
            simd::dispatch(
                #[inline(always)]
                || round_weights(row, steps, pairs),
            )
        };
        let scales = rows.map(round).collect();
        Self::from_steps(steps, scales)
    }

    /// Takes what was rounded before: `steps [out, in]` and `scales [out]`.
    ///
    /// # Errors
    /// As [`Rounded::new`]; sizes that do not fit each other, or steps that are none.
    pub fn from_steps(steps: Vec<i8>, scales: Vec<f32>) -> Result<Self> {
        let (outputs, inputs) = (scales.len(), steps.len() / scales.len().max(1));
        if inputs == 0 || steps.len() != outputs * inputs || inputs > MAX_INPUTS {
            bail!("linear_int8: no 8 bits for a weight [{outputs}, {inputs}] of {} steps", steps.len());
        }
        if scales.iter().any(|scale| !scale.is_finite()) {
            bail!("linear_int8: a weight [{outputs}, {inputs}] holds values that are not finite");
        }
        if steps.par_chunks(1 << 16).any(|steps| steps.contains(&i8::MIN)) {
            bail!("linear_int8: a weight [{outputs}, {inputs}] has steps beyond 127");
        }
        Ok(Self { steps, scales, inputs })
    }

    /// The steps, `[out, in]`.
    pub fn steps(&self) -> &[i8] {
        &self.steps
    }

    /// The scales, `[out]`.
    pub fn scales(&self) -> &[f32] {
        &self.scales
    }

    /// `steps * scales` in f32, `[out, in]` on the CPU.
    pub fn to_float(&self) -> Result<Tensor> {
        let rows = self.steps.chunks_exact(self.inputs).zip(&self.scales);
        let values = rows.flat_map(|(row, scale)| row.iter().map(move |&step| f32::from(step) * scale));
        Tensor::from_vec(values.collect::<Vec<_>>(), (self.scales.len(), self.inputs), &Device::Cpu)
    }
}

/// Steps of the weights of one output, with `pairs` such that neighbours fit; their scale, which is not finite if one of them is
/// not.
#[inline(always)]
fn round_weights(row: &[f32], steps: &mut [i8], pairs: bool) -> f32 {
    let largest = row.iter().fold(0f32, |largest, v| largest.max(v.abs()));
    let mut scale = largest * (1.0 / LIMIT) + simd::sum(row, |v| v * 0.0);
    while scale.is_finite() {
        let inverse = inverse(scale);
        for (step, v) in steps.iter_mut().zip(row) {
            // Rounds down what is not negative, which is faster than to round.
            *step = ((v * inverse + 128.5) as i32 - 128) as i8;
        }
        if !pairs {
            break;
        }
        match largest_pair(steps) {
            sum if sum <= PAIR_LIMIT => break,
            sum => scale *= sum as f32 / PAIR_LIMIT as f32,
        }
    }
    scale
}

/// What two neighbours come to at most, taken positive.
#[inline(always)]
fn largest_pair(row: &[i8]) -> i32 {
    let (pairs, _) = row.as_chunks::<2>();
    pairs.iter().map(|[a, b]| (i32::from(*a) + i32::from(*b)).abs()).max().unwrap_or(0)
}

/// Whether all neighbours of `steps [out, in]` fit.
#[cfg(target_arch = "x86_64")]
fn fits_pairs(steps: &[i8], inputs: usize) -> bool {
    let largest = |row: &[i8]| {
        simd::dispatch(
            #[inline(always)]
            || largest_pair(row),
        )
    };
    steps.par_chunks_exact(inputs).all(|row| largest(row) <= PAIR_LIMIT)
}

/// 1 / `scale`, or 0 where that is no number: values so small are zero.
#[inline(always)]
fn inverse(scale: f32) -> f32 {
    if scale < f32::MIN_POSITIVE { 0.0 } else { 1.0 / scale }
}

/// The weight of a linear layer in 8 bits, laid out for the product on this processor. Clones share it.
#[derive(Clone)]
pub struct Int8Weight(Arc<Packed>);

struct Packed {
    product: Product,
    /// `[out]`.
    scales: Vec<f32>,
    /// Of the steps of each output, `[out]`.
    sums: Vec<i32>,
    inputs: usize,
}

/// The integer weights, and with it the way in which they are multiplied.
enum Product {
    #[cfg(target_arch = "x86_64")]
    Panels(Int8Panels),
    #[cfg(target_arch = "x86_64")]
    Wide(WideInt8Panels),
    Prepacked(Prepacked),
}

impl std::fmt::Debug for Int8Weight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (inputs, outputs) = self.dims();
        f.debug_struct("Int8Weight")
            .field("inputs", &inputs)
            .field("outputs", &outputs)
            .finish_non_exhaustive()
    }
}

impl Int8Weight {
    /// Lays out a rounded weight.
    pub fn pack(rounded: &Rounded) -> Self {
        let (steps, inputs) = (&rounded.steps, rounded.inputs);
        let sum = |row: &[i8]| row.iter().map(|&step| i32::from(step)).sum();
        let sums = steps.chunks_exact(inputs).map(sum).collect();
        let scales = rounded.scales.clone();
        Self(Arc::new(Packed { product: Product::pack(steps, inputs), scales, sums, inputs }))
    }

    /// Rounds and lays out `weight [out, in]`.
    ///
    /// # Errors
    /// Those of [`Rounded::new`].
    pub fn quantize(weight: &Tensor) -> Result<Self> {
        Ok(Self::pack(&Rounded::new(weight)?))
    }

    /// Widths of input and output.
    pub fn dims(&self) -> (usize, usize) {
        (self.0.inputs, self.0.scales.len())
    }

    /// `x [rows, in]` -> `[rows, out]`.
    pub(crate) fn product(&self, x: &[f32], ending: &cpu::Ending) -> Result<Vec<f32>> {
        self.0.run(x, ending)
    }
}

/// Whether this processor adds products of neighbours in 16 bits.
fn adds_pairs() -> bool {
    #[cfg(target_arch = "x86_64")]
    return panels::supported() && !panels::exact_int8();
    #[cfg(not(target_arch = "x86_64"))]
    false
}

impl LinearInt8<'_> {
    /// `x [.., in]`, f32 on the CPU, and `bias [out]` -> `[.., out]`.
    pub fn forward(&self, x: &Tensor, weight: &Int8Weight, bias: &Tensor) -> Result<Tensor> {
        let (inputs, outputs) = weight.dims();
        if x.dims().last() != Some(&inputs) || bias.dims() != [outputs] {
            let (weight, bias) = ([inputs, outputs], bias.shape());
            bail!("linear_int8: input {:?}, weight {weight:?} and bias {bias:?} do not fit", x.shape());
        }
        if !cpu::is_f32_on_cpu(x) {
            bail!("linear_int8: input of {:?}, where f32 on the CPU is expected", x.dtype());
        }
        x.contiguous()?.apply_op2_no_bwd(bias, &Call { op: self, weight })
    }

    /// The definition, in plain candle operations.
    pub fn reference(&self, x: &Tensor, weight: &Rounded, bias: &Tensor) -> Result<Tensor> {
        let (outputs, inputs) = (weight.scales.len(), weight.inputs);
        let steps: Vec<f64> = weight.steps.iter().map(|&step| f64::from(step)).collect();
        let steps = Tensor::from_vec(steps, (outputs, inputs), x.device())?;
        let weight_scale = Tensor::from_slice(&weight.scales, (1, outputs), x.device())?;
        let inverse = |scale: &Tensor| scale.maximum(f64::from(f32::MIN_POSITIVE))?.recip();
        let mut shape = x.dims().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = outputs;
        }
        let x = x.reshape(((), inputs))?;
        let [low, high] = [x.min_keepdim(1)?.minimum(0f64)?, x.max_keepdim(1)?.maximum(0f64)?];
        let step = 1.0 / f64::from(TOP);
        let scale = (((high * step)? - (&low * step)?)? + (&x * 0.0)?.sum_keepdim(1)?)?;
        let inverse = inverse(&scale)?;
        let zero = ((low * -1.0)? * &inverse)?.round()?;
        let x = x.broadcast_mul(&inverse)?.broadcast_add(&(&zero + 0.5)?)?.floor()?;
        let x = x.clamp(0f32, TOP)?.broadcast_sub(&zero)?;
        // Products of integers, which f64 sums exactly.
        let sums = x.to_dtype(DType::F64)?.matmul(&steps.t()?)?.to_dtype(DType::F32)?;
        let mut y = (sums * scale.broadcast_mul(&weight_scale)?)?;
        y = y.reshape(shape)?.broadcast_add(bias)?;
        for addend in self.addends {
            y = (y + *addend)?;
        }
        match self.activation {
            Activation::Identity => Ok(y),
            // `relu` makes NaN zero, this does not.
            Activation::Relu => y.maximum(0f64),
        }
    }
}

/// The op with what is no tensor.
struct Call<'a> {
    op: &'a LinearInt8<'a>,
    weight: &'a Int8Weight,
}

impl CustomOp2 for Call<'_> {
    fn name(&self) -> &'static str {
        "linear_int8"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (_, outputs) = self.weight.dims();
        let shape = cpu::with_width(x_layout.shape(), outputs);
        let x = cpu::contiguous("linear_int8", x, x_layout)?;
        let bias = cpu::contiguous("linear_int8", bias, bias_layout)?;
        let held: Vec<_> = self.op.addends.iter().map(|addend| addend.storage_and_layout()).collect();
        let addends = cpu::addends("linear_int8", &held, &shape)?;
        let relu = self.op.activation == Activation::Relu;
        Ok((CpuStorage::F32(self.weight.0.run(x, &cpu::Ending { bias, addends, relu })?), shape))
    }
}

impl Packed {
    /// `x [rows, in]` -> `[rows, out]`.
    fn run(&self, x: &[f32], ending: &cpu::Ending) -> Result<Vec<f32>> {
        let widths = [self.inputs, self.scales.len()];
        cpu::by_blocks(x, widths, self.product.rows(), |x, y, start| self.block(x, y, ending, start))
    }

    /// Some rows. On success all of `y` is written.
    fn block(&self, x: &[f32], y: &mut [MaybeUninit<f32>], ending: &cpu::Ending, start: usize) -> Result<()> {
        let scaled = |places| Scaled { weight: self, ending, start, places };
        match &self.product {
            #[cfg(target_arch = "x86_64")]
            Product::Panels(panels) => {
                let rows = Rows::new(x, self.inputs, panels.stride());
                let (y, scaled) = (Output::new(y, panels.outputs()), scaled(&rows.places));
                panels.all().on_threads(y, |panels, y| panels.multiply(&rows.steps, y, &scaled));
            }
            #[cfg(target_arch = "x86_64")]
            Product::Wide(panels) => {
                let rows = Rows::new(x, self.inputs, panels.stride());
                let (y, scaled) = (Output::new(y, panels.outputs()), scaled(&rows.places));
                panels.all().on_threads(y, |panels, y| panels.multiply(&rows.steps, y, &scaled));
            }
            Product::Prepacked(weights) => {
                let rows = Rows::new(x, self.inputs, self.inputs);
                let scaled = scaled(&rows.places);
                let sums = weights.multiply(&rows.steps, as_integers(y))?;
                let rows = sums.chunks_exact_mut(self.scales.len()).enumerate();
                simd::dispatch(
                    #[inline(always)]
                    || rows.for_each(|(i, row)| scaled.row(row, i)),
                );
            }
        }
        Ok(())
    }
}

impl Product {
    /// Rows that one task takes. Panels order their work themselves; of `rten-gemm`'s sums at most what a cache holds while they are
    /// scaled.
    fn rows(&self) -> RangeInclusive<usize> {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Panels(_) | Self::Wide(_) => panels::ROWS,
            Self::Prepacked(_) => 1..=64,
        }
    }

    /// Lays out `steps [out, in]`.
    fn pack(steps: &[i8], inputs: usize) -> Self {
        #[cfg(target_arch = "x86_64")]
        if panels::supported() {
            return match panels::exact_int8() || fits_pairs(steps, inputs) {
                true => Self::Panels(Int8Panels::new(steps, inputs)),
                false => Self::Wide(WideInt8Panels::new(steps, inputs)),
            };
        }
        let view = NdTensorView::from_data([steps.len() / inputs, inputs], steps);
        Self::Prepacked(Prepacked(Prepacked::executor().prepack_b(view.transposed())))
    }
}

/// Weights in the order of `rten-gemm`.
struct Prepacked(PackedBMatrix<i8>);

impl Prepacked {
    /// The product for this processor. Cheap to make, and not to be sent between threads.
    fn executor() -> GemmExecutor<u8, i8, i32> {
        GemmExecutor::new()
    }

    /// `steps [rows, in]` times the weights, into the place of the sums.
    fn multiply<'a>(&self, steps: &[u8], sums: &'a mut [MaybeUninit<i32>]) -> Result<&'a mut [i32]> {
        let rows = steps.len() / self.0.rows();
        let a = GemmInputA::Unpacked(NdTensorView::from_data([rows, self.0.rows()], steps));
        // Zero points are left to `Finish`: the crate takes those of the first rows for all.
        let (b, options) = (GemmInputB::Packed(&self.0), GemmUninitOptions::default());
        let sums = Self::executor().gemm_uninit(sums, a, b, options);
        sums.map_err(|e| candle_core::Error::Msg(format!("linear_int8: {e}")))
    }
}

/// The place of floats as the place of the integers that they are made from.
#[allow(unsafe_code)]
fn as_integers(place: &mut [MaybeUninit<f32>]) -> &mut [MaybeUninit<i32>] {
    // SAFETY: f32 and i32 are equal in size and alignment, and every bit pattern is a value of both.
    unsafe { std::slice::from_raw_parts_mut(place.as_mut_ptr().cast(), place.len()) }
}

/// How the integer sums of a block of rows become floats.
struct Scaled<'a> {
    weight: &'a Packed,
    ending: &'a cpu::Ending<'a>,
    /// Where the block begins in the result.
    start: usize,
    /// Scale and zero of each row.
    places: &'a [(f32, i32)],
}

impl Scaled<'_> {
    /// The sums of a row -> the bits of its floats.
    #[inline(always)]
    fn row(&self, sums: &mut [i32], row: usize) {
        const LANES: usize = 16;
        let (vectors, rest) = sums.as_chunks_mut::<LANES>();
        let tail = vectors.len() * LANES;
        for (i, sums) in vectors.iter_mut().enumerate() {
            self.floats(&[*sums], [row, i * LANES], |_, y| *sums = y.map(|y| y.to_bits() as i32));
        }
        for (i, sum) in rest.iter_mut().enumerate() {
            self.floats(&[[*sum]], [row, tail + i], |_, [y]| *sum = y.to_bits() as i32);
        }
    }

    /// The sums of rows that begin at `row`, for the outputs from `column` on -> the outputs of each row, counted from the first.
    #[inline(always)]
    fn floats<const N: usize>(
        &self,
        sums: &[[i32; N]],
        [row, column]: [usize; 2],
        mut put: impl FnMut(usize, [f32; N]),
    ) {
        // Copies, so that they stay in registers from row to row.
        let (mut scales, mut weights) = ([0.0; N], [0; N]);
        scales.copy_from_slice(&self.weight.scales[column..][..N]);
        weights.copy_from_slice(&self.weight.sums[column..][..N]);
        let ending = self.ending.at::<N>(column, self.start);
        for (i, (sums, &(scale, zero))) in sums.iter().zip(&self.places[row..]).enumerate() {
            let mut y = [0.0; N];
            for i in 0..N {
                y[i] = (sums[i] - zero * weights[i]) as f32 * (scale * scales[i]);
            }
            put(i, ending.apply(row + i, y));
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Finish for Scaled<'_> {
    type Sum = i32;

    #[inline(always)]
    fn finish<const N: usize>(&self, sums: &[[i32; N]], place: [usize; 2], put: impl FnMut(usize, [f32; N])) {
        self.floats(sums, place, put);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With pairs no two neighbours overflow, whatever the weights; without, the largest weight has the largest step.
    #[test]
    fn scales_are_enlarged_for_pairs_alone() {
        let mut steps = [0i8; 6];
        for row in [[0.5, 0.5, 0.1, -0.2, 0.0, 0.3], [-1.0, -0.9, -0.8, -1.0, 0.2, 0.1], [1.0; 6]] {
            round_weights(&row, &mut steps, true);
            assert!((126..=PAIR_LIMIT).contains(&largest_pair(&steps)), "{steps:?}");
            round_weights(&row, &mut steps, false);
            assert_eq!(steps.map(i8::unsigned_abs).into_iter().max(), Some(127), "{steps:?}");
        }
    }

    /// What is rounded here takes the fast product.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn weights_that_were_rounded_here_are_not_widened() {
        let weight = Tensor::ones((20, 33), DType::F32, &Device::Cpu).unwrap();
        let Int8Weight(packed) = Int8Weight::quantize(&weight).unwrap();
        assert!(!matches!(packed.product, Product::Wide(_)));
    }
}
