//! Every integration test of the package in one binary: it links once.

// Clippy's own exemption for tests does not reach their helper functions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod audio;
mod cli;
mod cli_plot;
mod cli_speech;
mod directories;
mod frontend;
mod golden;
mod hotwords;
mod hub;
mod int8;
mod layering;
mod online;
mod padding;
mod parity;
mod punctuation_realtime;
mod regression;
mod sense_voice;
#[cfg(feature = "server")]
mod server;
mod session;
mod text;
mod vad;
