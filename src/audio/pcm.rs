//! Plain samples in bytes: the formats of wav files and raw streams, turned into mono `f32`.

use std::io::Read;

use super::{Fault, Source};

/// Frames decoded at a time: few, so that live audio from a pipe is passed on soon (64 ms at 16 kHz).
const BLOCK_FRAMES: usize = 1024;

/// How one sample is stored. Multi-byte formats are little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SampleFormat {
    U8,
    S16Le,
    S24Le,
    S32Le,
    F32Le,
    F64Le,
    ALaw,
    MuLaw,
}

impl SampleFormat {
    fn bytes(self) -> usize {
        match self {
            Self::U8 | Self::ALaw | Self::MuLaw => 1,
            Self::S16Le => 2,
            Self::S24Le => 3,
            Self::S32Le | Self::F32Le => 4,
            Self::F64Le => 8,
        }
    }

    /// Appends the mean over the channels of every whole frame in `bytes`.
    fn mix(self, bytes: &[u8], channels: usize, mono: &mut Vec<f32>) {
        let scale = |value: i32, bits: u32| value as f32 / (1u32 << (bits - 1)) as f32;
        match self {
            Self::U8 => mix(bytes, channels, mono, |[b]| scale(i32::from(b) - 128, 8)),
            Self::ALaw => mix(bytes, channels, mono, |[b]| scale(i32::from(a_law(b)), 16)),
            Self::MuLaw => mix(bytes, channels, mono, |[b]| scale(i32::from(mu_law(b)), 16)),
            Self::S16Le => mix(bytes, channels, mono, |b| scale(i32::from(i16::from_le_bytes(b)), 16)),
            Self::S24Le => {
                mix(bytes, channels, mono, |[a, b, c]| scale(i32::from_le_bytes([0, a, b, c]) >> 8, 24))
            }
            Self::S32Le => mix(bytes, channels, mono, |b| scale(i32::from_le_bytes(b), 32)),
            Self::F32Le => mix(bytes, channels, mono, f32::from_le_bytes),
            Self::F64Le => mix(bytes, channels, mono, |b| f64::from_le_bytes(b) as f32),
        }
    }
}

fn mix<const N: usize>(bytes: &[u8], channels: usize, mono: &mut Vec<f32>, sample: impl Fn([u8; N]) -> f32) {
    let (samples, _) = bytes.as_chunks::<N>();
    if channels == 1 {
        return mono.extend(samples.iter().map(|&b| sample(b)));
    }
    let mean = |frame: &[[u8; N]]| frame.iter().map(|&b| sample(b)).sum::<f32>() / channels as f32;
    mono.extend(samples.chunks_exact(channels).map(mean));
}

/// Expands an A-law byte to 16 bits (ITU-T G.711).
fn a_law(byte: u8) -> i16 {
    let byte = byte ^ 0x55;
    let mantissa = i16::from(byte & 0x0f) << 4;
    let magnitude = match (byte & 0x70) >> 4 {
        0 => mantissa + 8,
        segment => (mantissa + 0x108) << (segment - 1),
    };
    if byte & 0x80 == 0 { -magnitude } else { magnitude }
}

/// Expands a mu-law byte to 16 bits (ITU-T G.711).
fn mu_law(byte: u8) -> i16 {
    let byte = !byte;
    let magnitude = (((i16::from(byte & 0x0f) << 3) + 0x84) << ((byte & 0x70) >> 4)) - 0x84;
    if byte & 0x80 == 0 { magnitude } else { -magnitude }
}

/// Frames of interleaved samples from a byte stream.
pub(super) struct PcmReader {
    reader: Box<dyn Read + Send>,
    format: SampleFormat,
    channels: usize,
    rate: u32,
    /// Bytes that a header says are left; `None` reads to the end of the stream.
    left: Option<u64>,
    duration_ms: Option<u64>,
    damage: Option<String>,
    any: bool,
    bytes: Vec<u8>,
}

impl PcmReader {
    /// Reads to the end of the stream. `channels` is at least 1.
    pub(super) fn new(
        reader: impl Read + Send + 'static,
        format: SampleFormat,
        channels: usize,
        rate: u32,
    ) -> Self {
        Self {
            reader: Box::new(reader),
            format,
            channels,
            rate,
            left: None,
            duration_ms: None,
            damage: None,
            any: false,
            bytes: Vec::new(),
        }
    }

    /// Reads at most `length` bytes; fewer count as damage.
    pub(super) fn with_length(mut self, length: u64) -> Self {
        let frames = length / (self.format.bytes() * self.channels) as u64;
        self.duration_ms = (frames * 1000).checked_div(u64::from(self.rate));
        self.left = Some(length);
        self
    }

    /// The end of the stream has come with `missing` promised bytes outstanding.
    fn end(&mut self, missing: u64) -> Result<Option<u32>, Fault> {
        if missing > 0 && !self.any {
            return Err("is cut off after the header: there are no samples".into());
        }
        if missing > 0 {
            self.damage =
                Some(format!("is cut off: {missing} of the bytes that the header promises are missing"));
        }
        Ok(None)
    }
}

impl Source for PcmReader {
    fn next_block(&mut self, mono: &mut Vec<f32>) -> Result<Option<u32>, Fault> {
        let frame_bytes = self.format.bytes() * self.channels;
        let block_bytes = (BLOCK_FRAMES / self.channels).max(1) * frame_bytes;
        let wanted = (block_bytes as u64).min(self.left.unwrap_or(u64::MAX));
        self.bytes.clear();
        // `read_to_end` retries interrupted and short reads, so only the last block can be partial.
        (&mut self.reader).take(wanted).read_to_end(&mut self.bytes).map_err(|e| e.to_string())?;
        let got = self.bytes.len() as u64;
        self.left = self.left.map(|left| left - got);
        if got < frame_bytes as u64 {
            let missing = if got < wanted { self.left.unwrap_or(0) } else { 0 };
            return self.end(missing);
        }
        self.any = true;
        self.format.mix(&self.bytes, self.channels, mono);
        Ok(Some(self.rate))
    }

    fn duration_ms(&self) -> Option<u64> {
        self.duration_ms
    }

    fn damage(&self) -> Option<&str> {
        self.damage.as_deref()
    }
}
