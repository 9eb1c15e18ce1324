//! File transcription: detect speech, recognise it in batches, punctuate.
//!
//! A recording is read once, minute by minute. Only the audio of the open segment and of the segments that wait for
//! a batch is held, so memory does not depend on the length of the recording.

use std::ops::Range;
use std::sync::Arc;

use super::held::Held;
use super::transcript::main_language;
use super::{
    PunctuationModel, Recognition, Recognizer, Request, Segment, Transcript, Utterance, VoiceDetector, batch,
};
use crate::audio::AudioReader;
use crate::error::{Error, Result};
use crate::punctuation::Punctuated;
use crate::text::confidence;
use crate::text::itn::Itn;
use crate::text::join::{join_segments, join_sentences};
use crate::text::marks::{english, marks};
use crate::text::sentences::{Sentence, sentences};
use crate::vad::{EndSilence, Event, FILE_CHUNK_MS};

/// Longest recording that is recognised in one piece, without voice detection: attention is quadratic in it.
const MAX_PIECE_MS: u64 = 10 * 60 * 1000;

/// Choices of a [`Transcriber`].
#[derive(Debug, Clone)]
pub struct TranscriberOptions {
    /// Audio in one padded batch, and audio that waits for one.
    pub batch_seconds: u32,
    /// Fixed silence that ends a segment; by default it depends on the segment's length, as in FunASR Python.
    pub max_end_silence_ms: Option<u32>,
}

impl Default for TranscriberOptions {
    fn default() -> Self {
        Self { batch_seconds: 60, max_end_silence_ms: None }
    }
}

/// Everything that turns a recording into text.
#[derive(Debug)]
pub struct Transcriber {
    recognizer: Arc<Recognizer>,
    detector: Option<Arc<VoiceDetector>>,
    punctuation: Option<Arc<PunctuationModel>>,
    itn: Option<Arc<Itn>>,
    options: TranscriberOptions,
}

/// What a transcription needs of whoever runs it.
pub trait Host {
    /// Is told how many milliseconds have been read. An error ends the transcription.
    ///
    /// # Errors
    /// The host's own.
    fn heard(&mut self, ms: u64) -> Result<()>;

    /// Recognises segments, each of so many samples; the results are in order.
    ///
    /// # Errors
    /// The host's own, and those of [`Recognizer::recognize`].
    fn recognize(&mut self, segments: Vec<Vec<f32>>) -> Result<Vec<Recognition>>;

    /// Punctuates the text of the recording with the transcriber's `model`.
    ///
    /// # Errors
    /// The host's own, and those of [`PunctuationModel::punctuate`].
    fn punctuate(&mut self, model: &PunctuationModel, text: &str) -> Result<Punctuated>;
}

impl Transcriber {
    /// Joins models; without detector a recording is one segment, without punctuation the text is bare.
    pub fn new(
        recognizer: impl Into<Arc<Recognizer>>,
        detector: Option<Arc<VoiceDetector>>,
        punctuation: Option<Arc<PunctuationModel>>,
        options: TranscriberOptions,
    ) -> Self {
        Self { recognizer: recognizer.into(), detector, punctuation, itn: None, options }
    }

    /// The same with rules that write digits, of a model that does not write them itself, where a request asks for them.
    pub fn with_itn(self, rules: Arc<Itn>) -> Self {
        Self { itn: Some(rules), ..self }
    }

    /// Sample rate at which recordings have to be opened.
    pub fn sample_rate(&self) -> u32 {
        self.recognizer.sample_rate()
    }

    /// The recogniser.
    pub fn recognizer(&self) -> &Recognizer {
        &self.recognizer
    }

    /// The punctuation model, if there is one.
    pub fn punctuation(&self) -> Option<&Arc<PunctuationModel>> {
        self.punctuation.as_ref()
    }

    /// Transcribes a recording opened at [`Transcriber::sample_rate`] as `request` asks. `progress` is told how many
    /// milliseconds have been read. Silence gives an empty text.
    ///
    /// # Errors
    /// Audio that cannot be decoded, less audio than one analysis window, a recording too long to go without voice
    /// detection, digits without rules for them, a failed forward pass.
    pub fn transcribe(
        &self,
        audio: &mut AudioReader,
        request: &Request,
        progress: impl FnMut(u64),
    ) -> Result<Transcript> {
        self.transcribe_with(audio, request, &mut Alone { transcriber: self, request, progress })
    }

    /// [`Transcriber::transcribe`] with the networks run where `host` likes.
    ///
    /// # Errors
    /// As there, and those of the host.
    pub fn transcribe_with(
        &self,
        audio: &mut AudioReader,
        request: &Request,
        host: &mut dyn Host,
    ) -> Result<Transcript> {
        self.recognizer.check_itn(request, self.itn.as_deref())?;
        let mut run =
            Run { transcriber: self, host, pending: Vec::new(), pending_samples: 0, segments: Vec::new() };
        let duration_ms = match &self.detector {
            Some(detector) => run.detect(detector, audio)?,
            None => run.whole(audio)?,
        };
        let window_ms = u64::from(self.recognizer.frontend().config().frame_length);
        if duration_ms < window_ms {
            let message =
                format!("holds {duration_ms} ms of audio; {window_ms} ms is the least that can be heard");
            return Err(Error::audio(audio.name(), message));
        }
        let Run { host, segments, .. } = run;
        self.write(duration_ms, segments, request, host)
    }

    /// Samples in one padded batch, and samples that wait for one.
    fn budget(&self) -> usize {
        self.options.batch_seconds as usize * self.sample_rate() as usize
    }

    /// The transcript of recognised segments.
    fn write(
        &self,
        duration_ms: u64,
        segments: Vec<Segment>,
        request: &Request,
        host: &mut dyn Host,
    ) -> Result<Transcript> {
        let language = main_language(&segments);
        let mut transcript = Transcript { duration_ms, language, segments, ..Transcript::default() };
        if transcript.segments.iter().any(|segment| segment.punctuated) {
            (transcript.text, transcript.sentences) = own_punctuation(&transcript.segments);
            return Ok(transcript);
        }
        let (mut text, mut marks) = self.punctuate(&transcript.segments, host)?;
        if let Some(itn) = self.itn.as_deref().filter(|_| request.itn && !self.recognizer.normalizes()) {
            transcript.spoken_text = Some(text.clone());
            let parts =
                transcript.segments.iter_mut().map(|segment| (&mut segment.text, &mut segment.tokens));
            itn.rewrite(&mut parts.collect::<Vec<_>>(), &mut text, &mut marks);
        }
        transcript.sentences = match self.punctuation {
            Some(_) => sentences(&transcript.words(), &text, &marks),
            None => bare_sentences(&transcript.segments),
        };
        transcript.text = text;
        Ok(transcript)
    }

    /// The text of all segments, and where its marks stand.
    fn punctuate(&self, segments: &[Segment], host: &mut dyn Host) -> Result<(String, Vec<Range<usize>>)> {
        let spoken: Vec<&str> =
            segments.iter().map(|segment| segment.text.as_str()).filter(|text| !text.is_empty()).collect();
        let text = join_segments(&spoken);
        let Some(punctuation) = &self.punctuation else { return Ok((text, Vec::new())) };
        let Punctuated { text, mut marks, .. } = host.punctuate(punctuation, &text)?;
        marks.retain(|mark| !mark.is_empty());
        Ok(if self.recognizer.is_english() { english(&text, &marks) } else { (text, marks) })
    }
}

/// Text and sentences of segments that the model has punctuated.
fn own_punctuation(segments: &[Segment]) -> (String, Vec<Sentence>) {
    let texts: Vec<&str> = segments.iter().map(|segment| segment.text.as_str()).collect();
    let cut = |segment: &Segment| sentences(&segment.tokens, &segment.text, &marks(&segment.text));
    (join_sentences(&texts), in_transcript(segments, cut))
}

/// Each segment in which anything was said as a sentence of its own.
fn bare_sentences(segments: &[Segment]) -> Vec<Sentence> {
    in_transcript(segments, |segment| {
        let sentence = Sentence {
            text: segment.text.clone(),
            punctuation: String::new(),
            start_ms: segment.start_ms,
            end_ms: segment.end_ms,
            confidence: confidence(&segment.tokens),
            words: 0..segment.tokens.len(),
        };
        if segment.text.is_empty() { Vec::new() } else { vec![sentence] }
    })
}

/// The host of a recording that is alone: its segments make the batches.
struct Alone<'a, P> {
    transcriber: &'a Transcriber,
    request: &'a Request,
    progress: P,
}

impl<P: FnMut(u64)> Host for Alone<'_, P> {
    fn heard(&mut self, ms: u64) -> Result<()> {
        (self.progress)(ms);
        Ok(())
    }

    fn recognize(&mut self, segments: Vec<Vec<f32>>) -> Result<Vec<Recognition>> {
        let lengths: Vec<usize> = segments.iter().map(Vec::len).collect();
        let mut results = vec![Recognition::default(); segments.len()];
        for group in batch::bucket(&lengths, self.transcriber.budget()) {
            let utterance = |&i: &usize| Utterance { samples: &segments[i], request: self.request };
            let utterances: Vec<Utterance> = group.iter().map(utterance).collect();
            for (&i, result) in group.iter().zip(self.transcriber.recognizer.recognize(&utterances)?) {
                results[i] = result;
            }
        }
        Ok(results)
    }

    fn punctuate(&mut self, model: &PunctuationModel, text: &str) -> Result<Punctuated> {
        model.punctuate(text)
    }
}

/// The sentences that `cut` makes of each segment, their words counted through the transcript.
fn in_transcript(segments: &[Segment], cut: impl Fn(&Segment) -> Vec<Sentence>) -> Vec<Sentence> {
    let mut first = 0;
    let mut found = Vec::new();
    for segment in segments {
        found.extend(cut(segment).into_iter().map(|sentence| Sentence {
            words: first + sentence.words.start..first + sentence.words.end,
            ..sentence
        }));
        first += segment.tokens.len();
    }
    found
}

/// One recording on its way through.
struct Run<'a> {
    transcriber: &'a Transcriber,
    host: &'a mut dyn Host,
    pending: Vec<Piece>,
    pending_samples: usize,
    segments: Vec<Segment>,
}

/// Audio of a closed segment.
struct Piece {
    start_ms: u64,
    end_ms: u64,
    samples: Vec<f32>,
}

impl Run<'_> {
    /// Reads all audio through the detector; returns its length in ms.
    fn detect(&mut self, detector: &VoiceDetector, audio: &mut AudioReader) -> Result<u64> {
        let rate = self.transcriber.sample_rate();
        let end_silence = match self.transcriber.options.max_end_silence_ms {
            Some(ms) => EndSilence::Fixed(ms),
            None => EndSilence::Dynamic { chunk_ms: FILE_CHUNK_MS },
        };
        let mut stream = detector.stream(rate, end_silence)?;
        let mut held = Held::new(rate);
        let chunk = held.count(u64::from(FILE_CHUNK_MS));
        loop {
            let new = held.samples.len();
            let last = fill(audio, &mut held.samples, chunk)?;
            for event in detector.push(&mut stream, &held.samples[new..], last)? {
                if let Event::End { beg_ms, end_ms } = event {
                    self.add(Piece { start_ms: beg_ms, end_ms, samples: held.cut(beg_ms, end_ms) })?;
                }
            }
            let end_ms = held.end_ms();
            self.host.heard(end_ms)?;
            if last {
                self.recognize_pending()?;
                return Ok(end_ms);
            }
            held.drop_before(held.count(stream.needed_from_ms()));
        }
    }

    /// Takes the whole recording as one segment; returns its length in ms.
    fn whole(&mut self, audio: &mut AudioReader) -> Result<u64> {
        let rate = self.transcriber.sample_rate();
        let mut held = Held::new(rate);
        let limit = held.count(MAX_PIECE_MS);
        if !fill(audio, &mut held.samples, limit + 1)? {
            let minutes = MAX_PIECE_MS / 60_000;
            let message =
                format!("without voice detection (--no-vad) at most {minutes} minutes are transcribed");
            return Err(Error::audio(audio.name(), message));
        }
        let end_ms = held.end_ms();
        self.host.heard(end_ms)?;
        self.add(Piece { start_ms: 0, end_ms, samples: held.samples })?;
        self.recognize_pending()?;
        Ok(end_ms)
    }

    fn add(&mut self, piece: Piece) -> Result<()> {
        self.pending_samples += piece.samples.len();
        self.pending.push(piece);
        if self.pending_samples >= self.transcriber.budget() { self.recognize_pending() } else { Ok(()) }
    }

    fn recognize_pending(&mut self) -> Result<()> {
        self.pending_samples = 0;
        let pending = std::mem::take(&mut self.pending);
        let (spans, samples): (Vec<_>, Vec<_>) =
            pending.into_iter().map(|piece| ((piece.start_ms, piece.end_ms), piece.samples)).unzip();
        let results = self.host.recognize(samples)?;
        let segment = |((start_ms, end_ms), result)| Segment::new(start_ms, end_ms, result);
        self.segments.extend(spans.into_iter().zip(results).map(segment));
        Ok(())
    }
}

/// Appends `count` samples, fewer at the end; true if the recording ended.
fn fill(audio: &mut AudioReader, samples: &mut Vec<f32>, count: usize) -> Result<bool> {
    let wanted = samples.len() + count;
    while samples.len() < wanted {
        if audio.read(samples, wanted - samples.len())? == 0 {
            return Ok(true);
        }
    }
    Ok(false)
}
