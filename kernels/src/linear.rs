//! `y = activation(x W + b + addends)`.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use gemm::Parallelism;

use crate::cpu;

/// What is applied to the sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    Identity,
    /// `max(x, 0)`.
    Relu,
}

/// A linear layer, with other tensors added to its result where a residual or a memory joins it.
///
/// The fast version writes bias and addends first and lets the product accumulate on them, so that the output is
/// passed over once. The weight is stored as `[in, out]`: the product reads it in that order, and turning it round on
/// every call costs a fifth of the time.
#[derive(Debug, Clone, Copy)]
pub struct Linear<'a> {
    /// Applied to the sum.
    pub activation: Activation,
    /// Added before the activation; contiguous, of the shape of the result.
    pub addends: &'a [&'a Tensor],
}

impl Linear<'_> {
    /// `x [.., in]`, `weight [in, out]`, `bias [out]` -> `[.., out]`.
    pub fn forward(&self, x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
        let (inputs, outputs) = weight.dims2()?;
        if x.dims().last() != Some(&inputs) || bias.dims() != [outputs] {
            let (weight, bias) = (weight.shape(), bias.shape());
            bail!("linear: input {:?}, weight {weight:?} and bias {bias:?} do not fit", x.shape());
        }
        if !cpu::is_f32_on_cpu(x) {
            return self.reference(x, weight, bias);
        }
        x.contiguous()?.apply_op3_no_bwd(weight, bias, self)
    }

    /// The definition, in plain candle operations.
    pub fn reference(&self, x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
        let mut shape = x.dims().to_vec();
        let input = shape.pop().unwrap_or(0);
        shape.push(weight.dim(1)?);
        let mut y = x.reshape(((), input))?.matmul(weight)?.reshape(shape)?.broadcast_add(bias)?;
        for addend in self.addends {
            y = (y + *addend)?;
        }
        match self.activation {
            Activation::Identity => Ok(y),
            Activation::Relu => y.relu(),
        }
    }

    /// Bias plus addends, row by row.
    fn start(&self, bias: &[f32], shape: &Shape) -> Result<Vec<f32>> {
        let mut y = Vec::with_capacity(shape.elem_count());
        for _ in 0..shape.elem_count() / bias.len().max(1) {
            y.extend_from_slice(bias);
        }
        for addend in self.addends {
            let (storage, layout) = addend.storage_and_layout();
            for (y, x) in y.iter_mut().zip(cpu::addend("linear", &storage, layout, shape)?) {
                *y += x;
            }
        }
        Ok(y)
    }
}

impl CustomOp3 for Linear<'_> {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (inputs, outputs) = weight_layout.shape().dims2()?;
        let mut dims = x_layout.shape().dims().to_vec();
        let rows = x_layout.shape().elem_count() / inputs.max(1);
        if let Some(last) = dims.last_mut() {
            *last = outputs;
        }
        let shape = Shape::from(dims);
        let x = cpu::contiguous("linear", x, x_layout)?;
        let weight = cpu::contiguous("linear", weight, weight_layout)?;
        let mut y = self.start(cpu::contiguous("linear", bias, bias_layout)?, &shape)?;
        accumulate_product(x, weight, &mut y, [rows, inputs, outputs]);
        if self.activation == Activation::Relu {
            y.iter_mut().for_each(|v| *v = v.max(0.0));
        }
        Ok((CpuStorage::F32(y), shape))
    }
}

/// `y [rows, outputs] += x [rows, inputs] * weight [inputs, outputs]`, all row-major.
#[allow(unsafe_code)]
pub(crate) fn accumulate_product(
    x: &[f32],
    weight: &[f32],
    y: &mut [f32],
    [rows, inputs, outputs]: [usize; 3],
) {
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
