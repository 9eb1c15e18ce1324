//! `y = activation(x W + b + addends)`.

#[cfg(target_arch = "x86_64")]
use std::sync::Arc;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
#[cfg(any(feature = "cuda", target_arch = "x86_64"))]
use candle_core::CustomOp2;
use candle_core::{CpuStorage, CustomOp3, InplaceOp2, Result, Shape, Storage, Tensor, bail};
use gemm::Parallelism;

#[cfg(feature = "cuda")]
use crate::cuda;
#[cfg(target_arch = "x86_64")]
use crate::output::Output;
#[cfg(target_arch = "x86_64")]
use crate::panels::{self, Bf16Panels, Finish, FloatPanels, round_bf16};
#[cfg(target_arch = "x86_64")]
use crate::room::lines;
use crate::{LayerNorm, cpu};

/// What is applied to the sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    Identity,
    /// `max(x, 0)`.
    Relu,
}

/// Whether this is a CPU that multiplies bf16 faster than f32, so that [`FloatWeight::coarse`] takes it.
pub fn multiplies_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    return Bf16Panels::supported();
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// A linear layer, with other tensors added to its result where a residual or a memory joins it.
#[derive(Debug, Clone, Copy)]
pub struct Linear<'a> {
    /// Applied to the sum.
    pub activation: Activation,
    /// Added before the activation; contiguous, of the shape of the result.
    pub addends: &'a [&'a Tensor],
}

/// A layer norm with its scale and shift `[D]`.
#[derive(Debug, Clone, Copy)]
pub struct Norm<'a> {
    /// The norm itself.
    pub op: LayerNorm,
    /// Scale.
    pub weight: &'a Tensor,
    /// Shift.
    pub bias: &'a Tensor,
}

/// The weight of a linear layer, laid out for the product on its device. Clones share it.
#[derive(Clone)]
pub struct FloatWeight(Layout);

#[derive(Clone)]
enum Layout {
    /// `[in, out]`: candle and `gemm` read it in that order, and turning it round on every call costs a fifth of the time.
    Turned(Tensor),
    /// Widths of input and output.
    #[cfg(target_arch = "x86_64")]
    Panels(Panels, (usize, usize)),
}

/// Weights in the order of our products.
#[cfg(target_arch = "x86_64")]
#[derive(Clone)]
enum Panels {
    Float(Arc<FloatPanels>),
    Bf16(Arc<Bf16Panels>),
}

/// Whether a weight is what panels hold, and the fast versions run.
#[cfg(target_arch = "x86_64")]
fn suits_panels(weight: &Tensor) -> bool {
    cpu::is_f32_on_cpu(weight) && cpu::is_fast(weight) && weight.elem_count() > 0
}

impl std::fmt::Debug for FloatWeight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("FloatWeight").field(&self.dims()).finish()
    }
}

impl FloatWeight {
    /// Lays out `weight [out, in]`.
    pub fn new(weight: &Tensor) -> Result<Self> {
        #[cfg(target_arch = "x86_64")]
        if panels::supported() && suits_panels(weight) {
            return Self::panels(weight, |weight, inputs| {
                Panels::Float(Arc::new(FloatPanels::new(weight, inputs)))
            });
        }
        Ok(Self(Layout::Turned(weight.t()?.contiguous()?)))
    }

    /// Lays out `weight [out, in]`, rounded to bf16 if this is a CPU that multiplies those faster; then inputs are rounded, too.
    pub fn coarse(weight: &Tensor) -> Result<Self> {
        #[cfg(target_arch = "x86_64")]
        if Bf16Panels::supported() && suits_panels(weight) {
            return Self::panels(weight, |weight, inputs| {
                Panels::Bf16(Arc::new(Bf16Panels::new(weight, inputs)))
            });
        }
        Self::new(weight)
    }

    #[cfg(target_arch = "x86_64")]
    fn panels(weight: &Tensor, lay_out: impl FnOnce(&[f32], usize) -> Panels) -> Result<Self> {
        let (outputs, inputs) = weight.dims2()?;
        let weight = weight.contiguous()?;
        let (storage, layout) = weight.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else { bail!("linear: a weight on another device") };
        let panels = lay_out(cpu::contiguous("linear", storage, layout)?, inputs);
        Ok(Self(Layout::Panels(panels, (inputs, outputs))))
    }

    /// Widths of input and output.
    pub fn dims(&self) -> (usize, usize) {
        match &self.0 {
            Layout::Turned(weight) => (weight.dims()[0], weight.dims()[1]),
            #[cfg(target_arch = "x86_64")]
            Layout::Panels(_, dims) => *dims,
        }
    }

    /// `[in, out]`, if it lies so: everywhere but on x86 where panels run.
    pub(crate) fn turned(&self) -> Result<&Tensor> {
        match &self.0 {
            Layout::Turned(weight) => Ok(weight),
            #[cfg(target_arch = "x86_64")]
            Layout::Panels(..) => bail!("linear: a weight that is laid out for another product"),
        }
    }

    /// `x [rows, in]`, f32 on the CPU -> `[rows, out]`.
    pub(crate) fn product(&self, x: &[f32], ending: &cpu::Ending) -> Result<Vec<f32>> {
        match &self.0 {
            Layout::Turned(weight) => {
                let (storage, layout) = weight.storage_and_layout();
                let Storage::Cpu(storage) = &*storage else { bail!("linear: a weight on another device") };
                Ok(ended_product(x, cpu::contiguous("linear", storage, layout)?, ending))
            }
            #[cfg(target_arch = "x86_64")]
            Layout::Panels(panels, (inputs, _)) => panels.product(x, *inputs, ending),
        }
    }

    /// Fails unless input and bias are as wide as the weight.
    fn check_fit(&self, x: &Tensor, bias: &Tensor) -> Result<()> {
        let (inputs, outputs) = self.dims();
        if x.dims().last() != Some(&inputs) || bias.dims() != [outputs] {
            let (weight, bias) = ([inputs, outputs], bias.shape());
            bail!("linear: input {:?}, weight {weight:?} and bias {bias:?} do not fit", x.shape());
        }
        Ok(())
    }
}

impl Linear<'_> {
    /// `x [.., in]`, `bias [out]` -> `[.., out]`.
    pub fn forward(&self, x: &Tensor, weight: &FloatWeight, bias: &Tensor) -> Result<Tensor> {
        weight.check_fit(x, bias)?;
        match &weight.0 {
            Layout::Turned(weight) if !cpu::is_fast(x) => self.plain(x, weight, bias),
            Layout::Turned(weight) if x.device().is_cuda() => self.multiply_and_end(x, weight, bias),
            // Bias and addends are written first and the product accumulates on them: the output is passed over once.
            Layout::Turned(weight) => x.contiguous()?.apply_op3_no_bwd(weight, bias, self),
            #[cfg(target_arch = "x86_64")]
            Layout::Panels(panels, (inputs, _)) => {
                x.contiguous()?.apply_op2_no_bwd(bias, &PanelLinear { op: self, panels, inputs: *inputs })
            }
        }
    }

    /// [`Linear::forward`] and the norm of its result, which a GPU takes in the same pass: `[.., out]` both.
    pub fn forward_norm(
        &self,
        x: &Tensor,
        weight: &FloatWeight,
        bias: &Tensor,
        norm: &Norm,
    ) -> Result<[Tensor; 2]> {
        #[cfg(feature = "cuda")]
        if let (Layout::Turned(turned), true) = (&weight.0, x.device().is_cuda() && cpu::is_fast(x)) {
            weight.check_fit(x, bias)?;
            let both = multiply(x, turned)?.apply_op2_no_bwd(bias, &Normed { op: self, norm })?;
            return Ok([both.get(0)?, both.get(1)?]);
        }
        let y = self.forward(x, weight, bias)?;
        let normed = norm.forward(&y)?;
        Ok([y, normed])
    }

    /// Whether negative results become zero.
    pub(crate) fn relu(&self) -> bool {
        self.activation == Activation::Relu
    }

    /// The definition, in plain candle operations, with `weight [out, in]`.
    pub fn reference(&self, x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
        self.plain(x, &weight.t()?, bias)
    }

    /// The same with `weight [in, out]`.
    fn plain(&self, x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
        let mut y = multiply(x, weight)?.broadcast_add(bias)?;
        for addend in self.addends {
            y = (y + *addend)?;
        }
        match self.activation {
            Activation::Identity => Ok(y),
            Activation::Relu => y.relu(),
        }
    }

    /// The same on a GPU, where cuBLAS multiplies and one pass does the rest.
    fn multiply_and_end(&self, x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
        let y = multiply(x, weight)?;
        y.inplace_op2(bias, self)?;
        Ok(y)
    }
}

impl Norm<'_> {
    /// `[.., D]` -> `[.., D]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.op.forward(x, self.weight, self.bias)
    }
}

/// `x [.., in]`, `weight [in, out]` -> `[.., out]`.
fn multiply(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let (inputs, outputs) = weight.dims2()?;
    x.reshape(((), inputs))?.matmul(weight)?.reshape(cpu::with_width(x.shape(), outputs))
}

/// What follows the product, in its place.
impl InplaceOp2 for Linear<'_> {
    fn name(&self) -> &'static str {
        "linear"
    }

    /// The fast versions on the CPU do it as they multiply.
    fn cpu_fwd(
        &self,
        _: &mut CpuStorage,
        _: &candle_core::Layout,
        _: &CpuStorage,
        _: &candle_core::Layout,
    ) -> Result<()> {
        bail!("linear: the ending alone is for GPUs")
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        y: &mut CudaStorage,
        y_layout: &candle_core::Layout,
        bias: &CudaStorage,
        bias_layout: &candle_core::Layout,
    ) -> Result<()> {
        cuda::linear_ending(self, (y, y_layout), (bias, bias_layout))
    }
}

/// What follows the product, and a norm of that.
#[cfg(feature = "cuda")]
struct Normed<'a> {
    op: &'a Linear<'a>,
    norm: &'a Norm<'a>,
}

#[cfg(feature = "cuda")]
impl CustomOp2 for Normed<'_> {
    fn name(&self) -> &'static str {
        "linear"
    }

    /// The fast versions on the CPU are two ops: what the norm reads is in the cache.
    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &candle_core::Layout,
        _: &CpuStorage,
        _: &candle_core::Layout,
    ) -> Result<(CpuStorage, Shape)> {
        bail!("linear: the ending alone is for GPUs")
    }

    fn cuda_fwd(
        &self,
        products: &CudaStorage,
        products_layout: &candle_core::Layout,
        bias: &CudaStorage,
        bias_layout: &candle_core::Layout,
    ) -> Result<(CudaStorage, Shape)> {
        cuda::linear_norm(self.op, self.norm, (products, products_layout), (bias, bias_layout))
    }
}

impl CustomOp3 for Linear<'_> {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &candle_core::Layout,
        weight: &CpuStorage,
        weight_layout: &candle_core::Layout,
        bias: &CpuStorage,
        bias_layout: &candle_core::Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (_, outputs) = weight_layout.shape().dims2()?;
        let shape = cpu::with_width(x_layout.shape(), outputs);
        let x = cpu::contiguous("linear", x, x_layout)?;
        let weight = cpu::contiguous("linear", weight, weight_layout)?;
        let bias = cpu::contiguous("linear", bias, bias_layout)?;
        let held: Vec<_> = self.addends.iter().map(|addend| addend.storage_and_layout()).collect();
        let (addends, relu) = (cpu::addends("linear", &held, &shape)?, self.relu());
        Ok((CpuStorage::F32(ended_product(x, weight, &cpu::Ending { bias, addends, relu })), shape))
    }
}

/// The op with what is no tensor.
#[cfg(target_arch = "x86_64")]
struct PanelLinear<'a> {
    op: &'a Linear<'a>,
    panels: &'a Panels,
    inputs: usize,
}

#[cfg(target_arch = "x86_64")]
impl CustomOp2 for PanelLinear<'_> {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &candle_core::Layout,
        bias: &CpuStorage,
        bias_layout: &candle_core::Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let bias = cpu::contiguous("linear", bias, bias_layout)?;
        let shape = cpu::with_width(x_layout.shape(), bias.len());
        let x = cpu::contiguous("linear", x, x_layout)?;
        let held: Vec<_> = self.op.addends.iter().map(|addend| addend.storage_and_layout()).collect();
        let (addends, relu) = (cpu::addends("linear", &held, &shape)?, self.op.relu());
        let y = self.panels.product(x, self.inputs, &cpu::Ending { bias, addends, relu })?;
        Ok((CpuStorage::F32(y), shape))
    }
}

#[cfg(target_arch = "x86_64")]
impl Panels {
    /// `x [rows, inputs]` -> `[rows, out]`.
    fn product(&self, x: &[f32], inputs: usize, ending: &cpu::Ending) -> Result<Vec<f32>> {
        let outputs = ending.bias.len();
        cpu::by_blocks(x, [inputs, outputs], panels::ROWS, |x, y, start| {
            self.multiply(x, inputs, Output::new(y, outputs), &Ended { ending, start });
            Ok(())
        })
    }

    /// `x [rows, inputs]` -> all of `y`, whose outputs are divided among threads.
    fn multiply(&self, x: &[f32], inputs: usize, y: Output<'_>, ended: &Ended) {
        match self {
            Self::Float(panels) => panels.all().on_threads(y, |panels, y| panels.multiply(x, y, ended)),
            Self::Bf16(panels) => {
                let mut rounded = lines(0, x.len() / inputs * panels.stride());
                let rows = rounded.chunks_exact_mut(panels.stride());
                x.chunks_exact(inputs).zip(rows).for_each(|(x, row)| round_bf16(x, &mut row[..inputs]));
                panels.all().on_threads(y, |panels, y| panels.multiply(&rounded, y, ended));
            }
        }
    }
}

/// What becomes of the sums of a block of rows that begins at `start` of the result.
#[cfg(target_arch = "x86_64")]
struct Ended<'a> {
    ending: &'a cpu::Ending<'a>,
    start: usize,
}

#[cfg(target_arch = "x86_64")]
impl Finish for Ended<'_> {
    type Sum = f32;

    #[inline(always)]
    fn finish<const N: usize>(
        &self,
        sums: &[[f32; N]],
        [row, column]: [usize; 2],
        mut put: impl FnMut(usize, [f32; N]),
    ) {
        let ending = self.ending.at::<N>(column, self.start);
        for (i, sums) in sums.iter().enumerate() {
            put(i, ending.apply(row + i, *sums));
        }
    }
}

/// `x [rows, in]`, `weight [in, out]` -> `[rows, out]`. Bias and addends are written first and the product accumulates on them.
fn ended_product(x: &[f32], weight: &[f32], ending: &cpu::Ending) -> Vec<f32> {
    let outputs = ending.bias.len();
    let inputs = weight.len() / outputs.max(1);
    let rows = x.len() / inputs.max(1);
    let mut y = ending.bias.repeat(rows);
    for addend in &ending.addends {
        y.iter_mut().zip(*addend).for_each(|(y, x)| *y += x);
    }
    accumulate_product(x, weight, &mut y, [rows, inputs, outputs]);
    if ending.relu {
        y.iter_mut().for_each(|v| *v = v.max(0.0));
    }
    y
}

/// `y [rows, outputs] += x [rows, inputs] * weight [inputs, outputs]`, all row-major.
#[allow(unsafe_code)]
fn accumulate_product(x: &[f32], weight: &[f32], y: &mut [f32], [rows, inputs, outputs]: [usize; 3]) {
    assert!(x.len() == rows * inputs && weight.len() == outputs * inputs && y.len() == rows * outputs);
    // SAFETY: the lengths asserted above are what the sizes and strides passed here address.
    unsafe {
        gemm::gemm(
            rows,
            outputs,
            inputs,
            y.as_mut_ptr(),
            1,
            outputs as isize,
            true,
            x.as_ptr(),
            1,
            inputs as isize,
            weight.as_ptr(),
            1,
            outputs as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            parallelism(),
        );
    }
}

/// All threads of the current pool.
fn parallelism() -> Parallelism {
    match rayon::current_num_threads() {
        0 | 1 => Parallelism::None,
        n => Parallelism::Rayon(n),
    }
}
