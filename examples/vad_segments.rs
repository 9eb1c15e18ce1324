//! Where speech is, from audio that arrives in pieces of 200 ms.
//!
//! Run:      cargo run --release --example vad_segments -- models/demo/short_00_demo.wav
//! Expected: speech from 140 ms
//!           speech until 5520 ms

use std::path::Path;

use funasr_candle::Result;
use funasr_candle::audio::AudioReader;
use funasr_candle::device::Compute;
use funasr_candle::hub::{HubOptions, resolve};
use funasr_candle::pipeline::{VoiceDetector, open_model};
use funasr_candle::vad::{EndSilence, Event};

fn main() -> Result<()> {
    let file = std::env::args().nth(1).unwrap_or_else(|| "models/demo/short_00_demo.wav".into());
    let source = resolve("fsmn-vad", &HubOptions::from_env()?)?;
    let detector = VoiceDetector::load(&open_model(&source)?, &Compute::cpu())?;
    let rate = detector.sample_rate();

    // The detector is shared; what belongs to one stream lives in `stream`.
    let mut stream = detector.stream(rate, EndSilence::Fixed(800))?;
    let mut audio = AudioReader::open(Path::new(&file), rate)?;
    let mut piece = Vec::new();
    loop {
        piece.clear();
        let last = audio.read(&mut piece, rate as usize / 5)? == 0;
        for event in detector.push(&mut stream, &piece, last)? {
            match event {
                Event::Begin { beg_ms } => println!("speech from {beg_ms} ms"),
                Event::End { end_ms, .. } => println!("speech until {end_ms} ms"),
            }
        }
        if last {
            return Ok(());
        }
    }
}
