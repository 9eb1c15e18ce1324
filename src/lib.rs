//! A native Rust engine for the FunASR speech models on Candle.

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
