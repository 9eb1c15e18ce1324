//! The `funasr-candle` program.

fn main() {}
