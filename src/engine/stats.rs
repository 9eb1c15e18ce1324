//! What the engine did and does, for whoever watches it.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Adds to it.
    pub fn add(&self, count: i64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Its value.
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counts of values by size.
#[derive(Debug)]
pub struct Histogram {
    /// Upper bounds, ascending.
    bounds: &'static [f64],
    /// One more than bounds.
    counts: Box<[AtomicU64]>,
    /// In millionths.
    sum: AtomicU64,
}

impl Histogram {
    /// An empty histogram with these upper bounds.
    pub fn new(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, sum: AtomicU64::new(0) }
    }

    /// Counts a value.
    pub fn observe(&self, value: f64) {
        let bucket = self.bounds.partition_point(|&bound| bound < value);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add((value * 1e6) as u64, Ordering::Relaxed);
    }

    /// Counts a time, in seconds.
    pub fn observe_time(&self, time: Duration) {
        self.observe(time.as_secs_f64());
    }

    /// Each upper bound with the number of values up to it.
    pub fn cumulative(&self) -> Vec<(f64, u64)> {
        let mut total = 0;
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        let up_to = |(bound, count): (f64, &AtomicU64)| {
            total += count.load(Ordering::Relaxed);
            (bound, total)
        };
        bounds.zip(self.counts.iter()).map(up_to).collect()
    }

    /// Sum of the values.
    pub fn sum(&self) -> f64 {
        self.sum.load(Ordering::Relaxed) as f64 / 1e6
    }
}

const SIZES: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];
const SECONDS: &[f64] = &[
    0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0,
    300.0,
];

/// See the module.
#[derive(Debug)]
pub struct Stats {
    /// Recordings that wait for a worker.
    pub files_waiting: Gauge,
    /// Recordings that are worked on.
    pub files_running: Gauge,
    /// Recordings that were transcribed.
    pub files_done: AtomicU64,
    /// Recordings that were not: damaged, refused or failed.
    pub files_failed: AtomicU64,
    /// Recordings whose client left first.
    pub files_cancelled: AtomicU64,
    /// Audio of recordings that was heard, in ms.
    pub file_audio_ms: AtomicU64,
    /// Segments in a batch.
    pub file_batches: Histogram,
    /// Texts of recordings whose windows share a step of the punctuation network.
    pub punctuation_batches: Histogram,
    /// From taking a recording to its text.
    pub file_seconds: Histogram,
    /// Live sessions.
    pub sessions: Gauge,
    /// Live sessions that were opened.
    pub sessions_opened: AtomicU64,
    /// Live sessions that failed.
    pub sessions_failed: AtomicU64,
    /// Audio of live sessions that was heard, in ms.
    pub live_audio_ms: AtomicU64,
    /// Sessions that move on in one round.
    pub live_batches: Histogram,
    /// From audio's arrival to the streamed text that it led to.
    pub live_seconds: Histogram,
    /// From the arrival of the audio that ended a segment to its correction.
    pub correction_seconds: Histogram,
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            files_waiting: Gauge::default(),
            files_running: Gauge::default(),
            files_done: AtomicU64::default(),
            files_failed: AtomicU64::default(),
            files_cancelled: AtomicU64::default(),
            file_audio_ms: AtomicU64::default(),
            file_batches: Histogram::new(SIZES),
            punctuation_batches: Histogram::new(SIZES),
            file_seconds: Histogram::new(SECONDS),
            sessions: Gauge::default(),
            sessions_opened: AtomicU64::default(),
            sessions_failed: AtomicU64::default(),
            live_audio_ms: AtomicU64::default(),
            live_batches: Histogram::new(SIZES),
            live_seconds: Histogram::new(SECONDS),
            correction_seconds: Histogram::new(SECONDS),
        }
    }
}
