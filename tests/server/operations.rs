//! Keys, TLS, limits, metrics, shutdown.

use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStderr, Command, Stdio};

use tempfile::TempDir;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn health_and_metrics_are_told() {
    let desk = Desk::open().await;
    assert_serves(&desk).await;
    assert!(desk.get("/healthz").await.contains(r#"{"status":"ok"}"#));
    assert!(desk.get("/readyz").await.contains(r#""status":"ready""#));
    assert!(desk.get("/nowhere").await.starts_with("HTTP/1.1 404"));
    assert!(desk.get("/v1/nowhere").await.contains(r#""type":"invalid_request_error""#));
    let page = desk.get("/metrics").await;
    let (_, body) = page.split_once("\r\n\r\n").unwrap();
    let value = |name: &str| -> f64 {
        let line = body.lines().find(|line| line.starts_with(&format!("funasr_{name} ")));
        line.unwrap_or_else(|| panic!("{name}: {body}")).rsplit(' ').next().unwrap().parse().unwrap()
    };
    assert!(value("recordings_total") >= 1.0 && value("recording_audio_seconds_total") > 1.0);
    assert!(value("recording_seconds_count") >= 1.0 && value("recording_batch_size_count") >= 1.0);
    assert!(value("resident_memory_bytes") > 1e6);
    for line in body.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(name.starts_with("funasr_") && value.parse::<f64>().is_ok(), "{line}");
    }
    desk.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_asked_for_and_reloaded() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    std::fs::write(&file, "# ours\nsecret one\n\nother\n").unwrap();
    let desk = Desk::with(Settings { api_keys: Some(file.clone()), ..Settings::default() }).await;
    let access = |key: &str| Access { api_key: Some(key.to_owned()), ..Access::default() };
    for key in ["", "wrong", "secret", "secret one ", "# ours"] {
        let error = Client::connect(&desk.url(), &access(key)).await.err();
        let ok = key == "secret one ";
        assert_eq!(error.is_none(), ok, "{key:?}");
        assert!(ok || error.unwrap().to_string().contains("401"), "{key:?}");
    }
    let none = Client::connect(&desk.url(), &Access::default()).await.unwrap_err().to_string();
    assert!(none.contains("401"), "{none}");
    let query = format!("{}?x=1&api_key=secret%20one", desk.url());
    Client::connect(&query, &Access::default()).await.unwrap();
    assert!(desk.get("/metrics").await.starts_with("HTTP/1.1 401"));
    assert!(desk.get("/healthz").await.starts_with("HTTP/1.1 200"));
    // A bad file leaves the keys as they are.
    std::fs::write(&file, "# none\n").unwrap();
    desk.app.reload().unwrap_err();
    Client::connect(&desk.url(), &access("other")).await.unwrap();
    std::fs::write(&file, "new\n").unwrap();
    desk.app.reload().unwrap();
    Client::connect(&desk.url(), &access("new")).await.unwrap();
    Client::connect(&desk.url(), &access("other")).await.unwrap_err();
    desk.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_spoken_and_garbage_is_not_listened_to() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tls");
    let (certfile, keyfile) = (Some(data.join("cert.pem")), Some(data.join("key.pem")));
    let desk = Desk::with(Settings { certfile: certfile.clone(), keyfile, ..Settings::default() }).await;
    let garbage = desk.raw("\x16\x03\x01\x02\x00\x01\x00\x01\x7cgarbage, not a hello\r\n\r\n").await;
    assert!(!garbage.contains("HTTP"), "{garbage}");
    assert!(!desk.get("/healthz").await.contains("HTTP"), "plain text is not answered in plain text");
    let url = format!("wss://localhost:{}/", desk.address.port());
    let mut client =
        Client::connect(&url, &Access { ca_file: certfile.clone(), ..Access::default() }).await.unwrap();
    let replies = ask(&mut client, &options("offline"), &pcm("short_07"), 9600).await;
    assert_eq!(replies[0].text, "把风扇关掉。");
    drop(client);
    desk.close().await;
    // A certificate without its key is no silent plain port.
    let settings = Settings { certfile, ..Settings::default() };
    let app = App::new(ENGINE.clone(), settings, "demo").unwrap();
    let error = Server::bind(app).await.err().unwrap().to_string();
    assert!(error.contains("--keyfile"), "{error}");
}

/// Too many connections, sessions, recordings, requests: each is told in its protocol, and who is inside goes on.
#[tokio::test(flavor = "multi_thread")]
async fn limits_are_kept_and_told() {
    let engine = engine(EngineOptions { max_sessions: 1, workers: 1, queue: 1, ..EngineOptions::default() });
    let desk = Desk::with_engine(Settings { max_connections: 3, ..Settings::default() }, engine).await;
    let (mut one, mut two, mut three) = (desk.client().await, desk.client().await, desk.client().await);
    let refused = Client::connect(&desk.url(), &Access::default()).await.unwrap_err().to_string();
    assert!(refused.contains("503"), "{refused}");
    assert!(desk.get("/healthz").await.to_lowercase().contains("retry-after"));
    one.sender.begin(&options("2pass")).await.unwrap();
    one.sender.audio(&pcm("short_07")).await.unwrap();
    let stats = desk.app.engine().stats();
    eventually("no session", || stats.sessions.get() == 1).await;
    let replies_two = ask(&mut two, &options("2pass"), &pcm("short_07"), 9600).await;
    assert_eq!(replies_two.last().unwrap().error.as_ref().unwrap().code, "busy");
    // Utterances of one connection wait for a worker; beyond the queue they are refused, and each is answered.
    for _ in 0..12 {
        three.sender.begin(&options("offline")).await.unwrap();
        three.sender.audio(&pcm("short_04").repeat(4)).await.unwrap();
        three.sender.finish().await.unwrap();
    }
    let mut answers = Vec::new();
    for _ in 0..12 {
        answers.push(reply(&mut three).await);
    }
    let busy = answers.iter().filter(|reply| reply.error.as_ref().is_some_and(|error| error.code == "busy"));
    assert!((1..12).contains(&busy.count()), "{answers:?}");
    one.sender.finish().await.unwrap();
    assert_eq!(replies(&mut one).await.last().unwrap().text, "把风扇关掉。");
    drop((one, two, three));
    desk.close().await;
    let desk = Desk::with(Settings { requests_per_minute: 3, ..Settings::default() }).await;
    let mut statuses = Vec::new();
    for _ in 0..5 {
        statuses.push(desk.get("/metrics").await[9..12].to_owned());
    }
    assert_eq!(statuses, ["200", "200", "200", "429", "429"]);
    desk.close().await;
}

/// Shutdown: what was begun is finished, nothing new is taken, the idle are sent away.
#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_finishes_what_was_begun() {
    let mut desk = Desk::open().await;
    let (mut idle, mut live, mut file) = (desk.client().await, desk.client().await, desk.client().await);
    let bytes = pcm("short_07");
    let (first, rest) = bytes.split_at(bytes.len() / 2);
    live.sender.begin(&options("2pass")).await.unwrap();
    live.sender.audio(first).await.unwrap();
    file.sender.begin(&options("offline")).await.unwrap();
    file.sender.audio(first).await.unwrap();
    // Both have begun when their audio has been taken.
    let metrics = format!("{}", desk.address);
    eventually("nothing begun", || desk.app.messages_received() >= 4).await;
    desk.stop();
    assert_eq!(idle.receiver.next().await.unwrap(), None, "the idle are sent away");
    assert!(TcpStream::connect(&metrics).await.is_err(), "nobody new is let in");
    for client in [&mut live, &mut file] {
        client.sender.audio(rest).await.unwrap();
        client.sender.finish().await.unwrap();
        assert_eq!(replies(client).await.last().unwrap().text, "把风扇关掉。");
        assert_eq!(client.receiver.next().await.unwrap(), None);
    }
    desk.close().await;
}

/// The program, listening on a port of its own.
struct Program {
    child: Child,
    address: String,
    /// What it said before it was ready.
    told: Vec<String>,
    lines: Lines<BufReader<ChildStderr>>,
    /// Its models, as long as it runs.
    _home: TempDir,
}

impl Program {
    #[expect(clippy::zombie_processes, reason = "the tests wait for its end")]
    fn serve(args: &[&str]) -> Self {
        let home = tempfile::tempdir().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_funasr-candle"))
            .args(["serve", "--offline", "--listen-ip", "127.0.0.1", "--port", "0"])
            .args(args)
            .env("FUNASR_CANDLE_HOME", home.path())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut told = Vec::new();
        loop {
            let line = lines.next().expect("it says where it listens").unwrap();
            if let Some(address) = line.strip_prefix("listening on ") {
                let address = address.to_owned();
                return Self { child, address, told, lines, _home: home };
            }
            told.push(line);
        }
    }

    fn terminate(&self) {
        let kill = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(kill.success());
    }
}

/// A start script of FunASR's server for recordings, with clients that send nothing but audio.
#[cfg(feature = "embedded-itn")]
#[tokio::test(flavor = "multi_thread")]
async fn start_scripts_of_funasr_write_digits() {
    let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo");
    let digits = ["--model-dir", demo, "--itn-dir", "thuduj12/fst_itn_zh"];
    for (args, expected) in [
        (&digits[..], "公司有2196名员工。"),
        (&["--model-dir", demo, "--itn-dir", ""], "公司有二千一百九十六名员工。"),
        (&["--model-dir", demo, "--itn", "off"], "公司有二千一百九十六名员工。"),
        (&["--mode", "offline"], "公司有二千一百九十六名员工。"),
    ] {
        let mut program = Program::serve(args);
        let mut client =
            Client::connect(&format!("ws://{}/", program.address), &Access::default()).await.unwrap();
        client.sender.audio(&pcm("short_02")).await.unwrap();
        client.sender.finish().await.unwrap();
        assert_eq!(replies(&mut client).await.last().unwrap().text, expected, "{args:?}");
        drop(client);
        program.terminate();
        assert!(program.child.wait().unwrap().success());
    }
}

/// The program itself: flags, the line that says it is ready, SIGTERM under load.
#[tokio::test(flavor = "multi_thread")]
async fn the_program_ends_gracefully() {
    let flags = ["--decoder-thread-num", "2", "--lm-dir", "damo/speech_ngram_lm", "--certfile", "0"];
    let program = Program::serve(&[&flags[..], &["--quantize", "true"]].concat());
    let Program { address, told, .. } = &program;
    assert!(told.iter().any(|line| line.contains("--lm-dir has no effect")), "{told:?}");
    let url = format!("ws://{address}/");
    let clients = (0..6).map(|i| {
        let url = url.clone();
        tokio::spawn(async move {
            let mut client = Client::connect(&url, &Access::default()).await.unwrap();
            client.sender.begin(&options(if i % 2 == 0 { "offline" } else { "2pass" })).await.unwrap();
            client.sender.audio(&pcm("short_07")).await.unwrap();
            client.sender.finish().await.unwrap();
            client
        })
    });
    let mut accepted = Vec::new();
    for client in clients.collect::<Vec<_>>() {
        accepted.push(client.await.unwrap());
    }
    // What has arrived is accepted.
    let arrived = || async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).await.unwrap();
        page.lines().any(|line| line == "funasr_messages_received_total 18")
    };
    while !arrived().await {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    program.terminate();
    for client in &mut accepted {
        assert_eq!(replies(client).await.last().unwrap().text, "把风扇关掉。");
    }
    drop(accepted);
    let Program { mut child, lines, .. } = program;
    let rest = std::thread::spawn(move || lines.map_while(Result::ok).collect::<Vec<_>>());
    let status = tokio::task::spawn_blocking(move || child.wait()).await.unwrap().unwrap();
    assert!(status.success(), "{status} {:?}", rest.join());
}

/// Flags that are unknown or make no sense, and configurations.
#[test]
fn wrong_flags_and_settings_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_funasr-candle"))
            .args(["serve", "--offline"])
            .args(args)
            .env("FUNASR_CANDLE_HOME", folder.path())
            .output()
            .unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let config = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let unknown = config("unknown.toml", "[server]\nport = 0\nprot = 1\n");
    let wrong = config("wrong.toml", "[engine]\nworkers = \"many\"\n");
    let cases: [(&[&str], i32, &str); 7] = [
        (&["--bogus"], 2, "--bogus"),
        (&["--port", "99999"], 2, "99999"),
        (&["--model", "a", "--model-dir", "b"], 2, "cannot be used with"),
        (&["--config", &unknown], 1, "line 3: unknown field `prot`"),
        (&["--config", &wrong], 1, "line 2: invalid type"),
        (&["--lm", "no-lm"], 1, "no-lm"),
        (&["--model-dir", "/nowhere/model-onnx"], 1, "neither a model name nor a model directory"),
    ];
    for (args, code, message) in cases {
        let (status, stderr) = run(args);
        assert!(status == code && stderr.contains(message), "{args:?}: {status} {stderr}");
    }
}
