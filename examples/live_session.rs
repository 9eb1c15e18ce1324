//! Text while it is spoken, corrected at the end of each sentence: a 2pass session fed with pieces of 100 ms.
//!
//! The models are embedded demonstrations for synthetic speech. For real speech: `funasr-candle models pull NAME` for
//! `paraformer-zh-streaming`, `paraformer-zh` and `ct-punc-realtime`, and these names in `load` below.
//!
//! Run:      cargo run --release --example live_session -- tests/data/eval/short_04.flac
//! Expected:   1.4 s  hel
//!             2.0 s  lo
//!             2.6 s  你
//!             3.2 s  好我
//!             3.8 s  是赵
//!             3.8 s  磊
//!             3.8 s  hello，你好，我是赵磊。  [120 - 3770 ms]

use std::path::Path;

use funasr_candle::Result;
use funasr_candle::audio::AudioReader;
use funasr_candle::device::Compute;
use funasr_candle::hub::{HubOptions, resolve};
use funasr_candle::pipeline::{
    Corrector, Message, OnlineRecognizer, Pass, PunctuationModel, RealTime, Recognizer, SessionOptions,
    VoiceDetector, open_model,
};
use funasr_candle::weights::ModelFiles;

fn load() -> Result<RealTime> {
    let (hub, compute) = (HubOptions::from_env()?, Compute::cpu());
    let open = |name| -> Result<ModelFiles> { open_model(&resolve(name, &hub)?) };
    let corrector = Corrector {
        recognizer: Recognizer::load(&open("demo")?, &compute)?.into(),
        punctuation: Some(PunctuationModel::load(&open("demo-punc-realtime")?, &compute)?.into()),
    };
    let online = OnlineRecognizer::load(&open("demo-online")?, &compute)?;
    let detector = VoiceDetector::load(&open("fsmn-vad")?, &compute)?;
    RealTime::new(online, Some(detector.into()), Some(corrector))
}

fn show(heard_ms: usize, message: &Message) {
    print!("{:>5.1} s  ", heard_ms as f64 / 1000.0);
    match &message.pass {
        Pass::Streaming { .. } => println!("{}", message.text),
        Pass::Corrected(correction) => {
            println!("{}  [{} - {} ms]", message.text, correction.start_ms, correction.end_ms);
        }
    }
}

fn main() -> Result<()> {
    let file = std::env::args().nth(1).unwrap_or_else(|| "tests/data/eval/short_04.flac".into());
    // The models are shared by all sessions; what belongs to one stream lives in `session`.
    let models = load()?;
    let mut session = models.session(&SessionOptions::default())?;
    let mut audio = AudioReader::open(Path::new(&file), models.sample_rate())?;
    let push = models.sample_rate() as usize / 10;
    let mut heard_ms = 0;
    while !session.ended() {
        let mut samples = Vec::new();
        // A server would wait for its client here, and then move many sessions on with one `models.advance`.
        let last = audio.read(&mut samples, push)? == 0;
        heard_ms += samples.len() * 1000 / models.sample_rate() as usize;
        for message in models.feed(&mut session, &samples, last)? {
            show(heard_ms, &message);
        }
    }
    Ok(())
}
