//! Loops compiled for the widest vectors of the processor they run on.

use std::hint::black_box;

/// Numbers of the widest vector.
const LANES: usize = 16;

/// Runs `work` in a version for this processor. Only what is inlined into it gains: mark it `#[inline(always)]`, the closure
/// itself too.
#[inline(always)]
pub(crate) fn dispatch<R>(work: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(work)
}

/// Sum of `f(x)`. It rounds less than one running sum.
#[inline(always)]
pub(crate) fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    fold(x, 0.0, |sum, v| sum + f(v), |a, b| a + b)
}

/// The largest value, NaN passed over; minus infinity if there is none.
#[inline(always)]
pub(crate) fn max(x: &[f32]) -> f32 {
    fold(x, f32::NEG_INFINITY, larger, larger)
}

/// One instruction, which `f32::max` is not.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

/// What values add up to, in lanes that `join` brings together: as many as vectors hold, four times, since each step waits for the
/// one before of its lane.
#[inline(always)]
fn fold(x: &[f32], start: f32, add: impl Fn(f32, f32) -> f32, join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut parts = [[start; LANES]; 4];
    let (blocks, rest) = x.as_chunks::<{ 4 * LANES }>();
    for block in blocks {
        for (lanes, x) in parts.iter_mut().zip(block.as_chunks::<LANES>().0) {
            for i in 0..LANES {
                lanes[i] = add(lanes[i], x[i]);
            }
        }
    }
    // Loops, not `array::from_fn` or `map`: those are not always inlined, and then compiled for any processor.
    let mut lanes = [start; LANES];
    for i in 0..LANES {
        lanes[i] = join(join(parts[0][i], parts[1][i]), join(parts[2][i], parts[3][i]));
    }
    let (chunks, rest) = rest.as_chunks::<LANES>();
    for x in chunks {
        for i in 0..LANES {
            lanes[i] = add(lanes[i], x[i]);
        }
    }
    // The loops above stay loops over vectors: what follows is made of pairs of lanes, and would make them so, too.
    lanes = black_box(lanes);
    rest.iter().fold(across(lanes, join), |sum, &v| add(sum, v))
}

/// What the lanes come to.
#[inline(always)]
fn across(lanes: [f32; LANES], join: impl Fn(f32, f32) -> f32) -> f32 {
    let (mut eight, mut four) = ([0.0; 8], [0.0; 4]);
    for i in 0..8 {
        eight[i] = join(lanes[i], lanes[i + 8]);
    }
    for i in 0..4 {
        four[i] = join(eight[i], eight[i + 4]);
    }
    join(join(four[0], four[2]), join(four[1], four[3]))
}
