//! Tensor operations of funasr-candle.
