//! Samples that are still arriving -> tokens, chunk by chunk, for many streams at once.

use funasr_kernels::on_pool;
use rayon::prelude::*;

use super::network::best;
use super::{open_frontend, open_tokens};
use crate::decode::greedy::{Emission, greedy_of};
use crate::decode::timestamps::stream_spans;
use crate::decode::tokens::TokenList;
use crate::device::Compute;
use crate::error::{Error, Result};
use crate::frontend::{Features, Frontend, OnlineFrontend, OnlineState};
use crate::models::paraformer_online::{Config, Output, ParaformerStreaming, State, StreamOptions};
use crate::nn::Chunk;
use crate::text::Token;
use crate::text::join::Notation;
use crate::weights::ModelFiles;

/// Samples that may wait in a stream, in seconds.
const MAX_WAITING_SECONDS: usize = 60;
/// Frames that a stream may look back on: a minute.
const MAX_LOOK_BACK_FRAMES: usize = 1000;
/// Samples are in [-1, 1]. Far louder ones overflow the spectrum, and what is not finite stops a whole batch.
const MAX_SAMPLE: f32 = 1e6;

/// A streaming recogniser: front end, model and vocabulary. It is immutable and can be shared; each stream
/// has an [`OnlineStream`].
#[derive(Debug)]
pub struct OnlineRecognizer {
    frontend: Frontend,
    model: ParaformerStreaming,
    tokens: TokenList,
    notation: Notation,
    compute: Compute,
}

impl OnlineRecognizer {
    /// Loads a streaming Paraformer.
    ///
    /// # Errors
    /// Files that are incomplete or do not fit each other, naming the key, tensor or token.
    pub fn load(files: &ModelFiles, compute: &Compute) -> Result<Self> {
        files.expect_class("ParaformerStreaming")?;
        let frontend = open_frontend(files)?;
        if first_row(&frontend).frames() == 0 {
            return Err(
                files.config_error("frontend_conf: a first chunk of one frame would give no features")
            );
        }
        let config: Config = files.config(&["frontend", "frontend_conf", "tokenizer", "tokenizer_conf"])?;
        let (_, tokens) = open_tokens(files, config.vocab_size)?;
        let width = frontend.config().feature_width();
        let load = |vb: candle_nn::VarBuilder| ParaformerStreaming::load(width, &config, vb);
        let model = files.build(compute, load)?;
        Ok(Self { frontend, model, notation: Notation::of(tokens.iter()), tokens, compute: compute.clone() })
    }

    /// Sample rate of the model.
    pub fn sample_rate(&self) -> u32 {
        self.frontend.config().fs
    }

    /// How the tokens show where words end.
    pub fn notation(&self) -> Notation {
        self.notation
    }

    /// The front end.
    pub fn frontend(&self) -> &Frontend {
        &self.frontend
    }

    /// The network.
    pub fn model(&self) -> &ParaformerStreaming {
        &self.model
    }

    /// Where and in which format it computes.
    pub fn compute(&self) -> &Compute {
        &self.compute
    }

    /// A stream before its first sample. An unlimited look-back of the encoder ends at a minute.
    ///
    /// # Errors
    /// [`Error::Unsupported`]: a longer look-back.
    pub fn stream(&self, options: &StreamOptions) -> Result<OnlineStream> {
        let most = MAX_LOOK_BACK_FRAMES / options.chunk_size.stride();
        let encoder_look_back = options.encoder_look_back.unwrap_or(most);
        for (name, chunks) in
            [("encoder_look_back", encoder_look_back), ("decoder_look_back", options.decoder_look_back)]
        {
            if chunks > most {
                let message = format!("{name} {chunks}: more than {most} chunks, which are a minute");
                return Err(Error::Unsupported(message));
            }
        }
        let options = StreamOptions { encoder_look_back: Some(encoder_look_back), ..*options };
        let state = self.model.start(&options)?;
        let frame_samples = frame_samples(&self.frontend);
        Ok(OnlineStream {
            options,
            sample_rate: self.sample_rate() as usize,
            frame_samples,
            waiting: Vec::new(),
            taken: 0,
            finished: false,
            frontend: OnlineState::default(),
            state: state.clone(),
            start: state,
        })
    }

    /// Runs the next chunk of each of these streams in one batch, in any company; returns the new tokens of
    /// each, in the notation of the vocabulary, with their times from the start of the stream. A stream that
    /// ran its last chunk is at the start again, ready for another utterance.
    ///
    /// # Errors
    /// A stream that is not [`OnlineStream::ready`]: then nothing has happened. [`Error::Inference`]: then
    /// all these streams are to be dropped.
    pub fn step(&self, streams: &mut [&mut OnlineStream]) -> Result<Vec<Vec<Token>>> {
        if let Some(i) = streams.iter().position(|stream| !stream.ready()) {
            return Err(Error::Unsupported(format!("stream {i} of {} has no chunk to run", streams.len())));
        }
        if streams.is_empty() {
            return Ok(Vec::new());
        }
        let pieces: Vec<Piece> = streams.par_iter_mut().map(|stream| stream.next(&self.frontend)).collect();
        let chunks: Vec<Chunk> = pieces.iter().map(Piece::chunk).collect();
        let mut states: Vec<&mut State> = streams.iter_mut().map(|stream| &mut stream.state).collect();
        let output = on_pool(|| self.model.step(&mut states, &chunks))?;
        let mut tokens = vec![Vec::new(); streams.len()];
        for (emissions, &i) in emissions(&output)?.iter().zip(&output.fired) {
            tokens[i] = self.read(&output, emissions, i, chunks[i].is_last(), &streams[i].options);
        }
        for (stream, _) in streams.iter_mut().zip(&chunks).filter(|(_, chunk)| chunk.is_last()) {
            stream.reset();
        }
        Ok(tokens)
    }

    /// Pushes samples into one stream and runs it as often as it is ready; `last` also finishes it. Returns
    /// the tokens of each chunk that ran.
    ///
    /// # Errors
    /// Those of [`OnlineStream::push`] and [`OnlineRecognizer::step`].
    pub fn run(&self, stream: &mut OnlineStream, samples: &[f32], last: bool) -> Result<Vec<Vec<Token>>> {
        let mut chunks = Vec::new();
        for piece in samples.chunks(stream.stride_samples()) {
            stream.push(piece)?;
            self.drain(stream, &mut chunks)?;
        }
        if last {
            stream.finish();
            self.drain(stream, &mut chunks)?;
        }
        Ok(chunks)
    }

    /// A whole recording as the pieces that a stream would take it in.
    ///
    /// # Errors
    /// Those of [`OnlineRecognizer::stream`] and [`OnlineStream::push`].
    pub fn pieces(&self, options: &StreamOptions, samples: &[f32]) -> Result<Vec<Piece>> {
        let mut stream = self.stream(options)?;
        let mut pieces = Vec::new();
        for stride in samples.chunks(stream.stride_samples()) {
            stream.push(stride)?;
            if stream.ready() {
                pieces.push(stream.next(&self.frontend));
            }
        }
        pieces.push(stream.next(&self.frontend));
        Ok(pieces)
    }

    fn drain(&self, stream: &mut OnlineStream, chunks: &mut Vec<Vec<Token>>) -> Result<()> {
        while stream.ready() {
            chunks.append(&mut self.step(&mut [&mut *stream])?);
        }
        Ok(())
    }

    /// The tokens of one stream, for which the decoder named `emissions`.
    fn read(
        &self,
        output: &Output,
        emissions: &[Emission],
        stream: usize,
        last: bool,
        options: &StreamOptions,
    ) -> Vec<Token> {
        let first = output.first_frames[stream];
        let fires: Vec<i64> = output.cif.fires[stream].iter().map(|&frame| first + frame as i64).collect();
        let size = options.chunk_size;
        let decided = if last { output.frames.items()[stream] } else { size.left() + size.stride() };
        let spans = stream_spans(&fires, first + decided as i64, last, frame_ms(&self.frontend));
        let token = |emission: &Emission| {
            let [start_ms, end_ms] = spans.get(emission.position).copied().unwrap_or_default();
            let text = self.tokens.token(emission.id).unwrap_or_default().to_owned();
            Token { text, start_ms, end_ms, confidence: Some(emission.log_prob.exp()) }
        };
        emissions.iter().map(token).collect()
    }
}

/// What the decoder names for each stream that fired.
fn emissions(output: &Output) -> Result<Vec<Vec<Emission>>> {
    let Some(logits) = &output.decoder_logits else { return Ok(Vec::new()) };
    let counts = output.fired.iter().map(|&stream| output.cif.tokens.items()[stream]);
    best(logits)?.iter().zip(counts).map(|(rows, count)| greedy_of(rows, count)).collect()
}

/// Time of one feature row.
fn frame_ms(frontend: &Frontend) -> u32 {
    frontend.config().frame_shift * frontend.config().lfr_n as u32
}

/// Samples of one feature row: 960 for the published 60 ms at 16 kHz.
fn frame_samples(frontend: &Frontend) -> usize {
    (frontend.config().fs as usize / 1000) * frame_ms(frontend) as usize
}

fn first_row(frontend: &Frontend) -> Features {
    let silence = vec![0.0; frame_samples(frontend)];
    OnlineFrontend::new(frontend).push(&mut OnlineState::default(), &silence, false)
}

/// One stream of samples: plain state, bounded, to be sent anywhere between steps.
///
/// It is cut as FunASR cuts a whole recording: into full strides, none of which is the last, and the rest,
/// which may be empty. A rest of less than a frame is not looked at: the last chunk is then the right context
/// seen so far. So nothing depends on how the samples are pushed, nor on when the end is announced.
#[derive(Debug, Clone)]
pub struct OnlineStream {
    /// How it is cut; the look-back of the encoder is a number.
    options: StreamOptions,
    sample_rate: usize,
    frame_samples: usize,
    /// Samples that no chunk has had.
    waiting: Vec<f32>,
    /// Samples before those.
    taken: u64,
    finished: bool,
    frontend: OnlineState,
    state: State,
    /// What `state` starts from.
    start: State,
}

impl OnlineStream {
    /// Takes the next mono samples in [-1, 1] at the model's rate.
    ///
    /// # Errors
    /// [`Error::Audio`]: a sample that is no number or absurdly large, by its index in the stream, or samples
    /// after the end. [`Error::Overloaded`]: more than a minute would wait for [`OnlineRecognizer::step`].
    /// Nothing is taken then.
    pub fn push(&mut self, samples: &[f32]) -> Result<()> {
        if self.finished {
            return Err(Error::audio("stream", "samples after the end of the stream"));
        }
        let wrong = |x: &f32| x.is_nan() || x.abs() > MAX_SAMPLE;
        if let Some(i) = samples.iter().position(wrong) {
            let index = self.taken + (self.waiting.len() + i) as u64;
            return Err(Error::audio("stream", format!("sample {index} is {}", samples[i])));
        }
        if self.waiting.len() + samples.len() > MAX_WAITING_SECONDS * self.sample_rate {
            let message = format!("stream: more than {MAX_WAITING_SECONDS} s of audio wait to be recognised");
            return Err(Error::Overloaded(message));
        }
        self.waiting.extend_from_slice(samples);
        Ok(())
    }

    /// Announces the end: what waits is all there is.
    pub fn finish(&mut self) {
        self.finished = true;
    }

    /// Whether there is a chunk to run: a whole stride waits, or the end was announced and has not run.
    pub fn ready(&self) -> bool {
        self.finished || self.waiting.len() >= self.stride_samples()
    }

    /// Samples of a stride.
    pub fn stride_samples(&self) -> usize {
        self.options.chunk_size.stride() * self.frame_samples
    }

    /// Samples that wait to be recognised.
    pub fn waiting_samples(&self) -> usize {
        self.waiting.len()
    }

    /// The next chunk; of a stream that is not ready, the last.
    fn next(&mut self, frontend: &Frontend) -> Piece {
        let stride = self.stride_samples();
        let last = self.waiting.len() < stride;
        let rest: Vec<f32> = self.waiting.drain(..stride.min(self.waiting.len())).collect();
        self.taken += rest.len() as u64;
        if last && rest.len() < self.frame_samples {
            return Piece { features: Features::default(), last };
        }
        Piece { features: OnlineFrontend::new(frontend).push(&mut self.frontend, &rest, last), last }
    }

    /// Back to the start.
    fn reset(&mut self) {
        (self.taken, self.finished) = (0, false);
        (self.frontend, self.state) = (OnlineState::default(), self.start.clone());
    }
}

/// New feature rows of one chunk of a stream.
#[derive(Debug, Clone)]
pub struct Piece {
    features: Features,
    last: bool,
}

impl Piece {
    /// A whole recording in full strides of so many rows, none of which is the last, and the rest, which may be empty.
    pub fn cut(features: &Features, stride: usize) -> Vec<Self> {
        let width = features.width;
        let piece = |rows: &[f32], last| Self { features: Features { values: rows.to_vec(), width }, last };
        let strides = features.values.chunks_exact((stride * width).max(1));
        let last = piece(strides.remainder(), true);
        strides.map(|rows| piece(rows, false)).chain([last]).collect()
    }

    /// As the model takes it.
    pub fn chunk(&self) -> Chunk<'_> {
        match (self.last, self.features.values.as_slice()) {
            (true, []) => Chunk::Tail,
            (true, rows) => Chunk::Last(rows),
            (false, rows) => Chunk::Next(rows),
        }
    }
}
