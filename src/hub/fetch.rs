//! One file over HTTP: redirects, resume, bounded retries, bounded size.
//!
//! Why not the transfers of `hf-hub`: version 1.0.0 starts a broken download again from byte 0 and needs the Xet
//! client (more than 200 crates, a second protocol with its own redirects); version 0.5.0 appends a whole body to half
//! a file when a server ignores `Range`, takes a short body for a complete one, follows https to http and panics on
//! odd headers. `hf-hub` is used for what it does well: the layout of the Hugging Face cache, and the stored token.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use ureq::http::{HeaderMap, Response, Uri, header};
use ureq::{Agent, Body};

use super::card::is_sha256;
use crate::Error;

/// Consecutive attempts that each bring less than [`PROGRESS_BYTES`] before a download is given up.
const ATTEMPTS: u32 = 5;
const PROGRESS_BYTES: u64 = 1 << 20;
/// A hub redirects to its content network once, sometimes after a renamed repository.
const MAX_REDIRECTS: usize = 5;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
const CHUNK_BYTES: usize = 1 << 16;

/// Why a file did not arrive, by what can be done about it.
#[derive(Debug)]
pub(super) enum Fault {
    /// A passing trouble: try again.
    Retry(String),
    /// The repository has no such file: try the file's other name.
    Missing(String),
    /// This hub will not give the file: try the other hub.
    Refused(String),
    /// Trouble on this machine, or content that must not be used.
    Stop(Error),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Stop(error)
    }
}

/// What to fetch, and where to.
pub(super) struct Job<'a> {
    pub url: String,
    /// Names the file in errors.
    pub label: String,
    /// Half-downloaded file; it is complete when `fetch` returns.
    pub part: PathBuf,
    /// Largest size that is accepted, in bytes.
    pub limit: u64,
    /// Told the bytes that have arrived, and the size if the server said it.
    pub progress: &'a dyn Fn(u64, Option<u64>),
}

/// What the server said about a file. It lies beside the part, so that a later process can resume.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Origin {
    pub url: String,
    /// Entity tag of the host that sent the bytes.
    pub etag: Option<String>,
    /// Size in bytes.
    pub total: Option<u64>,
    /// Commit of the repository.
    pub commit: Option<String>,
    /// sha256 of the content as the hub declares it.
    pub sha256: Option<String>,
}

/// How patient a client is; tests are not.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// Pause before the first retry; it doubles with each.
    pub retry_delay: Duration,
    /// Longest silence of a server.
    pub stall: Duration,
}

/// A client of one hub.
pub(super) struct Client {
    agent: Agent,
    endpoint: Uri,
    token: Option<String>,
    retry_delay: Duration,
}

impl Client {
    /// A client of the hub at `endpoint`, the only host that is shown the `token`.
    pub fn new(endpoint: &str, token: Option<String>, patience: Patience) -> Result<Self, Fault> {
        let endpoint = parse_url(endpoint)?;
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_per_read(Some(patience.stall))
            .timeout_recv_response(Some(patience.stall))
            .user_agent(concat!("funasr-candle/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        Ok(Self { agent, endpoint, token, retry_delay: patience.retry_delay })
    }

    /// Completes `job.part`, resuming what an earlier call or process left of it.
    pub fn fetch(&self, job: &Job) -> Result<Origin, Fault> {
        let mut failures = 0;
        loop {
            let before = file_len(&job.part);
            let cause = match self.attempt(job) {
                Err(Fault::Retry(cause)) => cause,
                finished => return finished,
            };
            failures = if file_len(&job.part) >= before + PROGRESS_BYTES { 1 } else { failures + 1 };
            if failures == ATTEMPTS {
                return Err(Fault::Refused(format!("{}: {cause}, {ATTEMPTS} attempts", job.label)));
            }
            tracing::debug!(file = job.label, cause, failures, "download interrupted");
            std::thread::sleep(self.retry_delay * 2u32.pow(failures - 1));
        }
    }

    fn attempt(&self, job: &Job) -> Result<Origin, Fault> {
        let known = Origin::read(job);
        let have = if known.etag.is_some() { file_len(&job.part) } else { 0 };
        if have > 0 && known.total == Some(have) {
            return Ok(known);
        }
        let (response, origin) = self.open(job, have, &known)?;
        let start = match response.status().as_u16() {
            206 if origin.continues(&known) && range_start(response.headers()) == Some(have) => have,
            // The file changed, or the server counts differently: what we have is worthless.
            206 | 416 => {
                discard(&job.part)?;
                return Err(Fault::Retry("the server cannot resume".into()));
            }
            200 => 0,
            status => return Err(refusal(status, &job.label, self.token.is_some())),
        };
        if origin.total.is_some_and(|total| total > job.limit) {
            return Err(Fault::Stop(too_large(job)));
        }
        if start == 0 {
            origin.write(job)?;
        }
        receive(response, job, start, origin.total)?;
        Ok(origin)
    }

    /// Sends the request along its redirects. What the hub says of the file before it redirects is kept.
    fn open(&self, job: &Job, have: u64, known: &Origin) -> Result<(Response<Body>, Origin), Fault> {
        let mut origin = Origin { url: job.url.clone(), ..Origin::default() };
        let mut url = parse_url(&job.url)?;
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send(&url, have, known).map_err(|e| sending_fault(&job.label, &e))?;
            origin.learn(response.headers());
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                origin.etag =
                    text(response.headers(), header::ETAG.as_str()).filter(|tag| !tag.starts_with("W/"));
                origin.total = total_size(&response);
                return Ok((response, origin));
            }
            let location = text(response.headers(), header::LOCATION.as_str()).unwrap_or_default();
            url = next_hop(&url, &location)
                .map_err(|cause| Fault::Refused(format!("{}: {cause}", job.label)))?;
        }
        Err(Fault::Refused(format!("{}: redirected more than {MAX_REDIRECTS} times", job.label)))
    }

    fn send(&self, url: &Uri, have: u64, known: &Origin) -> Result<Response<Body>, ureq::Error> {
        let mut request = self.agent.get(url).header(header::ACCEPT_ENCODING, "identity");
        if let (1.., Some(etag)) = (have, &known.etag) {
            request = request.header(header::RANGE, format!("bytes={have}-")).header(header::IF_RANGE, etag);
        }
        if let Some(token) = self.token.as_ref().filter(|_| self.may_see_token(url)) {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if is_loopback(url) {
            // A proxy has another loopback.
            request = request.config().proxy(None).build();
        }
        request.call()
    }

    fn may_see_token(&self, url: &Uri) -> bool {
        let own = url.scheme() == self.endpoint.scheme() && url.authority() == self.endpoint.authority();
        own && (url.scheme_str() == Some("https") || is_loopback(url))
    }
}

impl Origin {
    fn path(part: &Path) -> PathBuf {
        part.with_added_extension("json")
    }

    /// What was recorded when `job.part` was begun; empty if that was another file.
    fn read(job: &Job) -> Self {
        let text = fs::read_to_string(Self::path(&job.part)).unwrap_or_default();
        serde_json::from_str::<Self>(&text).ok().filter(|origin| origin.url == job.url).unwrap_or_default()
    }

    fn write(&self, job: &Job) -> Result<(), Error> {
        let path = Self::path(&job.part);
        let text = serde_json::to_string(self).map_err(|e| Error::config(&path, e))?;
        fs::write(&path, text).map_err(|e| Error::io(&path, e))
    }

    fn continues(&self, known: &Self) -> bool {
        self.etag == known.etag && self.total == known.total
    }

    /// Hugging Face describes a file in headers of the redirect; `x-linked-etag` is its sha256 (for stored objects).
    fn learn(&mut self, headers: &HeaderMap) {
        self.commit = self.commit.take().or_else(|| text(headers, "x-repo-commit").filter(|c| is_commit(c)));
        let linked = || text(headers, "x-linked-etag").map(|tag| tag.trim_matches('"').to_string());
        self.sha256 = self.sha256.take().or_else(|| linked().filter(|tag| is_sha256(tag)));
    }
}

/// Appends the body to the part, from byte `start` on.
fn receive(response: Response<Body>, job: &Job, start: u64, total: Option<u64>) -> Result<(), Fault> {
    let io = |e| Fault::Stop(Error::io(&job.part, e));
    let mut file = match start {
        0 => File::create(&job.part),
        _ => File::options().append(true).open(&job.part),
    }
    .map_err(io)?;
    let mut body = response.into_body().into_reader();
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut done = start;
    loop {
        let n = body.read(&mut chunk).map_err(|e| interrupted(done, total, &e.to_string()))?;
        if n == 0 {
            break;
        }
        done += n as u64;
        if done > total.unwrap_or(job.limit) {
            return Err(Fault::Stop(too_large(job)));
        }
        file.write_all(&chunk[..n]).map_err(io)?;
        (job.progress)(done, total);
    }
    match total {
        Some(size) if done < size => Err(interrupted(done, total, "the body ended")),
        _ => file.sync_all().map_err(io),
    }
}

fn interrupted(done: u64, total: Option<u64>, cause: &str) -> Fault {
    let of = total.map_or_else(String::new, |total| format!(" of {total}"));
    Fault::Retry(format!("interrupted after {done}{of} bytes: {cause}"))
}

/// Forgets a part, so that the next attempt starts from the first byte.
pub(super) fn discard(part: &Path) -> Result<(), Error> {
    for path in [part.to_path_buf(), Origin::path(part)] {
        match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io(path, e)),
            _ => {}
        }
    }
    Ok(())
}

fn refusal(status: u16, label: &str, has_token: bool) -> Fault {
    let hint =
        if has_token { "the token does not give access" } else { "set HF_TOKEN if the repository needs one" };
    match status {
        404 | 410 => Fault::Missing(format!("{label}: not found ({status})")),
        401 | 403 => {
            Fault::Refused(format!("{label}: no such repository, or access denied ({status}): {hint}"))
        }
        408 | 429 | 500..=599 => Fault::Retry(format!("the server answered {status}")),
        _ => Fault::Refused(format!("{label}: the server answered {status}")),
    }
}

fn sending_fault(label: &str, error: &ureq::Error) -> Fault {
    match error {
        ureq::Error::Io(_)
        | ureq::Error::Timeout(_)
        | ureq::Error::ConnectionFailed
        | ureq::Error::Protocol(_) => Fault::Retry(error.to_string()),
        // No such host, a bad certificate: the next attempt would see the same.
        _ => Fault::Refused(format!("{label}: {error}")),
    }
}

fn too_large(job: &Job) -> Error {
    Error::Hub(format!("{}: the server sends more than the expected {} bytes", job.label, job.limit))
}

fn parse_url(url: &str) -> Result<Uri, Fault> {
    let parsed = url.parse::<Uri>().ok().filter(|u| matches!(u.scheme_str(), Some("http" | "https")));
    parsed.ok_or_else(|| Fault::Stop(Error::Hub(format!("`{url}` is not an http or https address"))))
}

/// Where a redirect leads. Encryption, once begun, is never left.
fn next_hop(from: &Uri, location: &str) -> Result<Uri, String> {
    let scheme = from.scheme_str().unwrap_or("https");
    let authority = from.authority().map_or("", |a| a.as_str());
    let directory = from.path().rsplit_once('/').map_or("", |(directory, _)| directory);
    let absolute = match location {
        "" => return Err("redirected without a location".into()),
        l if l.contains("://") && !l.starts_with(['/', '?']) => l.to_string(),
        l if l.starts_with("//") => format!("{scheme}:{l}"),
        l if l.starts_with('/') => format!("{scheme}://{authority}{l}"),
        l => format!("{scheme}://{authority}{directory}/{l}"),
    };
    let next: Uri = absolute.parse().map_err(|_| "redirected to a malformed address".to_string())?;
    match (scheme, next.scheme_str()) {
        (_, Some("https")) | ("http", Some("http")) => Ok(next),
        _ => Err(format!(
            "redirected from {scheme} to {}, not followed",
            next.scheme_str().unwrap_or("nothing")
        )),
    }
}

fn is_loopback(url: &Uri) -> bool {
    matches!(url.host(), Some("localhost" | "127.0.0.1" | "[::1]"))
}

fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_string)
}

/// Size of the whole file: behind the slash of `Content-Range`, else `Content-Length`.
fn total_size(response: &Response<Body>) -> Option<u64> {
    match text(response.headers(), header::CONTENT_RANGE.as_str()) {
        Some(range) => range.rsplit_once('/')?.1.parse().ok(),
        None => response.body().content_length(),
    }
}

/// First byte that `Content-Range: bytes START-END/TOTAL` announces.
fn range_start(headers: &HeaderMap) -> Option<u64> {
    let range = text(headers, header::CONTENT_RANGE.as_str())?;
    range.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok()
}

fn file_len(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |m| m.len())
}

/// Percent-encodes everything but unreserved characters and, for a path, its slashes.
pub(super) fn percent_encode(text: &str, keep_slash: bool) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b) || (keep_slash && b == b'/');
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_resolved_and_never_leave_https() {
        let from: Uri = "https://hub.test/a/b/resolve/main/f".parse().unwrap();
        for (location, expected) in [
            ("https://cdn.test/x?sig=a://b", Some("https://cdn.test/x?sig=a://b")),
            ("//cdn.test/x", Some("https://cdn.test/x")),
            ("/api/x?to=http://y", Some("https://hub.test/api/x?to=http://y")),
            ("g", Some("https://hub.test/a/b/resolve/main/g")),
            ("http://cdn.test/x", None),
            ("file:///etc/passwd", None),
            ("ftp://cdn.test/x", None),
            ("https://", None),
            ("", None),
        ] {
            assert_eq!(
                next_hop(&from, location).ok().map(|u| u.to_string()).as_deref(),
                expected,
                "{location}"
            );
        }
        let plain: Uri = "http://localhost:1/f".parse().unwrap();
        assert!(next_hop(&plain, "http://localhost:1/g").is_ok());
        assert!(next_hop(&plain, "https://cdn.test/g").is_ok());
    }

    #[test]
    fn only_the_own_endpoint_sees_the_token_and_only_encrypted() {
        let patience = Patience { retry_delay: Duration::ZERO, stall: Duration::from_secs(1) };
        for (endpoint, url, expected) in [
            ("https://hub.test", "https://hub.test/x", true),
            ("https://hub.test", "https://cdn.test/x", false),
            ("https://hub.test", "https://hub.test:8443/x", false),
            ("http://hub.test", "http://hub.test/x", false),
            ("http://127.0.0.1:9", "http://127.0.0.1:9/x", true),
        ] {
            let client = Client::new(endpoint, Some("t".into()), patience).unwrap();
            assert_eq!(client.may_see_token(&url.parse().unwrap()), expected, "{endpoint} {url}");
        }
    }

    #[test]
    fn addresses_are_encoded() {
        assert_eq!(percent_encode("a b/ü#?&.pt", true), "a%20b/%C3%BC%23%3F%26.pt");
        assert_eq!(percent_encode("refs/pr/1", false), "refs%2Fpr%2F1");
    }
}
