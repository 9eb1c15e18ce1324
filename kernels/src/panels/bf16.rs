//! Panels and rows of bf16, held as bits.

use std::arch::x86_64::{__m256bh, _mm512_cvtneps_pbh, _mm512_loadu_ps};

use super::{Bf16Panels, Finish, Output, Part, amx};
use crate::cpu::Block;
use crate::simd;

impl Bf16Panels {
    /// Whether this processor rounds to bf16 and runs the product.
    pub(crate) fn supported() -> bool {
        amx::supported_bf16()
    }

    /// Orders `weight [out, in]`.
    pub(crate) fn new(weight: &[f32], inputs: usize) -> Self {
        let outputs = weight.len() / inputs;
        Self { outputs, ..Self::from_rows((weight, inputs), [outputs, inputs]) }
    }

    /// Orders `[out, in]` that lies in a larger matrix. Outputs are whole panels, zero behind those given.
    pub(crate) fn from_rows(values: Block<'_>, dims: [usize; 2]) -> Self {
        simd::dispatch(
            #[inline(always)]
            || Self::ordered_rows(values, dims, amx::GROUPS, round_bf16),
        )
    }

    /// Orders `[in, out]` that lies in a larger matrix.
    pub(crate) fn from_columns(values: Block<'_>, [inputs, outputs]: [usize; 2]) -> Self {
        let depth = inputs.div_ceil(2).next_multiple_of(amx::GROUPS);
        simd::dispatch(
            #[inline(always)]
            || Self::ordered_columns(values, [inputs, outputs], depth, round_bf16),
        )
    }
}

impl Part<'_, u16, 2> {
    /// Rows of [`Panels::stride`](super::Panels::stride) numbers -> all of `y`.
    ///
    /// # Panics
    /// On a processor that does not support it.
    #[allow(unsafe_code)]
    pub(crate) fn multiply(self, rows: &[u16], mut y: Output<'_>, finish: &impl Finish<Sum = f32>) {
        assert!(Bf16Panels::supported());
        // SAFETY: the processor has what the function is compiled for.
        unsafe { amx::multiply_bf16(&self, rows, &mut y, finish) }
    }
}

/// The bits of the nearest bf16 of each value, the even one of two that are as near; NaN stays NaN, and what f32 has no full
/// precision for becomes zero.
///
/// # Panics
/// On a processor that does not support it; for places of another number.
#[allow(unsafe_code)]
pub(crate) fn round_bf16(values: &[f32], bits: &mut [u16]) {
    assert!(Bf16Panels::supported() && values.len() == bits.len());
    // SAFETY: the processor has what the function is compiled for.
    unsafe { round(values, bits) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn round(values: &[f32], bits: &mut [u16]) {
    let ((vectors, rest), (places, last)) = (values.as_chunks(), bits.as_chunks_mut());
    vectors.iter().zip(places).for_each(|(values, bits)| round_vector(values, bits));
    if !rest.is_empty() {
        let (mut values, mut bits) = ([0.0; 16], [0; 16]);
        values[..rest.len()].copy_from_slice(rest);
        round_vector(&values, &mut bits);
        last.copy_from_slice(&bits[..rest.len()]);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
#[inline]
#[allow(unsafe_code)]
fn round_vector(values: &[f32; 16], bits: &mut [u16; 16]) {
    // SAFETY: both have the size of a vector, and neither the load nor the write needs alignment.
    unsafe {
        let rounded = _mm512_cvtneps_pbh(_mm512_loadu_ps(values.as_ptr()));
        bits.as_mut_ptr().cast::<__m256bh>().write_unaligned(rounded);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_is_taken() {
        if !Bf16Panels::supported() {
            return;
        }
        // One, halfway to the next and beyond, which f32 has 16 bits more for.
        let halfway = [0x3f80_0000, 0x3f80_7fff, 0x3f80_8000, 0x3f80_8001, 0x3f81_8000].map(f32::from_bits);
        let others = [0.0, -2.5, f32::INFINITY, f32::MAX, 1e-40];
        let values: Vec<f32> = [halfway, others].concat().into_iter().cycle().take(25).collect();
        let mut bits = vec![0; values.len()];
        round_bf16(&values, &mut bits);
        let expected =
            [0x3f80, 0x3f80, 0x3f80, 0x3f81, 0x3f82, 0, 0xc020, 0x7f80, 0x7f80, 0].into_iter().cycle();
        assert_eq!(bits, expected.take(25).collect::<Vec<u16>>());
        round_bf16(&[f32::NAN], &mut bits[..1]);
        assert!(f32::from_bits(u32::from(bits[0]) << 16).is_nan());
    }
}
