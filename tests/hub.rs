//! The hub against a local server that behaves like Hugging Face and ModelScope. No test touches another host.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use funasr_candle::hub::{
    Card, Converter, Hub, HubOptions, LOCK_FILE, LockFile, ModelSource, Progress, Provenance, card, cards,
    installed, locate, pull, pull_card, resolve, verify,
};
use funasr_candle::{Error, Result};
use sha2::{Digest, Sha256};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A request as the server saw it; header names in lower case.
#[derive(Debug, Clone)]
struct Request {
    path: String,
    headers: BTreeMap<String, String>,
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// Name of the requested file, on either hub and on the content network.
    fn file(&self) -> &str {
        self.path.rsplit(['/', '=']).next().unwrap()
    }
}

/// An answer. `length` is what the header says, `body` what is sent, in pieces with a pause between.
#[derive(Debug, Clone)]
struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    length: usize,
    body: Vec<u8>,
    pieces: usize,
    pause: Duration,
}

impl Reply {
    fn status(status: u16) -> Self {
        Self::body(status, b"")
    }

    fn body(status: u16, body: &[u8]) -> Self {
        let (body, length) = (body.to_vec(), body.len());
        Self { status, headers: vec![], length, body, pieces: 1, pause: Duration::ZERO }
    }

    fn redirect(location: impl Into<String>) -> Self {
        Self::status(302).with("Location", location)
    }

    /// What a file server does: `Range` is honoured unless `If-Range` names another version.
    fn file(request: &Request, body: &[u8]) -> Self {
        let etag = format!("\"{}\"", &sha256(body)[..8]);
        let same = request.header("if-range").is_none_or(|tag| tag == etag);
        let range = request
            .header("range")
            .filter(|_| same)
            .and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-'));
        let reply = match range.map(|start| start.parse::<usize>().unwrap()) {
            None => Self::body(200, body),
            Some(start) if start >= body.len() => Self::status(416),
            Some(start) => Self::body(206, &body[start..])
                .with("Content-Range", format!("bytes {start}-{}/{}", body.len() - 1, body.len())),
        };
        reply.with("ETag", etag)
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// The connection breaks after `bytes` of the body.
    fn cut(mut self, bytes: usize) -> Self {
        self.body.truncate(bytes);
        self
    }

    fn send(&self, stream: &mut TcpStream) -> std::io::Result<()> {
        let mut head =
            format!("HTTP/1.1 {} x\r\nContent-Length: {}\r\nConnection: close\r\n", self.status, self.length);
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        stream.write_all((head + "\r\n").as_bytes())?;
        for piece in self.body.chunks(self.body.len().div_ceil(self.pieces).max(1)) {
            stream.write_all(piece)?;
            stream.flush()?;
            std::thread::sleep(self.pause);
        }
        Ok(())
    }
}

/// Answers on a port of its own and remembers what it was asked.
#[derive(Clone)]
struct Server {
    url: String,
    log: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// `answer` is given the request and how many requests for the same path came before.
    fn start(answer: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self { url: format!("http://{}", listener.local_addr().unwrap()), log: Arc::default() };
        let (log, answer) = (server.log.clone(), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (log, answer) = (log.clone(), answer.clone());
                std::thread::spawn(move || {
                    let mut stream = stream.unwrap();
                    let Some(request) = read_request(&stream) else { return };
                    let earlier = {
                        let mut log = log.lock().unwrap();
                        log.push(request.clone());
                        log.iter().filter(|r| r.path == request.path).count() - 1
                    };
                    // The client may hang up first.
                    let _ = answer(&request, earlier).send(&mut stream);
                });
            }
        });
        server
    }

    /// A hub with these files, as both sites lay them out; large files are behind a redirect, as on the real hubs.
    fn hub(files: &[(&str, &[u8])]) -> Self {
        let files = owned(files);
        Self::start(move |request, _| site(&files, request))
    }

    fn requests(&self, file: &str) -> Vec<Request> {
        self.log.lock().unwrap().iter().filter(|r| r.file() == file).cloned().collect()
    }

    fn count(&self) -> usize {
        self.log.lock().unwrap().len()
    }
}

fn read_request(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines().map_while(std::result::Result::ok);
    let path = lines.next()?.split(' ').nth(1)?.to_string();
    let headers = lines.take_while(|line| !line.is_empty());
    let headers =
        headers.filter_map(|l| l.split_once(": ").map(|(k, v)| (k.to_lowercase(), v.to_string()))).collect();
    Some(Request { path, headers })
}

type Files = BTreeMap<String, Vec<u8>>;

fn owned(files: &[(&str, &[u8])]) -> Files {
    files.iter().map(|(name, body)| (name.to_string(), body.to_vec())).collect()
}

fn site(files: &Files, request: &Request) -> Reply {
    let Some(body) = files.get(request.file()) else { return Reply::status(404) };
    match (request.path.contains("/resolve/"), request.file() == "model.pt") {
        (true, true) => {
            Reply::redirect("/cdn/model.pt").with("X-Repo-Commit", COMMIT).with("X-Linked-Etag", sha256(body))
        }
        (true, false) => Reply::file(request, body).with("X-Repo-Commit", COMMIT),
        (false, _) => Reply::file(request, body),
    }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// "Converts" by copying, and counts.
#[derive(Default)]
struct Copying {
    calls: AtomicUsize,
    seen: Mutex<Provenance>,
}

impl Converter for Copying {
    fn is_source(&self, dir: &Path) -> bool {
        dir.join("config.yaml").is_file()
    }

    fn convert(&self, source: &Path, target: &Path, provenance: &Provenance) -> Result<()> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        *self.seen.lock().unwrap() = provenance.clone();
        for (from, to) in [
            ("config.yaml", "config.json"),
            ("model.pt", "model.safetensors"),
            ("model.pb", "model.safetensors"),
        ] {
            if source.join(from).exists() {
                fs::copy(source.join(from), target.join(to)).map_err(|e| Error::io(from, e))?;
            }
        }
        Ok(())
    }
}

/// A cache in a temporary directory, and options that lead to nowhere but the given servers.
struct Desk {
    _dir: tempfile::TempDir,
    home: PathBuf,
    converter: Arc<Copying>,
    options: HubOptions,
}

/// Nothing listens there.
const NOWHERE: &str = "http://127.0.0.1:9";

fn desk(huggingface: &str, modelscope: &str) -> Desk {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("home");
    let converter = Arc::new(Copying::default());
    let options = HubOptions {
        home: home.clone(),
        hub: Hub::Auto,
        offline: false,
        hf_endpoint: huggingface.to_string(),
        hf_token: None,
        hf_cache: None,
        modelscope_endpoint: modelscope.to_string(),
        retry_delay: Duration::from_millis(1),
        stall_timeout: Duration::from_secs(20),
        progress: Arc::new(()),
        converter: converter.clone(),
    };
    Desk { _dir: dir, home, converter, options }
}

impl Desk {
    fn weights(&self) -> Vec<u8> {
        fs::read(self.home.join("models/fsmn-vad/model.safetensors")).unwrap()
    }
}

fn weights() -> Vec<u8> {
    (0..200_000u32).flat_map(u32::to_le_bytes).collect()
}

/// The files of the `fsmn-vad` card but the optional one.
fn vad_files(weights: &[u8]) -> [(&'static str, &[u8]); 3] {
    [("config.yaml", b"model: FsmnVADStreaming"), ("model.pt", weights), ("am.mvn", b"<Nnet>")]
}

fn failure<T>(result: Result<T>) -> String {
    let message = result.err().expect("should fail").to_string();
    assert!(!message.contains('\n'), "{message}");
    message
}

#[track_caller]
fn assert_contains(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

#[test]
fn hub_pull_installs_records_and_cleans_up() {
    let weights = weights();
    let server = Server::hub(&vad_files(&weights));
    let desk = desk(&server.url, NOWHERE);
    let dir = pull("fsmn-vad", &desk.options).unwrap();
    assert_eq!(dir, desk.home.join("models/fsmn-vad"));
    assert_eq!(desk.weights(), weights);
    assert!(!desk.home.join("downloads/fsmn-vad").exists());

    let lock = verify("fsmn-vad", &desk.options).unwrap();
    assert_eq!(
        (lock.hub.as_str(), lock.repo.as_str(), lock.revision.as_str()),
        ("huggingface", "funasr/fsmn-vad", "main")
    );
    assert_eq!(lock.commit.as_deref(), Some(COMMIT));
    let names = |records: &[funasr_candle::hub::FileRecord]| {
        records.iter().map(|r| r.path.clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(&lock.sources), ["config.yaml", "model.pt", "am.mvn"]);
    assert_eq!(names(&lock.files), ["config.json", "model.safetensors"]);
    assert_eq!((lock.sources[1].size, &lock.sources[1].sha256), (800_000, &sha256(&weights)));

    // Every file after the first is asked for at the commit of the first.
    assert!(server.requests("config.yaml")[0].path.contains("/resolve/main/"));
    assert!(server.requests("am.mvn")[0].path.contains(COMMIT));
    let seen = desk.converter.seen.lock().unwrap().clone();
    assert_eq!(seen.origin.unwrap(), format!("huggingface funasr/fsmn-vad@{COMMIT}"));
    assert_contains(&seen.licence.unwrap(), &["FunASR Model License", "MODEL_LICENSE"]);

    let asked = server.count();
    assert!(matches!(resolve("funasr/fsmn-vad", &desk.options).unwrap(), ModelSource::Dir(d) if d == dir));
    assert!(matches!(locate("fsmn-vad", &desk.options), Some(ModelSource::Dir(d)) if d == dir));
    assert_eq!(server.count(), asked, "an installed model needs no network");
    let all = installed(&desk.options).unwrap();
    assert_eq!((all.len(), all[0].name.as_str(), all[0].lock.as_ref()), (1, "fsmn-vad", Some(&lock)));
}

/// Ways in which the transfer of `model.pt` is disturbed, all of which end with the right bytes.
#[test]
fn hub_survives_disturbed_transfers() {
    const PAUSE: Duration = Duration::from_millis(2);
    type Disturb = fn(&Files, &Request, usize) -> Reply;
    let cases: [(&str, Disturb, Option<&str>); 7] = [
        (
            "truncated body",
            |f, r, n| if n == 0 { Reply::file(r, &f["model.pt"]).cut(300_000) } else { site(f, r) },
            Some("bytes=300000-"),
        ),
        ("500, then 503", |f, r, n| if n < 2 { Reply::status([500, 503][n]) } else { site(f, r) }, None),
        ("slow pieces", |f, r, _| Reply { pieces: 40, pause: PAUSE, ..site(f, r) }, None),
        (
            "stall",
            |f, r, n| {
                if n == 0 {
                    Reply { pause: PAUSE * 1000, ..Reply::file(r, &f["model.pt"]).cut(1000) }
                } else {
                    site(f, r)
                }
            },
            Some("bytes=1000-"),
        ),
        (
            "Range ignored",
            |f, r, n| {
                if n == 0 {
                    Reply::file(r, &f["model.pt"]).cut(1000)
                } else {
                    Reply::body(200, &f["model.pt"])
                }
            },
            Some("bytes=1000-"),
        ),
        (
            "Range refused",
            |f, r, n| match n {
                0 => Reply::file(r, &f["model.pt"]).cut(1000),
                1 => Reply::status(416),
                _ => site(f, r),
            },
            None,
        ),
        (
            "changed while it was fetched",
            |f, r, n| if n == 0 { Reply::file(r, b"an earlier version").cut(9) } else { site(f, r) },
            None,
        ),
    ];
    for (name, disturb, range) in cases {
        let weights = weights();
        let files = owned(&vad_files(&weights));
        let server = Server::start(move |request, earlier| match request.path.as_str() {
            "/cdn/model.pt" => disturb(&files, request, earlier),
            _ => site(&files, request),
        });
        let mut desk = desk(&server.url, NOWHERE);
        desk.options.stall_timeout = Duration::from_millis(500);
        pull("fsmn-vad", &desk.options).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(desk.weights() == weights, "{name}: other bytes");
        let cdn: Vec<Request> =
            server.requests("model.pt").into_iter().filter(|r| r.path.starts_with("/cdn")).collect();
        if range.is_some() {
            assert_eq!(cdn[1].header("range"), range, "{name}");
            assert!(cdn[1].header("if-range").is_some(), "{name}");
        }
    }
}

#[test]
fn hub_resumes_what_an_earlier_process_left() {
    let weights = weights();
    let files = owned(&vad_files(&weights));
    let broken = Arc::new(AtomicUsize::new(1));
    let switch = broken.clone();
    let server =
        Server::start(move |request, _| match (request.path.as_str(), switch.load(Ordering::SeqCst)) {
            ("/cdn/model.pt", 1) => Reply::file(request, &files["model.pt"]).cut(1000),
            _ => site(&files, request),
        });
    let desk = desk(&server.url, NOWHERE);
    let options = HubOptions { hub: Hub::HuggingFace, ..desk.options.clone() };
    assert_contains(
        &failure(pull("fsmn-vad", &options)),
        &["funasr/fsmn-vad", "model.pt", "5 attempts", "800000"],
    );
    let left = fs::metadata(desk.home.join("downloads/fsmn-vad/huggingface/model.pt.part")).unwrap().len();
    assert_eq!(left, 5000, "five attempts of 1000 bytes");
    assert_eq!(installed(&options).unwrap().len(), 0);

    broken.store(0, Ordering::SeqCst);
    pull("fsmn-vad", &options).unwrap();
    assert!(desk.weights() == weights);
    assert_eq!(server.requests("model.pt").last().unwrap().header("range"), Some("bytes=5000-"));
    assert_eq!(server.requests("config.yaml").len(), 1, "a finished file is not fetched again");
}

#[test]
fn hub_falls_back_to_modelscope() {
    let weights = weights();
    let files = vad_files(&weights);
    for (case, huggingface) in [
        ("no such repository", Server::hub(&[]).url),
        ("denied", Server::start(|_, _| Reply::status(403)).url),
        ("down", NOWHERE.to_string()),
        ("a file is missing", Server::hub(&files[..2]).url),
    ] {
        let server = Server::hub(&files);
        let desk = desk(&huggingface, &server.url);
        pull("fsmn-vad", &desk.options).unwrap_or_else(|e| panic!("{case}: {e}"));
        let lock = verify("fsmn-vad", &desk.options).unwrap();
        assert_eq!((lock.hub.as_str(), lock.commit), ("modelscope", None), "{case}");
        let expected = "/api/v1/models/iic/speech_fsmn_vad_zh-cn-16k-common-pytorch/repo?Revision=master&FilePath=model.pt";
        assert_eq!(server.requests("model.pt")[0].path, expected, "{case}");
    }
}

/// Answers to every request, and what the error has to say.
#[test]
fn hub_reports_refusals() {
    type Answer = fn(&Request, usize) -> Reply;
    let huge: Answer = |_, _| Reply { length: 1 << 40, ..Reply::body(200, b"x") };
    let cases: [(&str, Answer, &[&str]); 6] = [
        ("missing", |_, _| Reply::status(404), &["funasr/fsmn-vad@main", "config.yaml", "not found (404)"]),
        ("denied", |_, _| Reply::status(401), &["funasr/fsmn-vad", "denied (401)", "HF_TOKEN"]),
        ("failing", |_, _| Reply::status(500), &["answered 500", "5 attempts"]),
        ("loop", |r, _| Reply::redirect(r.path.clone()), &["redirected more than 5 times"]),
        (
            "away",
            |_, _| Reply::redirect("ftp://files.test/x"),
            &["redirected from http to ftp", "not followed"],
        ),
        ("huge", huge, &["more than the expected", "config.yaml"]),
    ];
    for (case, answer, parts) in cases {
        let server = Server::start(answer);
        let desk = desk(&server.url, NOWHERE);
        let options = HubOptions { hub: Hub::HuggingFace, ..desk.options.clone() };
        let message = failure(resolve("fsmn-vad", &options).and(pull("fsmn-vad", &options)));
        assert_contains(&message, parts);
        assert!(server.count() <= 12, "{case}: {} requests", server.count());
        assert!(!desk.home.join("models/fsmn-vad").exists(), "{case}");
    }
}

#[test]
fn hub_refuses_other_content() {
    let weights = weights();
    let files = owned(&vad_files(&weights));
    let server = Server::start(move |request, _| match request.path.as_str() {
        "/cdn/model.pt" => Reply::file(request, b"something else"),
        _ => site(&files, request),
    });
    let desk = desk(&server.url, &Server::hub(&vad_files(&weights)).url);
    let message = failure(pull("fsmn-vad", &desk.options));
    assert_contains(&message, &["model.pt", "sha256 is", &sha256(b"something else"), &sha256(&weights)]);
    assert!(
        !desk.home.join("downloads/fsmn-vad/huggingface/model.pt.part").exists(),
        "wrong bytes are not resumed"
    );

    // A hash on the card binds every source.
    let mut pinned = card("fsmn-vad").unwrap();
    pinned.files[0].sha256 = Some(sha256(b"the published config"));
    let options = HubOptions { hub: Hub::ModelScope, ..desk.options.clone() };
    assert_contains(&failure(pull_card(&pinned, &options)), &["modelscope", "config.yaml", "sha256 is"]);
    pinned.files[0].sha256 = Some(sha256(b"model: FsmnVADStreaming"));
    pull_card(&pinned, &options).unwrap();
}

#[test]
fn hub_shows_the_token_to_its_own_host_only() {
    let weights = weights();
    let cdn = Server::hub(&vad_files(&weights));
    let (files, elsewhere) = (owned(&vad_files(&weights)), cdn.url.clone());
    let server = Server::start(move |request, _| match request.header("authorization") {
        Some("Bearer secret") if request.file() == "model.pt" => {
            Reply::redirect(format!("{elsewhere}/cdn/model.pt"))
        }
        Some("Bearer secret") => site(&files, request),
        _ => Reply::status(401),
    });
    let desk = desk(&server.url, NOWHERE);
    pull("fsmn-vad", &HubOptions { hf_token: Some("secret".into()), ..desk.options.clone() }).unwrap();
    assert_eq!(cdn.requests("model.pt")[0].header("authorization"), None);
}

#[test]
fn hub_tries_alternative_names() {
    let server = Server::hub(&[
        ("config.yaml", b"model: ContextualParaformer"),
        ("model.pb", b"weights"),
        ("am.mvn", b"<Nnet>"),
        ("tokens.txt", b"a\nb"),
    ]);
    let desk = desk(NOWHERE, &server.url);
    pull("paraformer-zh-contextual", &desk.options).unwrap();
    let lock = verify("paraformer-zh-contextual", &desk.options).unwrap();
    let names: Vec<&str> = lock.sources.iter().map(|r| r.path.as_str()).collect();
    assert_eq!(names, ["config.yaml", "model.pb", "am.mvn", "tokens.txt"]);
}

#[test]
fn hub_offline_never_asks_the_network() {
    let weights = weights();
    let server = Server::hub(&vad_files(&weights));
    let desk = desk(&server.url, &server.url);
    let mut options = HubOptions { offline: true, ..desk.options.clone() };
    let message = failure(pull("ct-punc", &options));
    assert_contains(&message, &["ct-punc is not installed", "offline", "funasr-candle models pull ct-punc"]);

    // A snapshot that another program has put into the Hugging Face cache serves instead.
    let cache = desk.home.join("hf");
    let repo = cache.join("models--funasr--fsmn-vad");
    let snapshot = repo.join("snapshots").join(COMMIT);
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(repo.join("refs")).unwrap();
    fs::write(repo.join("refs/main"), COMMIT).unwrap();
    options.hf_cache = Some(cache);
    for (name, body) in vad_files(&weights) {
        assert_contains(&failure(pull("fsmn-vad", &options)), &["offline"]);
        fs::write(snapshot.join(name), body).unwrap();
    }
    pull("fsmn-vad", &options).unwrap();
    assert!(desk.weights() == weights);
    let lock = verify("fsmn-vad", &options).unwrap();
    assert_eq!((lock.hub.as_str(), lock.commit.as_deref()), ("huggingface", Some(COMMIT)));
    assert!(snapshot.join("model.pt").exists(), "the snapshot is not ours to remove");
    assert_eq!(server.count(), 0);
}

#[test]
fn hub_pulls_once_for_many_callers() {
    let weights = weights();
    let server = Server::hub(&vad_files(&weights));
    let desk = desk(&server.url, NOWHERE);
    std::thread::scope(|scope| {
        let callers: Vec<_> =
            (0..4).map(|_| scope.spawn(|| pull("fsmn-vad", &desk.options).unwrap())).collect();
        callers.into_iter().for_each(|caller| assert!(caller.join().unwrap().ends_with("models/fsmn-vad")));
    });
    assert_eq!(desk.converter.calls.load(Ordering::SeqCst), 1);
    assert_eq!(server.requests("config.yaml").len(), 1);
}

#[test]
fn hub_progress_reaches_the_total() {
    #[derive(Default)]
    struct Log(Mutex<Vec<(String, u64, Option<u64>)>>);
    impl Progress for Log {
        fn progress(&self, file: &str, done: u64, total: Option<u64>) {
            self.0.lock().unwrap().push((file.to_string(), done, total));
        }
    }
    let weights = weights();
    let server = Server::hub(&vad_files(&weights));
    let desk = desk(&server.url, NOWHERE);
    let log = Arc::new(Log::default());
    pull("fsmn-vad", &HubOptions { progress: log.clone(), ..desk.options.clone() }).unwrap();
    let steps: Vec<_> =
        log.0.lock().unwrap().iter().filter(|(file, ..)| file == "model.pt").cloned().collect();
    assert!(steps.len() > 1 && steps.is_sorted_by_key(|(_, done, _)| *done), "{steps:?}");
    assert_eq!(steps.last().unwrap(), &("model.pt".to_string(), 800_000, Some(800_000)));
}

#[test]
fn hub_verify_finds_damage() {
    let weights = weights();
    let server = Server::hub(&vad_files(&weights));
    let desk = desk(&server.url, NOWHERE);
    assert_contains(&failure(verify("ct-punc", &desk.options)), &["not installed", "models pull ct-punc"]);
    let dir = pull("fsmn-vad", &desk.options).unwrap();
    let model = dir.join("model.safetensors");
    let mut bytes = fs::read(&model).unwrap();
    bytes[77] ^= 1;
    fs::write(&model, &bytes).unwrap();
    assert_contains(
        &failure(verify("fsmn-vad", &desk.options)),
        &["model.safetensors", "has sha256", "pull again"],
    );
    fs::write(&model, &bytes[1..]).unwrap();
    assert_contains(
        &failure(verify("fsmn-vad", &desk.options)),
        &["model.safetensors", "has 799999 bytes", "800000"],
    );

    let lock = fs::read_to_string(dir.join(LOCK_FILE)).unwrap();
    for (from, to, part) in [
        ("config.json", "../config.json", "leaves the directory"),
        ("\"format\": 1", "\"format\": 2", "format 2"),
        ("\"hub\"", "\"hob\"", "unknown field `hob`"),
    ] {
        fs::write(dir.join(LOCK_FILE), lock.replace(from, to)).unwrap();
        assert_contains(&failure(LockFile::read(&dir)), &[LOCK_FILE, part]);
        assert_contains(&failure(verify("fsmn-vad", &desk.options)), &[LOCK_FILE, part]);
        assert!(installed(&desk.options).unwrap()[0].lock.is_none());
    }
}

#[test]
fn hub_converts_a_local_directory_once_per_state() {
    let desk = desk(NOWHERE, NOWHERE);
    let source = desk.home.join("my model");
    fs::create_dir_all(&source).unwrap();
    fs::write(source.join("config.yaml"), "model: Paraformer").unwrap();
    fs::write(source.join("model.pt"), "1").unwrap();
    let converted = |path: &Path| match resolve(path.to_str().unwrap(), &desk.options).unwrap() {
        ModelSource::Dir(dir) => dir,
        other => panic!("{other:?}"),
    };
    let first = converted(&source);
    assert!(first.starts_with(desk.home.join("converted")) && first.join("model.safetensors").exists());
    assert_eq!(converted(&source), first);
    assert_eq!(converted(&first), first, "a converted directory is used where it is");
    assert_eq!(desk.converter.calls.load(Ordering::SeqCst), 1);

    fs::write(source.join("model.pt"), "22").unwrap();
    let second = converted(&source);
    assert_ne!(second, first);
    assert_eq!(fs::read_to_string(second.join("model.safetensors")).unwrap(), "22");

    fs::remove_file(source.join("model.pt")).unwrap();
    let message = failure(resolve(source.to_str().unwrap(), &desk.options));
    assert_contains(&message, &["my model", "the conversion wrote no model"]);
    fs::remove_file(source.join("config.yaml")).unwrap();
    let message = failure(resolve(source.to_str().unwrap(), &desk.options));
    assert_contains(&message, &["my model", "neither config.json", "nor config.yaml"]);
}

#[test]
fn hub_unknown_names_get_a_next_step() {
    let desk = desk(NOWHERE, NOWHERE);
    for (name, parts) in [
        ("parafomer-zh", vec!["`parafomer-zh`", "did you mean paraformer-zh"]),
        ("sensevoice-smal", vec!["did you mean sensevoice-small?"]),
        ("whisper", vec!["models list"]),
        ("./no/such/dir", vec!["./no/such/dir", "neither a model name nor a model directory"]),
        ("", vec!["models list"]),
    ] {
        assert_contains(&failure(resolve(name, &desk.options)), &parts);
    }
}

#[test]
fn hub_has_a_card_for_every_model_directory() {
    let cards = cards().unwrap();
    let mut known: Vec<&str> = cards.iter().map(|c| c.name.as_str()).collect();
    known.sort_unstable();
    let mut committed: Vec<String> = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("models"))
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().join("model.toml").exists())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    committed.sort_unstable();
    assert_eq!(known, committed);
    for card in &cards {
        let names = [Some(card.name.as_str()), card.huggingface.as_ref().map(|r| r.repo.as_str())];
        for name in names.into_iter().flatten().chain(card.aliases.iter().map(String::as_str)) {
            let answering: Vec<&str> =
                cards.iter().filter(|c| c.answers_to(name)).map(|c| c.name.as_str()).collect();
            assert_eq!(answering, [&card.name], "{name} is claimed twice");
        }
        assert!(card.licence.url.starts_with("https://"), "{}", card.name);
        assert_eq!(card.sample_rate.is_none(), card.class.starts_with("CTTransformer"), "{}", card.name);
    }
    assert_eq!(card("SenseVoiceSmall").unwrap().name, "sensevoice-small");
    assert_eq!(card("iic/SenseVoiceSmall").unwrap().name, "sensevoice-small");
}

#[test]
fn hub_cards_are_strict() {
    let good = include_str!("../models/fsmn-vad/model.toml");
    Card::parse("c", good).unwrap();
    for (from, to, part) in [
        ("class =", "klass =", "unknown field `klass`"),
        ("repo = ", "rapo = ", "unknown field `rapo`"),
        ("[[file]]", "[[file]]\nsha1 = \"x\"", "unknown field `sha1`"),
        ("path = \"am.mvn\"", "path = \"../am.mvn\"", "`../am.mvn` is not a plain relative path"),
        ("path = \"am.mvn\"", "path = \"am.mvn\"\nalternative = \"/am.mvn\"", "`/am.mvn` is not"),
        ("path = \"am.mvn\"", "path = \"am.mvn\"\nsha256 = \"12\"", "sha256 `12`"),
        ("name = \"fsmn-vad\"", "name = \"../x\"", "name `../x`"),
        ("licence =", "# licence =", "missing field `licence`"),
        ("name =", "name", "expected"),
    ] {
        let text = good.replace(from, to);
        assert_ne!(text, good, "{from}");
        assert_contains(
            &failure(Card::parse("models/x/model.toml", &text)),
            &["models/x/model.toml: ", part],
        );
    }
    let nowhere: String = good
        .lines()
        .filter(|l| !l.starts_with("huggingface") && !l.starts_with("modelscope"))
        .map(|l| format!("{l}\n"))
        .collect();
    assert_contains(&failure(Card::parse("c", &nowhere)), &["neither huggingface nor modelscope"]);
}

#[test]
fn hub_reads_the_environment() {
    let vars = |name: &str| {
        Some(match name {
            "FUNASR_CANDLE_HOME" => "/cache".to_string(),
            "HF_ENDPOINT" => "https://mirror.test/".to_string(),
            "HF_HOME" => "/hf".to_string(),
            "HF_TOKEN" => "token".to_string(),
            "MODELSCOPE_ENDPOINT" => String::new(),
            _ => return None,
        })
    };
    let options = HubOptions::from_vars(vars).unwrap();
    assert_eq!(options.home, Path::new("/cache"));
    assert_eq!(options.hf_endpoint, "https://mirror.test");
    assert_eq!(options.hf_cache.as_deref(), Some(Path::new("/hf/hub")));
    assert_eq!(options.hf_token.as_deref(), Some("token"));
    assert_eq!(options.modelscope_endpoint, "https://modelscope.cn");
    for (text, hub) in [("hf", Hub::HuggingFace), ("ms", Hub::ModelScope), ("auto", Hub::Auto)] {
        assert_eq!(text.parse::<Hub>().unwrap(), hub);
    }
    assert_contains(&failure("s3".parse::<Hub>()), &["`s3`", "hf, ms, auto"]);
}
