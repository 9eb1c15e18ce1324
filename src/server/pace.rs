//! Bodies of requests come at a human pace or not at all: one that trickles would hold its connection for days.

use std::io::{Error, ErrorKind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, BodyDataStream, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use futures_util::StreamExt;
use futures_util::stream::unfold;

use super::App;

/// Bytes a second that an upload has to come with, once it has had `idle_seconds` to start.
const LEAST_RATE: f64 = 512.0;

/// Breaks off a body that stands still or trickles.
pub(super) async fn keep(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    let idle = Duration::from_secs(app.settings.idle_seconds);
    let paced = |body: Body| Body::from_stream(unfold(Some(Paced::new(body, idle)), Paced::next));
    next.run(request.map(paced)).await
}

struct Paced {
    body: BodyDataStream,
    idle: Duration,
    started: Instant,
    bytes: u64,
}

impl Paced {
    fn new(body: Body, idle: Duration) -> Self {
        Self { body: body.into_data_stream(), idle, started: Instant::now(), bytes: 0 }
    }

    async fn next(paced: Option<Self>) -> Option<(Result<Bytes, Error>, Option<Self>)> {
        let mut paced = paced?;
        let elapsed = paced.started.elapsed();
        let due = elapsed.saturating_sub(paced.idle).as_secs_f64() * LEAST_RATE;
        let slow = || Error::new(ErrorKind::TimedOut, "the body comes too slowly");
        if (paced.bytes as f64) < due {
            return Some((Err(slow()), None));
        }
        match tokio::time::timeout(paced.idle, paced.body.next()).await {
            Ok(Some(Ok(bytes))) => {
                paced.bytes += bytes.len() as u64;
                Some((Ok(bytes), Some(paced)))
            }
            Ok(Some(Err(cause))) => Some((Err(Error::other(cause)), None)),
            Ok(None) => None,
            Err(_) => Some((Err(slow()), None)),
        }
    }
}
