//! A native Rust engine for the FunASR speech models on Candle: speech recognition, voice activity detection and
//! punctuation, of recordings and in real time, with the numbers and texts of FunASR.
//!
//! A recording becomes a [`pipeline::Transcript`] in four steps: [`audio`] reads it as a stream, a
//! [`pipeline::VoiceDetector`] finds speech, a [`pipeline::Recognizer`] names the tokens of each segment with their
//! times, a [`pipeline::PunctuationModel`] makes it readable. Each can be used alone; the networks below them are in
//! [`models`], every stage of them public.
//!
//! ```
//! # #[cfg(feature = "embedded-models")]
//! # fn main() -> funasr_candle::Result<()> {
//! use std::path::Path;
//!
//! use funasr_candle::audio::AudioReader;
//! use funasr_candle::device::Compute;
//! use funasr_candle::hub::{HubOptions, resolve};
//! use funasr_candle::pipeline::*;
//!
//! let (hub, compute) = (HubOptions::from_env()?, Compute::cpu());
//! let recognizer = Recognizer::load(&open_model(&resolve("demo", &hub)?)?, &compute)?;
//! let detector = VoiceDetector::load(&open_model(&resolve("fsmn-vad", &hub)?)?, &compute)?;
//! let punctuation = PunctuationModel::load(&open_model(&resolve("demo-punc", &hub)?)?, &compute)?;
//! let transcriber =
//!     Transcriber::new(recognizer, Some(detector.into()), Some(punctuation.into()), TranscriberOptions::default());
//!
//! let mut audio = AudioReader::open(Path::new("models/demo/short_00_demo.wav"), transcriber.sample_rate())?;
//! let transcript = transcriber.transcribe(&mut audio, &Request::default(), |_| ())?;
//! assert_eq!(transcript.text, "欢迎大家来体验达摩院推出的语音识别模型。");
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "embedded-models"))]
//! # fn main() {}
//! ```
//!
//! Audio that is still arriving is pushed to a [`pipeline::Session`], which is plain state; a [`pipeline::RealTime`] holds
//! the models and moves any number of sessions on together. Text comes out while it is spoken, and again, corrected and
//! punctuated, at the end of each sentence:
//!
//! ```
//! # #[cfg(feature = "embedded-models")]
//! # fn main() -> funasr_candle::Result<()> {
//! # use std::path::Path;
//! # use funasr_candle::audio::read_all;
//! # use funasr_candle::device::Compute;
//! # use funasr_candle::hub::{HubOptions, resolve};
//! # use funasr_candle::pipeline::*;
//! # let (hub, compute) = (HubOptions::from_env()?, Compute::cpu());
//! let open = |name: &str| open_model(&resolve(name, &hub)?);
//! let online = OnlineRecognizer::load(&open("demo-online")?, &compute)?;
//! let detector = VoiceDetector::load(&open("fsmn-vad")?, &compute)?;
//! let recognizer = Recognizer::load(&open("demo")?, &compute)?.into();
//! let punctuation = Some(PunctuationModel::load(&open("demo-punc-realtime")?, &compute)?.into());
//! let models = RealTime::new(online, Some(detector.into()), Some(Corrector { recognizer, punctuation }))?;
//!
//! let mut session = models.session(&SessionOptions::default())?;
//! let samples = read_all(Path::new("models/demo/short_00_demo.wav"), models.sample_rate(), None)?;
//! let (spoken, rest) = samples.split_at(32_000);
//! let messages = models.feed(&mut session, spoken, false)?;
//! assert_eq!(messages[0].text, "欢");
//! let messages = models.feed(&mut session, rest, true)?;
//! assert_eq!(messages.last().unwrap().text, "欢迎大家来体验达摩院推出的语音识别模型。");
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "embedded-models"))]
//! # fn main() {}
//! ```

pub mod audio;
pub mod decode;
pub mod device;
pub mod engine;
pub mod error;
pub mod frontend;
pub mod hub;
pub mod models;
pub mod nn;
pub mod pipeline;
pub mod punctuation;
#[cfg(feature = "server")]
pub mod server;
pub mod text;
pub mod vad;
pub mod weights;

pub use error::{Error, Result};
