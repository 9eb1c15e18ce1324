//! Audio in: any recording becomes a stream of mono `f32` samples at the rate a model wants.
//!
//! Samples follow the reference (FunASR's `load_audio`, which reads with libsndfile and torchaudio): integers are
//! divided by `2^(bits-1)`, channels are averaged, and the rate is changed by [`Resampler`] with torchaudio's filter.
//! Floating-point sources are passed on as they are, so they may leave `[-1, 1]` where the recording does.
//!
//! Everything is pulled block by block: an hour of audio is never in memory at once.

mod decode;
mod ffmpeg;
mod inputs;
mod mp4;
mod opus;
mod pcm;
mod resample;
mod sniff;
mod wav;

use std::fs::File;
use std::io::{BufReader, Cursor, Read, Seek, SeekFrom, Write};
use std::path::Path;

use tempfile::NamedTempFile;

use crate::error::{Error, Result};
use decode::OpenError;
use pcm::{PcmReader, SampleFormat};
use sniff::Kind;

pub use inputs::{Input, InputSource, expand_inputs};
pub use resample::Resampler;

/// Sample rates that are read or produced, in Hz. Outside lie broken headers, and filters of absurd size.
pub const SAMPLE_RATES: std::ops::RangeInclusive<u32> = 1_000..=384_000;

/// The rate of headerless `.pcm` and `.raw` files, in Hz.
pub const RAW_PCM_RATE: u32 = 16_000;

/// What goes wrong inside a source; [`AudioReader`] adds the name of the recording.
type Fault = String;

/// Mono samples at the recording's own rate, block by block.
trait Source: Send {
    /// Appends the next block to `mono` and returns its sample rate in Hz; `None` at the end.
    fn next_block(&mut self, mono: &mut Vec<f32>) -> std::result::Result<Option<u32>, Fault>;

    /// The length the container claims.
    fn duration_ms(&self) -> Option<u64>;

    /// At the end: what of the recording could not be read.
    fn damage(&self) -> Option<&str> {
        None
    }
}

/// A recording that is decoded, mixed to mono and resampled while it is read.
///
/// A damaged or cut-off recording gives what can be decoded, and [`AudioReader::damage`] says so at the end; if nothing
/// can be decoded it is an error. A valid file without samples is no error here: it ends at once.
pub struct AudioReader {
    name: String,
    source: Box<dyn Source>,
    sample_rate: u32,
    resampler: Option<Resampler>,
    /// Samples read from the source, for error messages.
    source_position: u64,
    block: Vec<f32>,
    ready: Vec<f32>,
    taken: usize,
    done: bool,
    /// Keeps the copy of a stream that had to be seekable; it is deleted on drop.
    _spool: Option<NamedTempFile>,
}

impl AudioReader {
    /// Opens a file; samples come out at `sample_rate` Hz.
    ///
    /// `.pcm` and `.raw` files are 16-bit little-endian mono at [`RAW_PCM_RATE`]; every other container is recognised
    /// by its content. What is not decoded here goes to an `ffmpeg` on `PATH`.
    ///
    /// # Errors
    /// A missing, empty or undecodable file, one without an audio track, or a rate outside [`SAMPLE_RATES`].
    pub fn open(path: &Path, sample_rate: u32) -> Result<Self> {
        let name = path.display().to_string();
        let fail = |fault: Fault| Error::audio(&name, fault);
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        let metadata = file.metadata().map_err(|e| Error::io(path, e))?;
        if metadata.is_dir() {
            return Err(fail("is a directory".into()));
        }
        if has_raw_extension(path) {
            return Self::raw_pcm(&name, file, RAW_PCM_RATE, sample_rate);
        }
        if !metadata.is_file() {
            return Self::from_source(&name, file, sample_rate);
        }
        let source = open_file(file, path, &name).map_err(fail)?;
        Self::new(&name, source, sample_rate)
    }

    /// Reads a recording from a stream that cannot seek, such as standard input or an upload.
    ///
    /// wav, mp3, flac and ogg are decoded while they arrive. Other containers need seeking: they are copied to a
    /// temporary file first, so the caller has to bound the size of what strangers may send.
    ///
    /// # Errors
    /// As [`open`](Self::open), and when the stream itself fails.
    pub fn from_source(name: &str, reader: impl Read + Send + 'static, sample_rate: u32) -> Result<Self> {
        Self::from_stream(name, reader, sample_rate, true)
    }

    /// The same while it arrives: what needs seeking is refused.
    ///
    /// # Errors
    /// As [`from_source`](Self::from_source), and a container that cannot be decoded front to back.
    pub fn streamed(name: &str, reader: impl Read + Send + 'static, sample_rate: u32) -> Result<Self> {
        Self::from_stream(name, reader, sample_rate, false)
    }

    fn from_stream(
        name: &str,
        reader: impl Read + Send + 'static,
        sample_rate: u32,
        may_spool: bool,
    ) -> Result<Self> {
        let fail = |fault: Fault| Error::audio(name, fault);
        let mut reader = reader;
        let head = sniff::read_head(&mut reader).map_err(|e| fail(e.to_string()))?;
        let kind = Kind::of(&head);
        let replay = Cursor::new(head).chain(reader);
        let source: Box<dyn Source> = match kind {
            Kind::Empty => return Err(fail("is empty".into())),
            Kind::Text => return Err(fail(NOT_AUDIO.into())),
            Kind::PcmWav => Box::new(wav::open(BufReader::new(replay)).map_err(fail)?),
            Kind::Streamable => decode::open_stream(replay).map_err(|e| fail(e.to_string()))?,
            Kind::Other(_) if may_spool => return Self::from_spooled(name, replay, sample_rate),
            Kind::Other(what) => {
                let message = "cannot be decoded while it arrives; wav, mp3, flac and ogg can";
                return Err(fail(format!("a {what} {message}")));
            }
        };
        Self::new(name, source, sample_rate)
    }

    /// Reads headerless 16-bit little-endian mono samples that were taken at `pcm_rate` Hz.
    ///
    /// # Errors
    /// A rate outside [`SAMPLE_RATES`].
    pub fn raw_pcm(
        name: &str,
        reader: impl Read + Send + 'static,
        pcm_rate: u32,
        sample_rate: u32,
    ) -> Result<Self> {
        let source = PcmReader::new(reader, SampleFormat::S16Le, 1, pcm_rate);
        Self::new(name, Box::new(source), sample_rate)
    }

    fn from_spooled(name: &str, mut reader: impl Read, sample_rate: u32) -> Result<Self> {
        let fail = |e: std::io::Error| Error::audio(name, format!("copying the stream: {e}"));
        let mut spool = NamedTempFile::new().map_err(fail)?;
        std::io::copy(&mut reader, &mut spool).and_then(|_| spool.flush()).map_err(fail)?;
        let file = spool.reopen().map_err(fail)?;
        let source = open_file(file, spool.path(), name).map_err(|fault| Error::audio(name, fault))?;
        let mut opened = Self::new(name, source, sample_rate)?;
        opened._spool = Some(spool);
        Ok(opened)
    }

    fn new(name: &str, source: Box<dyn Source>, sample_rate: u32) -> Result<Self> {
        check_rate(sample_rate).map_err(|fault| Error::audio(name, fault))?;
        Ok(Self {
            name: name.to_string(),
            source,
            sample_rate,
            resampler: None,
            source_position: 0,
            block: Vec::new(),
            ready: Vec::new(),
            taken: 0,
            done: false,
            _spool: None,
        })
    }

    /// Appends at most `max_samples` samples to `out` and returns how many; 0 only at the end (or if none are asked).
    ///
    /// # Errors
    /// Damage before the first sample, a sample that is not a finite number, or a failing stream. What was appended
    /// before an error is valid; after an error the recording has ended.
    pub fn read(&mut self, out: &mut Vec<f32>, max_samples: usize) -> Result<usize> {
        let mut wanted = max_samples;
        loop {
            let count = wanted.min(self.ready.len() - self.taken);
            out.extend_from_slice(&self.ready[self.taken..self.taken + count]);
            self.taken += count;
            wanted -= count;
            if wanted == 0 || self.done {
                return Ok(max_samples - wanted);
            }
            self.refill().map_err(|fault| {
                self.done = true;
                Error::audio(&self.name, fault)
            })?;
        }
    }

    /// The length the container claims, for a progress display. It may be wrong or absent.
    pub fn duration_ms(&self) -> Option<u64> {
        self.source.duration_ms()
    }

    /// At the end of the recording: what is wrong with it, if part of it is missing or could not be decoded.
    pub fn damage(&self) -> Option<Error> {
        self.source.damage().map(|damage| Error::audio(&self.name, damage))
    }

    /// The file's path, or what the stream was called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The rate of the samples that come out, in Hz.
    pub fn sample_rate(&self) -> u32 {
        self.sample_rate
    }

    /// Replaces the used-up `ready` samples by those of the next block.
    fn refill(&mut self) -> std::result::Result<(), Fault> {
        self.ready.clear();
        self.taken = 0;
        self.block.clear();
        let rate = self.source.next_block(&mut self.block)?;
        if let Some(i) = self.block.iter().position(|sample| !sample.is_finite()) {
            return Err(format!("sample {} is not a finite number", self.source_position + i as u64));
        }
        self.source_position += self.block.len() as u64;
        // Where the rate changes inside a recording (chained streams do that), the part before the change is
        // completed and a new filter starts.
        self.done = rate.is_none();
        if let Some(finished) = self.resampler.take_if(|r| Some(r.input_rate()) != rate) {
            finished.finish(&mut self.ready);
        }
        let Some(rate) = rate else { return Ok(()) };
        let resampler = match &mut self.resampler {
            Some(resampler) => resampler,
            none => none.insert(Resampler::new(rate, self.sample_rate).map_err(|e| e.to_string())?),
        };
        resampler.push(&self.block, &mut self.ready);
        Ok(())
    }
}

/// Reads a whole recording, or its first `max_seconds`, at `sample_rate` Hz.
///
/// # Errors
/// As [`AudioReader::open`] and [`AudioReader::read`].
pub fn read_all(path: &Path, sample_rate: u32, max_seconds: Option<f64>) -> Result<Vec<f32>> {
    let mut reader = AudioReader::open(path, sample_rate)?;
    let mut samples = Vec::new();
    // A float-to-integer cast saturates, so any `max_seconds` is a valid bound.
    let max_samples = max_seconds.map_or(usize::MAX, |s| (s * f64::from(sample_rate)).ceil() as usize);
    reader.read(&mut samples, max_samples)?;
    Ok(samples)
}

const NOT_AUDIO: &str = "is not audio: it starts with text";

/// Opens a regular file, which messages call `name`; samples come out at its own rate.
fn open_file(mut file: File, path: &Path, name: &str) -> std::result::Result<Box<dyn Source>, Fault> {
    let head = sniff::read_head(&mut file).map_err(|e| e.to_string())?;
    file.seek(SeekFrom::Start(0)).map_err(|e| e.to_string())?;
    let what = match Kind::of(&head) {
        Kind::Empty => return Err("is empty".into()),
        Kind::Text => return Err(NOT_AUDIO.into()),
        Kind::PcmWav => return Ok(Box::new(wav::open(BufReader::new(file))?)),
        Kind::Streamable => "recording",
        Kind::Other(what) => what,
    };
    match decode::open(&file) {
        Ok(source) => Ok(source),
        Err(OpenError::NoAudioTrack) => Err(OpenError::NoAudioTrack.to_string()),
        Err(OpenError::Undecodable(why)) => {
            ffmpeg::open(path, name, &format!("a {what} that cannot be decoded here: {why}"))
        }
    }
}

fn has_raw_extension(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("pcm") || e.eq_ignore_ascii_case("raw"))
}

fn check_rate(rate: u32) -> std::result::Result<(), Fault> {
    if SAMPLE_RATES.contains(&rate) {
        return Ok(());
    }
    let (low, high) = (SAMPLE_RATES.start(), SAMPLE_RATES.end());
    Err(format!("a sample rate of {rate} Hz is not supported (from {low} to {high} Hz are)"))
}
