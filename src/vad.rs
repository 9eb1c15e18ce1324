//! Endpoint detection of FSMN-VAD: silence probabilities per frame in, speech segments out.
//!
//! The network (`models/fsmn_vad.rs`) says how likely each 10 ms frame is silence; this state machine decides
//! where segments begin and end, to the millisecond as FunASR Python 1.4.16 does
//! (`funasr/models/fsmn_vad_streaming/model.py`; the method is that of the E2E-VAD of <https://arxiv.org/abs/1803.05030>):
//!
//! 1. A frame is speech if `1 - s >= s^speech_2_noise_ratio + threshold` (`s` the silence probability) and its level
//!    passes `decibel_thres` and `snr_thres`.
//! 2. A sliding window of 20 frames smooths that: 15 speech frames switch it on, 15 or fewer switch it off.
//! 3. Switching on opens a segment, looking back over the window and 200 ms more; a long enough silence closes it
//!    100 ms after its last speech, and so does the length limit.
//!
//! # Feeding it
//!
//! One [`Endpointer`] serves one stream. Cut the audio into chunks of equal length and for each call
//! [`push`](Endpointer::push) with the samples of the chunk and the scores that the network gave for it. The front end
//! holds frames back (the window overlap and the LFR context, 40 ms for the published model), so scores lag behind
//! samples; score `t` belongs to the samples `[t * shift, t * shift + frame)` of the stream. The last chunk is what
//! remains, shorter than the others and possibly empty, with the front end flushed: push its samples and scores too,
//! then call [`finish`](Endpointer::finish), which takes the last score pushed for the last frame of the stream.
//!
//! With [`EndSilence::Fixed`] the size of a push never changes a result. With [`EndSilence::Dynamic`] it does, as in
//! FunASR: patience shrinks by whole chunks. A file cut into chunks of [`FILE_CHUNK_MS`] gives what
//! `AutoModel.generate(input=file)` gives.
//!
//! # Where this differs from FunASR
//!
//! - Every segment that begins also ends, once. FunASR streaming never ends a segment whose speech is detected on the
//!   very last frame, and an empty final chunk closes nothing there; here `finish` ends it after the last frame.
//! - Probabilities of exactly 0 and 1 are limits, not errors; one that is not a number is silence.
//! - `max_end_silence_time` below `speech_to_sil_time_thres` means no patience at all. Without `do_extend` FunASR would
//!   end such a segment in the future.

use std::collections::VecDeque;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny};

use crate::error::{Error, Result};

/// FunASR's default `chunk_size`: a file is processed in chunks of one minute.
pub const FILE_CHUNK_MS: u32 = 60_000;

/// FunASR's `DEFAULT_SILENCE_SCHEDULE`: milliseconds of speech so far, up to which this much silence ends a segment.
const SILENCE_SCHEDULE: [(u64, u32); 6] =
    [(10_000, 2000), (20_000, 1000), (30_000, 800), (40_000, 600), (50_000, 400), (60_000, 200)];
/// The silence that ends a segment beyond the schedule.
const LAST_SILENCE_MS: u32 = 100;
/// Replaces `speech_noise_thres` whenever the schedule is in force.
const DYNAMIC_SPEECH_NOISE_THRES: f64 = 0.5;

/// Keeps the logarithm of a frame of zeros finite: -60 dB.
const ENERGY_FLOOR: f64 = 1e-6;
/// The noise level before the first silent frame, and the mark of that state.
const NO_NOISE_DECIBEL: f64 = -100.0;

/// Bounds the memory a configuration can ask for.
const MAX_WINDOW_MS: u32 = 60_000;
const MAX_SAMPLE_RATE: u32 = 768_000;
/// Bounds the audio that a caller has to hold for an open segment.
const MAX_SEGMENT_MS: u32 = 600_000;

/// `model_conf` of an FsmnVADStreaming model: FunASR's names, units and defaults.
///
/// Unknown keys are refused. FunASR's keys that cannot change a result (`snr_mode`, `do_start_point_detection`,
/// `do_end_point_detection`, `nn_eval_block_size`, `dcd_block_size`, `speech_noise_thresh_low`,
/// `speech_noise_thresh_high`, `output_frame_probs`) are accepted and ignored.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VadConfig {
    /// Samples per second.
    pub sample_rate: u32,
    /// One segment per stream, or any number.
    pub detect_mode: DetectMode,
    /// Silence in milliseconds that ends a segment under the fixed rule; see [`EndSilence`].
    pub max_end_silence_time: u32,
    /// Initial silence in milliseconds after which [`DetectMode::SingleUtterance`] gives up.
    pub max_start_silence_time: u32,
    /// Length of the smoothing window in milliseconds.
    pub window_size_ms: u32,
    /// Speech within the window, in milliseconds, that turns silence into speech.
    pub sil_to_speech_time_thres: u32,
    /// Speech within the window, in milliseconds, at or below which speech turns into silence.
    pub speech_to_sil_time_thres: u32,
    /// Exponent on the silence probability.
    pub speech_2_noise_ratio: f64,
    /// Whether segments are widened by the two times below.
    #[serde(deserialize_with = "flag")]
    pub do_extend: bool,
    /// Milliseconds by which a segment begins before the window that detected it.
    pub lookback_time_start_point: u32,
    /// Milliseconds by which a segment outlasts its speech.
    pub lookahead_time_end_point: u32,
    /// Longest segment in milliseconds; what is longer is cut.
    pub max_single_segment_time: u32,
    /// Least level of speech above the noise, in dB.
    pub snr_thres: f64,
    /// Frames over which the noise level is averaged.
    pub noise_frame_num_used_for_snr: u32,
    /// Least level of speech, in dB of the energy of a frame of samples in `[-1, 1]`.
    pub decibel_thres: f64,
    /// How much likelier speech than silence has to be under the fixed rule.
    pub speech_noise_thres: f64,
    /// 1 or more turns detection off: FunASR compares it with a constant prior of 1.
    pub fe_prior_thres: f64,
    /// Number of entries of `sil_pdf_ids`.
    pub silence_pdf_num: usize,
    /// Columns of the network's output whose sum is the silence probability.
    pub sil_pdf_ids: Vec<usize>,
    /// Milliseconds per score.
    pub frame_in_ms: u32,
    /// Milliseconds of audio in which a frame's level is measured.
    pub frame_length_ms: u32,

    #[serde(rename = "snr_mode")]
    _snr_mode: IgnoredAny,
    #[serde(rename = "do_start_point_detection")]
    _do_start_point_detection: IgnoredAny,
    #[serde(rename = "do_end_point_detection")]
    _do_end_point_detection: IgnoredAny,
    #[serde(rename = "nn_eval_block_size")]
    _nn_eval_block_size: IgnoredAny,
    #[serde(rename = "dcd_block_size")]
    _dcd_block_size: IgnoredAny,
    #[serde(rename = "speech_noise_thresh_low")]
    _speech_noise_thresh_low: IgnoredAny,
    #[serde(rename = "speech_noise_thresh_high")]
    _speech_noise_thresh_high: IgnoredAny,
    #[serde(rename = "output_frame_probs")]
    _output_frame_probs: IgnoredAny,
}

impl Default for VadConfig {
    fn default() -> Self {
        Self {
            sample_rate: 16_000,
            detect_mode: DetectMode::MultipleUtterances,
            max_end_silence_time: 800,
            max_start_silence_time: 3000,
            window_size_ms: 200,
            sil_to_speech_time_thres: 150,
            speech_to_sil_time_thres: 150,
            speech_2_noise_ratio: 1.0,
            do_extend: true,
            lookback_time_start_point: 200,
            lookahead_time_end_point: 100,
            max_single_segment_time: 60_000,
            snr_thres: -100.0,
            noise_frame_num_used_for_snr: 100,
            decibel_thres: -100.0,
            speech_noise_thres: 0.6,
            fe_prior_thres: 1e-4,
            silence_pdf_num: 1,
            sil_pdf_ids: vec![0],
            frame_in_ms: 10,
            frame_length_ms: 25,
            _snr_mode: IgnoredAny,
            _do_start_point_detection: IgnoredAny,
            _do_end_point_detection: IgnoredAny,
            _nn_eval_block_size: IgnoredAny,
            _dcd_block_size: IgnoredAny,
            _speech_noise_thresh_low: IgnoredAny,
            _speech_noise_thresh_high: IgnoredAny,
            _output_frame_probs: IgnoredAny,
        }
    }
}

impl VadConfig {
    /// Refuses values that make no sense together; [`Endpointer::new`] calls it.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] naming `file` and the key.
    pub fn validate(&self, file: &str) -> Result<()> {
        let rules = [
            (!(1..=MAX_SAMPLE_RATE).contains(&self.sample_rate), "sample_rate is out of range"),
            (self.frame_in_ms == 0, "frame_in_ms is 0"),
            (self.frame_length_ms < self.frame_in_ms, "frame_length_ms is shorter than frame_in_ms"),
            (self.frame_length_ms > MAX_WINDOW_MS, "frame_length_ms is longer than a minute"),
            (self.samples(self.frame_in_ms) == 0, "frame_in_ms is shorter than a sample at this sample_rate"),
            (self.window_size_ms < self.frame_in_ms, "window_size_ms is shorter than frame_in_ms"),
            (self.window_size_ms > MAX_WINDOW_MS, "window_size_ms is longer than a minute"),
            (
                self.lookback_time_start_point > MAX_WINDOW_MS,
                "lookback_time_start_point is longer than a minute",
            ),
            (
                self.max_single_segment_time > MAX_SEGMENT_MS,
                "max_single_segment_time is longer than ten minutes",
            ),
            (self.noise_frame_num_used_for_snr == 0, "noise_frame_num_used_for_snr is 0"),
            (self.sil_pdf_ids.is_empty(), "sil_pdf_ids is empty"),
            (self.sil_pdf_ids.len() != self.silence_pdf_num, "silence_pdf_num does not count sil_pdf_ids"),
        ];
        match rules.iter().find(|(broken, _)| *broken) {
            Some((_, message)) => Err(Error::config(file, message)),
            None => Ok(()),
        }
    }

    fn samples(&self, ms: u32) -> usize {
        (u64::from(ms) * u64::from(self.sample_rate) / 1000) as usize
    }

    fn frames(&self, ms: u32) -> u64 {
        u64::from(ms / self.frame_in_ms)
    }

    /// How far before the detecting frame a segment begins.
    fn latency_frames(&self) -> u64 {
        let lookback = if self.do_extend { self.frames(self.lookback_time_start_point) } else { 0 };
        self.frames(self.window_size_ms) + lookback
    }

    /// How far past its last speech frame a segment ends.
    fn tail_frames(&self) -> u64 {
        if self.do_extend { self.frames(self.lookahead_time_end_point) + 1 } else { 0 }
    }

    /// Whether levels can decide anything for samples in `[-1, 1]`. They cannot with the published thresholds.
    fn uses_levels(&self) -> bool {
        let lowest = 10.0 * ENERGY_FLOOR.log10();
        let highest = 10.0 * (self.samples(self.frame_length_ms) as f64 + ENERGY_FLOOR).log10();
        self.decibel_thres >= lowest || self.snr_thres >= lowest - highest
    }
}

/// How many segments a stream may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u8")]
pub enum DetectMode {
    /// `detect_mode: 0`: detection stops after the first segment, or after too long an initial silence.
    SingleUtterance,
    /// `detect_mode: 1`.
    MultipleUtterances,
}

impl TryFrom<u8> for DetectMode {
    type Error = String;

    fn try_from(value: u8) -> std::result::Result<Self, String> {
        match value {
            0 => Ok(Self::SingleUtterance),
            1 => Ok(Self::MultipleUtterances),
            _ => Err(format!("detect_mode is {value}, expected 0 or 1")),
        }
    }
}

/// Reads `do_extend`, which FunASR's configurations write as `1` or as `true`.
fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<bool, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Flag {
        Bool(bool),
        Number(i64),
    }
    match Flag::deserialize(deserializer) {
        Ok(Flag::Bool(value)) => Ok(value),
        Ok(Flag::Number(value @ (0 | 1))) => Ok(value == 1),
        _ => Err(D::Error::custom("do_extend is none of 0, 1, false, true")),
    }
}

/// How much silence ends a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndSilence {
    /// FunASR Python's default: from 2000 ms down to 100 ms the longer a segment has lasted, and a speech threshold of
    /// 0.5. A segment's age counts in chunks: it grows by `chunk_ms` (FunASR's `chunk_size`) with each push that begins
    /// inside a segment, whatever that push holds.
    Dynamic {
        /// Length of the chunks that are pushed.
        chunk_ms: u32,
    },
    /// This many milliseconds (FunASR's argument `max_end_silence_time`), and the configured speech threshold.
    Fixed(u32),
}

impl EndSilence {
    /// Milliseconds of silence that end a segment which has lasted `speech_ms`.
    fn patience_ms(self, speech_ms: u64) -> u32 {
        match self {
            Self::Fixed(ms) => ms,
            Self::Dynamic { .. } => SILENCE_SCHEDULE
                .iter()
                .find(|(limit_ms, _)| speech_ms <= *limit_ms)
                .map_or(LAST_SILENCE_MS, |(_, silence_ms)| *silence_ms),
        }
    }
}

/// A boundary of a speech segment; times are milliseconds from the start of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A segment was detected. Its beginning lies in the past.
    Begin {
        /// First millisecond of the segment.
        beg_ms: u64,
    },
    /// The segment of the last `Begin` ended.
    End {
        /// The time `Begin` gave.
        beg_ms: u64,
        /// First millisecond after the segment.
        end_ms: u64,
    },
}

/// The events of one push in FunASR's streaming notation: `[beg, -1]`, `[-1, end]`, or `[beg, end]` for a segment that
/// began and ended in it.
pub fn funasr_pairs(events: &[Event]) -> Vec<[i64; 2]> {
    let mut pairs: Vec<[i64; 2]> = Vec::new();
    for event in events {
        match (*event, pairs.last_mut()) {
            (Event::Begin { beg_ms }, _) => pairs.push([beg_ms as i64, -1]),
            (Event::End { end_ms, .. }, Some([_, open @ -1])) => *open = end_ms as i64,
            (Event::End { end_ms, .. }, _) => pairs.push([-1, end_ms as i64]),
        }
    }
    pairs
}

/// Level of one frame of samples in `[-1, 1]`, in dB of its energy: -60 for silence, 26 for 400 samples of 1.
pub fn frame_decibels(samples: &[f32]) -> f64 {
    let energy: f64 = samples.iter().map(|&x| f64::from(x).powi(2)).sum();
    10.0 * (energy + ENERGY_FLOOR).log10()
}

/// The endpoint state machine of one stream.
///
/// Its memory does not grow with the stream; where levels decide, it holds those of the frames not scored yet.
#[derive(Debug, Clone)]
pub struct Endpointer {
    config: VadConfig,
    end_silence: EndSilence,
    window: Window,
    levels: Option<Levels>,
    state: State,
    /// Scores seen.
    frames: u64,
    /// No segment may begin before this frame: earlier ones belong to the segment before.
    free_from: u64,
    /// Frames since the window turned silent.
    silent_frames: u64,
    /// Age of the open segment in the sense of [`EndSilence::Dynamic`].
    speech_ms: u64,
    /// Silence that ends a segment in this push, less what the window has swallowed already.
    patience_ms: u64,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// Waiting for speech.
    Silence,
    /// Inside a segment.
    Speech { start_frame: u64 },
    /// Single-utterance mode has its result.
    Done,
}

impl Endpointer {
    /// A machine at the start of a stream.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if the configuration is unusable, see [`VadConfig::validate`].
    pub fn new(config: &VadConfig, end_silence: EndSilence) -> Result<Self> {
        config.validate("model_conf")?;
        Ok(Self::start(config.clone(), end_silence))
    }

    fn start(config: VadConfig, end_silence: EndSilence) -> Self {
        Self {
            window: Window::new(&config),
            levels: config.uses_levels().then(|| Levels::new(&config)),
            config,
            end_silence,
            state: State::Silence,
            frames: 0,
            free_from: 0,
            silent_frames: 0,
            speech_ms: 0,
            patience_ms: 0,
        }
    }

    /// Takes the next chunk of a stream and returns what it decided, in order.
    ///
    /// `samples` is the new audio, mono in `[-1, 1]`; it is only looked at if the configuration's `decibel_thres` or
    /// `snr_thres` can decide something, and may be empty otherwise. `scores` holds the silence probability of the
    /// frames that the chunk completed. Where levels decide, a score without its samples is silence.
    pub fn push(&mut self, samples: &[f32], scores: &[f32]) -> Vec<Event> {
        self.begin_chunk();
        if let Some(levels) = &mut self.levels {
            levels.extend(samples);
        }
        scores.iter().filter_map(|&score| self.step(score)).collect()
    }

    /// Ends the stream: closes the open segment after the last frame and starts over at time 0.
    pub fn finish(&mut self) -> Option<Event> {
        let event = match self.state {
            State::Speech { start_frame } => Some(self.close(start_frame, self.frames - 1)),
            State::Silence | State::Done => None,
        };
        *self = Self::start(self.config.clone(), self.end_silence);
        event
    }

    /// Audio before this time is not part of any segment still to end, so a caller may drop it.
    pub fn needed_from_ms(&self) -> u64 {
        let frame = match self.state {
            State::Silence => self.start_frame(self.frames),
            State::Speech { start_frame } => start_frame,
            State::Done => self.frames,
        };
        self.ms(frame)
    }

    fn ms(&self, frames: u64) -> u64 {
        frames * u64::from(self.config.frame_in_ms)
    }

    /// Sets the patience for the coming chunk; within a chunk it is constant.
    fn begin_chunk(&mut self) {
        if let (EndSilence::Dynamic { chunk_ms }, State::Speech { .. }) = (self.end_silence, self.state) {
            self.speech_ms = self.speech_ms.saturating_add(u64::from(chunk_ms));
        }
        let patience_ms = self.end_silence.patience_ms(self.speech_ms);
        self.patience_ms = u64::from(patience_ms.saturating_sub(self.config.speech_to_sil_time_thres));
    }

    /// Advances by one frame.
    fn step(&mut self, score: f32) -> Option<Event> {
        let speech = self.is_speech(score);
        let activity = self.window.push(speech);
        let frame = self.frames;
        self.frames += 1;
        self.silent_frames = if activity == Activity::Silence { self.silent_frames + 1 } else { 0 };
        match (self.state, activity) {
            (State::Silence, Activity::Onset) => Some(self.open(frame)),
            (State::Silence, Activity::Silence) => {
                self.give_up_if_late();
                None
            }
            (State::Speech { start_frame }, _) => self.follow(start_frame, frame),
            (State::Silence, Activity::Speech) | (State::Done, _) => None,
        }
    }

    fn is_speech(&mut self, score: f32) -> bool {
        let threshold = match self.end_silence {
            EndSilence::Dynamic { .. } => DYNAMIC_SPEECH_NOISE_THRES,
            EndSilence::Fixed(_) => self.config.speech_noise_thres,
        };
        let silence = f64::from(score).clamp(0.0, 1.0);
        let voiced = 1.0 - silence >= silence.powf(self.config.speech_2_noise_ratio) + threshold;
        let audible = self.levels.as_mut().is_none_or(|levels| levels.admit(voiced));
        voiced && audible && self.config.fe_prior_thres < 1.0
    }

    /// Where a segment detected at `frame` begins.
    fn start_frame(&self, frame: u64) -> u64 {
        self.free_from.max(frame.saturating_sub(self.config.latency_frames()))
    }

    fn open(&mut self, frame: u64) -> Event {
        let start_frame = self.start_frame(frame);
        self.state = State::Speech { start_frame };
        self.free_from = frame + 1;
        Event::Begin { beg_ms: self.ms(start_frame) }
    }

    fn give_up_if_late(&mut self) {
        let single = self.config.detect_mode == DetectMode::SingleUtterance;
        if single && self.ms(self.silent_frames) > u64::from(self.config.max_start_silence_time) {
            self.state = State::Done;
        }
    }

    /// A frame inside a segment: the last of it, one more of it, or silence that may follow it.
    fn follow(&mut self, start_frame: u64, frame: u64) -> Option<Event> {
        let tail_frames = self.config.tail_frames();
        if self.silent_frames > 0 && self.ms(self.silent_frames) >= self.patience_ms {
            let patience_frames = self.patience_ms / u64::from(self.config.frame_in_ms);
            return Some(self.close(start_frame, frame - patience_frames.saturating_sub(tail_frames)));
        }
        if self.ms(frame - start_frame + 1) > u64::from(self.config.max_single_segment_time) {
            return Some(self.close(start_frame, frame));
        }
        if self.silent_frames == 0 || self.silent_frames < tail_frames {
            self.free_from = frame + 1;
        }
        None
    }

    /// Closes the segment after `end_frame`; in multiple-utterance mode the search for the next one begins.
    fn close(&mut self, start_frame: u64, end_frame: u64) -> Event {
        self.state = match self.config.detect_mode {
            DetectMode::SingleUtterance => State::Done,
            DetectMode::MultipleUtterances => State::Silence,
        };
        // One beyond the end even if the end frame was taken before (`do_extend: 0`), as FunASR counts.
        self.free_from = self.free_from.max(end_frame) + 1;
        self.window.clear();
        self.silent_frames = 0;
        self.speech_ms = 0;
        Event::End { beg_ms: self.ms(start_frame), end_ms: self.ms(end_frame + 1) }
    }
}

/// What the smoothed decision says of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Activity {
    /// The window turns to speech on this frame.
    Onset,
    /// Speech, including the frame on which the window turns silent.
    Speech,
    Silence,
}

/// The sliding window over frame decisions.
#[derive(Debug, Clone)]
struct Window {
    ring: VecDeque<bool>,
    speech_frames: u64,
    onset_frames: u64,
    release_frames: u64,
    in_speech: bool,
}

impl Window {
    fn new(config: &VadConfig) -> Self {
        Self {
            ring: VecDeque::from(vec![false; config.frames(config.window_size_ms) as usize]),
            speech_frames: 0,
            onset_frames: config.frames(config.sil_to_speech_time_thres),
            release_frames: config.frames(config.speech_to_sil_time_thres),
            in_speech: false,
        }
    }

    fn clear(&mut self) {
        self.ring.iter_mut().for_each(|speech| *speech = false);
        self.speech_frames = 0;
        self.in_speech = false;
    }

    fn push(&mut self, speech: bool) -> Activity {
        self.ring.push_back(speech);
        let oldest = self.ring.pop_front().unwrap_or(false);
        self.speech_frames = self.speech_frames + u64::from(speech) - u64::from(oldest);
        if self.in_speech {
            self.in_speech = self.speech_frames > self.release_frames;
            return Activity::Speech;
        }
        self.in_speech = self.speech_frames >= self.onset_frames;
        if self.in_speech { Activity::Onset } else { Activity::Silence }
    }
}

/// Frame levels, measured ahead of the scores, and the running noise level.
#[derive(Debug, Clone)]
struct Levels {
    frame_samples: usize,
    shift_samples: usize,
    noise_frames: f64,
    decibel_thres: f64,
    snr_thres: f64,
    /// Samples from the start of the first frame not measured yet; always less than a frame between calls.
    pending: Vec<f32>,
    /// Levels of frames not scored yet.
    decibels: VecDeque<f64>,
    noise_decibel: f64,
}

impl Levels {
    fn new(config: &VadConfig) -> Self {
        Self {
            frame_samples: config.samples(config.frame_length_ms),
            shift_samples: config.samples(config.frame_in_ms),
            noise_frames: f64::from(config.noise_frame_num_used_for_snr),
            decibel_thres: config.decibel_thres,
            snr_thres: config.snr_thres,
            pending: Vec::new(),
            decibels: VecDeque::new(),
            noise_decibel: NO_NOISE_DECIBEL,
        }
    }

    fn extend(&mut self, samples: &[f32]) {
        self.pending.extend_from_slice(samples);
        let frames = self.pending.windows(self.frame_samples).step_by(self.shift_samples);
        let measured = frames.len() * self.shift_samples;
        self.decibels.extend(frames.map(frame_decibels));
        self.pending.drain(..measured);
    }

    /// Whether the next frame is loud enough for speech; if it is not `voiced`, it counts as noise.
    fn admit(&mut self, voiced: bool) -> bool {
        let Some(decibel) = self.decibels.pop_front() else { return false };
        // A broken sample must not spoil the average for the rest of the stream.
        if !decibel.is_finite() || decibel < self.decibel_thres {
            return false;
        }
        if voiced {
            return decibel - self.noise_decibel >= self.snr_thres;
        }
        self.noise_decibel = if self.noise_decibel < NO_NOISE_DECIBEL + 0.1 {
            decibel
        } else {
            (decibel + self.noise_decibel * (self.noise_frames - 1.0)) / self.noise_frames
        };
        false
    }
}
