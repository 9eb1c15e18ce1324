//! Speaks FunASR's WebSocket protocol: streams a recording to a server as if it were spoken now, and shows what it says.
//!
//! Run:      cargo run --release -- serve --port 10095
//!           cargo run --release --example ws_client -- ws://127.0.0.1:10095/ tests/data/eval/short_07.flac
//! Expected: 2pass-online   把
//!           2pass-online   风扇
//!           2pass-online   关掉
//!           2pass-offline  把风扇关掉。

use std::path::Path;
use std::time::Duration;

use funasr_candle::Result;
use funasr_candle::audio::AudioReader;
use funasr_candle::server::client::{Access, Client, Options, Receiver};

const RATE: u32 = 16_000;
/// 60 ms, the piece that FunASR's clients send.
const PIECE: usize = 960;

async fn show(mut replies: Receiver) -> Result<()> {
    for reply in replies.utterance().await? {
        match reply.error {
            Some(error) => println!("{}: {}", error.code, error.message),
            None => println!("{:<14} {}", reply.mode, reply.text),
        }
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let url = args.next().unwrap_or_else(|| "ws://127.0.0.1:10095/".into());
    let file = args.next().unwrap_or_else(|| "tests/data/eval/short_07.flac".into());
    let mut audio = AudioReader::open(Path::new(&file), RATE)?;

    let Client { mut sender, receiver } = Client::connect(&url, &Access::default()).await?;
    let replies = tokio::spawn(show(receiver));
    sender.begin(&Options { wav_name: file, ..Options::default() }).await?;
    let mut pace = tokio::time::interval(Duration::from_millis(1000 * PIECE as u64 / u64::from(RATE)));
    let mut samples = Vec::new();
    while audio.read(&mut samples, PIECE)? > 0 {
        let pcm: Vec<u8> = samples.drain(..).flat_map(|x| ((x * 32_767.0) as i16).to_le_bytes()).collect();
        pace.tick().await;
        sender.audio(&pcm).await?;
    }
    sender.finish().await?;
    replies.await.map_err(|cause| funasr_candle::Error::Failed(cause.to_string()))?
}
