//! Multi-head scaled dot-product attention over padded keys.
//!
//! `y = softmax(Q K^T / sqrt(D / H)) V` per head; padded keys, and keys that a query may not see, have weight 0, and
//! padded queries give 0. The fast version never looks at padding and holds the scores of some queries at a time; on
//! x86 processors it lays out keys and values as weights are, on others it reads the heads in place.

use std::ops::Range;
use std::sync::Arc;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp3, D, Device, Layout, Result, Shape, Tensor, bail};
use candle_nn::ops::softmax;
use gemm::Parallelism;
use rayon::prelude::*;

#[cfg(feature = "cuda")]
use crate::cuda;
use crate::output::{self, Output};
#[cfg(target_arch = "x86_64")]
use crate::panels::{self, Bf16Panels, Finish, FloatPanels, round_bf16};
#[cfg(target_arch = "x86_64")]
use crate::room::lines;
use crate::softmax::exp_row;
use crate::{Lengths, cpu, simd};

/// Queries that one task takes. Each task lays out keys and values of its head anew, which few queries would not repay.
const QUERIES: usize = 512;
/// Queries whose scores stay in a core's cache from one product to the next.
#[cfg(target_arch = "x86_64")]
const SCORED: usize = 24;
/// The same where the matrix unit takes them: as many rows as it takes at a time.
#[cfg(target_arch = "x86_64")]
const BF16_SCORED: usize = 32;

/// Which keys a query sees: the first ones, up to a number that depends on its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Visible {
    /// Every valid key.
    All,
    /// Those up to its own place.
    Past,
    /// For each item an index p: queries before p - 1 see the p keys before it, the others and those of p = 0 all.
    Split(Arc<[usize]>),
}

impl Visible {
    /// How many of `keys` valid keys query `row` of item `b` sees.
    fn count(&self, b: usize, row: usize, keys: usize) -> usize {
        match self {
            Self::All => keys,
            Self::Past => keys.min(row + 1),
            Self::Split(indexes) if row + 1 < indexes[b] => keys.min(indexes[b]),
            Self::Split(_) => keys,
        }
    }
}

/// Attention of one layer, for one batch.
#[derive(Debug, Clone)]
pub struct Attention {
    /// Number of heads H; D is a multiple of it.
    pub heads: usize,
    /// Valid frames of the queries.
    pub queries: Lengths,
    /// Valid frames of keys and values.
    pub keys: Lengths,
    /// Which of them a query sees.
    pub visible: Visible,
    /// Whether factors of products may be rounded to bf16 on a CPU that multiplies those faster: for queries, keys and values out
    /// of layers in 8 bits, which have rounded more.
    pub bf16: bool,
}

impl Attention {
    /// `q [B, Tq, D]`, `k` and `v` `[B, Tk, D]` -> `[B, Tq, D]`.
    pub fn forward(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        self.queries.check("attention", q)?;
        self.keys.check("attention", k)?;
        self.keys.check("attention", v)?;
        if self.heads == 0 || !q.dim(2)?.is_multiple_of(self.heads) {
            bail!("attention: a width of {} cannot be split into {} heads", q.dim(2)?, self.heads);
        }
        if let Visible::Split(indexes) = &self.visible
            && indexes.len() != self.keys.batch()
        {
            bail!("attention: {} split indexes for {} items", indexes.len(), self.keys.batch());
        }
        if !cpu::is_fast(q) {
            return self.reference(q, k, v);
        }
        q.apply_op3_no_bwd(k, v, self)
    }

    /// The definition, in plain candle operations.
    pub fn reference(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let (batch, time, width) = q.dims3()?;
        let split = |x: &Tensor| -> Result<Tensor> {
            x.reshape((batch, x.dim(1)?, self.heads, width / self.heads))?.transpose(1, 2)?.contiguous()
        };
        let scale = ((width / self.heads) as f64).powf(-0.5);
        let scores = (split(q)? * scale)?.matmul(&split(k)?.t()?)?;
        let mask = self.mask()?.to_device(q.device())?.to_dtype(q.dtype())?;
        // Finite, so that an item without any valid key gives 0 below and not NaN.
        let penalty = ((1.0 - &mask)? * -1e4)?;
        let weights = softmax(&scores.broadcast_add(&penalty)?, D::Minus1)?.broadcast_mul(&mask)?;
        let y = weights.matmul(&split(v)?)?.transpose(1, 2)?.reshape((batch, time, width))?;
        y.broadcast_mul(&self.queries.mask(q.dtype(), q.device())?.unsqueeze(2)?)
    }

    /// Writes the result of some queries of one head of one item, of which `first` is the first, to `y [rows, D / H]`; a query sees
    /// the first `seen(row)` keys.
    fn attend(
        &self,
        [q, k, v]: [cpu::Block<'_>; 3],
        first: usize,
        y: Output<'_>,
        seen: impl Fn(usize) -> usize,
    ) {
        let keys = (first..first + y.rows()).map(&seen).max().unwrap_or(0);
        if keys == 0 {
            return y.fill(0.0);
        }
        #[cfg(target_arch = "x86_64")]
        if self.bf16 && Bf16Panels::supported() {
            return attend_in_bf16([q, k, v], keys, first, y, seen);
        }
        let weigh = |rows, scores: &mut [f32]| weigh(rows, scores, &seen);
        #[cfg(target_arch = "x86_64")]
        if panels::supported() {
            return attend_in_panels([q, k, v], keys, first, y, weigh);
        }
        attend_by_gemm([q, k, v], keys, first, y, weigh);
    }

    /// 1 for keys that are seen and 0 for others, `[B, 1, Tq, Tk]`; one row for all queries if they see the same.
    fn mask(&self) -> Result<Tensor> {
        let rows = if self.visible == Visible::All { 1 } else { self.queries.max() };
        let mut mask = Vec::with_capacity(self.keys.batch() * rows * self.keys.max());
        for (b, &keys) in self.keys.items().iter().enumerate() {
            for row in 0..rows {
                let count = self.visible.count(b, row, keys);
                mask.extend((0..self.keys.max()).map(|key| f32::from(key < count)));
            }
        }
        Tensor::from_vec(mask, (self.keys.batch(), 1, rows, self.keys.max()), &Device::Cpu)
    }
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let q = cpu::Rows::new("attention", q, q_layout)?;
        let k = cpu::Rows::new("attention", k, k_layout)?;
        let v = cpu::Rows::new("attention", v, v_layout)?;
        if k.width != q.width || v.width != q.width {
            bail!("attention: queries {:?}, keys {:?}, values {:?}", q_layout, k_layout, v_layout);
        }
        let width = q.width / self.heads;
        // Heads are independent, and so are queries.
        let mut y = Vec::new();
        output::append(&mut y, [q.batch * q.time, q.width], |y| {
            let mut tasks = Vec::new();
            for (b, y) in y.in_rows(q.time).enumerate() {
                for (head, y) in y.in_columns(width).enumerate() {
                    for (part, y) in y.in_rows(QUERIES).enumerate() {
                        tasks.push((b, head * width, part * QUERIES, y));
                    }
                }
            }
            tasks.into_par_iter().for_each(|(b, column, first, y)| {
                let valid = self.queries.items()[b].saturating_sub(first).min(y.rows());
                let [y, padding] = y.split_rows(valid);
                let seen = |row| self.visible.count(b, row, self.keys.items()[b]);
                self.attend([q, k, v].map(|x| head(x, b, column)), first, y, seen);
                padding.fill(0.0);
            });
        });
        Ok((CpuStorage::F32(y), Shape::from((q.batch, q.time, q.width))))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        q: &CudaStorage,
        q_layout: &Layout,
        k: &CudaStorage,
        k_layout: &Layout,
        v: &CudaStorage,
        v_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        cuda::attention(self, (q, q_layout), (k, k_layout), (v, v_layout))
    }
}

fn head<'a>(rows: cpu::Rows<'a>, b: usize, column: usize) -> cpu::Block<'a> {
    let (values, stride) = rows.item(b);
    (values.get(column..).unwrap_or(&[]), stride)
}

/// Makes weights of the scores of some queries, each of which sees the first `seen(row)` columns.
fn weigh(rows: Range<usize>, scores: &mut [f32], seen: impl Fn(usize) -> usize) {
    let columns = scores.len() / rows.len();
    simd::dispatch(
        #[inline(always)]
        || {
            for (row, scores) in rows.zip(scores.chunks_exact_mut(columns)) {
                let seen = seen(row);
                let scale = 1.0 / exp_row(scores, seen);
                scores[..seen].iter_mut().for_each(|v| *v *= scale);
            }
        },
    );
}

/// Keys and values are laid out as weights of linear layers are, and few queries at a time go through both products: the scores
/// stay in the cache. There are columns behind those of the keys.
#[cfg(target_arch = "x86_64")]
fn attend_in_panels(
    [q, k, v]: [cpu::Block<'_>; 3],
    keys: usize,
    first: usize,
    y: Output<'_>,
    weigh: impl Fn(Range<usize>, &mut [f32]),
) {
    let width = y.columns();
    let k = FloatPanels::from_rows(k, [keys, width]);
    let v = FloatPanels::from_columns(v, [keys, width], k.outputs());
    let scale = Times((width as f32).powf(-0.5));
    let (mut queries, mut scores) = (Vec::new(), Vec::new());
    for (first, y) in (first..).step_by(SCORED).zip(y.in_rows(SCORED)) {
        let rows = first..first + y.rows();
        queries.clear();
        rows.clone().for_each(|row| queries.extend_from_slice(&q.0[row * q.1..][..width]));
        scores.clear();
        output::append(&mut scores, [rows.len(), k.outputs()], |y| k.all().multiply(&queries, y, &scale));
        weigh(rows, &mut scores);
        v.all().multiply(&scores, y, &Times(1.0));
    }
}

/// The same in bf16. Weights are divided by their sum after the second product.
#[cfg(target_arch = "x86_64")]
fn attend_in_bf16(
    [q, k, v]: [cpu::Block<'_>; 3],
    keys: usize,
    first: usize,
    y: Output<'_>,
    seen: impl Fn(usize) -> usize,
) {
    let width = y.columns();
    let (k, v) = (Bf16Panels::from_rows(k, [keys, width]), Bf16Panels::from_columns(v, [keys, width]));
    let scale = Times((width as f32).powf(-0.5));
    // Zeros behind each row stay.
    let [mut queries, mut weights] = [&k, &v].map(|panels| lines(0, BF16_SCORED * panels.stride()));
    let (mut scores, mut sums) = (Vec::new(), [0.0; BF16_SCORED]);
    for (first, y) in (first..).step_by(BF16_SCORED).zip(y.in_rows(BF16_SCORED)) {
        let rows = first..first + y.rows();
        for (row, queries) in rows.clone().zip(queries.chunks_exact_mut(k.stride())) {
            round_bf16(&q.0[row * q.1..][..width], &mut queries[..width]);
        }
        scores.clear();
        let queries = &queries[..rows.len() * k.stride()];
        output::append(&mut scores, [rows.len(), k.outputs()], |y| k.all().multiply(queries, y, &scale));
        simd::dispatch(
            #[inline(always)]
            || {
                let scores = scores.chunks_exact_mut(k.outputs());
                let places = weights.chunks_exact_mut(v.stride()).zip(&mut sums);
                for ((row, scores), (weights, sum)) in rows.clone().zip(scores).zip(places) {
                    *sum = exp_row(scores, seen(row));
                    round_bf16(scores, &mut weights[..scores.len()]);
                }
            },
        );
        v.all().multiply(&weights[..rows.len() * v.stride()], y, &Divided(&sums));
    }
}

/// Sums times a number.
#[cfg(target_arch = "x86_64")]
struct Times(f32);

#[cfg(target_arch = "x86_64")]
impl Finish for Times {
    type Sum = f32;

    #[inline(always)]
    fn finish<const N: usize>(&self, sums: &[[f32; N]], _: [usize; 2], mut put: impl FnMut(usize, [f32; N])) {
        for (row, sums) in sums.iter().enumerate() {
            put(row, times(*sums, self.0));
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn times<const N: usize>(mut values: [f32; N], by: f32) -> [f32; N] {
    values.iter_mut().for_each(|value| *value *= by);
    values
}

/// Sums divided by a number for each row; zero where that is.
#[cfg(target_arch = "x86_64")]
struct Divided<'a>(&'a [f32]);

#[cfg(target_arch = "x86_64")]
impl Finish for Divided<'_> {
    type Sum = f32;

    #[inline(always)]
    fn finish<const N: usize>(
        &self,
        sums: &[[f32; N]],
        [row, _]: [usize; 2],
        mut put: impl FnMut(usize, [f32; N]),
    ) {
        for (row, (sums, &by)) in sums.iter().zip(&self.0[row..]).enumerate() {
            let scale = if by == 0.0 { 0.0 } else { 1.0 / by };
            put(row, times(*sums, scale));
        }
    }
}

/// The same with the products of another library, all queries at once.
fn attend_by_gemm(
    [q, k, v]: [cpu::Block<'_>; 3],
    keys: usize,
    first: usize,
    y: Output<'_>,
    weigh: impl Fn(Range<usize>, &mut [f32]),
) {
    let (rows, width) = (y.rows(), y.columns());
    let q = (&q.0[first * q.1..], q.1);
    let mut scores = Vec::new();
    output::append(&mut scores, [rows, keys], |y| {
        product(y, width, q, (k.0, 1, k.1), (width as f32).powf(-0.5))
    });
    weigh(first..first + rows, &mut scores);
    product(y, keys, (&scores, keys), (v.0, v.1, 1), 1.0);
}

/// `y [m, n] = scale * a [m, k] * b [k, n]`; `b` comes with its row and column strides.
#[allow(unsafe_code)]
fn product(mut y: Output<'_>, k: usize, a: cpu::Block<'_>, b: (&[f32], usize, usize), scale: f32) {
    let [m, n] = [y.rows(), y.columns()];
    assert!(a.0.len() > (m - 1) * a.1 + k - 1 && b.0.len() > (k - 1) * b.1 + (n - 1) * b.2);
    // SAFETY: the last element that each size and stride passed here addresses was asserted to exist, and those of `y` are its own.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            y.as_mut_ptr(),
            1,
            y.stride() as isize,
            false,
            a.0.as_ptr(),
            1,
            a.1 as isize,
            b.0.as_ptr(),
            b.2 as isize,
            b.1 as isize,
            0.0,
            scale,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    /// A processor takes one of them; the tests of the op would pass over the others.
    #[test]
    fn all_ways_find_the_same() {
        if !panels::supported() {
            return;
        }
        for (queries, keys, width) in [(1, 1, 1), (7, 50, 16), (24, 16, 20), (25, 33, 3), (70, 100, 32)] {
            let stride = width + 3;
            let values = |rows: usize, seed: usize| -> Vec<f32> {
                (0..rows * stride).map(|i| ((i * 7919 + seed) % 1013) as f32 / 500.0 - 1.0).collect()
            };
            let [q, k, v] = [values(queries, 1), values(keys, 2), values(keys, 3)];
            let blocks = [&q, &k, &v].map(|x| (x.as_slice(), stride));
            let seen = |row: usize| keys.min(row + 1);
            let weigh = |rows, scores: &mut [f32]| weigh(rows, scores, seen);
            let first = 1.min(queries - 1);
            let attended = |attend: &dyn Fn(Output<'_>)| {
                let mut y = Vec::new();
                output::append(&mut y, [queries - first, width], attend);
                y
            };
            let panels = attended(&|y| attend_in_panels(blocks, keys, first, y, weigh));
            let gemm = attended(&|y| attend_by_gemm(blocks, keys, first, y, weigh));
            for (a, b) in panels.iter().zip(&gemm) {
                assert!((a - b).abs() < 1e-5, "{queries} queries, {keys} keys, {width} wide: {a} and {b}");
            }
            if Bf16Panels::supported() {
                let rounded = attended(&|y| attend_in_bf16(blocks, keys, first, y, seen));
                // bf16 has 8 bits: a value is off by up to 2^-9 of it, a score by some of these.
                for (a, b) in rounded.iter().zip(&gemm) {
                    assert!(
                        (a - b).abs() < 1e-2,
                        "{queries} queries, {keys} keys, {width} wide: {a} and {b}"
                    );
                }
            }
        }
    }
}
