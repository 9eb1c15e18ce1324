//! Every integration test of the package in one binary: it links once.

// Clippy's own exemption for tests does not reach their helper functions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod audio;
mod bias;
mod cli;
mod cli_plot;
mod cli_speech;
mod directories;
mod frontend;
mod golden;
#[cfg(feature = "cuda")]
mod gpu;
mod hotwords;
mod hub;
mod int8;
mod itn;
mod layering;
mod lm;
mod online;
mod padding;
mod parity;
mod punctuation_realtime;
mod regression;
mod selftest;
mod sense_voice;
#[cfg(feature = "server")]
mod server;
#[cfg(feature = "server")]
mod server_http;
mod session;
mod subtitles;
mod text;
mod vad;
