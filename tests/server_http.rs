//! The server over HTTP: forms, their errors in each protocol's form, jobs, Realtime, limits. Real clients are in
//! `tests/clients`.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use funasr_candle::audio::read_all;
use funasr_candle::device::Compute;
use funasr_candle::engine::{Engine, EngineOptions, Models};
use funasr_candle::hub::{HubOptions, resolve};
use funasr_candle::pipeline::{
    Corrector, OnlineRecognizer, PunctuationModel, RealTime, Recognizer, Request, VoiceDetector, open_model,
};
use funasr_candle::server::{App, Server, Settings};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use ureq::http::Response;

/// What the demo models hear in `short_04.flac`: as a recording, and live, where punctuation is another model's.
const TEXT: &str = "Hello,你好，我是赵磊。";
const LIVE_TEXT: &str = "hello，你好，我是赵磊。";

/// The embedded models, loaded once; recordings of more than a minute are refused.
static ENGINE: LazyLock<Engine> = LazyLock::new(|| {
    let hub = HubOptions::from_env().unwrap();
    let compute = Compute::cpu();
    let open = |name: &str| open_model(&resolve(name, &hub).unwrap()).unwrap();
    let recognizer = Arc::new(Recognizer::load(&open("demo"), &compute).unwrap());
    let detector = Arc::new(VoiceDetector::load(&open("fsmn-vad"), &compute).unwrap());
    let punctuation = |name| Some(Arc::new(PunctuationModel::load(&open(name), &compute).unwrap()));
    let online = OnlineRecognizer::load(&open("demo-online"), &compute).unwrap();
    let corrector = Corrector {
        recognizer: recognizer.clone(),
        punctuation: punctuation("demo-punc-realtime"),
        itn: None,
    };
    let real_time = Some(RealTime::new(online, Some(detector.clone()), Some(corrector)).unwrap());
    let models = Models {
        recognizer,
        detector: Some(detector),
        punctuation: punctuation("demo-punc"),
        real_time,
        itn: None,
        base: Request::default(),
    };
    let options = EngineOptions { max_audio: Duration::from_secs(60), ..EngineOptions::default() };
    Engine::start(models, options).unwrap()
});

/// A server on a port of its own, which ends when it is dropped.
struct Running {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
}

impl Running {
    fn start(settings: Settings) -> Self {
        let settings =
            Settings { listen_ip: Ipv4Addr::LOCALHOST.into(), port: 0, drain_seconds: 1, ..settings };
        let app = App::new(ENGINE.clone(), settings, "demo").unwrap();
        let (stop, stopped) = oneshot::channel();
        let (tell, address) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            runtime.unwrap().block_on(async {
                let server = Server::bind(app).await.unwrap();
                tell.send(server.address().unwrap()).unwrap();
                let _ = server.run(async { drop(stopped.await) }).await;
            });
        });
        Self { address: address.recv().unwrap(), stop: Some(stop) }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn get(&self, path: &str) -> Reply {
        Reply::of(agent().get(self.url(path)).call())
    }

    fn post(&self, path: &str, form: &Form) -> Reply {
        let kind = format!("multipart/form-data; boundary={BOUNDARY}");
        Reply::of(agent().post(self.url(path)).header("content-type", kind).send(&form.body()[..]))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
    }
}

/// One without limits that a test would meet.
static PLAIN: LazyLock<Running> = LazyLock::new(|| Running::start(Settings::default()));

fn agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder().http_status_as_error(false);
    config.timeout_global(Some(Duration::from_secs(60))).build().into()
}

#[derive(Debug)]
struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    text: String,
}

impl Reply {
    fn of(response: Result<Response<ureq::Body>, ureq::Error>) -> Self {
        let mut response = response.unwrap();
        let text = |value: &ureq::http::HeaderValue| value.to_str().unwrap().to_owned();
        Self {
            status: response.status().as_u16(),
            headers: response.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect(),
            text: response.body_mut().read_to_string().unwrap(),
        }
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The data of server-sent events.
    fn events(&self) -> Vec<&str> {
        self.text.lines().filter_map(|line| line.strip_prefix("data: ")).collect()
    }
}

const BOUNDARY: &str = "a-boundary";

/// Texts, and a file.
#[derive(Default)]
struct Form<'a> {
    texts: Vec<(&'a str, &'a str)>,
    file: Option<(&'a str, &'a str, Vec<u8>)>,
}

impl<'a> Form<'a> {
    /// The clip whose text is [`TEXT`].
    fn clip(field: &'a str, texts: &[(&'a str, &'a str)]) -> Self {
        let clip = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/eval/short_04.flac");
        Self { texts: texts.to_vec(), file: Some((field, "short_04.flac", std::fs::read(clip).unwrap())) }
    }

    fn bytes(field: &'a str, name: &'a str, bytes: impl Into<Vec<u8>>) -> Self {
        Self { texts: Vec::new(), file: Some((field, name, bytes.into())) }
    }

    fn body(&self) -> Vec<u8> {
        let mut body = Vec::new();
        for (name, text) in &self.texts {
            write!(body, "--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{text}\r\n")
                .unwrap();
        }
        if let Some((field, name, bytes)) = &self.file {
            let disposition = format!("form-data; name=\"{field}\"; filename=\"{name}\"");
            write!(body, "--{BOUNDARY}\r\ncontent-disposition: {disposition}\r\n\r\n").unwrap();
            body.extend_from_slice(bytes);
            body.extend_from_slice(b"\r\n");
        }
        write!(body, "--{BOUNDARY}--\r\n").unwrap();
        body
    }
}

/// The routes that take recordings, with the field that holds them.
const ROUTES: [(&str, &str); 5] = [
    ("/recognition", "audio"),
    ("/", "anything"),
    ("/asr", "file"),
    ("/v1/audio/transcriptions", "file"),
    ("/v1/jobs", "file"),
];

/// The message of an error in the form of its route.
fn error(path: &str, reply: &Reply) -> String {
    let json = reply.json();
    let message = if path.starts_with("/v1/") {
        assert!(json["error"]["type"].is_string() && json["error"]["code"].is_string(), "{reply:?}");
        &json["error"]["message"]
    } else {
        &json["detail"]
    };
    message.as_str().unwrap_or_else(|| panic!("{path}: {reply:?}")).to_owned()
}

#[test]
fn funasr_routes_answer_with_the_text() {
    for (path, field) in &ROUTES[..3] {
        let reply = PLAIN.post(path, &Form::clip(field, &[("language", "zh"), ("hotwords", "你好")]));
        assert_eq!((reply.status, reply.json()["text"].as_str()), (200, Some(TEXT)), "{path}: {reply:?}");
    }
    let json = PLAIN.post("/recognition", &Form::clip("audio", &[])).json();
    assert_eq!(
        (&json["code"], &json["mode"], &json["is_final"]),
        (&json!(0), &json!("offline"), &json!(true))
    );
    assert_eq!(json["wav_name"], "short_04.flac");
    let texts: Vec<&str> =
        json["sentences"].as_array().unwrap().iter().filter_map(|s| s["text"].as_str()).collect();
    assert_eq!(texts, ["Hello,", "你好，", "我是赵磊。"]);
    let stamps: Vec<[u64; 2]> = serde_json::from_str(json["timestamp"].as_str().unwrap()).unwrap();
    assert_eq!(stamps.len(), 7);
    assert_eq!(json["stamp_sents"][1]["text_seg"], "你 好");
    let json = PLAIN.post("/asr", &Form::clip("file", &[])).json();
    assert!(json["rtf"].as_f64().unwrap() > 0.0 && json["duration"] == 3.792, "{json}");
    assert_eq!(json["segments"].as_array().unwrap().len(), 3);
}

#[test]
fn openai_formats() {
    let form = |texts: &[(&'static str, &'static str)]| Form::clip("file", texts);
    let ask = |texts: &[(&'static str, &'static str)]| {
        let reply = PLAIN.post("/v1/audio/transcriptions", &form(texts));
        assert_eq!(reply.status, 200, "{reply:?}");
        reply
    };
    assert_eq!(ask(&[("model", "whisper-1")]).json()["text"], TEXT);
    assert_eq!(ask(&[("response_format", "text")]).text, format!("{TEXT}\n"));
    let srt = ask(&[("response_format", "srt")]).text;
    assert!(srt.starts_with("1\n00:00:00,510 --> 00:00:01,469\nHello,\n\n2\n"), "{srt}");
    assert!(ask(&[("response_format", "vtt")]).text.starts_with("WEBVTT\n\n00:00:00.510 --> "));
    let verbose = [("response_format", "verbose_json"), ("timestamp_granularities[]", "word")];
    let json = ask(&verbose).json();
    assert_eq!((&json["words"][0]["word"], &json["words"][0]["start"]), (&json!("hello"), &json!(0.51)));
    assert_eq!((&json["segments"], &json["duration"]), (&Value::Null, &json!(3.792)));
    let json = ask(&verbose[..1]).json();
    assert_eq!((&json["words"], &json["segments"][2]["text"]), (&Value::Null, &json!("我是赵磊。")));
    let stream = ask(&[("stream", "true")]);
    assert_eq!(stream.header("content-type"), Some("text/event-stream"));
    let events = stream.events();
    let (last, events) = events.split_last().unwrap();
    assert_eq!(*last, "[DONE]");
    let events: Vec<Value> = events.iter().map(|data| serde_json::from_str(data).unwrap()).collect();
    let deltas: String = events.iter().filter_map(|event| event["delta"].as_str()).collect();
    assert_eq!((deltas.as_str(), events.last().unwrap()["text"].as_str()), (TEXT, Some(TEXT)));
}

#[test]
fn models_are_named() {
    assert_eq!(PLAIN.get("/v1/models").json()["data"][0]["id"], "demo");
    assert_eq!(PLAIN.get("/v1/models/demo").json()["id"], "demo");
    let reply = PLAIN.get("/v1/models/other");
    assert_eq!((reply.status, error("/v1/", &reply).contains("`demo`")), (404, true));
    let reply = PLAIN.post("/v1/audio/transcriptions", &Form::clip("file", &[("model", "other")]));
    assert_eq!((reply.status, reply.json()["error"]["param"].as_str()), (404, Some("model")));
}

#[test]
fn wrong_forms_are_refused_in_the_form_of_the_route() {
    let second = || {
        let mut form = Form::clip("file", &[]).body();
        form.truncate(form.len() - BOUNDARY.len() - 6);
        form.extend(Form::clip("other", &[]).body());
        form
    };
    let kind = format!("multipart/form-data; boundary={BOUNDARY}");
    type Case<'a> = (&'a str, &'a str, Vec<u8>, &'a [u16], &'a str);
    let cases: [Case; 7] = [
        ("no form", "application/json", b"{}".to_vec(), &[400, 415], "not a form"),
        ("no boundary", "multipart/form-data", b"x".to_vec(), &[400], "boundary"),
        ("empty form", &kind, Form::default().body(), &[400, 422], "required"),
        (
            "only text",
            &kind,
            Form { texts: vec![("model", "demo")], file: None }.body(),
            &[400, 422],
            "required",
        ),
        ("cut off", &kind, Form::clip("file", &[]).body()[..2000].to_vec(), &[400], "malformed"),
        ("second file", &kind, second(), &[400], "second file"),
        ("switch", &kind, Form::clip("file", &[("itn", "perhaps")]).body(), &[400], "itn"),
    ];
    for (path, _) in ROUTES {
        for (case, kind, body, statuses, says) in &cases {
            let sent = agent().post(PLAIN.url(path)).header("content-type", *kind).send(&body[..]);
            let reply = Reply::of(sent);
            assert!(statuses.contains(&reply.status), "{path}, {case}: {reply:?}");
            let message = error(path, &reply);
            assert!(message.contains(says), "{path}, {case}: {message}");
        }
    }
    for (field, value) in [
        ("response_format", "docx"),
        ("timestamp_granularities[]", "page"),
        ("temperature", "warm"),
        ("stream", "maybe"),
    ] {
        let reply = PLAIN.post("/v1/audio/transcriptions", &Form::clip("file", &[(field, value)]));
        assert_eq!(reply.status, 400, "{field}");
        assert!(error("/v1/", &reply).contains(field.trim_end_matches("[]")), "{reply:?}");
    }
}

#[test]
fn what_cannot_be_decoded_is_said_in_the_form_of_the_route() {
    for (name, bytes) in [("a.wav", &b""[..]), ("a.wav", b"no audio at all"), ("a.flac", b"fLaC\0\0\0\x22")] {
        let reply = PLAIN.post("/recognition", &Form::bytes("audio", name, bytes));
        assert_eq!((reply.status, &reply.json()["code"]), (200, &json!(1)), "{name}: {reply:?}");
        assert!(reply.json()["msg"].as_str().unwrap().starts_with("读取音频文件发生错误"));
        for path in ["/asr", "/v1/audio/transcriptions"] {
            let reply = PLAIN.post(path, &Form::bytes("file", name, bytes));
            assert_eq!(reply.status, 400, "{path}: {reply:?}");
            assert!(error(path, &reply).contains(name), "{path}: {reply:?}");
        }
    }
}

/// A wav file of a few bytes whose header claims `seconds` at 1000 Hz, 8 bit.
fn claims(seconds: u32) -> Vec<u8> {
    let bytes = seconds * 1000;
    let mut wav = b"RIFF".to_vec();
    wav.extend((36 + bytes).to_le_bytes());
    wav.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    wav.extend(1000u32.to_le_bytes());
    wav.extend(1000u32.to_le_bytes());
    wav.extend(b"\x01\0\x08\0data");
    wav.extend(bytes.to_le_bytes());
    wav.extend([0x80; 1000]);
    wav
}

#[test]
fn recordings_beyond_the_limits_are_refused() {
    for (path, field) in &ROUTES[..4] {
        let start = Instant::now();
        let reply = PLAIN.post(path, &Form::bytes(field, "days.wav", claims(4_000_000)));
        assert_eq!(reply.status, 413, "{path}: {reply:?}");
        assert!(error(path, &reply).contains("60 s"), "{path}: {reply:?}");
        assert!(start.elapsed() < Duration::from_secs(5), "{path}");
        // Silence of which all is there: more than a minute in a small file.
        let silence = vec![0; 70 * 32_000];
        let reply = PLAIN.post(path, &Form::bytes(field, "long.pcm", silence));
        assert_eq!(reply.status, 413, "{path}: {reply:?}");
    }
    let small = Running::start(Settings { max_upload_bytes: 10_000, ..Settings::default() });
    for (path, field) in ROUTES {
        let reply = small.post(path, &Form::clip(field, &[]));
        assert_eq!(reply.status, 413, "{path}: {reply:?}");
        assert!(error(path, &reply).contains("10000"), "{path}: {reply:?}");
    }
}

#[test]
fn an_upload_that_stalls_is_given_up() {
    let hasty = Running::start(Settings { idle_seconds: 1, ..Settings::default() });
    for path in ["/recognition", "/v1/audio/transcriptions"] {
        let mut socket = TcpStream::connect(hasty.address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let body = Form::clip("file", &[]).body();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\
             content-type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n",
            body.len()
        );
        socket.write_all(head.as_bytes()).unwrap();
        socket.write_all(&body[..500]).unwrap();
        let start = Instant::now();
        let mut reply = [0; 12];
        socket.read_exact(&mut reply).unwrap();
        assert_eq!(&reply, b"HTTP/1.1 408", "{path}");
        assert!(start.elapsed() < Duration::from_secs(10), "{path}: {:?}", start.elapsed());
    }
}

/// A byte now and then is no upload either.
#[test]
fn an_upload_that_trickles_is_given_up() {
    let hasty = Running::start(Settings { idle_seconds: 1, ..Settings::default() });
    let mut socket = TcpStream::connect(hasty.address).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let head = format!(
        "POST /recognition HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\
         content-type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).unwrap();
    let start = Instant::now();
    let mut reply = [0; 12];
    while socket.read_exact(&mut reply).is_err() {
        assert!(start.elapsed() < Duration::from_secs(20), "it is listened to for ever");
        socket.write_all(b"-").unwrap();
    }
    assert_eq!(&reply, b"HTTP/1.1 408");
}

#[test]
fn keys_are_asked_for_but_the_page_is_open() {
    let mut keys = tempfile::NamedTempFile::new().unwrap();
    writeln!(keys, "sesame").unwrap();
    let locked = Running::start(Settings { api_keys: Some(keys.path().to_owned()), ..Settings::default() });
    for path in ["/v1/models", "/openapi.json", "/health", "/v1/jobs/x"] {
        let ask = |key: &str| {
            Reply::of(agent().get(locked.url(path)).header("authorization", format!("Bearer {key}")).call())
        };
        let reply = ask("sesamE");
        assert_eq!(reply.status, 401, "{path}: {reply:?}");
        assert!(error(path, &reply).contains("API key"), "{path}");
        assert_ne!(ask("sesame").status, 401, "{path}");
        assert_eq!(locked.get(path).status, 401, "{path}");
        assert_ne!(locked.get(&format!("{path}?api_key=sesame")).status, 401, "{path}");
    }
    for path in ["/", "/web/app.js", "/healthz"] {
        assert_eq!(locked.get(path).status, 200, "{path}");
    }
    let reply = locked.post("/", &Form::clip("audio", &[]));
    assert_eq!(reply.status, 401, "{reply:?}");
}

#[test]
fn jobs_tell_their_progress_and_keep_their_result() {
    let reply = PLAIN.post("/v1/jobs", &Form::clip("file", &[("model", "demo")]));
    assert_eq!(reply.status, 202, "{reply:?}");
    let path = reply.header("location").unwrap().to_owned();
    assert_eq!(path, format!("/v1/jobs/{}", reply.json()["id"].as_str().unwrap()));
    let events = PLAIN.get(&format!("{path}/events"));
    assert_eq!(events.header("content-type"), Some("text/event-stream"));
    assert!(events.text.contains("event: completed"), "{events:?}");
    let last: Value = serde_json::from_str(events.events().last().unwrap()).unwrap();
    assert_eq!((&last["status"], &last["processed_ms"]), (&json!("completed"), &json!(3792)));
    assert_eq!(
        (&last["result"]["text"], &last["result"]["words"][0]["word"]),
        (&json!(TEXT), &json!("hello"))
    );
    assert_eq!(PLAIN.get(&path).json(), last);
    assert_eq!(Reply::of(agent().delete(PLAIN.url(&path)).call()).status, 204);
    for path in [&path, "/v1/jobs/x", "/v1/jobs/x/events"] {
        let reply = PLAIN.get(path);
        assert_eq!((reply.status, error(path, &reply).contains("no job")), (404, true));
    }
    let reply = PLAIN.post("/v1/jobs", &Form::bytes("file", "a.wav", *b"no audio at all"));
    let path = reply.header("location").unwrap().to_owned();
    let events = PLAIN.get(&format!("{path}/events"));
    assert!(events.text.contains("event: failed") && events.text.contains("a.wav"), "{events:?}");
}

#[test]
fn the_document_names_every_route_and_the_page_has_all_its_files() {
    let document = PLAIN.get("/openapi.json").json();
    for (path, method) in [
        ("/recognition", "post"),
        ("/asr", "post"),
        ("/v1/audio/transcriptions", "post"),
        ("/v1/models", "get"),
        ("/v1/models/{model}", "get"),
        ("/v1/jobs", "post"),
        ("/v1/jobs/{id}", "get"),
        ("/v1/jobs/{id}", "delete"),
        ("/v1/jobs/{id}/events", "get"),
    ] {
        assert!(document["paths"][path][method].is_object(), "{method} {path}");
    }
    let page = PLAIN.get("/");
    assert!(page.header("content-security-policy").unwrap().contains("default-src 'self'"));
    let linked = |text: &str, before: &str, after: char| -> Vec<String> {
        text.split(before).skip(1).filter_map(|rest| rest.split(after).next().map(str::to_owned)).collect()
    };
    let mut files: Vec<String> = linked(&page.text, "\"web/", '"');
    let script = PLAIN.get("/web/app.js").text;
    files.extend(linked(&script, "'./", '\''));
    assert!(files.len() >= 7, "{files:?}");
    for file in files {
        let reply = PLAIN.get(&format!("/web/{file}"));
        assert_eq!(reply.status, 200, "{file}");
    }
}

/// One connection to `/v1/realtime`, driven from this thread.
struct Realtime {
    runtime: tokio::runtime::Runtime,
    socket: tokio_tungstenite::WebSocketStream<tokio::net::TcpStream>,
}

impl Realtime {
    fn open(server: &Running) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let url = server.url("/v1/realtime?intent=transcription").replace("http", "ws");
        let connected = runtime.block_on(async {
            let stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
            tokio_tungstenite::client_async(url, stream).await
        });
        let mut realtime = Self { runtime, socket: connected.unwrap().0 };
        assert_eq!(realtime.next()["type"], "session.created");
        realtime
    }

    fn send_text(&mut self, text: &str) {
        let frame = tokio_tungstenite::tungstenite::Message::text(text);
        self.runtime.block_on(self.socket.send(frame)).unwrap();
    }

    fn send(&mut self, event: Value) {
        self.send_text(&event.to_string());
    }

    fn next(&mut self) -> Value {
        let next = async { tokio::time::timeout(Duration::from_secs(30), self.socket.next()).await };
        let frame = self.runtime.block_on(next).unwrap().unwrap().unwrap();
        serde_json::from_str(frame.to_text().unwrap()).unwrap()
    }

    /// Everything up to the first event of this kind.
    fn until(&mut self, kind: &str) -> Vec<Value> {
        let mut events = vec![self.next()];
        while events.last().unwrap()["type"] != kind {
            events.push(self.next());
        }
        events
    }

    fn append(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(32_000) {
            self.send(json!({ "type": "input_audio_buffer.append", "audio": BASE64.encode(piece) }));
        }
    }
}

/// The clip whose text is [`LIVE_TEXT`], as 16-bit samples at 16 kHz.
fn samples() -> Vec<u8> {
    let clip = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/eval/short_04.flac");
    let samples = read_all(&clip, 16_000, None).unwrap();
    samples.iter().flat_map(|sample| ((sample * 32_768.0) as i16).to_le_bytes()).collect()
}

const COMPLETED: &str = "conversation.item.input_audio_transcription.completed";

fn session(turns: Value) -> Value {
    let input = json!({ "format": { "type": "audio/pcm", "rate": 16000 }, "turn_detection": turns });
    json!({ "type": "session.update", "session": { "type": "transcription", "audio": { "input": input } } })
}

#[test]
fn realtime_answers_what_is_wrong_and_lives_on() {
    let mut realtime = Realtime::open(&PLAIN);
    let wrong_format = json!({ "audio": { "input": { "format": { "type": "audio/mp3" } } } });
    let wrong_model = json!({ "audio": { "input": { "transcription": { "model": "other" } } } });
    for (event, says) in [
        ("{".to_owned(), "not JSON"),
        ("[]".to_owned(), "no type"),
        (json!({ "type": "response.create", "event_id": "e1" }).to_string(), "response.create"),
        (json!({ "type": "session.update", "session": wrong_format }).to_string(), "audio/pcm"),
        (json!({ "type": "session.update", "session": wrong_model }).to_string(), "`other`"),
        (json!({ "type": "input_audio_buffer.append" }).to_string(), "audio"),
        (json!({ "type": "input_audio_buffer.append", "audio": "?!" }).to_string(), "base64"),
        (json!({ "type": "input_audio_buffer.commit" }).to_string(), "too little"),
    ] {
        realtime.send_text(&event);
        let reply = realtime.next();
        assert_eq!(reply["type"], "error", "{event}");
        assert!(reply["error"]["message"].as_str().unwrap().contains(says), "{event}: {reply}");
        assert!(!event.contains("e1") || reply["error"]["event_id"] == "e1", "{reply}");
    }
    realtime.send(session(Value::Null));
    assert_eq!(realtime.next()["session"]["audio"]["input"]["format"]["rate"], 16000);
    realtime.append(&samples()[..9999]);
    realtime.send(json!({ "type": "input_audio_buffer.clear" }));
    assert_eq!(realtime.next()["type"], "input_audio_buffer.cleared");
    for previous in [false, true] {
        realtime.append(&samples());
        realtime.send(json!({ "type": "input_audio_buffer.commit" }));
        let events = realtime.until(COMPLETED);
        assert_eq!(events[0]["type"], "input_audio_buffer.committed");
        assert_eq!(events[0]["previous_item_id"].is_string(), previous);
        let completed = events.last().unwrap();
        assert_eq!(
            (&completed["transcript"], &completed["item_id"]),
            (&json!(LIVE_TEXT), &events[0]["item_id"])
        );
        assert_eq!(completed["usage"]["seconds"], 3.792);
    }
}

#[test]
fn realtime_items_end_with_their_speaker() {
    let mut realtime = Realtime::open(&PLAIN);
    realtime.send(session(json!({ "type": "server_vad" })));
    assert_eq!(realtime.next()["type"], "session.updated");
    let mut items = Vec::new();
    for _ in 0..2 {
        realtime.append(&samples());
        realtime.append(&[0; 64_000]);
        let events = realtime.until(COMPLETED);
        let kinds: Vec<&str> = events.iter().filter_map(|event| event["type"].as_str()).collect();
        assert_eq!(kinds[0], "input_audio_buffer.speech_started");
        let delta = "conversation.item.input_audio_transcription.delta";
        let stopped = kinds.iter().position(|&kind| kind == "input_audio_buffer.speech_stopped").unwrap();
        assert!(kinds[1..stopped].iter().all(|&kind| kind == delta) && stopped > 1, "{kinds:?}");
        let id = events[0]["item_id"].clone();
        assert!(
            events.iter().filter(|event| event["item_id"].is_string()).all(|event| event["item_id"] == id)
        );
        let times = [&events[0]["audio_start_ms"], &events[stopped]["audio_end_ms"]];
        items.push((id, events.last().unwrap()["transcript"].clone(), times.map(|ms| ms.as_u64().unwrap())));
    }
    assert_ne!(items[0].0, items[1].0);
    // Where speech lies in what was appended, not when it was noticed: in the second round 2 s and the recording later.
    let later = (samples().len() as u64 + 64_000) / 32;
    let [first, second] = [items[0].2, items[1].2];
    assert!(first[0] < 500 && first[0] < first[1], "{first:?}");
    assert!([0, 1].iter().all(|&i| second[i].abs_diff(first[i] + later) <= 100), "{first:?}, {second:?}");
    assert_eq!((&items[0].1, &items[1].1), (&json!(LIVE_TEXT), &json!(LIVE_TEXT)));
}

#[test]
fn realtime_keeps_the_servers_bounds() {
    let bounded = Running::start(Settings { max_message_bytes: 10_000, ..Settings::default() });
    let mut realtime = Realtime::open(&bounded);
    let frame = tokio_tungstenite::tungstenite::Message::text("x".repeat(20_000));
    let _ = realtime.runtime.block_on(realtime.socket.send(frame));
    let end = async { tokio::time::timeout(Duration::from_secs(10), realtime.socket.next()).await };
    let end = realtime.runtime.block_on(end).unwrap();
    assert!(!matches!(end, Some(Ok(tokio_tungstenite::tungstenite::Message::Text(_)))), "{end:?}");
    assert_eq!(bounded.get("/healthz").status, 200);
}
