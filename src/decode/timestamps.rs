//! Token times from CIF weights (`ts_prediction_lfr6_standard` in `funasr/utils/timestamp_tools.py`).
//!
//! A CIF fire marks where a token starts, so token i lasts from fire i to fire i+1 and n tokens need n+1 fires.
//! FunASR's plain Paraformer passes weights and fires in swapped order; here they are in the intended one.

/// A fire is where the integrated weight reaches this; FunASR compares in f32.
pub const FIRE_THRESHOLD: f32 = 1.0 - 1e-4;
/// A fire is seen this many frames after the token began.
const FIRE_SHIFT: f64 = -1.5;
/// Longest token, in frames; what is longer ends in silence.
const MAX_TOKEN_FRAMES: f64 = 12.0;
/// From this many frames after the last fire on, half of the rest is silence.
const END_SILENCE_FRAMES: f64 = 5.0;

/// What the CIF predictor says about one utterance, one value per (upsampled) encoder frame.
#[derive(Debug, Clone, Copy)]
pub struct CifTrack<'a> {
    /// Weight of each frame.
    pub alphas: &'a [f32],
    /// Integrated weight of each frame; at least 0.9999 where a token fires.
    pub peaks: &'a [f32],
    /// Frames per encoder frame of 60 ms: 1 for the plain predictor, 3 for the timestamp head.
    pub upsample_rate: u32,
}

/// Integrates `alphas` and returns the running weight of each frame; where it reaches `threshold` the frame fires and
/// `threshold` is taken off. In f32 in the order of the frames, as FunASR does.
pub fn cif_wo_hidden(alphas: &[f32], threshold: f32) -> Vec<f32> {
    let mut integrate = 0.0f32;
    let weigh = |&alpha: &f32| {
        integrate += alpha;
        let fire = integrate;
        if fire >= threshold {
            integrate -= threshold;
        }
        fire
    };
    alphas.iter().map(weigh).collect()
}

/// The peaks that go with the weights of a timestamp head (FunASR's `CifPredictorV3.get_upsample_timestamp`).
pub fn us_peaks(us_alphas: &[f32]) -> Vec<f32> {
    cif_wo_hidden(us_alphas, FIRE_THRESHOLD)
}

/// `[start, end]` in ms of `count` tokens (a trailing `</s>` is not counted), `offset_ms` added before the truncation
/// to whole milliseconds; number for number what FunASR computes in f64, including a start of as little as -30 ms (-90 ms
/// at rate 1) for a token that fires on the first frame.
///
/// Always `count` spans. Where FunASR has too few fires even after rescaling the weights it returns fewer or raises;
/// here the missing ones are spread evenly between the last fire and the end of the frames, and too many are cut.
pub fn ts_prediction_lfr6_standard(track: CifTrack, count: usize, offset_ms: f64) -> Vec<[i64; 2]> {
    if count == 0 {
        return Vec::new();
    }
    let fires = fires(track, count + 1);
    let seconds_per_frame = 10.0 * 6.0 / 1000.0 / f64::from(track.upsample_rate.max(1));
    // The order of the operations decides which millisecond the truncation gives.
    let to_ms = |frame: f64| ((frame * seconds_per_frame + offset_ms / 1000.0) * 1000.0) as i64;
    let mut spans: Vec<[f64; 2]> = fires.windows(2).map(|pair| token_frames(pair[0], pair[1])).collect();
    if let (Some(span), Some(&last_fire)) = (spans.last_mut(), fires.last()) {
        // A last token that was cut at its longest is followed by silence already.
        if last_fire - span[0] <= MAX_TOKEN_FRAMES {
            span[1] = end_frame(track.peaks.len() as f64, last_fire);
        }
    }
    spans.into_iter().map(|span| span.map(to_ms)).collect()
}

/// `[start, end]` in ms from the start of the utterance for the tokens at these decoder `positions` (ascending), ordered
/// and never before 0, which is where FunASR's negative first start is put.
///
/// Fires are matched to decoder positions, not to the tokens left after special ones were dropped, so a dropped one in
/// the middle does not move its neighbours.
pub fn token_spans(track: CifTrack, positions: &[usize]) -> Vec<[u64; 2]> {
    let slots = positions.iter().max().map_or(0, |last| last + 1);
    let spans = ts_prediction_lfr6_standard(track, slots, 0.0);
    let clamp = |span: &[i64; 2]| span.map(|ms| ms.max(0).unsigned_abs());
    positions.iter().filter_map(|&position| spans.get(position).map(clamp)).collect()
}

/// Exactly `wanted` token starts in frames, ascending.
fn fires(track: CifTrack, wanted: usize) -> Vec<f64> {
    let found = fire_frames(track.peaks);
    if found.len() == wanted {
        return found;
    }
    let sum = track.alphas.iter().map(|&alpha| f64::from(alpha)).sum::<f64>() as f32;
    let scale = sum / wanted as f32;
    let rescaled: Vec<f32> = track.alphas.iter().map(|alpha| alpha / scale).collect();
    complete(fire_frames(&cif_wo_hidden(&rescaled, FIRE_THRESHOLD)), wanted, track.peaks.len() as f64)
}

fn fire_frames(peaks: &[f32]) -> Vec<f64> {
    let fired = |(frame, &peak): (usize, &f32)| (peak >= FIRE_THRESHOLD).then_some(frame as f64 + FIRE_SHIFT);
    peaks.iter().enumerate().filter_map(fired).collect()
}

/// Cuts or extends `fires` to `wanted` entries, the new ones evenly up to the last of `frames`.
fn complete(mut fires: Vec<f64>, wanted: usize, frames: f64) -> Vec<f64> {
    fires.truncate(wanted);
    if fires.is_empty() {
        fires.push(0.0);
    }
    let missing = wanted.saturating_sub(fires.len());
    let from = fires[fires.len() - 1];
    let step = (frames - from) / missing as f64;
    fires.extend((1..=missing).map(|k| from + step * k as f64));
    fires
}

fn token_frames(fire: f64, next: f64) -> [f64; 2] {
    let end = if next - fire <= MAX_TOKEN_FRAMES { next } else { fire + MAX_TOKEN_FRAMES };
    [fire, end]
}

/// Where the last token ends: at the last frame, or halfway there if silence follows.
fn end_frame(frames: f64, last_fire: f64) -> f64 {
    if frames - last_fire > END_SILENCE_FRAMES { (frames + last_fire) * 0.5 } else { frames }
}

/// `[start, end]` in ms from the start of a stream for the tokens of one chunk, which fired at these frames
/// (ascending, counted from the start; negative in the silence before it). A token lasts until the next one
/// fires. For the last one that is not known yet: it lasts until `decided`, the first frame that can fire in
/// the next chunk, or the end of the stream if the chunk is the `last`.
pub fn stream_spans(fires: &[i64], decided: i64, last: bool, frame_ms: u32) -> Vec<[u64; 2]> {
    let frames: Vec<f64> = fires.iter().map(|&fire| fire as f64 + FIRE_SHIFT).collect();
    let end = if last { decided as f64 } else { decided as f64 + FIRE_SHIFT };
    let to_ms = |frame: f64| (frame.max(0.0) * f64::from(frame_ms)) as u64;
    let span = |(i, &fire): (usize, &f64)| {
        let next = frames.get(i + 1).copied().unwrap_or(end.max(fire));
        token_frames(fire, next).map(to_ms)
    };
    frames.iter().enumerate().map(span).collect()
}
