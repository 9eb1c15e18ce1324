//! What FunASR's WebSocket clients say in text frames, and what they are told.
//!
//! Clients are many and loose: numbers come as strings, lists as strings, objects as text in a string. What can be meant is
//! taken as meant; what cannot is left out and named, and the rest of the frame counts.

use serde_json::{Map, Value, json};

use super::Mode;
use crate::audio::SAMPLE_RATES;
use crate::decode::hotwords::Hotwords;
use crate::error::Error;
use crate::pipeline::{ChunkSize, Language, StreamOptions, Transcript, stamps};
use crate::text::Token;

/// Longest name of a recording, in characters.
const MAX_NAME: usize = 256;

/// What a client has chosen. It holds until the client chooses otherwise.
#[derive(Debug, Clone)]
pub(super) struct Choice {
    pub mode: Mode,
    pub wav_name: String,
    /// Whether audio is plain 16-bit samples, and not a container.
    pub pcm: bool,
    pub audio_fs: u32,
    pub itn: Option<bool>,
    pub svs_itn: bool,
    pub language: Language,
    pub hotwords: Option<Hotwords>,
    pub stream: StreamOptions,
}

impl Choice {
    /// That of a client that chooses nothing.
    pub fn new(mode: Mode) -> Self {
        let chunk_size = ChunkSize::new([5, 10, 5]).unwrap_or_default();
        Self {
            mode,
            wav_name: "wav-default-id".to_owned(),
            pcm: true,
            audio_fs: 16_000,
            itn: None,
            svs_itn: true,
            language: Language::Auto,
            hotwords: None,
            stream: StreamOptions { chunk_size, ..StreamOptions::default() },
        }
    }

    /// Takes what a text frame chooses.
    pub fn read(&mut self, text: &str) -> Read {
        let mut read = Read::default();
        let frame = match serde_json::from_str(text) {
            Ok(Value::Object(frame)) => frame,
            Ok(_) => {
                read.faults.push("a text frame holds a JSON object".to_owned());
                return read;
            }
            Err(cause) => {
                read.faults.push(format!("not JSON: {cause}"));
                return read;
            }
        };
        for (key, value) in &frame {
            if let Err(fault) = self.take(key, value, &mut read) {
                read.faults.push(format!("{key}: {fault}"));
            }
        }
        read
    }

    /// Takes one key. Null is as if it were absent; unknown keys are other servers'.
    fn take(&mut self, key: &str, value: &Value, read: &mut Read) -> Result<(), String> {
        if value.is_null() {
            return Ok(());
        }
        match key {
            "mode" => self.mode = mode(&string(value)?),
            "wav_name" => self.wav_name = string(value)?.chars().take(MAX_NAME).collect(),
            "wav_format" => self.pcm = string(value)?.eq_ignore_ascii_case("pcm"),
            "audio_fs" => self.audio_fs = rate(value)?,
            "itn" => self.itn = Some(flag(value)?),
            "svs_itn" => self.svs_itn = flag(value)?,
            // As FunASR: what is not known is heard.
            "svs_lang" => self.language = string(value)?.parse().unwrap_or_default(),
            "hotwords" => self.hotwords = Some(hotwords(value)?),
            "chunk_size" => self.stream.chunk_size = chunk_size(value)?,
            "encoder_chunk_look_back" => {
                self.stream.encoder_look_back = usize::try_from(whole(value)?).ok();
            }
            "decoder_chunk_look_back" => {
                self.stream.decoder_look_back = usize::try_from(whole(value)?).unwrap_or(0);
            }
            "is_speaking" => read.ends |= !flag(value)?,
            "is_finished" => read.ends |= flag(value)?,
            "is_end" => read.wants_end |= flag(value)?,
            _ => {}
        }
        Ok(())
    }
}

/// What else a text frame says.
#[derive(Debug, Default)]
pub(super) struct Read {
    /// The utterance is complete.
    pub ends: bool,
    /// The client waits for a last word after the results.
    pub wants_end: bool,
    /// What could not be understood.
    pub faults: Vec<String>,
}

/// Any other mode is 2pass, as FunASR's server has it.
fn mode(name: &str) -> Mode {
    match name {
        "offline" => Mode::Offline,
        "online" => Mode::Online,
        _ => Mode::TwoPass,
    }
}

fn string(value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(_) | Value::Bool(_) => Ok(value.to_string()),
        _ => Err("not a string".to_owned()),
    }
}

fn number(value: &Value) -> Result<f64, String> {
    let number = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    number.filter(|number: &f64| number.is_finite()).ok_or_else(|| "not a number".to_owned())
}

fn whole(value: &Value) -> Result<i64, String> {
    Some(number(value)?)
        .filter(|number| number.fract() == 0.0 && number.abs() < 1e9)
        .map(|number| number as i64)
        .ok_or_else(|| "not a whole number".to_owned())
}

fn rate(value: &Value) -> Result<u32, String> {
    let rate = u32::try_from(whole(value)?).unwrap_or(0);
    if !SAMPLE_RATES.contains(&rate) {
        let (low, high) = (SAMPLE_RATES.start(), SAMPLE_RATES.end());
        return Err(format!("{value} Hz is not supported (from {low} to {high} Hz are)"));
    }
    Ok(rate)
}

fn flag(value: &Value) -> Result<bool, String> {
    match value {
        Value::Bool(flag) => return Ok(*flag),
        Value::Number(number) if number.as_f64() == Some(0.0) => return Ok(false),
        Value::Number(number) if number.as_f64() == Some(1.0) => return Ok(true),
        Value::String(text) => match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => return Ok(true),
            "false" | "0" | "no" | "off" => return Ok(false),
            _ => {}
        },
        _ => {}
    }
    Err("not true or false".to_owned())
}

fn chunk_size(value: &Value) -> Result<ChunkSize, String> {
    let frames: Vec<i64> = match value {
        Value::Array(frames) => frames.iter().map(whole).collect::<Result<_, _>>()?,
        Value::String(text) => {
            let inner = text.trim().trim_matches(['[', ']']);
            let parts = inner.split(',').map(|part| whole(&Value::from(part)));
            parts.collect::<Result<_, _>>()?
        }
        _ => return Err("not a list of three numbers".to_owned()),
    };
    let frames: [i64; 3] = frames.try_into().map_err(|_| "not three numbers".to_owned())?;
    ChunkSize::new(frames).map_err(|error| error.to_string())
}

/// A string with JSON or words in it, an object of weights, or a list of words.
fn hotwords(value: &Value) -> Result<Hotwords, String> {
    match value {
        Value::String(text) => Ok(Hotwords::parse(text)),
        Value::Object(_) => Ok(Hotwords::parse(&value.to_string())),
        Value::Array(words) => {
            let words: Vec<String> = words.iter().map(string).collect::<Result<_, _>>()?;
            Ok(Hotwords::parse(&words.join("\n")))
        }
        _ => Err("not a string, an object or a list".to_owned()),
    }
}

/// The name of a mode.
pub(super) fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Offline => "offline",
        Mode::Online => "online",
        Mode::TwoPass => "2pass",
    }
}

/// The result of an utterance in mode offline, with the fields of `funasr-wss-server`.
pub(super) fn offline_reply(transcript: &Transcript, wav_name: &str) -> Map<String, Value> {
    let mut reply = object(json!({
        "mode": "offline",
        "text": transcript.text,
        "wav_name": wav_name,
        "is_final": true,
    }));
    if let Some(language) = &transcript.language {
        reply.insert("language".to_owned(), language.as_str().into());
    }
    let words: Vec<Token> = transcript.segments.iter().flat_map(|segment| segment.tokens.clone()).collect();
    reply.extend(stamps(&words, &transcript.sentences));
    reply
}

/// What went wrong, in a message that every client can read. With `is_final` it is the utterance's last.
pub(super) fn error_reply(choice: &Choice, code: &str, message: &str, is_final: bool) -> Map<String, Value> {
    object(json!({
        "mode": mode_name(choice.mode),
        "text": "",
        "wav_name": choice.wav_name,
        "is_final": is_final,
        "error": {"code": code, "message": message},
    }))
}

/// The error that ends an utterance.
pub(super) fn failure(choice: &Choice, error: &Error) -> Map<String, Value> {
    let code = match error {
        Error::Overloaded(_) => "busy",
        Error::TooLong(_) => "too_large",
        Error::Audio { .. } => "bad_audio",
        Error::Unsupported(_) => "unsupported",
        _ => "internal",
    };
    error_reply(choice, code, &error.to_string(), true)
}

/// The last word to a client that waits for one.
pub(super) fn end_reply(choice: &Choice) -> Map<String, Value> {
    object(json!({
        "mode": mode_name(choice.mode),
        "text": "",
        "wav_name": choice.wav_name,
        "is_final": true,
        "is_end": true,
    }))
}

fn object(value: Value) -> Map<String, Value> {
    if let Value::Object(object) = value { object } else { Map::new() }
}
