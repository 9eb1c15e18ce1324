//! `y = activation(x W + b + addends)` with `x` and `W` in 8 bits.

use std::mem::MaybeUninit;
use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp2, DType, Layout, Result, Shape, Storage, Tensor, bail};
use rayon::prelude::*;
use rten_gemm::{GemmExecutor, GemmInputA, GemmInputB, GemmUninitOptions, PackedBMatrix};
use rten_tensor::NdTensorView;

use crate::{Activation, cpu, simd};

/// Rows that one task quantises, multiplies and scales back while they are in its caches.
const BLOCK: usize = 64;
/// Largest input width: `2^15 * 255 * 127`, and the same again for the zero points, fits 32 bits.
const MAX_INPUTS: usize = 1 << 15;
/// Largest step of an activation.
const TOP: f32 = 255.0;

/// The product for this processor. Cheap to make, and not to be sent between threads.
type Product = GemmExecutor<u8, i8, i32>;

/// [`crate::Linear`] where weights and activations are rounded to 8 bits and multiplied as integers.
///
/// Output `j` has one scale, `max |W[j]| / 127`, and its weights are `round(W[j] / scale)`. Each row of `x` has a
/// scale and a zero point of its own, by which the 256 steps reach from its least to its largest value and meet
/// zero: what other rows hold makes no difference to it. The sums are exact. A row with a value that is not finite
/// comes out as NaN.
#[derive(Debug, Clone, Copy)]
pub struct LinearInt8<'a> {
    /// Applied to the sum.
    pub activation: Activation,
    /// Added before the activation; contiguous, of the shape of the result.
    pub addends: &'a [&'a Tensor],
}

/// The weight of a linear layer in 8 bits, laid out for the product on this processor. Clones share it.
#[derive(Clone)]
pub struct Int8Weight(Arc<Packed>);

struct Packed {
    steps: PackedBMatrix<i8>,
    /// `[out]`.
    scales: Vec<f32>,
    /// Of the steps of each output, `[out]`.
    sums: Vec<i32>,
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
    /// Rounds `weight [out, in]`, which is f32 on the CPU.
    ///
    /// # Errors
    /// A weight that is not finite, or more inputs than 32 bits can sum.
    pub fn quantize(weight: &Tensor) -> Result<Self> {
        let (outputs, inputs) = weight.dims2()?;
        if !cpu::is_f32_on_cpu(weight) || inputs == 0 || outputs == 0 || inputs > MAX_INPUTS {
            bail!("linear_int8: no 8 bits for a weight {:?} of {:?}", weight.shape(), weight.dtype());
        }
        let weight = weight.contiguous()?;
        let (storage, layout) = weight.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else { bail!("linear_int8: a weight on another device") };
        let values = cpu::contiguous("linear_int8", storage, layout)?;
        let product = Product::new();
        let limit = limit(&product);
        let mut steps = vec![0i8; values.len()];
        let rows = values.par_chunks_exact(inputs).zip(steps.par_chunks_exact_mut(inputs));
        let (scales, sums): (Vec<f32>, Vec<i32>) =
            rows.map(|(row, steps)| simd::dispatch(|| round_weights(row, steps, limit))).unzip();
        if scales.iter().any(|scale| !scale.is_finite()) {
            bail!("linear_int8: a weight {:?} holds values that are not finite", weight.shape());
        }
        let steps = product.prepack_b(NdTensorView::from_data([outputs, inputs], &steps[..]).transposed());
        Ok(Self(Arc::new(Packed { steps, scales, sums })))
    }

    /// Widths of input and output.
    pub fn dims(&self) -> (usize, usize) {
        (self.0.steps.rows(), self.0.steps.cols())
    }
}

/// Largest step of a weight. Without VNNI, x86 adds two products in 16 bits, which 7 bits do not overflow.
fn limit(product: &Product) -> f32 {
    if product.may_saturate() { 64.0 } else { 127.0 }
}

/// Steps of the weights of one output; their scale, which is not finite if one of them is not, and the steps' sum.
#[inline(always)]
fn round_weights(row: &[f32], steps: &mut [i8], limit: f32) -> (f32, i32) {
    let largest = row.iter().fold(0f32, |largest, v| largest.max(v.abs()));
    let scale = largest * (1.0 / limit) + simd::sum(row, |v| v * 0.0);
    let inverse = inverse(scale);
    for (step, v) in steps.iter_mut().zip(row) {
        // Rounds down what is not negative, which is faster than to round.
        *step = ((v * inverse + 128.5) as i32 - 128) as i8;
    }
    (scale, steps.iter().map(|&step| i32::from(step)).sum())
}

/// 1 / `scale`, or 0 where that is no number: values so small are zero.
#[inline(always)]
fn inverse(scale: f32) -> f32 {
    if scale < f32::MIN_POSITIVE { 0.0 } else { 1.0 / scale }
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

    /// The definition, in plain candle operations, for `weight [out, in]` as it was before rounding.
    pub fn reference(&self, x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
        let limit = limit(&Product::new());
        let (outputs, inputs) = weight.dims2()?;
        let weight_scale = (weight.abs()?.max_keepdim(1)? * (1.0 / f64::from(limit)))?;
        let inverse = |scale: &Tensor| scale.maximum(f64::from(f32::MIN_POSITIVE))?.recip();
        let weight = ((weight.broadcast_mul(&inverse(&weight_scale)?)? + 128.5)?.floor()? - 128.0)?;
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
        let sums =
            x.to_dtype(DType::F64)?.matmul(&weight.to_dtype(DType::F64)?.t()?)?.to_dtype(DType::F32)?;
        let mut y = (sums * scale.broadcast_mul(&weight_scale.t()?)?)?;
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
        let mut dims = x_layout.shape().dims().to_vec();
        if let Some(last) = dims.last_mut() {
            *last = outputs;
        }
        let shape = Shape::from(dims);
        let x = cpu::contiguous("linear_int8", x, x_layout)?;
        let bias = cpu::contiguous("linear_int8", bias, bias_layout)?;
        let held: Vec<_> = self.op.addends.iter().map(|addend| addend.storage_and_layout()).collect();
        let addends =
            held.iter().map(|(storage, layout)| cpu::addend("linear_int8", storage, layout, &shape));
        let addends = addends.collect::<Result<_>>()?;
        let finish = Finish { bias, addends, relu: self.op.activation == Activation::Relu };
        Ok((CpuStorage::F32(self.weight.0.run(x, &finish)?), shape))
    }
}

/// What happens to the scaled sums.
struct Finish<'a> {
    bias: &'a [f32],
    addends: Vec<&'a [f32]>,
    relu: bool,
}

impl Packed {
    /// `x [rows, in]` -> `[rows, out]`.
    #[allow(unsafe_code)]
    fn run(&self, x: &[f32], finish: &Finish) -> Result<Vec<f32>> {
        let (inputs, outputs) = (self.steps.rows(), self.steps.cols());
        let len = x.len() / inputs * outputs;
        let mut y: Vec<f32> = Vec::with_capacity(len);
        let spare = y.spare_capacity_mut()[..len].par_chunks_mut(BLOCK * outputs);
        let blocks = spare.zip(x.par_chunks(BLOCK * inputs)).enumerate();
        let product = Product::new();
        blocks.try_for_each(|(i, (y, x))| self.block(&product, x, y, i * BLOCK * outputs, finish))?;
        // SAFETY: the blocks cover all `len` values, and `block` has written each of theirs.
        unsafe { y.set_len(len) };
        Ok(y)
    }

    /// Some rows; `start` is where in the result their `y` lies. On success all of `y` is written.
    fn block(
        &self,
        product: &Product,
        x: &[f32],
        y: &mut [MaybeUninit<f32>],
        start: usize,
        finish: &Finish,
    ) -> Result<()> {
        let (inputs, outputs) = (self.steps.rows(), self.steps.cols());
        let rows = x.len() / inputs;
        let mut steps = vec![0u8; x.len()];
        let rows_and_steps = x.chunks_exact(inputs).zip(steps.chunks_exact_mut(inputs));
        let places: Vec<(f32, i32)> =
            rows_and_steps.map(|(x, steps)| simd::dispatch(|| round_row(x, steps))).collect();
        let a = GemmInputA::Unpacked(NdTensorView::from_data([rows, inputs], &steps[..]));
        // Zero points are left to `finish`: the crate takes those of the first rows for all.
        let (b, options) = (GemmInputB::Packed(&self.steps), GemmUninitOptions::default());
        let sums = product.gemm_uninit(as_integers(y), a, b, options);
        let sums = sums.map_err(|e| candle_core::Error::Msg(format!("linear_int8: {e}")))?;
        for (i, (row, place)) in sums.chunks_exact_mut(outputs).zip(places).enumerate() {
            simd::dispatch(|| finish.row(row, self, place, start + i * outputs));
        }
        Ok(())
    }
}

/// The place of floats as the place of the integers that they are made from.
#[allow(unsafe_code)]
fn as_integers(place: &mut [MaybeUninit<f32>]) -> &mut [MaybeUninit<i32>] {
    // SAFETY: f32 and i32 are equal in size and alignment, and every bit pattern is a value of both.
    unsafe { std::slice::from_raw_parts_mut(place.as_mut_ptr().cast(), place.len()) }
}

/// Steps of one row; their scale, which is NaN if a value is not finite, and the step that is zero.
#[inline(always)]
fn round_row(x: &[f32], steps: &mut [u8]) -> (f32, i32) {
    let (low, high) = range(x);
    let step = 1.0 / TOP;
    let scale = (high * step - low * step) + simd::sum(x, |v| v * 0.0);
    let inverse = inverse(scale);
    let zero = (-low * inverse).round();
    let shift = zero + 0.5;
    for (step, v) in steps.iter_mut().zip(x) {
        // Not negative, so that the cast rounds down; it ends at 255, and NaN becomes 0.
        *step = (v * inverse + shift) as u8;
    }
    (scale, zero as i32)
}

/// The least and the largest value, zero taken for one of them; NaN is passed over.
#[inline(always)]
fn range(x: &[f32]) -> (f32, f32) {
    let chunks = x.chunks_exact(16);
    let [mut low, mut high] = [[0f32; 16]; 2];
    for (i, v) in chunks.remainder().iter().enumerate() {
        (low[i], high[i]) = (low[i].min(*v), high[i].max(*v));
    }
    for chunk in chunks {
        for ((low, high), v) in low.iter_mut().zip(&mut high).zip(chunk) {
            (*low, *high) = (low.min(*v), high.max(*v));
        }
    }
    (low.into_iter().fold(0.0, f32::min), high.into_iter().fold(0.0, f32::max))
}

impl Finish<'_> {
    /// Turns the integer sums of one row, which begins at `start` of the result, into the bits of its floats.
    #[inline(always)]
    fn row(&self, row: &mut [i32], weight: &Packed, (scale, zero): (f32, i32), start: usize) {
        let weights = weight.scales.iter().zip(&weight.sums);
        for ((v, (weight_scale, sum)), bias) in row.iter_mut().zip(weights).zip(self.bias) {
            *v = ((*v - zero * sum) as f32 * (scale * weight_scale) + bias).to_bits() as i32;
        }
        for addend in &self.addends {
            for (v, x) in row.iter_mut().zip(&addend[start..]) {
                *v = (f32::from_bits(*v as u32) + x).to_bits() as i32;
            }
        }
        if self.relu {
            for v in row {
                // Written so that NaN stays.
                let x = f32::from_bits(*v as u32);
                *v = (if x < 0.0 { 0.0 } else { x }).to_bits() as i32;
            }
        }
    }
}
