//! Every integration test of the package in one binary: it links once.
mod audio;
mod cli;
mod frontend;
mod golden;
mod hub;
mod layering;
mod padding;
mod parity;
mod regression;
mod text;
mod vad;
