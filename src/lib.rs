//! A native Rust engine for the FunASR speech models on Candle: speech recognition, voice activity detection and
//! punctuation, with the numbers and texts of FunASR.
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
//!     Transcriber::new(recognizer, Some(detector), Some(punctuation), TranscriberOptions::default());
//!
//! let mut audio = AudioReader::open(Path::new("models/demo/short_00_demo.wav"), transcriber.sample_rate())?;
//! let transcript = transcriber.transcribe(&mut audio, &Request::default(), |_| ())?;
//! assert_eq!(transcript.text, "欢迎大家来体验达摩院推出的语音识别模型。");
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "embedded-models"))]
//! # fn main() {}
//! ```

pub mod audio;
pub mod decode;
pub mod device;
pub mod error;
pub mod frontend;
pub mod hub;
pub mod models;
pub mod nn;
pub mod pipeline;
pub mod punctuation;
pub mod text;
pub mod vad;
pub mod weights;

pub use error::{Error, Result};
