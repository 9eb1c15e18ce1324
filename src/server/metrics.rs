//! `/metrics`: counters in the text format of Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;

use super::App;
use crate::engine::{Gauge, Histogram, Stats};

/// What the server counts besides the engine's [`Stats`].
#[derive(Debug, Default)]
pub(super) struct Metrics {
    /// Requests by status.
    requests: Mutex<BTreeMap<u16, u64>>,
    request_us: AtomicU64,
    /// Open connections.
    pub connections: Gauge,
    /// WebSocket messages in and out.
    pub messages_in: AtomicU64,
    /// See above.
    pub messages_out: AtomicU64,
}

impl Metrics {
    pub fn request(&self, status: u16, time: Duration) {
        *self.requests.lock().unwrap_or_else(PoisonError::into_inner).entry(status).or_default() += 1;
        self.request_us.fetch_add(time.as_micros() as u64, Ordering::Relaxed);
    }
}

/// The page.
pub(super) async fn render(State(app): State<Arc<App>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], page(&app))
}

fn page(app: &App) -> String {
    let mut page = Page(String::new());
    let Metrics { requests, request_us, connections, messages_in, messages_out } = &app.metrics;
    page.head("requests_total", "counter", "HTTP requests and WebSocket handshakes by status");
    for (status, count) in requests.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        page.line("requests_total", &format!("{{status=\"{status}\"}}"), *count as f64);
    }
    let seconds = request_us.load(Ordering::Relaxed) as f64 / 1e6;
    page.one("request_seconds_total", "counter", "time that answering them took", seconds);
    page.gauge("connections", "open connections", connections);
    page.counter("messages_received_total", "WebSocket messages received", messages_in);
    page.counter("messages_sent_total", "WebSocket messages sent", messages_out);
    page.engine(app.engine.stats());
    if let Some(bytes) = resident_bytes() {
        page.one("resident_memory_bytes", "gauge", "memory in use", bytes as f64);
    }
    if let Some(bytes) = app.engine.recognizer().compute().peak_device_bytes() {
        page.one(
            "device_memory_peak_bytes",
            "gauge",
            "most memory of the GPU in use at a time",
            bytes as f64,
        );
    }
    page.one("uptime_seconds", "gauge", "since the start", app.started.elapsed().as_secs_f64());
    page.0
}

struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP funasr_{name} {help}\n# TYPE funasr_{name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &str, value: f64) {
        let _ = writeln!(self.0, "funasr_{name}{labels} {value}");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: f64) {
        self.head(name, kind, help);
        self.line(name, "", value);
    }

    fn counter(&mut self, name: &str, help: &str, value: &AtomicU64) {
        self.one(name, "counter", help, value.load(Ordering::Relaxed) as f64);
    }

    fn gauge(&mut self, name: &str, help: &str, value: &Gauge) {
        self.one(name, "gauge", help, value.get() as f64);
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.head(name, "histogram", help);
        let mut count = 0;
        for (bound, up_to) in histogram.cumulative() {
            let bound = if bound.is_finite() { bound.to_string() } else { "+Inf".to_owned() };
            self.line(&format!("{name}_bucket"), &format!("{{le=\"{bound}\"}}"), up_to as f64);
            count = up_to;
        }
        self.line(&format!("{name}_sum"), "", histogram.sum());
        self.line(&format!("{name}_count"), "", count as f64);
    }

    fn engine(&mut self, stats: &Stats) {
        let ms = |count: &AtomicU64| count.load(Ordering::Relaxed) as f64 / 1000.0;
        self.gauge("recordings_waiting", "recordings in the queue", &stats.files_waiting);
        self.gauge("recordings_running", "recordings being transcribed", &stats.files_running);
        self.counter("recordings_total", "recordings transcribed", &stats.files_done);
        self.counter("recordings_failed_total", "recordings that were not", &stats.files_failed);
        self.counter("recordings_cancelled_total", "recordings whose client left", &stats.files_cancelled);
        let audio = ms(&stats.file_audio_ms);
        self.one("recording_audio_seconds_total", "counter", "audio of recordings heard", audio);
        self.histogram("recording_seconds", "time from a worker's start to the text", &stats.file_seconds);
        self.one(
            "recording_rtf",
            "gauge",
            "that time over the audio heard",
            stats.file_seconds.sum() / audio.max(1e-3),
        );
        self.histogram("recording_batch_size", "segments in a batch", &stats.file_batches);
        self.histogram(
            "punctuation_batch_size",
            "texts of recordings whose words were labelled together",
            &stats.punctuation_batches,
        );
        self.gauge("sessions", "live sessions", &stats.sessions);
        self.counter("sessions_total", "live sessions opened", &stats.sessions_opened);
        self.counter("sessions_failed_total", "live sessions that failed", &stats.sessions_failed);
        let audio = ms(&stats.live_audio_ms);
        self.one("live_audio_seconds_total", "counter", "audio of live sessions heard", audio);
        self.histogram("live_batch_size", "sessions that moved on together", &stats.live_batches);
        let help = "from audio's arrival to the streamed text it led to";
        self.histogram("live_latency_seconds", help, &stats.live_seconds);
        let help = "from the end of a segment to its correction";
        self.histogram("correction_latency_seconds", help, &stats.correction_seconds);
    }
}

/// Memory of this process, where the system tells.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}
