//! Who may ask, how often, and from whose pages.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;

use super::{App, Connection, Refusal, Settings};
use crate::error::{Error, Result};

/// Paths that need no key and no turn: they tell nothing but whether the server is well.
const OPEN_PATHS: [&str; 2] = ["/healthz", "/readyz"];
/// Addresses that are remembered for the rate.
const MAX_ADDRESSES: usize = 10_000;

/// The API keys. Without any, everyone is let in.
#[derive(Debug, Default)]
pub struct Keys(Option<Vec<Vec<u8>>>);

impl Keys {
    /// Reads the file that the settings name, one key a line; `#` begins a comment.
    ///
    /// # Errors
    /// A file that cannot be read, or that holds no key: nobody could use the server.
    pub fn read(settings: &Settings) -> Result<Self> {
        let Some(path) = &settings.api_keys else { return Ok(Self(None)) };
        let text = std::fs::read_to_string(path).map_err(|cause| Error::io(path, cause))?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let keys: Vec<Vec<u8>> = lines.map(|line| line.as_bytes().to_vec()).collect();
        if keys.is_empty() {
            return Err(Error::config(path, "holds no API key"));
        }
        Ok(Self(Some(keys)))
    }

    /// Whether `key` is one of them; takes as long whether and where it differs.
    fn allow(&self, key: Option<&str>) -> bool {
        let Some(keys) = &self.0 else { return true };
        let Some(key) = key else { return false };
        keys.iter().fold(false, |found, known| found | bool::from(known.as_slice().ct_eq(key.as_bytes())))
    }
}

/// How often each address has asked: a bucket of tokens for each.
#[derive(Debug, Default)]
pub(super) struct Rates(Mutex<HashMap<IpAddr, (f64, Instant)>>);

impl Rates {
    fn allow(&self, address: IpAddr, per_minute: u32) -> bool {
        let (most, now) = (f64::from(per_minute), Instant::now());
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let refilled = |tokens: f64, since: Instant| {
            (tokens + now.duration_since(since).as_secs_f64() * most / 60.0).min(most)
        };
        if buckets.len() >= MAX_ADDRESSES {
            buckets.retain(|_, (tokens, since)| refilled(*tokens, *since) < most);
        }
        if buckets.len() >= MAX_ADDRESSES {
            buckets.clear();
        }
        let (tokens, since) = buckets.entry(address).or_insert((most, now));
        (*tokens, *since) = (refilled(*tokens, *since), now);
        let allowed = *tokens >= 1.0;
        if allowed {
            *tokens -= 1.0;
        }
        allowed
    }
}

/// Lets a request through, or refuses it.
pub(super) async fn check(
    State(app): State<Arc<App>>,
    Extension(connection): Extension<Arc<Connection>>,
    request: Request,
    next: Next,
) -> Response {
    let origin =
        request.headers().get(header::ORIGIN).and_then(|origin| allowed_origin(&app.settings, origin));
    let preflight = request.method() == Method::OPTIONS
        && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = if preflight {
        StatusCode::NO_CONTENT.into_response()
    } else if let Err(refusal) = admit(&app, &connection, &request) {
        refusal.into_response()
    } else {
        next.run(request).await
    };
    if let Some(origin) = origin {
        allow_origin(response.headers_mut(), origin);
    }
    response
}

fn admit(app: &App, connection: &Connection, request: &Request) -> std::result::Result<(), Refusal> {
    if OPEN_PATHS.contains(&request.uri().path()) || is_page(request) {
        return Ok(());
    }
    let per_minute = app.settings.requests_per_minute;
    if per_minute > 0 && !app.rates.allow(connection.peer.ip(), per_minute) {
        let message = format!("more than {per_minute} requests a minute");
        return Err(Refusal::new(StatusCode::TOO_MANY_REQUESTS, message));
    }
    if !app.reloaded().keys.allow(key(request).as_deref()) {
        let message = "a valid API key is needed: Authorization: Bearer, X-Api-Key or ?api_key=";
        return Err(Refusal::new(StatusCode::UNAUTHORIZED, message));
    }
    Ok(())
}

/// Whether the web page is asked for, which has a field for the key.
fn is_page(request: &Request) -> bool {
    let path = request.uri().path();
    let loads = request.method() == Method::GET && !request.headers().contains_key(header::UPGRADE);
    loads && (path == "/" || path.starts_with("/web/"))
}

/// The key of a request: browsers cannot set headers of a WebSocket, so the query has it, too.
fn key(request: &Request) -> Option<String> {
    let text = |name: header::HeaderName| request.headers().get(name).and_then(|value| value.to_str().ok());
    let bearer = text(header::AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
    let header = bearer.or_else(|| text(header::HeaderName::from_static("x-api-key"))).map(str::trim);
    let pairs = || request.uri().query().into_iter().flat_map(|query| query.split('&'));
    header.map(str::to_owned).or_else(|| pairs().find_map(|pair| pair.strip_prefix("api_key=").map(unescape)))
}

/// A value of a query as it was meant.
fn unescape(value: &str) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let [first, after @ ..] = rest {
        let digit = |i: usize| after.get(i).and_then(|&digit| char::from(digit).to_digit(16));
        match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                rest = &after[2..];
            }
            (b'+', ..) => (bytes.push(b' '), rest = after).1,
            (&byte, ..) => (bytes.push(byte), rest = after).1,
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn allowed_origin(settings: &Settings, origin: &HeaderValue) -> Option<HeaderValue> {
    let origins = &settings.cors_origins;
    let named = |known: &String| known == "*" || known.as_bytes() == origin.as_bytes();
    origins.iter().any(named).then(|| origin.clone())
}

fn allow_origin(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::VARY, HeaderValue::from_static("Origin"));
    let methods = HeaderValue::from_static("GET, POST, DELETE, OPTIONS");
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
    let names = HeaderValue::from_static("Authorization, Content-Type, X-Api-Key");
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names);
}
