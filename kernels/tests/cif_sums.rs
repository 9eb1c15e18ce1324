use candle_core::Tensor;
use funasr_kernels::{CifSums, Firing};

use crate::{ROUNDS, Random, assert_close, assert_refused, tensor, values};

/// Alphas and fires of one item, as integrate-and-fire finds them.
pub struct Track {
    alphas: Vec<f32>,
    fires: Vec<(usize, f32)>,
}

impl Track {
    /// Of `frames` random frames, with a tail behind them.
    pub fn random(random: &mut Random, frames: usize) -> Self {
        let mut alphas: Vec<f32> = (0..frames).map(|_| random.within(0, 90) as f32 / 100.0).collect();
        alphas.push(0.45);
        let (mut sum, mut fires) = (0f32, Vec::new());
        for (frame, alpha) in alphas.iter().enumerate() {
            sum += alpha;
            if sum >= 1.0 {
                sum -= 1.0;
                fires.push((frame, sum));
            }
        }
        Self { alphas, fires }
    }

    pub fn firing(&self) -> Firing<'_> {
        Firing { alphas: &self.alphas, fires: &self.fires }
    }
}

/// Most tokens of an item.
pub fn most(items: &[Firing]) -> usize {
    items.iter().map(|item| item.fires.len()).max().unwrap_or(0)
}

/// The definition in words: frame by frame into a sum, which fires and keeps the rest.
fn by_frames(x: &Tensor, items: &[Firing], tokens: usize) -> Vec<f32> {
    let (batch, frames, width) = x.dims3().unwrap();
    let x = values(x);
    let mut y = vec![0.0; batch * tokens * width];
    for (b, item) in items.iter().enumerate() {
        let mut token = 0;
        for (t, alpha) in item.alphas.iter().enumerate() {
            let Some(&(fire, rest)) = item.fires.get(token) else { break };
            let parts = if t == fire { [alpha - rest, rest] } else { [*alpha, 0.0] };
            for (d, part) in (0..width).flat_map(|d| parts.iter().enumerate().map(move |p| (d, p))) {
                let (next, part) = part;
                if t < frames && token + next < item.fires.len() {
                    y[(b * tokens + token + next) * width + d] += part * x[(b * frames + t) * width + d];
                }
            }
            token += usize::from(t == fire);
        }
    }
    y
}

#[test]
fn by_hand() {
    // The second frame gives 0.4 to the first token and 0.2 to the second, the tail is zero.
    let x = tensor(&[1., 10., 100.], &[1, 3, 1]);
    let items = [Firing { alphas: &[0.6, 0.6, 0.5, 0.3], fires: &[(1, 0.2), (3, 0.0)] }];
    let y = CifSums { items: &items, tokens: 3 }.forward(&x).unwrap();
    assert_close("sums", &y, &tensor(&[4.6, 52., 0.], &[1, 3, 1]));
}

#[test]
fn reference_is_what_frames_add_up_to() {
    for round in 0..ROUNDS {
        let mut random = Random(round);
        let [batch, frames, width] = [random.within(1, 4), random.within(1, 50), random.within(1, 20)];
        let x = random.rows(batch, frames, width);
        let mut tracks: Vec<Track> = (0..batch)
            .map(|_| {
                let own = random.within(0, frames);
                Track::random(&mut random, own)
            })
            .collect();
        // Fewer tokens than fired, as where FunASR counts them otherwise.
        if random.flag() {
            tracks[0].fires.pop();
        }
        let items: Vec<Firing> = tracks.iter().map(Track::firing).collect();
        let tokens = most(&items) + random.within(0, 2);
        let y = CifSums { items: &items, tokens }.forward(&x).unwrap();
        let expected = by_frames(&x, &items, tokens);
        assert_close(&format!("round {round}"), &y, &tensor(&expected, &[batch, tokens, width]));
    }
}

#[test]
fn misfits_name_op_and_shapes() {
    let x = tensor(&[1.0; 6], &[1, 3, 2]);
    let item = Firing { alphas: &[1.0, 1.0, 1.0], fires: &[(0, 0.0), (1, 0.0)] };
    let parts = ["cif-sums", "[1, 3, 2]"];
    assert_refused(CifSums { items: &[item, item], tokens: 2 }.forward(&x), &parts);
    assert_refused(CifSums { items: &[item], tokens: 1 }.forward(&x), &parts);
    let behind = Firing { fires: &[(3, 0.0)], ..item };
    assert_refused(CifSums { items: &[behind], tokens: 1 }.forward(&x), &parts);
    let twice = Firing { fires: &[(1, 0.0), (1, 0.0)], ..item };
    assert_refused(CifSums { items: &[twice], tokens: 2 }.forward(&x), &parts);
}
