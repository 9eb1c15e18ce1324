//! wav files of plain samples: the commonest input, and the one with the most lenient readers elsewhere.
//!
//! Own code because real files break the rules that a strict reader insists on: recorders that were killed leave
//! lengths of 0, pipes write `0xffffffff`, telephony writes short `fmt ` chunks, and meeting recorders use more
//! channels than there are speaker positions. RF64 (EBU Tech 3306) holds the lengths of files over 4 GiB.

use std::io::{ErrorKind, Read};

use super::Fault;
use super::pcm::{PcmReader, SampleFormat};

const FORMAT_PCM: u16 = 1;
const FORMAT_FLOAT: u16 = 3;
const FORMAT_A_LAW: u16 = 6;
const FORMAT_MU_LAW: u16 = 7;
/// The real format is in the first two bytes of the sub-format GUID.
const FORMAT_EXTENSIBLE: u16 = 0xfffe;
/// A length that is not known (streams), or that stands in the `ds64` chunk (RF64).
const UNKNOWN_LENGTH: u32 = u32::MAX;
/// `RIFF`, length, `WAVE`.
const RIFF_HEADER_BYTES: usize = 12;

/// What the `fmt ` chunk says.
struct Format {
    samples: SampleFormat,
    channels: u16,
    rate: u32,
}

impl Format {
    /// `None` for compressed formats and for bit depths that no file uses.
    fn parse(chunk: &[u8]) -> Option<Self> {
        let u16_at = |at: usize| Some(u16::from_le_bytes(*chunk.get(at..)?.first_chunk()?));
        let bits = u16_at(14)?;
        let tag = match u16_at(0)? {
            FORMAT_EXTENSIBLE => u16_at(24)?,
            tag => tag,
        };
        let samples = match (tag, bits) {
            (FORMAT_PCM, 1..=8) => SampleFormat::U8,
            (FORMAT_PCM, 9..=16) => SampleFormat::S16Le,
            (FORMAT_PCM, 17..=24) => SampleFormat::S24Le,
            (FORMAT_PCM, 25..=32) => SampleFormat::S32Le,
            (FORMAT_FLOAT, 32) => SampleFormat::F32Le,
            (FORMAT_FLOAT, 64) => SampleFormat::F64Le,
            (FORMAT_A_LAW, _) => SampleFormat::ALaw,
            (FORMAT_MU_LAW, _) => SampleFormat::MuLaw,
            _ => return None,
        };
        let rate = u32::from_le_bytes(*chunk.get(4..)?.first_chunk()?);
        Some(Self { samples, channels: u16_at(2)?, rate })
    }
}

/// Whether the first bytes of a file are those of a wav file that [`open`] reads.
pub(super) fn is_pcm(head: &[u8]) -> bool {
    let riff = head.starts_with(b"RIFF") || head.starts_with(b"RF64");
    if !riff || head.get(8..RIFF_HEADER_BYTES) != Some(b"WAVE") {
        return false;
    }
    let mut rest = &head[RIFF_HEADER_BYTES..];
    while let Some((id, length, body)) = split_chunk(rest) {
        match id {
            b"fmt " => return Format::parse(body).is_some(),
            b"data" => return false,
            _ => rest = body.get(padded(length) as usize..).unwrap_or(&[]),
        }
    }
    false
}

/// Opens a wav stream; everything before the samples is read.
pub(super) fn open(mut reader: impl Read + Send + 'static) -> Result<PcmReader, Fault> {
    let riff: [u8; RIFF_HEADER_BYTES] = read_array(&mut reader)?;
    let riff_length = u32_at(&riff, 4);
    let mut position = RIFF_HEADER_BYTES as u64;
    let (mut format, mut long_length) = (None, None);
    loop {
        let header: [u8; 8] = read_array(&mut reader)?;
        let length = u32_at(&header, 4);
        position += 8;
        match &header[..4] {
            b"data" => {
                let format = format.ok_or("has no format before its samples")?;
                // What follows the length field of `RIFF`; a recorder that was killed never wrote this length.
                let claimed_end = u64::from(riff_length) + 8;
                let length = match (length, long_length) {
                    (UNKNOWN_LENGTH, known) => known,
                    (0, _) if claimed_end <= position => None,
                    (length, _) => Some(u64::from(length)),
                };
                return samples(reader, &format, length);
            }
            b"fmt " => {
                let chunk = read_chunk(&mut reader, length)?;
                format =
                    Some(Format::parse(&chunk).ok_or("is a wav file in a format that is not plain samples")?);
            }
            b"ds64" => {
                let chunk = read_chunk(&mut reader, length)?;
                long_length = chunk.get(8..).and_then(|c| c.first_chunk()).map(|b| u64::from_le_bytes(*b));
            }
            _ => skip(&mut reader, padded(length))?,
        }
        position += padded(length);
    }
}

fn samples(
    reader: impl Read + Send + 'static,
    format: &Format,
    length: Option<u64>,
) -> Result<PcmReader, Fault> {
    if format.channels == 0 {
        return Err("claims 0 channels".into());
    }
    super::check_rate(format.rate)?;
    let pcm = PcmReader::new(reader, format.samples, usize::from(format.channels), format.rate);
    Ok(match length {
        Some(length) => pcm.with_length(length),
        None => pcm,
    })
}

/// Splits a chunk header off: identifier, length, and what is there of the rest.
fn split_chunk(bytes: &[u8]) -> Option<(&[u8; 4], u32, &[u8])> {
    let (id, rest) = bytes.split_first_chunk::<4>()?;
    let (length, body) = rest.split_first_chunk::<4>()?;
    Some((id, u32::from_le_bytes(*length), body))
}

/// Reads a small chunk; what goes beyond the longest header in use is skipped, not stored.
fn read_chunk(reader: &mut impl Read, length: u32) -> Result<Vec<u8>, Fault> {
    const LONGEST: u64 = 64;
    let mut chunk = Vec::new();
    let stored = u64::from(length).min(LONGEST);
    reader.take(stored).read_to_end(&mut chunk).map_err(|e| e.to_string())?;
    skip(reader, padded(length) - stored)?;
    Ok(chunk)
}

fn skip(reader: &mut impl Read, bytes: u64) -> Result<(), Fault> {
    let skipped = std::io::copy(&mut reader.take(bytes), &mut std::io::sink()).map_err(|e| e.to_string())?;
    if skipped == bytes { Ok(()) } else { Err(CUT_OFF.into()) }
}

fn read_array<const N: usize>(reader: &mut impl Read) -> Result<[u8; N], Fault> {
    let mut bytes = [0; N];
    match reader.read_exact(&mut bytes) {
        Ok(()) => Ok(bytes),
        Err(e) if e.kind() == ErrorKind::UnexpectedEof => Err(CUT_OFF.into()),
        Err(e) => Err(e.to_string()),
    }
}

const CUT_OFF: &str = "is a wav file that is cut off in its header";

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u32::from_le_bytes(*b))
}

/// Chunks start at even positions.
fn padded(length: u32) -> u64 {
    u64::from(length).next_multiple_of(2)
}
