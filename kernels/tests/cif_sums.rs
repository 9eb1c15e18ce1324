use candle_core::Tensor;
use funasr_kernels::{Cif, CifSums, Fired, Integration};

use crate::{ROUNDS, Random, assert_close, assert_refused, tensor, values};

/// The track of `frames` random frames, with a tail behind them or without.
pub fn random_track(random: &mut Random, frames: usize) -> Cif {
    let mut alphas: Vec<f32> = (0..frames).map(|_| random.within(0, 90) as f32 / 100.0).collect();
    let tail = random.flag();
    alphas.extend(tail.then_some(0.45));
    Integration::Stepwise.track(alphas, tail)
}

/// Most tokens of an item.
pub fn most(fired: &Fired) -> usize {
    fired.tracks().iter().map(|track| track.fires.len()).max().unwrap_or(0)
}

/// The definition in words: frame by frame into a sum, which fires and keeps the rest.
fn by_frames(x: &Tensor, tracks: &[Cif], tokens: usize) -> Vec<f32> {
    let (batch, frames, width) = x.dims3().unwrap();
    let x = values(x);
    let mut y = vec![0.0; batch * tokens * width];
    for (b, track) in tracks.iter().enumerate() {
        let (mut token, fires) = (0, &track.fires[..track.fires.len().min(track.token_num)]);
        for (t, alpha) in track.alphas.iter().enumerate() {
            let Some(&(fire, rest)) = fires.get(token) else { break };
            let parts = if t == fire { [alpha - rest, rest] } else { [*alpha, 0.0] };
            for (d, part) in (0..width).flat_map(|d| parts.iter().enumerate().map(move |p| (d, p))) {
                let (next, part) = part;
                if t < track.frames && token + next < fires.len() {
                    y[(b * tokens + token + next) * width + d] += part * x[(b * frames + t) * width + d];
                }
            }
            token += usize::from(t == fire);
        }
    }
    y
}

/// Three frames of an item and a tail, with 2 tokens in them.
fn track() -> Cif {
    let fires = vec![(1, 0.2), (3, 0.0)];
    Cif { token_num: 2, alphas: vec![0.6, 0.6, 0.5, 0.3], peaks: vec![0.6, 1.2, 0.7, 1.0], fires, frames: 3 }
}

fn sums(tracks: Vec<Cif>, tokens: usize, x: &Tensor) -> candle_core::Result<Tensor> {
    CifSums { fired: &Fired::new(tracks), tokens }.forward(x)
}

#[test]
fn by_hand() {
    // The second frame gives 0.4 to the first token and 0.2 to the second, the tail is zero, and so is what lies behind the last frame.
    let x = tensor(&[1., 10., 100., 1000.], &[1, 4, 1]);
    let y = sums(vec![track()], 3, &x).unwrap();
    assert_close("sums", &y, &tensor(&[4.6, 52., 0.], &[1, 3, 1]));
    let y = sums(vec![track()], 3, &x.narrow(1, 0, 3).unwrap()).unwrap();
    assert_close("no padding", &y, &tensor(&[4.6, 52., 0.], &[1, 3, 1]));
}

#[test]
fn reference_is_what_frames_add_up_to() {
    for round in 0..ROUNDS {
        let mut random = Random(round);
        let [batch, frames, width] = [random.within(1, 4), random.within(1, 50), random.within(1, 20)];
        let x = random.rows(batch, frames, width);
        let mut track = |_| {
            let own = random.within(0, frames);
            random_track(&mut random, own)
        };
        let mut tracks: Vec<Cif> = (0..batch).map(&mut track).collect();
        // Fewer tokens than fired, as where FunASR counts them otherwise.
        tracks[0].token_num = tracks[0].token_num.saturating_sub(1);
        let fired = Fired::new(tracks);
        let tokens = most(&fired) + random.within(0, 2);
        let y = CifSums { fired: &fired, tokens }.forward(&x).unwrap();
        let expected = by_frames(&x, fired.tracks(), tokens);
        assert_close(&format!("round {round}"), &y, &tensor(&expected, &[batch, tokens, width]));
    }
}

#[test]
fn misfits_name_op_and_shapes() {
    let x = tensor(&[1.0; 6], &[1, 3, 2]);
    let parts = ["cif-sums", "[1, 3, 2]"];
    assert_refused(sums(vec![track(), track()], 2, &x), &parts);
    assert_refused(sums(vec![track()], 1, &x), &parts);
    assert_refused(sums(vec![Cif { fires: vec![(4, 0.0)], ..track() }], 2, &x), &parts);
    assert_refused(sums(vec![Cif { fires: vec![(1, 0.0), (1, 0.0)], ..track() }], 2, &x), &parts);
    assert_refused(sums(vec![Cif { frames: 4, ..track() }], 2, &x), &parts);
    assert_refused(sums(vec![Cif { frames: 2, ..track() }], 2, &x), &parts);
}
