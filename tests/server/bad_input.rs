//! Bad clients: each is answered in the protocol's form or shown out, and leaves nothing behind.

use tokio_tungstenite::tungstenite::protocol::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use futures_util::{SinkExt, StreamExt};
use proptest::collection::{hash_map, vec};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Map, Value, json};

use super::*;

/// Nothing of bad clients is left.
async fn assert_clean(desk: &Desk) {
    let stats = desk.app.engine().stats();
    eventually("sessions, recordings or connections are left", || {
        [stats.files_running.get(), stats.files_waiting.get()] == [0, 0]
    })
    .await;
    assert_serves(desk).await;
}

/// Text that is no JSON, and JSON that makes no sense: an error message each, and the connection goes on.
#[tokio::test(flavor = "multi_thread")]
async fn text_that_cannot_be_understood_is_answered() {
    let desk = Desk::open().await;
    let mut client = desk.client().await;
    let config =
        r#"{"mode":"offline","chunk_size":[5,10,5],"audio_fs":16000,"hotwords":"a","is_speaking":true}"#;
    let cut: Vec<String> = (0..config.len()).step_by(7).map(|end| config[..end].to_owned()).collect();
    let odd = [
        "null",
        "[]",
        "7",
        "\"text\"",
        "{",
        "\u{feff}{}",
        "{}{}",
        r#"{"chunk_size":[5,0,5]}"#,
        r#"{"chunk_size":[1,2]}"#,
        r#"{"chunk_size":{"a":1}}"#,
        r#"{"chunk_size":[1e99,1,1]}"#,
        r#"{"audio_fs":-5}"#,
        r#"{"audio_fs":"fast"}"#,
        r#"{"audio_fs":0}"#,
        r#"{"audio_fs":[]}"#,
        r#"{"mode":[]}"#,
        r#"{"mode":{}}"#,
        r#"{"itn":"maybe"}"#,
        r#"{"itn":2}"#,
        r#"{"is_speaking":"perhaps"}"#,
        r#"{"hotwords":7}"#,
        r#"{"hotwords":[[]]}"#,
        r#"{"wav_name":[]}"#,
        r#"{"decoder_chunk_look_back":0.5}"#,
    ];
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for text in cut.iter().map(String::as_str).chain(odd).chain([deep.as_str()]) {
        client.sender.text(text).await.unwrap();
        let reply = reply(&mut client).await;
        assert_eq!((reply.text.as_str(), reply.is_final), ("", false), "{text:.100}");
        assert_eq!(reply.error.unwrap().code, "bad_request", "{text:.100}");
    }
    // In the middle of an utterance it does no harm either.
    client.sender.begin(&options("offline")).await.unwrap();
    for piece in pcm("short_07").chunks(9600) {
        client.sender.audio(piece).await.unwrap();
        client.sender.text("}").await.unwrap();
    }
    client.sender.finish().await.unwrap();
    let all = replies(&mut client).await;
    assert_eq!(all.last().unwrap().text, "把风扇关掉。");
    desk.close().await;
}

/// A value of any type, as often as not one that a client could mean.
fn value() -> impl Strategy<Value = Value> {
    const WORDS: [&str; 12] =
        ["", "offline", "online", "5,10,5", "[5,10,5]", "false", "wav", "mp3", "8000", "\0", "-1", "{"];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-20i64..20).prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        select(&WORDS[..]).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            hash_map(any::<String>(), inner, 0..3).prop_map(|map| Value::from(Map::from_iter(map))),
        ]
    })
}

/// Whatever a text frame says under the keys that the protocol knows, it is answered or taken, and the connection goes on.
#[tokio::test(flavor = "multi_thread")]
async fn any_object_is_survived() {
    const KEYS: [&str; 14] = [
        "mode",
        "wav_name",
        "wav_format",
        "audio_fs",
        "chunk_size",
        "chunk_interval",
        "hotwords",
        "itn",
        "svs_lang",
        "encoder_chunk_look_back",
        "decoder_chunk_look_back",
        "is_speaking",
        "is_finished",
        "is_end",
    ];
    let objects = hash_map(select(&KEYS[..]), value(), 0..5);
    let mut runner = TestRunner::deterministic();
    let mut object = || json!(objects.new_tree(&mut runner).unwrap().current()).to_string();
    let objects: Vec<String> = (0..1000).map(|_| object()).collect();

    let desk = Desk::open().await;
    let Client { mut sender, mut receiver } = desk.client().await;
    let talk = async {
        for object in &objects {
            sender.text(object).await.unwrap();
            sender.audio(&[1, 2, 3]).await.unwrap();
        }
        sender.finish().await.unwrap();
        sender.begin(&Options { wav_name: "the end".to_owned(), ..options("offline") }).await.unwrap();
        sender.audio(&pcm("short_07")).await.unwrap();
        sender.finish().await.unwrap();
    };
    let listen = async {
        loop {
            let reply = receiver.next().await.unwrap().unwrap();
            if reply.wav_name == "the end" && reply.is_final {
                return reply;
            }
        }
    };
    let ((), reply) = tokio::time::timeout(PATIENCE, async { tokio::join!(talk, listen) }).await.unwrap();
    assert_eq!(reply.text, "把风扇关掉。");
    assert_clean(&desk).await;
    desk.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_too_big_ends_its_connection_alone() {
    let desk = Desk::with(Settings { max_message_bytes: 1 << 20, ..Settings::default() }).await;
    let mut other = desk.client().await;
    other.sender.begin(&options("2pass")).await.unwrap();
    other.sender.audio(&pcm("short_07")).await.unwrap();
    let request = format!("ws://{}/", desk.address);
    let stream = TcpStream::connect(desk.address).await.unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    // The server may close before it has read all.
    let _ = socket.send(Message::Binary(vec![0; 40 << 20].into())).await;
    let mut code = None;
    while let Ok(Some(Ok(message))) = tokio::time::timeout(PATIENCE, socket.next()).await {
        if let Message::Close(Some(frame)) = message {
            code = Some(frame.code);
        }
    }
    assert!(matches!(code, None | Some(CloseCode::Size)), "{code:?}");
    other.sender.finish().await.unwrap();
    assert_eq!(replies(&mut other).await.last().unwrap().text, "把风扇关掉。");
    assert_clean(&desk).await;
    desk.close().await;
}

/// A flac file of the same sample again and again: four seconds in each of its `frames` of thirteen bytes, and nothing in
/// its head says how many there are.
fn constant_flac(frames: u8) -> Vec<u8> {
    const BLOCK: u16 = 65_535;
    let crc = |bytes: &[u8], bits: u32, polynomial: u32| {
        let feed = |crc: u32| (crc << 1) ^ if crc >> (bits - 1) & 1 == 1 { polynomial } else { 0 };
        let step =
            |crc: u32, byte: &u8| (0..8).fold(crc ^ (u32::from(*byte) << (bits - 8)), |crc, _| feed(crc));
        bytes.iter().fold(0, step) & ((1 << bits) - 1)
    };
    let block = BLOCK.to_be_bytes();
    // Block sizes, no frame sizes, 16 kHz mono of 16 bits, an unknown number of samples, no digest.
    let mut flac = b"fLaC\x80\0\0\x22".to_vec();
    flac.extend([block, block].concat());
    flac.extend(b"\0\0\0\0\0\0\x03\xe8\x00\xf0\0\0\0\0");
    flac.extend([0; 16]);
    for number in 0..frames {
        let mut frame = vec![0xff, 0xf8, 0x75, 0x08, number];
        frame.extend((BLOCK - 1).to_be_bytes());
        frame.push(crc(&frame, 8, 0x07) as u8);
        frame.extend([0x00, 0x00, 0x00]);
        frame.extend((crc(&frame, 16, 0x8005) as u16).to_be_bytes());
        flac.extend(frame);
    }
    flac
}

/// A recording beyond a limit, of bytes or of seconds, whether it is that long or only says so.
#[tokio::test(flavor = "multi_thread")]
async fn recordings_beyond_a_limit_are_refused() {
    let engine = engine(EngineOptions { max_audio: Duration::from_secs(3), ..EngineOptions::default() });
    let settings = Settings { max_upload_bytes: 200_000, ..Settings::default() };
    let desk = Desk::with_engine(settings, engine).await;
    let mut client = desk.client().await;
    // Days of silence in a hundred bytes: a wav header of a rate of 1 kHz that claims 4 GB of samples.
    let mut claim = b"RIFF\xf0\xff\xff\xffWAVEfmt \x10\0\0\0\x01\0\x01\0".to_vec();
    claim.extend([1000u32.to_le_bytes(), 1000u32.to_le_bytes()].concat());
    claim.extend(b"\x01\0\x08\0data\xf0\xff\xff\xef");
    claim.extend([0x80; 64]);
    let long = vec![0; 2 * 16 * 4000];
    let big = vec![0; 300_000];
    let bomb = constant_flac(127);
    let recordings =
        [("claim", "wav", &claim), ("long", "pcm", &long), ("big", "pcm", &big), ("bomb", "flac", &bomb)];
    for (what, format, bytes) in recordings {
        let asked = Options { wav_format: format.to_owned(), ..options("offline") };
        let replies = ask(&mut client, &asked, bytes, 64_000).await;
        let [reply] = &replies[..] else { panic!("{what}: {replies:?}") };
        assert_eq!(reply.error.as_ref().unwrap().code, "too_large", "{what}");
    }
    let replies = ask(&mut client, &options("offline"), &pcm("short_07"), 64_000).await;
    assert!(replies[0].error.is_none() && !replies[0].text.is_empty(), "{replies:?}");
    desk.close().await;
}

/// Bytes that are no audio at all.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_audio_is_said_to_be_none() {
    let desk = Desk::open().await;
    let mut client = desk.client().await;
    let noise: Vec<u8> = (0..5000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for mode in ["offline", "2pass", "online"] {
        for bytes in [&b"<html>no</html>"[..], b"RIFF", b"fLaC\0\0\0\x22junk", &noise] {
            let asked = Options { wav_format: "wav".to_owned(), ..options(mode) };
            let replies = ask(&mut client, &asked, bytes, 1000).await;
            let last = replies.last().unwrap();
            assert_eq!((last.text.as_str(), last.is_final), ("", true), "{mode} {replies:?}");
            assert_eq!(last.error.as_ref().unwrap().code, "bad_audio", "{mode}");
        }
    }
    assert_clean(&desk).await;
    desk.close().await;
}

/// Clients that leave in the middle: nothing of theirs goes on.
#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_takes_everything_along() {
    let engine = engine(EngineOptions::default());
    let desk = Desk::with_engine(Settings::default(), engine).await;
    for mode in ["offline", "2pass", "online"] {
        for finish in [false, true] {
            let mut client = desk.client().await;
            client.sender.begin(&options(mode)).await.unwrap();
            for _ in 0..4 {
                client.sender.audio(&pcm("short_04")).await.unwrap();
            }
            if finish {
                client.sender.finish().await.unwrap();
            }
        }
    }
    let stats = desk.app.engine().stats();
    eventually("live sessions stay", || stats.sessions.get() == 0).await;
    eventually("recordings stay", || stats.files_running.get() == 0 && stats.files_waiting.get() == 0).await;
    assert_clean(&desk).await;
    desk.close().await;
}

/// A client that sends and never reads is not read either, and holds up nobody.
#[tokio::test(flavor = "multi_thread")]
async fn who_never_reads_waits_alone() {
    let desk = Desk::open().await;
    let mut deaf = desk.client().await;
    let flood = tokio::spawn(async move {
        let name = "n".repeat(256);
        let config = format!(r#"{{"mode":"offline","wav_name":"{name}","is_speaking":false}}"#);
        loop {
            if deaf.sender.text(&config).await.is_err() {
                return;
            }
        }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_serves(&desk).await;
    flood.abort();
    assert_clean(&desk).await;
    desk.close().await;
}

/// Ten thousand, and a machine at rest takes them in some seconds.
#[tokio::test(flavor = "multi_thread")]
async fn many_short_connections_leave_nothing() {
    let desk = Desk::open().await;
    let connections = || desk.app.connections();
    for _ in 0..100 {
        let visits = (0..100).map(|i| {
            let (address, url) = (desk.address, desk.url());
            tokio::spawn(async move {
                match i % 3 {
                    0 => drop(TcpStream::connect(address).await),
                    1 => drop(Client::connect(&url, &Access::default()).await),
                    _ => {
                        if let Ok(mut stream) = TcpStream::connect(address).await {
                            let _ = stream.write_all(b"\x16\x03\x01garbage\r\n\r\n").await;
                        }
                    }
                }
            })
        });
        for visit in visits.collect::<Vec<_>>() {
            visit.await.unwrap();
        }
    }
    eventually("connections stay", || connections() == 0).await;
    assert_serves(&desk).await;
    desk.close().await;
}

/// Heads and bodies that come drop by drop are cut off; a silent WebSocket, too.
#[tokio::test(flavor = "multi_thread")]
async fn the_slow_are_shown_out() {
    let settings = Settings { head_seconds: 1, idle_seconds: 1, ..Settings::default() };
    let desk = Desk::with(settings).await;
    let started = Instant::now();
    let mut stream = TcpStream::connect(desk.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nX: ").await.unwrap();
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.unwrap();
    // Raw, so that nobody answers pings.
    let mut stream = TcpStream::connect(desk.address).await.unwrap();
    let handshake = "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                     Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(handshake.as_bytes()).await.unwrap();
    rest.clear();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.unwrap();
    assert!(rest.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&rest));
    assert!(started.elapsed() < Duration::from_secs(20));
    assert_serves(&desk).await;
    desk.close().await;
}
