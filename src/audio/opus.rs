//! Opus packets (RFC 6716) as Ogg (RFC 7845), WebM and MP4 carry them.

use rusty_opus::OpusDecoder;
use symphonia::core::codecs::audio::AudioCodecParameters;
use symphonia::core::errors::{Error, Result};
use symphonia::core::packet::Packet;

/// Opus always plays at this rate, whatever went into the encoder.
const RATE: u32 = 48_000;
/// The longest packet: 120 ms.
const MAX_PACKET_FRAMES: usize = 5760;

/// The identification header, `OpusHead` (RFC 7845 section 5.1) or the body of MP4's `dOps`.
struct Head {
    channels: usize,
    pre_skip: u16,
    /// The factor for the samples that the header asks for.
    gain: f32,
}

impl Head {
    /// Only mono and stereo: packets of surround sound hold several streams, which is work for ffmpeg.
    fn parse(bytes: &[u8]) -> Result<Self> {
        let malformed = || Error::DecodeError("opus: malformed identification header");
        let fields = bytes.strip_prefix(b"OpusHead").ok_or_else(malformed)?;
        let &[version, channels, p0, p1, _, _, _, _, g0, g1, family, ref layout @ ..] = fields else {
            return Err(malformed());
        };
        let streams = if family == 0 { 1 } else { *layout.first().ok_or_else(malformed)? };
        if streams != 1 || !(1..=2).contains(&channels) {
            return Err(Error::Unsupported("opus: more than two channels"));
        }
        // Version 0 marks the header of MP4, which is big-endian.
        let u16_of = |pair| if version == 0 { u16::from_be_bytes(pair) } else { u16::from_le_bytes(pair) };
        let gain_db = f32::from(u16_of([g0, g1]) as i16) / 256.0;
        Ok(Self {
            channels: usize::from(channels),
            pre_skip: u16_of([p0, p1]),
            gain: 10f32.powf(gain_db / 20.0),
        })
    }
}

/// A decoder with its playback rules: start-up samples dropped, output gain applied.
pub(super) struct OpusStream {
    decoder: OpusDecoder,
    channels: usize,
    gain: f32,
    /// Start-up samples that are still to be dropped.
    skip: usize,
    interleaved: Vec<f32>,
}

impl OpusStream {
    pub(super) fn new(params: &AudioCodecParameters) -> Result<Self> {
        let head = Head::parse(params.extra_data.as_deref().unwrap_or_default())?;
        let decoder =
            OpusDecoder::new(RATE as i32, head.channels).map_err(|e| Error::Unsupported(e.message()))?;
        Ok(Self {
            decoder,
            channels: head.channels,
            gain: head.gain,
            skip: usize::from(head.pre_skip),
            interleaved: vec![0.0; MAX_PACKET_FRAMES * head.channels],
        })
    }

    /// Appends the mono samples of a packet and returns their rate.
    pub(super) fn decode(&mut self, packet: &Packet, mono: &mut Vec<f32>) -> Result<u32> {
        let frames = self
            .decoder
            .decode(&packet.data, MAX_PACKET_FRAMES, &mut self.interleaved)
            .map_err(|e| Error::DecodeError(e.message()))?;
        // Containers mark the padding of the last packet; the start-up samples are for the decoder to drop.
        let end = frames.saturating_sub(packet.trim_end.get() as usize);
        let start = self.skip.min(frames);
        self.skip -= start;
        if start < end {
            let kept = &mut self.interleaved[start * self.channels..end * self.channels];
            kept.iter_mut().for_each(|sample| *sample *= self.gain);
            super::decode::mix(kept, self.channels, mono);
        }
        Ok(RATE)
    }
}
