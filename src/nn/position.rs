//! Sinusoidal position code (FunASR `models/transformer/embedding.py`, `SinusoidalPositionEncoder`).
//!
//! For depth D and position p: `[sin(p e^(-i c)), cos(p e^(-i c))]`, `i = 0..D/2`, `c = ln(10000) / (D/2 - 1)`,
//! the halves one after the other. The first frame of an utterance has position 1.

use candle_core::{Result, Tensor, bail};

/// Adds the code of positions `before + 1 ..` to `x [B, T, D]`; D is even and at least 4.
pub fn add_positions(x: &Tensor, before: usize) -> Result<Tensor> {
    let (_, time, depth) = x.dims3()?;
    check(depth)?;
    let code = Tensor::from_vec(table(before, time, depth), (1, time, depth), x.device())?;
    x.broadcast_add(&code.to_dtype(x.dtype())?)
}

/// [`add_positions`] for rows `[T, D]` on the host.
pub fn add_positions_to_rows(rows: &mut [f32], depth: usize, before: usize) -> Result<()> {
    check(depth)?;
    if !rows.len().is_multiple_of(depth) {
        bail!("position code: {} values are no rows of {depth}", rows.len());
    }
    let code = table(before, rows.len() / depth, depth);
    rows.iter_mut().zip(code).for_each(|(x, code)| *x += code);
    Ok(())
}

fn check(depth: usize) -> Result<()> {
    if depth < 4 || !depth.is_multiple_of(2) {
        bail!("position code: a depth of {depth} is not even and at least 4");
    }
    Ok(())
}

/// `[time, depth]`, all in f32 as FunASR computes it.
fn table(before: usize, time: usize, depth: usize) -> Vec<f32> {
    let half = depth / 2;
    let step = (f64::ln(10000.0) / (half as f64 - 1.0)) as f32;
    let scales: Vec<f32> = (0..half).map(|i| (i as f32 * -step).exp()).collect();
    let mut code = Vec::with_capacity(time * depth);
    for position in before + 1..=before + time {
        code.extend(scales.iter().map(|scale| (position as f32 * scale).sin()));
        code.extend(scales.iter().map(|scale| (position as f32 * scale).cos()));
    }
    code
}
