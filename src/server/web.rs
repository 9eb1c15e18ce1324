//! The web page: files of `web/`, compiled in.

use axum::Router;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

/// Name, type and content of each file beside the page.
const FILES: &[(&str, &str, &str)] = &[
    ("app.js", SCRIPT, include_str!("web/app.js")),
    ("connection.js", SCRIPT, include_str!("web/connection.js")),
    ("icon.svg", "image/svg+xml", include_str!("web/icon.svg")),
    ("microphone.js", SCRIPT, include_str!("web/microphone.js")),
    ("recorder.js", SCRIPT, include_str!("web/recorder.js")),
    ("style.css", "text/css; charset=utf-8", include_str!("web/style.css")),
    ("texts.js", SCRIPT, include_str!("web/texts.js")),
    ("transcript.js", SCRIPT, include_str!("web/transcript.js")),
    ("waveform.js", SCRIPT, include_str!("web/waveform.js")),
];
const SCRIPT: &str = "text/javascript; charset=utf-8";
/// The page loads nothing from elsewhere and talks to this server alone.
const POLICY: &str =
    "default-src 'self'; connect-src 'self' ws: wss:; media-src 'self' blob:; frame-ancestors 'none'";

/// The page itself, for `GET /`.
pub async fn page() -> Response {
    let policy = [(CONTENT_SECURITY_POLICY, POLICY)];
    (policy, file("text/html; charset=utf-8", include_str!("web/index.html"))).into_response()
}

/// What the page loads, below `/web/`.
pub fn files<S: Clone + Send + Sync + 'static>() -> Router<S> {
    FILES.iter().fold(Router::new(), |router, &(name, kind, content)| {
        router.route(&format!("/web/{name}"), get(move || async move { file(kind, content) }))
    })
}

/// Names do not change with the version, so browsers ask each time.
fn file(kind: &'static str, content: &'static str) -> Response {
    let headers = [(CONTENT_TYPE, kind), (CACHE_CONTROL, "no-cache"), (X_CONTENT_TYPE_OPTIONS, "nosniff")];
    (headers, content).into_response()
}
