//! `y = activation(x W^T + b)`.

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

/// A linear layer. The fast version writes the bias first and lets the product accumulate on it, so that the
/// output is passed over once.
#[derive(Debug, Clone, Copy)]
pub struct Linear {
    /// Applied to the result.
    pub activation: Activation,
}

impl Linear {
    /// `x [.., in]`, `weight [out, in]`, `bias [out]` -> `[.., out]`.
    pub fn forward(&self, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let (Some(bias), true) = (bias, cpu::is_f32_on_cpu(x)) else {
            return self.reference(x, weight, bias);
        };
        x.contiguous()?.apply_op3_no_bwd(weight, bias, self)
    }

    /// The definition, in plain candle operations.
    pub fn reference(&self, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let mut shape = x.dims().to_vec();
        let input = shape.pop().unwrap_or(0);
        shape.push(weight.dim(0)?);
        let y = x.reshape(((), input))?.matmul(&weight.t()?)?.reshape(shape)?;
        let y = match bias {
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        };
        match self.activation {
            Activation::Identity => Ok(y),
            Activation::Relu => y.relu(),
        }
    }
}

impl CustomOp3 for Linear {
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
        let (outputs, inputs) = weight_layout.shape().dims2()?;
        let mut dims = x_layout.shape().dims().to_vec();
        if dims.last() != Some(&inputs) || bias_layout.shape().dims() != [outputs] {
            bail!(
                "linear: input {:?}, weight {:?} and bias {:?} do not fit",
                x_layout.shape(),
                weight_layout.shape(),
                bias_layout.shape()
            );
        }
        let rows = x_layout.shape().elem_count() / inputs.max(1);
        if let Some(last) = dims.last_mut() {
            *last = outputs;
        }
        let x = cpu::contiguous("linear", x, x_layout)?;
        let weight = cpu::contiguous("linear", weight, weight_layout)?;
        let bias = cpu::contiguous("linear", bias, bias_layout)?;

        let mut y = Vec::with_capacity(rows * outputs);
        for _ in 0..rows {
            y.extend_from_slice(bias);
        }
        accumulate_product(x, weight, &mut y, [rows, inputs, outputs]);
        if self.activation == Activation::Relu {
            y.iter_mut().for_each(|v| *v = v.max(0.0));
        }
        Ok((CpuStorage::F32(y), Shape::from(dims)))
    }
}

/// `y [rows, outputs] += x [rows, inputs] * weight^T`, all row-major.
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
            inputs as isize,
            1,
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
pub(crate) fn parallelism() -> Parallelism {
    match rayon::current_num_threads() {
        0 | 1 => Parallelism::None,
        n => Parallelism::Rayon(n),
    }
}
