//! Real-time sessions: audio is pushed as it arrives, text comes out while it is spoken.
//!
//! The first pass streams text with a small delay. In the second pass, at each end of speech that the voice detector
//! finds, an offline model reads the whole segment again and its text replaces what was streamed. Segments are those of
//! FunASR's 2pass server (`runtime/onnxruntime/src/audio.cpp`, `Audio::Split`), but nothing that was recognised is
//! dropped: the last streamed words of a sentence come before its correction, each segment has a correction of its own,
//! and a punctuation mark stands with the words it closes.
//!
//! A [`Session`] is plain state; [`RealTime`] holds the models and moves any number of sessions on together, their
//! network steps batched. What a session says depends neither on how its audio was cut into pushes nor on the others.

use std::collections::VecDeque;
use std::sync::Arc;

use rayon::prelude::*;

use super::batch::confined;
use super::corrector::{Corrector, Draft};
use super::held::Held;
use super::{
    Correction, DetectorStream, Message, OnlineRecognizer, OnlineStream, Pass, Push, Recognition, Request,
    StreamOptions, Utterance, VoiceDetector,
};
use crate::error::{Error, Result, catch};
use crate::punctuation::realtime::Cache;
use crate::text::Token;
use crate::text::join::PartialJoin;
use crate::vad::{EndSilence, Event};

/// Audio is heard in units of this length, so that results do not depend on how it was pushed.
const UNIT_MS: u64 = 60;
/// Audio that may wait to be heard.
const MAX_WAITING_MS: u64 = 60_000;

/// The models of real-time sessions. They are immutable and shared by all sessions.
#[derive(Debug)]
pub struct RealTime {
    online: OnlineRecognizer,
    detector: Option<Arc<VoiceDetector>>,
    corrector: Option<Corrector>,
}

/// Choices of one session.
#[derive(Debug, Clone, Default)]
pub struct SessionOptions {
    /// Chunks and look-back of the first pass.
    pub stream: StreamOptions,
    /// What the second pass is asked for.
    pub request: Request,
    /// Silence that ends a segment; by default what the detector's model says.
    pub max_end_silence_ms: Option<u32>,
    /// Leaves the second pass out, if there is one.
    pub first_pass_only: bool,
}

impl RealTime {
    /// Joins the models. Without detector a session is one sentence from beginning to end; a second pass needs one.
    ///
    /// # Errors
    /// A second pass without detector, or at another sample rate than the first.
    pub fn new(
        online: OnlineRecognizer,
        detector: Option<Arc<VoiceDetector>>,
        corrector: Option<Corrector>,
    ) -> Result<Self> {
        let rate = online.sample_rate();
        match &corrector {
            Some(_) if detector.is_none() => {
                Err(Error::Unsupported("a second pass needs a voice detection model".into()))
            }
            Some(corrector) if corrector.recognizer.sample_rate() != rate => {
                let offline = corrector.recognizer.sample_rate();
                let message =
                    format!("the streaming model hears {rate} Hz and the offline model {offline} Hz");
                Err(Error::Unsupported(message))
            }
            _ => Ok(Self { online, detector, corrector }),
        }
    }

    /// Sample rate of the audio that sessions take.
    pub fn sample_rate(&self) -> u32 {
        self.online.sample_rate()
    }

    /// A session at its start.
    ///
    /// # Errors
    /// Chunk sizes that the streaming model cannot use; digits without rules for them.
    pub fn session(&self, options: &SessionOptions) -> Result<Session> {
        if let Some(Corrector { recognizer, itn, .. }) = &self.corrector {
            recognizer.check_itn(&options.request, itn.as_deref())?;
        }
        let rate = self.sample_rate();
        let detector = self.detector.as_ref().map(|detector| {
            let silence = options.max_end_silence_ms.unwrap_or(detector.max_end_silence_ms());
            detector.stream(rate, EndSilence::Fixed(silence))
        });
        Ok(Session {
            corrects: self.corrector.is_some() && !options.first_pass_only,
            request: options.request.clone(),
            held: Held::new(rate),
            waiting: Vec::new(),
            finished: false,
            detector: detector.transpose()?,
            speech: None,
            stream: self.online.stream(&options.stream)?,
            plan: VecDeque::new(),
            partial: PartialJoin::new(self.online.notation()),
            cache: Cache::default(),
            sentence: Sentence::default(),
            messages: Vec::new(),
            end: End::Open,
            fault: None,
        })
    }

    /// Hears what was pushed to the sessions and returns what each has to say, in order.
    ///
    /// # Errors
    /// [`Error::Inference`], with the op that failed; the sessions are then of no further use.
    pub fn advance(&self, sessions: &mut [&mut Session]) -> Result<Vec<Vec<Message>>> {
        self.advance_each(sessions).into_iter().collect()
    }

    /// The same with a result for each session: one that fails, or panics, is at its end, and the others are as if they
    /// had been without it.
    pub fn advance_each(&self, sessions: &mut [&mut Session]) -> Vec<Result<Vec<Message>>> {
        each(sessions, |group| while self.listen(group) | self.correct(group) {})
    }

    /// The first pass alone, likewise: a session stands still where it [awaits a correction](Session::awaited_samples).
    pub fn stream_each(&self, sessions: &mut [&mut Session]) -> Vec<Result<Vec<Message>>> {
        each(sessions, |group| while self.listen(group) {})
    }

    /// The second pass for sessions that await it, in one batch. They then stand where they stood before it.
    pub fn correct_each(&self, sessions: &mut [&mut Session]) -> Vec<Result<Vec<Message>>> {
        each(sessions, |group| {
            self.correct(group);
        })
    }

    /// Pushes `samples` to one session, ends it after them if they are the `last`, and returns what it has to say.
    ///
    /// # Errors
    /// Those of [`Session::push`] and [`RealTime::advance`].
    pub fn feed(&self, session: &mut Session, samples: &[f32], last: bool) -> Result<Vec<Message>> {
        let piece = session.held.count(MAX_WAITING_MS / 2);
        let mut messages = Vec::new();
        for samples in samples.chunks(piece) {
            session.push(samples)?;
            messages.extend(self.advance(&mut [session])?.concat());
        }
        if last {
            session.finish();
            messages.extend(self.advance(&mut [session])?.concat());
        }
        Ok(messages)
    }

    /// Streams what is planned, hears one unit more and streams that; false if no session had a unit to hear.
    fn listen(&self, sessions: &mut [&mut Session]) -> bool {
        while self.stream(sessions) {}
        let heard = self.hear(sessions);
        while self.stream(sessions) {}
        heard
    }

    /// Finds out where speech begins and ends in the next unit of every session that has one, and plans what follows; false
    /// if none has.
    fn hear(&self, sessions: &mut [&mut Session]) -> bool {
        let mut units: Vec<(&mut Session, Unit)> = Vec::new();
        for session in sessions.iter_mut() {
            if let Some(unit) = session.next_unit() {
                units.push((session, unit));
            }
        }
        let events = self.detect(&mut units);
        for ((session, unit), events) in units.iter_mut().zip(events) {
            let planned = events.and_then(|events| {
                catch(|| {
                    session.follow(events, unit.last);
                    Ok(())
                })
            });
            session.unless_failed(planned);
        }
        !units.is_empty()
    }

    /// The events of each unit.
    fn detect(&self, units: &mut [(&mut Session, Unit)]) -> Vec<Result<Vec<Event>>> {
        let Some(detector) = &self.detector else {
            return units.iter().map(|(session, unit)| Ok(session.whole(unit))).collect();
        };
        let pushes = units.iter_mut().filter_map(|(session, unit)| {
            Some(Push { stream: session.detector.as_mut()?, samples: &unit.samples, last: unit.last })
        });
        detector.push_each(pushes.collect())
    }

    /// One chunk of the first pass for every session that is due; false if none is.
    fn stream(&self, sessions: &mut [&mut Session]) -> bool {
        let mut due: Vec<&mut Session> = Vec::new();
        for session in sessions.iter_mut() {
            let wants_step = session.wants_step();
            if session.unless_failed(wants_step) == Some(true) {
                due.push(&mut **session);
            }
        }
        let steps = confined(&mut due, &|due: &mut [&mut Session]| self.step(due));
        for (session, tokens) in due.iter_mut().zip(steps) {
            if let Some(tokens) = session.unless_failed(tokens) {
                session.say_partial(&tokens);
            }
        }
        !due.is_empty()
    }

    /// Runs copies of the streams, so that a step that fails has not happened.
    fn step(&self, due: &mut [&mut Session]) -> Result<Vec<Vec<Token>>> {
        let mut streams: Vec<OnlineStream> = due.iter().map(|session| session.stream.clone()).collect();
        let tokens = self.online.step(&mut streams.iter_mut().collect::<Vec<_>>())?;
        for (session, stream) in due.iter_mut().zip(streams) {
            session.stream = stream;
        }
        Ok(tokens)
    }

    /// The second pass for every session whose segment has ended; false if there is none.
    fn correct(&self, sessions: &mut [&mut Session]) -> bool {
        let Some(corrector) = &self.corrector else { return false };
        let mut due: Vec<(&mut Session, Segment)> = Vec::new();
        for session in sessions.iter_mut() {
            if let Some(segment) = session.take_segment() {
                due.push((session, segment));
            }
        }
        let recognitions = confined(&mut due, &|due: &mut [(&mut Session, Segment)]| {
            let utterances: Vec<Utterance> = due
                .iter()
                .map(|(session, segment)| Utterance { samples: &segment.samples, request: &session.request })
                .collect();
            corrector.recognizer.recognize(&utterances)
        });
        let any = !due.is_empty();
        let mut drafts: Vec<(&mut Session, Segment, Draft)> = Vec::new();
        for ((session, segment), recognition) in due.into_iter().zip(recognitions) {
            let draft = recognition.and_then(|recognition| session.draft(corrector, &segment, recognition));
            if let Some(draft) = session.unless_failed(draft) {
                drafts.push((session, segment, draft));
            }
        }
        let labelled =
            corrector.label_each(&mut drafts.iter_mut().map(|(_, _, draft)| draft).collect::<Vec<_>>());
        for ((session, segment, draft), labelled) in drafts.into_iter().zip(labelled) {
            let said = labelled.and_then(|()| session.say_correction(corrector, &segment, draft));
            session.unless_failed(said);
        }
        any
    }
}

/// Does `work` on the sessions, in as many groups as there are threads, and returns what each has to say. The network steps
/// of a group are batched; groups do not wait for each other, and a thread that is done helps with the ops of the others.
fn each(
    sessions: &mut [&mut Session],
    work: impl Fn(&mut [&mut Session]) + Sync + Send,
) -> Vec<Result<Vec<Message>>> {
    let group = sessions.len().div_ceil(rayon::current_num_threads().max(1)).max(1);
    sessions.par_chunks_mut(group).for_each(work);
    sessions.iter_mut().map(|session| session.take_messages()).collect()
}

/// One stream of audio and what is known of it. Its size does not depend on how long it runs.
#[derive(Debug)]
pub struct Session {
    request: Request,
    /// Whether segments have a second pass.
    corrects: bool,
    held: Held,
    /// Pushed and not heard yet.
    waiting: Vec<f32>,
    finished: bool,
    detector: Option<DetectorStream>,
    /// The open speech segment.
    speech: Option<Speech>,
    stream: OnlineStream,
    plan: VecDeque<Step>,
    partial: PartialJoin,
    cache: Cache,
    sentence: Sentence,
    messages: Vec<Message>,
    end: End,
    /// Why it cannot go on.
    fault: Option<Error>,
}

/// Audio that is heard at once.
#[derive(Debug)]
struct Unit {
    samples: Vec<f32>,
    /// Whether the stream ends with it.
    last: bool,
}

/// Where streaming stands in the open segment.
#[derive(Debug, Clone, Copy)]
struct Speech {
    beg_ms: u64,
    /// Sample from which on the first pass has not read it.
    unread: usize,
}

/// What remains to be done for what was heard.
#[derive(Debug)]
enum Step {
    /// A segment begins.
    Begin { beg_ms: u64 },
    /// Audio for the first pass.
    Read(Vec<f32>),
    /// The end of what the first pass reads.
    EndRead,
    /// A segment for the second pass.
    Correct(Segment),
}

#[derive(Debug)]
struct Segment {
    beg_ms: u64,
    end_ms: u64,
    samples: Vec<f32>,
    /// Whether the stream ended with it.
    last: bool,
}

/// The sentence that is being spoken.
#[derive(Debug, Default)]
struct Sentence {
    index: u64,
    begun: bool,
    /// Where its segment begins.
    beg_ms: u64,
}

/// How far the end of the session has come.
#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    Open,
    /// All was heard; messages from this one on belong to the last unit.
    Heard(usize),
    Told,
}

impl Session {
    /// Takes samples at [`RealTime::sample_rate`], in [-1, 1].
    ///
    /// # Errors
    /// After [`Session::finish`]; a sample that is not a finite number; [`Error::Overloaded`] if a minute of audio already
    /// waits for [`RealTime::advance`]. Nothing is taken then.
    pub fn push(&mut self, samples: &[f32]) -> Result<()> {
        if self.finished {
            return Err(Error::Unsupported("audio was pushed to a session after its end".into()));
        }
        if let Some(i) = samples.iter().position(|sample| !sample.is_finite()) {
            return Err(Error::audio("stream", format!("sample {i} of a push is not a finite number")));
        }
        if self.waiting.len() + samples.len() > self.held.count(MAX_WAITING_MS) {
            let seconds = MAX_WAITING_MS / 1000;
            let message = format!("a session takes audio faster than it is heard: {seconds} s wait already");
            return Err(Error::Overloaded(message));
        }
        self.waiting.extend_from_slice(samples);
        Ok(())
    }

    /// No audio follows.
    pub fn finish(&mut self) {
        self.finished = true;
    }

    /// Samples of the segment whose correction it awaits before it can go on; nothing if it awaits none.
    pub fn awaited_samples(&self) -> Option<usize> {
        match self.plan.front()? {
            Step::Correct(segment) => Some(segment.samples.len()),
            Step::Begin { .. } | Step::Read(_) | Step::EndRead => None,
        }
    }

    /// Whether the last message was given out.
    pub fn ended(&self) -> bool {
        self.end == End::Told
    }

    /// Length of the audio that the session still holds: what waits to be heard or recognised, and the open segment. It is
    /// bounded, however long the stream is.
    pub fn held_ms(&self) -> u64 {
        let planned = self.plan.iter().map(|step| match step {
            Step::Read(samples) | Step::Correct(Segment { samples, .. }) => samples.len(),
            Step::Begin { .. } | Step::EndRead => 0,
        });
        let waiting = self.waiting.len() + self.stream.waiting_samples();
        self.held.ms(self.held.samples.len() + waiting + planned.sum::<usize>())
    }

    /// Takes the next unit; nothing if none is complete, or a correction comes first.
    fn next_unit(&mut self) -> Option<Unit> {
        let unit = self.held.count(UNIT_MS);
        let last = self.finished && self.waiting.len() <= unit;
        let stands = self.end != End::Open || !self.plan.is_empty();
        if stands || (self.waiting.len() < unit && !last) {
            return None;
        }
        let samples: Vec<f32> = self.waiting.drain(..unit.min(self.waiting.len())).collect();
        if last {
            self.end = End::Heard(self.messages.len());
        }
        self.held.samples.extend_from_slice(&samples);
        Some(Unit { samples, last })
    }

    /// The events of a unit without detector: all is one segment.
    fn whole(&self, unit: &Unit) -> Vec<Event> {
        let first = self.held.end() == unit.samples.len();
        let begin = first.then_some(Event::Begin { beg_ms: 0 });
        let end = unit.last.then(|| Event::End { beg_ms: 0, end_ms: self.held.end_ms() });
        begin.into_iter().chain(end).collect()
    }

    /// Plans what follows from the events of a unit.
    fn follow(&mut self, events: Vec<Event>, last: bool) {
        for event in events {
            match event {
                Event::Begin { beg_ms } => {
                    self.plan.push_back(Step::Begin { beg_ms });
                    self.speech = Some(Speech { beg_ms, unread: self.held.count(beg_ms) });
                }
                Event::End { end_ms, .. } => self.close(end_ms, last),
            }
        }
        self.read_open_segment();
        self.forget();
    }

    /// Plans whole chunks of the open segment; the rest waits, since the segment may turn out to end inside.
    fn read_open_segment(&mut self) {
        let stride = self.stream.stride_samples();
        while let Some(speech) = &mut self.speech
            && speech.unread + stride <= self.held.end()
        {
            let chunk = self.held.range(speech.unread, speech.unread + stride);
            speech.unread += stride;
            self.plan.push_back(Step::Read(chunk));
        }
    }

    /// Plans the end of the open segment.
    fn close(&mut self, end_ms: u64, last: bool) {
        let Some(Speech { beg_ms, unread }) = self.speech.take() else { return };
        let end = if self.detector.is_some() { self.held.count(end_ms) } else { self.held.end() };
        self.plan.extend([Step::Read(self.held.range(unread, end)), Step::EndRead]);
        if self.corrects {
            let samples = self.held.cut(beg_ms, end_ms);
            self.plan.push_back(Step::Correct(Segment { beg_ms, end_ms, samples, last }));
        }
    }

    /// Drops audio that nothing needs any more: neither the first pass nor a segment that is still to begin or end.
    fn forget(&mut self) {
        let unread = self.speech.map_or(self.held.end(), |speech| speech.unread);
        let detector = self.detector.as_ref();
        let needed =
            detector.map_or(unread, |detector| self.held.count(detector.needed_from_ms()).min(unread));
        self.held.drop_before(needed);
    }

    /// Loads what is planned into the stream until a step is due; false if none is.
    fn wants_step(&mut self) -> Result<bool> {
        while !self.stream.ready() {
            match self.plan.front_mut() {
                Some(Step::Begin { beg_ms }) => self.sentence.beg_ms = *beg_ms,
                Some(Step::Read(samples)) => self.stream.push(&std::mem::take(samples))?,
                Some(Step::EndRead) => self.stream.finish(),
                Some(Step::Correct(_)) | None => return Ok(false),
            }
            self.plan.pop_front();
        }
        Ok(true)
    }

    /// Remembers an error as the end of the session.
    fn unless_failed<T>(&mut self, result: Result<T>) -> Option<T> {
        result
            .map_err(|fault| {
                self.plan.clear();
                self.end = End::Told;
                self.fault.get_or_insert(fault);
            })
            .ok()
    }

    fn take_segment(&mut self) -> Option<Segment> {
        let step = self.plan.pop_front_if(|step| matches!(step, Step::Correct(_)))?;
        if let Step::Correct(segment) = step { Some(segment) } else { None }
    }

    fn say_partial(&mut self, tokens: &[Token]) {
        let text = self.partial.push(tokens);
        if !text.is_empty() {
            let first = !std::mem::replace(&mut self.sentence.begun, true);
            self.say(text, Pass::Streaming { first, start_ms: self.sentence.beg_ms });
        }
    }

    fn draft(&self, corrector: &Corrector, segment: &Segment, recognition: Recognition) -> Result<Draft> {
        catch(|| corrector.open(&self.cache, recognition.within(segment.beg_ms, segment.end_ms)))
    }

    fn say_correction(&mut self, corrector: &Corrector, segment: &Segment, draft: Draft) -> Result<()> {
        let (start_ms, end_ms) = (segment.beg_ms, segment.end_ms);
        let close = || Ok(corrector.close(&mut self.cache, draft, &self.request, segment.last));
        let (text, correction) = catch(close)?;
        self.say(text, Pass::Corrected(Correction { start_ms, end_ms, ..correction }));
        self.sentence = Sentence { index: self.sentence.index + 1, ..Sentence::default() };
        self.partial.restart();
        Ok(())
    }

    fn say(&mut self, text: String, pass: Pass) {
        self.messages.push(Message { index: self.sentence.index, text, pass, is_final: false });
    }

    /// What was said; at the end of the session the last message is marked, or an empty one made.
    fn take_messages(&mut self) -> Result<Vec<Message>> {
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        if let End::Heard(unit) = &mut self.end {
            if !self.plan.is_empty() {
                // What is to come is of the last unit, too.
                *unit = 0;
                return Ok(std::mem::take(&mut self.messages));
            }
            let unit = *unit;
            self.end = End::Told;
            if self.messages.len() <= unit {
                let Sentence { begun, beg_ms, .. } = self.sentence;
                self.say(String::new(), Pass::Streaming { first: !begun, start_ms: beg_ms });
            }
            if let Some(message) = self.messages.last_mut() {
                message.is_final = true;
            }
        }
        Ok(std::mem::take(&mut self.messages))
    }
}
