//! A native Rust engine for the FunASR speech models on Candle.

pub mod audio;
pub mod decode;
pub mod error;
pub mod hub;
pub mod punctuation;
pub mod text;
pub mod vad;

pub use error::{Error, Result};
