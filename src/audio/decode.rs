//! Compressed recordings, demultiplexed and decoded by symphonia (and [`opus`](super::opus) where it has no decoder).

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use symphonia::core::codecs::CodecParameters;
use symphonia::core::codecs::audio::well_known::CODEC_ID_OPUS;
use symphonia::core::codecs::audio::{AudioCodecParameters, AudioDecoder, AudioDecoderOptions};
use symphonia::core::errors::Error as SymphoniaError;
use symphonia::core::formats::probe::Hint;
use symphonia::core::formats::{FormatOptions, FormatReader, Track, TrackType};
use symphonia::core::io::{MediaSource, MediaSourceStream};
use symphonia::core::meta::MetadataOptions;
use symphonia::core::packet::Packet;

use super::opus::OpusStream;
use super::{Fault, Source, mp4};

/// What may be missing at the end of a recording without its being cut off: encoders pad by a few packets.
const CUT_OFF_MS: f64 = 150.0;

/// Why a recording cannot be opened here.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    /// Another program would not find one either.
    #[error("has no audio track")]
    NoAudioTrack,
    /// An unknown container or codec, or damage.
    #[error("cannot be decoded: {0}")]
    Undecodable(String),
}

/// Opens a regular file.
///
/// A reader that knows the length of the file refuses headers that promise more, so a file that is refused is read once
/// more as a stream of unknown length: that gives what a cut-off recording still holds.
pub(super) fn open(file: &File) -> Result<Box<dyn Source>, OpenError> {
    let copy = || file.try_clone().map_err(|e| OpenError::Undecodable(e.to_string()));
    let refusal = match open_seekable(copy()?) {
        Err(OpenError::Undecodable(why)) => why,
        outcome => return outcome,
    };
    let mut from_start = copy()?;
    from_start
        .seek(SeekFrom::Start(0))
        .map_err(|e| e.to_string())
        .and_then(|_| open_stream(from_start).map_err(|e| e.to_string()))
        .map_err(|_| OpenError::Undecodable(refusal))
}

fn open_seekable(mut file: File) -> Result<Box<dyn Source>, OpenError> {
    let undecodable = |e: io::Error| OpenError::Undecodable(e.to_string());
    let actual = file.metadata().map_err(undecodable)?.len();
    let claimed = mp4::claimed_length(&mut file).unwrap_or(actual);
    // A damaged index is for the demultiplexer to complain about.
    let priming = mp4::priming_samples(&mut file).unwrap_or(0);
    file.seek(SeekFrom::Start(0)).map_err(undecodable)?;
    let exact = counts_samples(&mut file).unwrap_or(false);
    file.seek(SeekFrom::Start(0)).map_err(undecodable)?;
    let mut decoded = Decoded::open(Media::new(Bytes::File(file), Some(Length { actual, claimed })))?;
    decoded.promised_ms = decoded.duration_ms.filter(|_| exact);
    // Opus has its own count of the same samples, in its header.
    decoded.skip = if matches!(decoded.codec, Codec::Opus(_)) { 0 } else { priming };
    Ok(Box::new(decoded))
}

/// Whether an MP3 file says how long it is (the Xing or Info tag of its first frame). Without that its duration is
/// guessed from its size, so a file that was cut off looks whole.
fn counts_samples(file: &mut File) -> io::Result<bool> {
    const TAGS: [&[u8]; 2] = [b"Xing\0\0\0", b"Info\0\0\0"];
    let mut head = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(16 << 10).read_to_end(&mut head)?;
    Ok(head.windows(TAGS[0].len()).any(|bytes| TAGS.contains(&bytes)))
}

/// Opens a stream that cannot seek.
pub(super) fn open_stream(reader: impl Read + Send + 'static) -> Result<Box<dyn Source>, OpenError> {
    Ok(Box::new(Decoded::open(Media::new(Bytes::Stream(Box::new(reader)), None))?))
}

/// The audio track of a container, decoded packet by packet.
struct Decoded {
    format: Box<dyn FormatReader>,
    track: u32,
    codec: Codec,
    duration_ms: Option<u64>,
    /// The duration, where the recording itself states it.
    promised_ms: Option<u64>,
    decoded_ms: f64,
    damage: Option<String>,
    io_failure: Arc<OnceLock<String>>,
    /// Samples that the encoder put before the recording and that are still to be dropped.
    skip: u64,
    any: bool,
    /// Packets that could not be decoded, and why the first could not.
    bad_packets: u64,
    first_damage: Option<String>,
}

impl Decoded {
    fn open(media: Media) -> Result<Self, OpenError> {
        let io_failure = media.failure.clone();
        let stream = MediaSourceStream::new(Box::new(media), Default::default());
        let (hint, options) = (Hint::new(), FormatOptions::default());
        let probe =
            || symphonia::default::get_probe().probe(&hint, stream, options, MetadataOptions::default());
        let format = guarded(probe).map_err(|e| OpenError::Undecodable(describe(&e)))?;
        let (track, codec) = choose_track(&*format)?;
        let duration_ms = format.tracks().iter().find(|t| t.id == track).and_then(duration_ms);
        Ok(Self {
            format,
            track,
            codec,
            duration_ms,
            promised_ms: None,
            decoded_ms: 0.0,
            damage: None,
            io_failure,
            skip: 0,
            any: false,
            bad_packets: 0,
            first_damage: None,
        })
    }

    fn note_damage(&mut self, why: &SymphoniaError) {
        self.bad_packets += 1;
        self.first_damage.get_or_insert_with(|| describe(why));
    }

    /// The end, for a reason if it is not the regular one.
    fn end(&mut self, stopped_by: Option<SymphoniaError>) -> Result<Option<u32>, Fault> {
        if let Some(failure) = self.io_failure.get() {
            return Err(format!("cannot be read: {failure}"));
        }
        let why = stopped_by.map(|e| describe(&e));
        match why.as_ref().or(self.first_damage.as_ref()) {
            Some(damage) if !self.any => return Err(format!("nothing in it can be decoded: {damage}")),
            _ => {}
        }
        let read = format!("after {:.2} s", self.decoded_ms / 1000.0);
        self.damage = match (why, self.promised_ms, &self.first_damage) {
            (Some(why), ..) => Some(format!("is damaged or cut off {read}: {why}")),
            (None, Some(promised), _) if self.decoded_ms + CUT_OFF_MS < promised as f64 => {
                Some(format!("is cut off {read} of {:.2} s", promised as f64 / 1000.0))
            }
            (None, _, Some(damage)) => Some(format!("has {} damaged packets: {damage}", self.bad_packets)),
            (None, _, None) => None,
        };
        Ok(None)
    }

    /// Drops what is left of the encoder's priming.
    fn drop_priming(&mut self, mono: &mut Vec<f32>) {
        let dropped = self.skip.min(mono.len() as u64);
        mono.drain(..dropped as usize);
        self.skip -= dropped;
    }
}

impl Source for Decoded {
    fn next_block(&mut self, mono: &mut Vec<f32>) -> Result<Option<u32>, Fault> {
        loop {
            let packet = match guarded(|| self.format.next_packet()) {
                Ok(Some(packet)) if packet.track_id == self.track => packet,
                Ok(Some(_)) => continue,
                Ok(None) => return self.end(None),
                // Chained streams: another recording follows in the same file.
                Err(SymphoniaError::ResetRequired) => match choose_track(&*self.format) {
                    Ok((track, codec)) => {
                        (self.track, self.codec) = (track, codec);
                        continue;
                    }
                    Err(_) => return self.end(Some(SymphoniaError::ResetRequired)),
                },
                Err(e) => return self.end(Some(e)),
            };
            match guarded(|| self.codec.decode(&packet, mono)) {
                Ok(rate) => {
                    self.drop_priming(mono);
                    self.decoded_ms += mono.len() as f64 * 1000.0 / f64::from(rate.max(1));
                    self.any |= !mono.is_empty();
                    return Ok(Some(rate));
                }
                Err(e) => {
                    mono.clear();
                    self.note_damage(&e);
                }
            }
        }
    }

    fn duration_ms(&self) -> Option<u64> {
        self.duration_ms
    }

    fn damage(&self) -> Option<&str> {
        self.damage.as_deref()
    }
}

enum Codec {
    Symphonia { decoder: Box<dyn AudioDecoder>, interleaved: Vec<f32> },
    Opus(Box<OpusStream>),
}

impl Codec {
    fn new(params: &AudioCodecParameters) -> Result<Self, SymphoniaError> {
        if params.codec == CODEC_ID_OPUS {
            return Ok(Self::Opus(Box::new(OpusStream::new(params)?)));
        }
        let options = AudioDecoderOptions::default().gapless(true);
        let decoder = symphonia::default::get_codecs().make_audio_decoder(params, &options)?;
        Ok(Self::Symphonia { decoder, interleaved: Vec::new() })
    }

    /// Appends the mono samples of a packet and returns their rate.
    fn decode(&mut self, packet: &Packet, mono: &mut Vec<f32>) -> Result<u32, SymphoniaError> {
        match self {
            Self::Opus(stream) => stream.decode(packet, mono),
            Self::Symphonia { decoder, interleaved } => {
                let decoded = decoder.decode(packet)?;
                let (rate, channels) = (decoded.spec().rate(), decoded.spec().channels().count());
                decoded.copy_to_vec_interleaved(interleaved);
                mix(interleaved, channels, mono);
                Ok(rate)
            }
        }
    }
}

/// Appends the mean over the channels of every frame.
pub(super) fn mix(interleaved: &[f32], channels: usize, mono: &mut Vec<f32>) {
    match channels {
        0 => {}
        1 => mono.extend_from_slice(interleaved),
        _ => mono.extend(interleaved.chunks_exact(channels).map(|f| f.iter().sum::<f32>() / channels as f32)),
    }
}

/// The default audio track if it can be decoded, else the first that can.
fn choose_track(format: &dyn FormatReader) -> Result<(u32, Codec), OpenError> {
    let mut refusal = None;
    let default = format.default_track(TrackType::Audio);
    for track in default.into_iter().chain(format.tracks()) {
        let Some(CodecParameters::Audio(params)) = &track.codec_params else { continue };
        match guarded(|| Codec::new(params)) {
            Ok(codec) => return Ok((track.id, codec)),
            Err(e) => refusal = refusal.or(Some(describe(&e))),
        }
    }
    let unknown = format.tracks().iter().any(|track| track.codec_params.is_none());
    let unknown = unknown.then(|| "unknown codec".to_string());
    Err(refusal.or(unknown).map_or(OpenError::NoAudioTrack, OpenError::Undecodable))
}

fn duration_ms(track: &Track) -> Option<u64> {
    let millis = track.time_base?.calc_duration(track.duration?)?.as_millis();
    u64::try_from(millis).ok()
}

/// Runs one step of the third-party parsers and decoders.
///
/// They index into tables by what damaged files say, and a panic there must cost this recording only, not a server's
/// worker. It counts as damage that ends the recording; whoever saw it does not touch the unwound state again.
fn guarded<T>(step: impl FnOnce() -> Result<T, SymphoniaError>) -> Result<T, SymphoniaError> {
    catch_unwind(AssertUnwindSafe(step)).unwrap_or(Err(SymphoniaError::LimitError("the decoder gave up")))
}

/// The cause without the names of the parser's modules in front.
fn describe(error: &SymphoniaError) -> String {
    match error {
        SymphoniaError::IoError(e) if e.kind() == io::ErrorKind::UnexpectedEof => "it is cut off".into(),
        SymphoniaError::DecodeError(why)
        | SymphoniaError::Unsupported(why)
        | SymphoniaError::LimitError(why) => why.rsplit(": ").next().unwrap_or(why).to_string(),
        other => other.to_string(),
    }
}

enum Bytes {
    File(File),
    Stream(Box<dyn Read + Send>),
}

/// The length of a file in bytes, and where it ends for a reader that seeks to its end: the MP4 demultiplexer does so
/// to learn the length, and would not enter sound data that are cut off.
#[derive(Clone, Copy)]
struct Length {
    actual: u64,
    claimed: u64,
}

/// The bytes of a recording, for symphonia. It keeps the first failure of the source itself, which parsers report
/// as if the recording had ended.
struct Media {
    /// Never contended; the lock makes a stream that is only `Send` fit for symphonia, which asks for `Sync`.
    bytes: Mutex<Bytes>,
    /// `None` for a stream.
    length: Option<Length>,
    failure: Arc<OnceLock<String>>,
}

impl Media {
    fn new(bytes: Bytes, length: Option<Length>) -> Self {
        Self { bytes: Mutex::new(bytes), length, failure: Arc::default() }
    }
}

impl Read for Media {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let result = match self.bytes.get_mut().unwrap_or_else(PoisonError::into_inner) {
            Bytes::File(file) => file.read(buffer),
            Bytes::Stream(stream) => stream.read(buffer),
        };
        if let Err(e) = &result
            && e.kind() != io::ErrorKind::Interrupted
        {
            // The first failure is the cause.
            let _ = self.failure.set(e.to_string());
        }
        result
    }
}

impl Seek for Media {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match self.bytes.get_mut().unwrap_or_else(PoisonError::into_inner) {
            Bytes::File(file) => match (to, self.length) {
                (SeekFrom::End(offset), Some(length)) => {
                    file.seek(SeekFrom::Start(length.claimed.saturating_add_signed(offset)))
                }
                _ => file.seek(to),
            },
            Bytes::Stream(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

impl MediaSource for Media {
    fn is_seekable(&self) -> bool {
        self.length.is_some()
    }

    fn byte_len(&self) -> Option<u64> {
        self.length.map(|length| length.actual)
    }
}
