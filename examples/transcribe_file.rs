//! A recording to punctuated text, with the embedded demonstration models.
//!
//! Run:      cargo run --release --example transcribe_file -- models/demo/short_00_demo.wav
//! Expected: 欢迎大家来体验达摩院推出的语音识别模型。

use std::path::Path;

use funasr_candle::Result;
use funasr_candle::audio::AudioReader;
use funasr_candle::device::Compute;
use funasr_candle::hub::{HubOptions, resolve};
use funasr_candle::pipeline::{
    PunctuationModel, Recognizer, Request, Transcriber, TranscriberOptions, VoiceDetector, open_model,
};

fn main() -> Result<()> {
    let file = std::env::args().nth(1).unwrap_or_else(|| "models/demo/short_00_demo.wav".into());
    let hub = HubOptions::from_env()?;
    let compute = Compute::cpu();

    // Names of `funasr-candle models list`, or directories.
    let recognizer = Recognizer::load(&open_model(&resolve("demo", &hub)?)?, &compute)?;
    let detector = VoiceDetector::load(&open_model(&resolve("fsmn-vad", &hub)?)?, &compute)?;
    let punctuation = PunctuationModel::load(&open_model(&resolve("demo-punc", &hub)?)?, &compute)?;
    let options = TranscriberOptions::default();
    let transcriber = Transcriber::new(recognizer, Some(detector.into()), Some(punctuation.into()), options);

    let mut audio = AudioReader::open(Path::new(&file), transcriber.sample_rate())?;
    let transcript = transcriber.transcribe(&mut audio, &Request::default(), |_| ())?;
    println!("{}", transcript.text);
    for segment in &transcript.segments {
        for token in &segment.tokens {
            println!("{:>6} - {:>6} ms  {}", token.start_ms, token.end_ms, token.text);
        }
    }
    Ok(())
}
