//! `vad`: recordings to speech segments.

use funasr_candle::Result;
use funasr_candle::audio::{AudioReader, Input, expand_inputs};
use funasr_candle::pipeline::VoiceDetector;
use funasr_candle::vad::{EndSilence, Event, FILE_CHUNK_MS, funasr_pairs};
use serde_json::json;

use super::output::{Format, print_line};
use super::session::{self, ComputeArgs, HubArgs, Role};

/// Find where speech is
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Audio or video files, directories, Kaldi wav.scp lists, or - for stdin
    #[arg(required = true)]
    inputs: Vec<String>,
    /// Voice detection model [default: the embedded fsmn-vad]
    #[arg(long)]
    model: Option<String>,
    /// text: a line of start and end in ms per segment; json: a line per recording
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Feed the audio in pieces of this length and print a JSON line for each that decides something
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u32).range(10..=60_000))]
    stream_ms: Option<u32>,
    /// Silence that ends a segment [default: 2000 ms down to 100 ms the longer the segment]
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u32).range(0..=60_000))]
    max_end_silence_ms: Option<u32>,
    #[command(flatten)]
    compute: ComputeArgs,
    #[command(flatten)]
    hub: HubArgs,
}

impl Args {
    /// Handles every recording that can be; fails at the end if any could not.
    pub fn run(&self) -> Result<()> {
        let compute = self.compute.open()?;
        let (_, files) = session::open(self.model.as_deref(), Role::VoiceDetection, &self.hub.options()?)?;
        let detector = VoiceDetector::load(&files, &compute)?;
        let inputs = expand_inputs(&self.inputs);
        let several = inputs.len() > 1;
        session::for_each(inputs, |input| self.detect(&detector, input, several))
    }

    fn detect(&self, detector: &VoiceDetector, input: &Input, several: bool) -> Result<()> {
        let chunk_ms = self.stream_ms.unwrap_or(FILE_CHUNK_MS);
        let end_silence = match self.max_end_silence_ms {
            Some(ms) => EndSilence::Fixed(ms),
            None => EndSilence::Dynamic { chunk_ms },
        };
        let mut audio = input.open(detector.sample_rate())?;
        let mut stream = detector.stream(detector.sample_rate(), end_silence)?;
        let size = (u64::from(chunk_ms) * u64::from(detector.sample_rate()) / 1000) as usize;
        let mut segments = Vec::new();
        let mut pieces = Pieces::new(&mut audio, size);
        for index in 0u64.. {
            let Some((samples, last)) = pieces.next()? else { break };
            let events = detector.push(&mut stream, &samples, last)?;
            if self.stream_ms.is_some() && !events.is_empty() {
                let mut line = json!({ "chunk": index, "segments": funasr_pairs(&events) });
                if several {
                    line["file"] = input.name().into();
                }
                print_line(&line.to_string())?;
            }
            segments.extend(events.iter().filter_map(closed));
        }
        match self.format {
            _ if self.stream_ms.is_some() => {}
            Format::Json => print_line(&json!({ "file": input.name(), "segments": segments }).to_string())?,
            Format::Text => segments.iter().try_for_each(|[beg, end]| {
                let file = if several { format!("{}\t", input.name()) } else { String::new() };
                print_line(&format!("{file}{beg}\t{end}"))
            })?,
        }
        audio.damage().map_or(Ok(()), Err)
    }
}

/// A segment that has ended, `[begin, end]` in ms.
fn closed(event: &Event) -> Option<[u64; 2]> {
    match *event {
        Event::End { beg_ms, end_ms } => Some([beg_ms, end_ms]),
        Event::Begin { .. } => None,
    }
}

/// Segments of samples that come at `rate`, `[begin, end]` in ms: as of a recording in a file.
pub fn segments(detector: &VoiceDetector, samples: &[f32], rate: u32) -> Result<Vec<[u64; 2]>> {
    let mut stream = detector.stream(rate, EndSilence::Dynamic { chunk_ms: FILE_CHUNK_MS })?;
    let mut chunks = samples.chunks((rate * (FILE_CHUNK_MS / 1000)) as usize).peekable();
    let mut segments = Vec::new();
    while let Some(chunk) = chunks.next() {
        let events = detector.push(&mut stream, chunk, chunks.peek().is_none())?;
        segments.extend(events.iter().filter_map(closed));
    }
    Ok(segments)
}

/// A recording in pieces of one size. The last one is known as such when it is given out.
struct Pieces<'a> {
    audio: &'a mut AudioReader,
    size: usize,
    ahead: Option<Vec<f32>>,
}

impl<'a> Pieces<'a> {
    fn new(audio: &'a mut AudioReader, size: usize) -> Self {
        Self { audio, size, ahead: Some(Vec::new()) }
    }

    fn next(&mut self) -> Result<Option<(Vec<f32>, bool)>> {
        let Some(mut piece) = self.ahead.take() else { return Ok(None) };
        // One sample more tells whether anything follows.
        while piece.len() <= self.size {
            if self.audio.read(&mut piece, self.size + 1)? == 0 {
                return Ok(Some((piece, true)));
            }
        }
        self.ahead = Some(piece.split_off(self.size));
        Ok(Some((piece, false)))
    }
}
