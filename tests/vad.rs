//! The endpoint state machine against FunASR's own decisions on scripted scores, and its promises.

use std::collections::VecDeque;

use funasr_candle::Error;
use funasr_candle::vad::{
    EndSilence, Endpointer, Event, FILE_CHUNK_MS, VadConfig, frame_decibels, funasr_pairs,
};
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json};

const SHIFT: usize = 160;
const FRAME: usize = 400;

/// Milliseconds of audio, fixed end silence, speech, segments.
type Answer<'a> = (usize, Option<u32>, &'a [[usize; 2]], &'a [[i64; 2]]);

/// Made by `tests/golden/vad_scripted.py`, which explains the fields.
#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize, Debug)]
struct Case {
    samples: usize,
    speech_ms: Option<Vec<[usize; 2]>>,
    #[serde(default)]
    seed: u64,
    #[serde(default)]
    style: usize,
    audio_seed: Option<u64>,
    fixed_ms: Option<u32>,
    #[serde(default)]
    config: serde_json::Map<String, Value>,
    streaming: bool,
    chunk_ms: u32,
    #[serde(default)]
    empty_final: bool,
    events: Vec<(usize, Vec<[i64; 2]>)>,
}

impl Case {
    fn endpointer(&self) -> Endpointer {
        let config = serde_json::from_value(Value::Object(self.config.clone())).unwrap();
        let end_silence = match self.fixed_ms {
            Some(ms) => EndSilence::Fixed(ms),
            None => EndSilence::Dynamic { chunk_ms: self.chunk_ms },
        };
        Endpointer::new(&config, end_silence).unwrap()
    }

    fn frames(&self) -> usize {
        rows(self.samples, true)
    }

    fn scores(&self) -> Vec<f32> {
        match &self.speech_ms {
            Some(speech_ms) => interval_scores(speech_ms, self.frames()),
            None => random_scores(self.seed, self.style, self.frames()),
        }
    }

    /// Whether FunASR began a segment that it never ended.
    fn left_open(&self) -> bool {
        self.streaming
            && self.events.iter().flat_map(|(_, pairs)| pairs).next_back().is_some_and(|p| p[1] == -1)
    }

    /// FunASR's events plus the end that it owes.
    fn expected(&self) -> Vec<(usize, Vec<[i64; 2]>)> {
        let mut events = self.events.clone();
        if self.left_open() {
            let last_call = (self.samples - 1) / stride(self.chunk_ms);
            let scored = rows(self.samples, !self.empty_final);
            let end_ms = scored as i64 * 10;
            match events.last_mut() {
                Some((call, pairs)) if *call == last_call => pairs.last_mut().unwrap()[1] = end_ms,
                _ => events.push((last_call, vec![[-1, end_ms]])),
            }
        }
        events
    }

    /// What FunASR's inference driver does around the state machine, call by call.
    fn run(&self) -> Vec<(usize, Vec<[i64; 2]>)> {
        let (scores, audio, mut endpointer) = (self.scores(), self.audio(), self.endpointer());
        let calls = if self.streaming { self.samples.div_ceil(stride(self.chunk_ms)) } else { 1 };
        let (mut at, mut scored, mut results) = (0, 0, Vec::new());
        for call in 0..calls {
            let final_call = call + 1 == calls;
            let end = if self.streaming {
                self.samples.min((call + 1) * stride(self.chunk_ms))
            } else {
                self.samples
            };
            let mut result = Vec::new();
            let whole_chunks = (end - at) / stride(self.chunk_ms);
            let flush = final_call && !self.empty_final;
            for chunk in 0..whole_chunks + usize::from(flush) {
                let last = flush && chunk == whole_chunks;
                let next = if last { end } else { at + stride(self.chunk_ms) };
                let ready = rows(next, last);
                let mut events = endpointer.push(&audio[at..next], &scores[scored..ready]);
                if last {
                    events.extend(endpointer.finish());
                }
                result.extend(self.emitted(&events));
                (at, scored) = (next, ready);
            }
            if final_call && self.empty_final {
                result.extend(self.emitted(&Vec::from_iter(endpointer.finish())));
            }
            if !result.is_empty() {
                results.push((call, result));
            }
        }
        results
    }

    fn emitted(&self, events: &[Event]) -> Vec<[i64; 2]> {
        if self.streaming { funasr_pairs(events) } else { segments(events) }
    }

    fn audio(&self) -> Vec<f32> {
        let mut audio = vec![0.0; self.samples];
        let Some(seed) = self.audio_seed else { return audio };
        let (mut lcg, mut at) = (Lcg(seed), 0);
        while at < self.samples {
            let next = self.samples.min(at + SHIFT * (1 + lcg.below(60)));
            audio[at..next].fill([0.0, 1.0 / 1024.0, 1.0 / 128.0, 1.0 / 16.0, 0.5][lcg.below(5)]);
            at = next;
        }
        audio.iter_mut().skip(1).step_by(2).for_each(|x| *x = -*x);
        audio
    }
}

fn stride(chunk_ms: u32) -> usize {
    chunk_ms as usize * 16
}

/// Scores out of the front end (25 ms frames every 10 ms, LFR over 5 frames) after so many samples.
fn rows(samples: usize, flushed: bool) -> usize {
    let frames = if samples < FRAME { 0 } else { (samples - FRAME) / SHIFT + 1 };
    match frames {
        _ if flushed => frames,
        0..3 => 0,
        _ => frames - 2,
    }
}

/// Knuth's 64-bit generator; the upper 31 bits modulo n.
struct Lcg(u64);

impl Lcg {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
}

fn random_scores(seed: u64, style: usize, frames: usize) -> Vec<f32> {
    const STYLES: [[(usize, usize); 2]; 4] =
        [[(20, 400), (20, 400)], [(1, 40), (1, 40)], [(300, 4000), (10, 190)], [(5, 300), (60, 500)]];
    let (mut lcg, mut scores) = (Lcg(seed), Vec::new());
    let mut speech = lcg.below(2) == 1;
    while scores.len() < frames {
        let (low, high) = STYLES[style][usize::from(!speech)];
        let length = low + lcg.below(high - low + 1);
        let jitter = [0, 200, 900, 1700][lcg.below(4)];
        for _ in 0..length {
            let middle = if speech { 200 } else { 3896 };
            let value = (middle + lcg.below(2 * jitter + 1)).saturating_sub(jitter).clamp(1, 4095);
            scores.push(value as f32 / 4096.0);
        }
        speech = !speech;
    }
    scores.truncate(frames);
    scores
}

fn interval_scores(speech_ms: &[[usize; 2]], frames: usize) -> Vec<f32> {
    let speech = |t: usize| speech_ms.iter().any(|[beg, end]| (*beg..*end).contains(&(t * 10)));
    (0..frames).map(|t| if speech(t) { 0.05 } else { 0.95 }).collect()
}

/// FunASR's offline notation.
fn segments(events: &[Event]) -> Vec<[i64; 2]> {
    let segment = |event: &Event| match *event {
        Event::End { beg_ms, end_ms } => Some([beg_ms as i64, end_ms as i64]),
        Event::Begin { .. } => None,
    };
    events.iter().filter_map(segment).collect()
}

/// All events of a stream whose scores come in pushes of these lengths, over and over.
fn events(config: &VadConfig, end_silence: EndSilence, scores: &[f32], lengths: &[usize]) -> Vec<Event> {
    let mut endpointer = Endpointer::new(config, end_silence).unwrap();
    let (mut rest, mut all) = (scores, Vec::new());
    for length in lengths.iter().cycle() {
        let (now, later) = rest.split_at(rest.len().min(*length));
        all.extend(endpointer.push(&[], now));
        rest = later;
        if rest.is_empty() {
            break;
        }
    }
    all.extend(endpointer.finish());
    all
}

fn config(overrides: Value) -> VadConfig {
    serde_json::from_value(overrides).unwrap()
}

#[test]
fn scripted_scores_give_funasr_segments() {
    let golden: Golden = serde_json::from_str(include_str!("golden/vad_scripted.json")).unwrap();
    assert!(golden.cases.len() > 400);
    for (index, case) in golden.cases.iter().enumerate() {
        assert_eq!(case.run(), case.expected(), "case {index}: {case:?}");
    }
    // Where we mean to differ, the golden file has to hold both ways in which FunASR leaves a segment open.
    let open =
        |empty_final| golden.cases.iter().filter(|c| c.left_open() && c.empty_final == empty_final).count();
    assert!(open(true) > 0 && open(false) > 0);
    assert!(golden.cases.iter().all(|c| !c.left_open() || c.run() != c.events));
}

#[test]
fn published_answers() {
    let long = [[1000, 59_900], [60_500, 61_000], [61_200, 62_000], [63_000, 64_000]];
    let cases: [Answer; 11] = [
        (70_000, None, &long, &[[740, 60_000], [60_240, 61_100], [61_100, 62_100], [62_740, 64_100]]),
        (70_000, Some(800), &long, &[[740, 60_060], [60_340, 62_160], [62_740, 64_160]]),
        (4500, Some(800), &[[1000, 3000]], &[[740, 3160]]),
        (4500, Some(800), &[[0, 1000]], &[[0, 1160]]),
        (4500, Some(800), &[[100, 600]], &[[0, 760]]),
        (5000, Some(800), &[[500, 1500], [2260, 3000]], &[[240, 1660], [2000, 3160]]),
        (3000, Some(800), &[[0, 3000]], &[[0, 2980]]),
        (3000, Some(800), &[], &[]),
        (2000, Some(800), &[[1800, 2000]], &[[1540, 1980]]),
        (8000, None, &[[1000, 3000], [4500, 6000]], &[[740, 6160]]),
        (8000, Some(800), &[[1000, 3000], [4500, 6000]], &[[740, 3160], [4240, 6160]]),
    ];
    for (ms, fixed_ms, speech_ms, expected) in cases {
        let end_silence = fixed_ms.map_or(EndSilence::Dynamic { chunk_ms: FILE_CHUNK_MS }, EndSilence::Fixed);
        let scores = interval_scores(speech_ms, rows(ms * 16, true));
        // The first chunk of a minute lacks the four frames that the front end holds back.
        let events = events(&VadConfig::default(), end_silence, &scores, &[5996, 6000]);
        assert_eq!(segments(&events), expected, "{speech_ms:?} {end_silence:?}");
    }
}

#[test]
fn length_limit_cuts_into_touching_segments() {
    let scores = interval_scores(&[[500, 12_000]], 1500);
    let events =
        events(&config(json!({"max_single_segment_time": 5000})), EndSilence::Fixed(800), &scores, &[20]);
    assert_eq!(segments(&events), [[240, 5250], [5250, 10_260], [10_260, 12_160]]);
}

#[test]
fn speech_on_the_last_frame_is_ended_by_finish() {
    let scores = interval_scores(&[[1850, 2000]], 200);
    let mut endpointer = Endpointer::new(&VadConfig::default(), EndSilence::Fixed(800)).unwrap();
    assert_eq!(endpointer.push(&[], &scores), [Event::Begin { beg_ms: 1590 }]);
    assert_eq!(endpointer.finish(), Some(Event::End { beg_ms: 1590, end_ms: 2000 }));
    assert_eq!(endpointer.finish(), None);
    // The next stream starts at zero.
    assert_eq!(endpointer.push(&[], &[0.05; 20]), [Event::Begin { beg_ms: 0 }]);
}

#[test]
fn events_in_funasr_notation() {
    let (begin, end) = (Event::Begin { beg_ms: 30 }, Event::End { beg_ms: 30, end_ms: 90 });
    let next = Event::Begin { beg_ms: 90 };
    let cases: [(&[Event], &[[i64; 2]]); 5] = [
        (&[], &[]),
        (&[begin], &[[30, -1]]),
        (&[end], &[[-1, 90]]),
        (&[begin, end, next], &[[30, 90], [90, -1]]),
        (&[end, next], &[[-1, 90], [90, -1]]),
    ];
    for (events, pairs) in cases {
        assert_eq!(funasr_pairs(events), pairs);
    }
}

#[test]
fn levels() {
    assert!((frame_decibels(&[0.0; 400]) + 60.0).abs() < 1e-9);
    assert!((frame_decibels(&[-1.0; 400]) - 26.0206).abs() < 1e-4);
    assert!((frame_decibels(&[]) + 60.0).abs() < 1e-9);

    // Loud, quiet, loud: the quiet part is silence whatever its score.
    let mut audio = vec![0.5; 96_000];
    audio[32_000..64_000].fill(0.001);
    let scores = interval_scores(&[[0, 6000]], 598);
    let cases: [(Value, &[[i64; 2]]); 4] = [
        (json!({}), &[[0, 5980]]),
        (json!({"decibel_thres": -20.0}), &[[0, 2160], [3720, 5980]]),
        (json!({"decibel_thres": 30.0}), &[]),
        (json!({"snr_thres": 500.0}), &[]),
    ];
    for (overrides, expected) in cases {
        let mut endpointer = Endpointer::new(&config(overrides.clone()), EndSilence::Fixed(800)).unwrap();
        let mut events = endpointer.push(&audio, &scores);
        events.extend(endpointer.finish());
        assert_eq!(segments(&events), expected, "{overrides}");
    }
}

#[test]
fn broken_samples_and_scores_are_silence() {
    let broken = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX];
    let mut endpointer = Endpointer::new(&config(json!({"snr_thres": 3.0})), EndSilence::Fixed(800)).unwrap();
    endpointer.push(&broken.repeat(40 * SHIFT), &[0.9; 100]);
    assert_eq!(
        endpointer.push(&[0.1; 100 * SHIFT], &[0.0; 100]).len(),
        1,
        "the noise level survives broken samples"
    );

    let scores = [f32::NAN, 1.0, 2.0, f32::INFINITY];
    assert_eq!(events(&VadConfig::default(), EndSilence::Fixed(800), &scores.repeat(100), &[7]), []);
    let scores = [0.0, -0.0, -1.0, f32::NEG_INFINITY];
    let all = events(&VadConfig::default(), EndSilence::Fixed(800), &scores.repeat(100), &[7]);
    assert_eq!(segments(&all), [[0, 4000]]);
}

#[test]
fn configuration_keys() {
    let published = json!({
        "sample_rate": 16000, "detect_mode": 1, "snr_mode": 0, "max_end_silence_time": 800,
        "max_start_silence_time": 3000, "do_start_point_detection": true, "do_end_point_detection": true,
        "window_size_ms": 200, "sil_to_speech_time_thres": 150, "speech_to_sil_time_thres": 150,
        "speech_2_noise_ratio": 1.0, "do_extend": 1, "lookback_time_start_point": 200,
        "lookahead_time_end_point": 100, "max_single_segment_time": 60000, "snr_thres": -100.0,
        "noise_frame_num_used_for_snr": 100, "decibel_thres": -100.0, "speech_noise_thres": 0.6,
        "fe_prior_thres": 0.0001, "silence_pdf_num": 1, "sil_pdf_ids": [0], "speech_noise_thresh_low": -0.1,
        "speech_noise_thresh_high": 0.3, "output_frame_probs": false, "frame_in_ms": 10, "frame_length_ms": 25,
    });
    assert_eq!(format!("{:?}", config(published)), format!("{:?}", VadConfig::default()));
    assert!(!config(json!({"do_extend": false})).do_extend);

    let refused = [
        json!({"max_end_silence": 1}),
        json!({"detect_mode": 2}),
        json!({"do_extend": "yes"}),
        json!({"do_extend": 2}),
    ];
    for overrides in refused {
        let key = overrides.as_object().unwrap().keys().next().unwrap();
        let error = serde_json::from_value::<VadConfig>(overrides.clone()).unwrap_err().to_string();
        assert!(error.contains(key.as_str()), "{overrides}: {error}");
    }
}

#[test]
fn unusable_values_are_refused() {
    let refused = [
        json!({"sample_rate": 0}),
        json!({"sample_rate": 4_000_000_000u32}),
        json!({"sample_rate": 50}),
        json!({"frame_in_ms": 0}),
        json!({"frame_length_ms": 5}),
        json!({"frame_length_ms": 4_000_000_000u32}),
        json!({"window_size_ms": 9}),
        json!({"window_size_ms": 4_000_000_000u32}),
        json!({"noise_frame_num_used_for_snr": 0}),
        json!({"silence_pdf_num": 2}),
        json!({"silence_pdf_num": 0, "sil_pdf_ids": []}),
    ];
    for overrides in refused {
        let key = overrides.as_object().unwrap().keys().next().unwrap();
        let error = Endpointer::new(&config(overrides.clone()), EndSilence::Fixed(800)).unwrap_err();
        assert!(
            matches!(&error, Error::Config { message, .. } if message.contains(key.as_str())),
            "{key}: {error}"
        );
    }
}

/// Runs of speech and silence with clear and doubtful frames.
fn any_scores() -> impl Strategy<Value = Vec<f32>> {
    (any::<u32>(), 0..4usize, 0..3000usize)
        .prop_map(|(seed, style, n)| random_scores(u64::from(seed), style, n))
}

fn any_config() -> impl Strategy<Value = VadConfig> {
    let times = (10..500u32, 0..300u32, 0..300u32, 0..500u32, 0..500u32, 0..20_000u32, 0..5000u32);
    (times, any::<bool>(), 0..2u8, 5..30u32).prop_map(|(times, do_extend, detect_mode, frame_in_ms)| {
        config(json!({
            "window_size_ms": times.0.max(frame_in_ms), "sil_to_speech_time_thres": times.1,
            "speech_to_sil_time_thres": times.2, "lookback_time_start_point": times.3,
            "lookahead_time_end_point": times.4, "max_single_segment_time": times.5,
            "max_start_silence_time": times.6, "do_extend": do_extend, "detect_mode": detect_mode,
            "frame_in_ms": frame_in_ms, "frame_length_ms": frame_in_ms + 15,
        }))
    })
}

fn any_end_silence() -> impl Strategy<Value = EndSilence> {
    prop_oneof![
        (0..3000u32).prop_map(EndSilence::Fixed),
        (0..70_000u32).prop_map(|chunk_ms| EndSilence::Dynamic { chunk_ms }),
    ]
}

proptest! {
    #[test]
    fn cutting_does_not_matter(
        scores in any_scores(), config in any_config(), ms in 0..3000u32, lengths in prop::collection::vec(1..300usize, 1..8),
    ) {
        let whole = events(&config, EndSilence::Fixed(ms), &scores, &[scores.len().max(1)]);
        prop_assert_eq!(events(&config, EndSilence::Fixed(ms), &scores, &lengths), whole);
    }

    #[test]
    fn segments_are_in_order_and_closed(
        scores in any_scores(), config in any_config(), end_silence in any_end_silence(), length in 1..500usize,
    ) {
        let mut all = VecDeque::from(events(&config, end_silence, &scores, &[length]));
        let mut last_end = 0;
        while let Some(begin) = all.pop_front() {
            let Event::Begin { beg_ms: begun } = begin else { panic!("{begin:?} without a segment") };
            let Some(Event::End { beg_ms, end_ms }) = all.pop_front() else { panic!("{begin:?} never ends") };
            prop_assert!(begun == beg_ms && last_end <= beg_ms && beg_ms < end_ms);
            last_end = end_ms;
        }
        prop_assert!(last_end <= scores.len() as u64 * u64::from(config.frame_in_ms));
    }

    #[test]
    fn nothing_before_the_needed_audio_is_used(
        scores in any_scores(), config in any_config(), end_silence in any_end_silence(), length in 1..100usize,
    ) {
        let mut endpointer = Endpointer::new(&config, end_silence).unwrap();
        let mut needed_ms = 0;
        for chunk in scores.chunks(length) {
            for event in endpointer.push(&[], chunk) {
                let (Event::Begin { beg_ms } | Event::End { beg_ms, .. }) = event;
                prop_assert!(needed_ms <= beg_ms);
            }
            prop_assert!(needed_ms <= endpointer.needed_from_ms());
            needed_ms = endpointer.needed_from_ms();
        }
    }

    #[test]
    fn any_bits_are_safe(
        bits in prop::collection::vec(any::<u32>(), 0..2000), config in any_config(), end_silence in any_end_silence(),
        samples in 0..2000usize,
    ) {
        let scores: Vec<f32> = bits.iter().map(|&b| f32::from_bits(b)).collect();
        let mut config = config;
        (config.snr_thres, config.decibel_thres) = (3.0, f64::from(f32::from_bits(bits.len() as u32)));
        let mut endpointer = Endpointer::new(&config, end_silence).unwrap();
        for chunk in scores.chunks(100) {
            endpointer.push(&scores[..samples.min(scores.len())], chunk);
        }
        endpointer.finish();
    }
}
