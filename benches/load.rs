//! Load on a server: N clients at once, paced in real time or as fast as they are served.
//!
//! ```text
//! funasr-candle serve --port 10095 &
//! cargo bench --bench load -- --url ws://127.0.0.1:10095/ --streams 200 --seconds 180     # live sessions, paced
//! cargo bench --bench load -- --url ws://127.0.0.1:10095/ --mode offline --streams 64 --seconds 60 --full-speed
//! cargo bench --bench load -- --url ws://127.0.0.1:10095/ --idle 1000 --seconds 10        # open and silent
//! ```
//!
//! Each stream repeats a recording of its own choice, utterance after utterance, until the time is over. A line of JSON
//! says what came of it. `partial_ms`: from sending a chunk to the partial text that comes next, at the client;
//! `server_ms`: the quantiles' upper bounds from the server's own histogram, from audio's arrival to the message; `rss_mb`:
//! the server's memory in MB before, after a minute or a quarter of the time, at its end, and after all have left; `rss_slope`: MB
//! a minute between the two in the middle, of the line of least squares through a sample a second, with its standard error.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use clap::Parser;
use funasr_candle::audio::read_all;
use funasr_candle::server::client::{Access, Client, Options};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const RATE: u32 = 16_000;
const PIECE_MS: u64 = 60;
const PIECE_BYTES: usize = 2 * RATE as usize * PIECE_MS as usize / 1000;
/// Between two connects: a crowd that comes in a second is another test.
const RAMP: Duration = Duration::from_millis(5);

/// Until as many sessions run as will, each somewhere else in its recording.
const WARM_UP: Duration = Duration::from_secs(60);
/// Seconds of memory that are one point of a line.
const BLOCK: usize = 10;
const RSS: &str = "resident_memory_bytes";
/// Until the allocator has given back what nobody uses.
const SETTLE: Duration = Duration::from_secs(15);

type Error = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug, Clone, Parser)]
struct Args {
    /// A plain server
    #[arg(long, default_value = "ws://127.0.0.1:10095/")]
    url: String,
    /// Clients at once
    #[arg(long, default_value_t = 10)]
    streams: usize,
    /// Connections that are opened and say nothing
    #[arg(long, default_value_t = 0)]
    idle: usize,
    /// How long utterances are begun
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// offline, online or 2pass
    #[arg(long, default_value = "2pass")]
    mode: String,
    /// As fast as the server takes it, not as it is spoken
    #[arg(long)]
    full_speed: bool,
    /// What is said; short clips by default
    files: Vec<PathBuf>,
    #[arg(long, hide = true)]
    bench: bool,
}

/// What all streams have seen.
#[derive(Debug, Default)]
struct Seen {
    utterances: u64,
    audio_ms: u64,
    messages: u64,
    partial_ms: Vec<f64>,
    final_ms: Vec<f64>,
    errors: Vec<String>,
    /// Utterances whose text was not that of the first of the same recording.
    different: u64,
    texts: std::collections::HashMap<usize, String>,
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let args = Args::parse();
    let address = args.url.trim_start_matches("ws://").split('/').next().unwrap_or_default().to_owned();
    let files = if args.files.is_empty() { clips() } else { args.files.clone() };
    let clips: Vec<Vec<u8>> = files.iter().map(|file| Ok(pcm(file)?)).collect::<Result<_, Error>>()?;
    let (clips, seen) = (Arc::new(clips), Arc::new(Mutex::new(Seen::default())));
    let before = scrape(&address).await?;
    let mut idle = Vec::new();
    for _ in 0..args.idle {
        idle.push(Client::connect(&args.url, &Access::default()).await?);
    }
    let started = Instant::now();
    let until = started + Duration::from_secs(args.seconds);
    let streams = if args.idle > 0 { 0 } else { args.streams };
    let mut tasks = Vec::new();
    for i in 0..streams {
        let (args, clips, seen) = (args.clone(), clips.clone(), seen.clone());
        tasks.push(tokio::spawn(async move {
            if let Err(error) = stream(&args, i, &clips, until, &seen).await {
                seen.lock().unwrap_or_else(|e| e.into_inner()).errors.push(error.to_string());
            }
        }));
        tokio::time::sleep(RAMP).await;
    }
    let warm = started + WARM_UP.min(Duration::from_secs(args.seconds) / 4);
    let memory = resident(&address, warm, until).await?;
    let end = scrape(&address).await?;
    for task in tasks {
        task.await?;
    }
    let seconds = started.elapsed().as_secs_f64();
    drop(idle);
    tokio::time::sleep(SETTLE).await;
    let after = scrape(&address).await?;
    let mut seen = seen.lock().unwrap_or_else(|e| e.into_inner());
    let rss = |page: &Page| page.value(RSS) / 1e6;
    let report = json!({
        "mode": args.mode, "streams": streams, "idle": args.idle, "full_speed": args.full_speed, "seconds": seconds,
        "utterances": seen.utterances, "messages": seen.messages, "different_texts": seen.different,
        "audio_seconds": seen.audio_ms / 1000, "recordings_per_minute": 60.0 * seen.utterances as f64 / seconds,
        "errors": seen.errors.len(), "first_errors": seen.errors.iter().take(3).collect::<Vec<_>>(),
        "partial_ms": quantiles(&mut seen.partial_ms), "final_ms": quantiles(&mut seen.final_ms),
        "server_ms": end.quantiles(&before), "rss_mb": [rss(&before), memory.first().map(|(_, mb)| mb), rss(&end), rss(&after)],
        "rss_slope": slope(&memory),
        "idle_kb_each": if args.idle > 0 { json!((rss(&end) - rss(&before)) * 1e3 / args.idle as f64) } else { Value::Null },
    });
    println!("{report}");
    Ok(())
}

/// The server's memory each second: minutes, and MB.
async fn resident(address: &str, from: Instant, until: Instant) -> Result<Vec<(f64, f64)>, Error> {
    let mut samples = Vec::new();
    let mut next = from;
    while next < until {
        tokio::time::sleep_until(next.into()).await;
        samples.push((from.elapsed().as_secs_f64() / 60.0, scrape(address).await?.value(RSS) / 1e6));
        next += Duration::from_secs(1);
    }
    tokio::time::sleep_until(until.into()).await;
    Ok(samples)
}

/// Slope of the line of least squares and its standard error. Samples of one second resemble each other, so the error is that of
/// means of blocks of them.
fn slope(samples: &[(f64, f64)]) -> Value {
    let mean = |of: fn(&(f64, f64)) -> f64, points: &[(f64, f64)]| {
        points.iter().map(of).sum::<f64>() / points.len() as f64
    };
    let blocks: Vec<(f64, f64)> =
        samples.chunks_exact(BLOCK).map(|block| (mean(|p| p.0, block), mean(|p| p.1, block))).collect();
    if blocks.len() < 3 {
        return Value::Null;
    }
    let (x0, y0) = (mean(|p| p.0, &blocks), mean(|p| p.1, &blocks));
    let spread: f64 = blocks.iter().map(|(x, _)| (x - x0).powi(2)).sum();
    let slope = blocks.iter().map(|(x, y)| (x - x0) * (y - y0)).sum::<f64>() / spread;
    let rest: f64 = blocks.iter().map(|(x, y)| (y - y0 - slope * (x - x0)).powi(2)).sum();
    let error = (rest / (blocks.len() - 2) as f64 / spread).sqrt();
    json!({"mb_per_minute": slope, "standard_error": error})
}

fn clips() -> Vec<PathBuf> {
    (1..20).map(|i| PathBuf::from(format!("tests/data/eval/short_{i:02}.flac"))).collect()
}

fn pcm(file: &std::path::Path) -> funasr_candle::Result<Vec<u8>> {
    let samples = read_all(file, RATE, None)?;
    Ok(samples.iter().flat_map(|x| ((x * 32_767.0) as i16).to_le_bytes()).collect())
}

/// One client: utterance after utterance.
async fn stream(
    args: &Args,
    i: usize,
    clips: &[Vec<u8>],
    until: Instant,
    seen: &Mutex<Seen>,
) -> Result<(), Error> {
    let Client { mut sender, mut receiver } = Client::connect(&args.url, &Access::default()).await?;
    let options = Options { mode: args.mode.clone(), ..Options::default() };
    let mut which = i;
    // Streams are not in step.
    tokio::time::sleep(Duration::from_millis(37 * i as u64 % 1000)).await;
    while Instant::now() < until {
        let clip = which % clips.len();
        which += 1;
        let sent = Mutex::new(Instant::now());
        let speak = async {
            let mut pace = tokio::time::interval(Duration::from_millis(PIECE_MS));
            sender.begin(&options).await?;
            for piece in clips[clip].chunks(PIECE_BYTES) {
                if !args.full_speed {
                    pace.tick().await;
                }
                *sent.lock().unwrap_or_else(|e| e.into_inner()) = Instant::now();
                sender.audio(piece).await?;
            }
            *sent.lock().unwrap_or_else(|e| e.into_inner()) = Instant::now();
            sender.finish().await
        };
        let hear = async {
            let mut heard = (0, String::new(), Vec::new());
            loop {
                let Some(reply) = receiver.next().await? else {
                    return Err(funasr_candle::Error::Failed("the connection ended".into()));
                };
                let late = sent.lock().unwrap_or_else(|e| e.into_inner()).elapsed().as_secs_f64() * 1e3;
                heard.0 += 1;
                if let Some(error) = &reply.error {
                    return Err(funasr_candle::Error::Failed(format!("{}: {}", error.code, error.message)));
                }
                if reply.mode == "2pass-online" && !reply.is_final {
                    heard.2.push(late);
                } else {
                    heard.1.push_str(&reply.text);
                }
                if reply.is_final {
                    return Ok((heard, late));
                }
            }
        };
        let (spoken, heard) = tokio::join!(speak, hear);
        spoken?;
        let ((messages, text, partials), last) = heard?;
        let mut seen = seen.lock().unwrap_or_else(|e| e.into_inner());
        seen.utterances += 1;
        seen.audio_ms += clips[clip].len() as u64 * 1000 / (2 * u64::from(RATE));
        seen.messages += messages;
        seen.partial_ms.extend(partials);
        seen.final_ms.push(last);
        let first = seen.texts.entry(clip).or_insert_with(|| text.clone());
        seen.different += u64::from(*first != text);
    }
    Ok(sender.close().await?)
}

fn quantiles(values: &mut [f64]) -> Value {
    values.sort_unstable_by(f64::total_cmp);
    let at = |q: f64| values.get(((values.len() as f64 * q) as usize).min(values.len().saturating_sub(1)));
    json!({"p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "max": at(1.0), "count": values.len()})
}

/// The server's metrics.
struct Page(String);

async fn scrape(address: &str) -> Result<Page, Error> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await?;
    let mut page = String::new();
    stream.read_to_string(&mut page).await?;
    Ok(Page(page))
}

impl Page {
    fn value(&self, name: &str) -> f64 {
        let line = self
            .0
            .lines()
            .find_map(|line| line.strip_prefix("funasr_")?.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.trim().parse().ok()).unwrap_or(0.0)
    }

    fn buckets(&self) -> Vec<(String, f64)> {
        let bucket = |line: &str| {
            let rest = line.strip_prefix("funasr_live_latency_seconds_bucket{le=\"")?;
            let (bound, count) = rest.split_once("\"} ")?;
            Some((bound.to_owned(), count.trim().parse().ok()?))
        };
        self.0.lines().filter_map(bucket).collect()
    }

    /// Upper bounds of the quantiles of what came since `before`.
    fn quantiles(&self, before: &Self) -> Value {
        let earlier = before.buckets();
        let counts: Vec<(String, f64)> = self
            .buckets()
            .into_iter()
            .zip(earlier)
            .map(|((bound, now), (_, then))| (bound, now - then))
            .collect();
        let total = counts.last().map_or(0.0, |(_, count)| *count);
        let below = |q: f64| {
            let bound = counts.iter().find(|(_, count)| *count >= q * total).map(|(bound, _)| bound.clone());
            bound.and_then(|bound| bound.parse::<f64>().ok()).map(|bound| bound * 1e3)
        };
        json!({"p50": below(0.5), "p90": below(0.9), "p99": below(0.99), "p999": below(0.999), "count": total})
    }
}
