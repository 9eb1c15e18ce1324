//! Tensor operations of funasr-candle.
//!
//! One op is one struct in one file. Each has a `reference` written in plain candle operations, which is its
//! definition, the oracle of its tests and what devices without a fast version run, and a `forward` that takes
//! the fast version where there is one (f32 on the CPU; f32, f16 and bf16 on NVIDIA GPUs, with the feature `cuda`) and the
//! reference otherwise.
//!
//! Shape letters: B batch, T time, D model width, H heads, K kernel taps.

mod attention;
mod best;
mod cif_fire;
mod cif_sums;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod fsmn_memory;
mod join_rows;
mod layer_norm;
mod lengths;
mod lfr_cmvn;
mod linear;
mod linear_int8;
mod lstm;
mod output;
#[cfg(target_arch = "x86_64")]
mod panels;
mod room;
mod simd;
mod softmax;
mod threads;
mod unfold;

#[cfg(feature = "cuda")]
pub use cuda::{Uploads, launches, memory_in_use, open_cuda, peak_memory};

pub use attention::{Attention, Visible};
pub use best::Best;
pub use cif_fire::{Cif, CifFire, Fired, Integration, alpha};
pub use cif_sums::CifSums;
pub use cpu::take_references;
pub use fsmn_memory::FsmnMemory;
pub use join_rows::{Join, JoinRows};
pub use layer_norm::LayerNorm;
pub use lengths::Lengths;
pub use lfr_cmvn::LfrCmvn;
pub use linear::{Activation, FloatWeight, Linear, Norm, multiplies_bf16};
pub use linear_int8::{Int8Weight, LinearInt8, Rounded};
pub use lstm::{Lstm, StateWeight};
pub use softmax::Softmax;
pub use threads::{on_pool, set_threads};
pub use unfold::Unfold;
