//! What a client is told about one utterance.

use serde_json::{Map, Value};

use super::super::protocol::{Choice, failure, offline_reply};
use super::live::LiveSource;
use crate::engine::{Job, Outcome, Said};
use crate::error::Error;
use crate::pipeline::Pass;

/// An utterance that is being answered.
pub(super) struct Answer {
    source: Source,
    choice: Choice,
    /// What of the request could not be met; said with the last message.
    notes: Vec<String>,
    /// The mode of the last message.
    mode: Value,
    /// Whether something was said since the last correction.
    open: bool,
    ended: bool,
    keep_tags: bool,
}

/// Where the answers come from.
pub(super) enum Source {
    Recording(Job),
    Live(Box<LiveSource>),
}

impl Answer {
    pub fn new(source: Source, choice: Choice, notes: Vec<String>, keep_tags: bool) -> Self {
        Self { source, choice, notes, mode: "2pass-online".into(), open: false, ended: false, keep_tags }
    }

    /// The next message; nothing after the last. `sentences` counts those of the connection that were corrected. May be
    /// cancelled.
    pub async fn next(&mut self, sentences: &mut u64) -> Option<Map<String, Value>> {
        if self.ended {
            return None;
        }
        match &mut self.source {
            Source::Recording(job) => {
                let outcome = job.outcome().await;
                self.ended = true;
                Some(match outcome {
                    Ok(outcome) => self.recorded(outcome),
                    Err(error) => failure(&self.choice, &error),
                })
            }
            Source::Live(source) => {
                let error = match source.output.next().await {
                    Some(Ok(said)) => return Some(self.said(said, sentences)),
                    Some(Err(error)) => error,
                    None => (&mut source.fault).await.unwrap_or_else(|_| lost()),
                };
                self.ended = true;
                Some(failure(&self.choice, &error))
            }
        }
    }

    fn recorded(&mut self, Outcome { mut transcript, damage, .. }: Outcome) -> Map<String, Value> {
        if self.keep_tags {
            transcript.keep_tags();
        }
        self.notes.extend(damage);
        let mut reply = offline_reply(&transcript, &self.choice.wav_name);
        self.note(&mut reply);
        reply
    }

    fn said(&mut self, Said { message, .. }: Said, sentences: &mut u64) -> Map<String, Value> {
        let Value::Object(mut reply) = message.to_json(&self.choice.wav_name) else { return Map::new() };
        reply.insert("index".to_owned(), (*sentences + message.index).into());
        if message.is_final && message.text.is_empty() && matches!(message.pass, Pass::Streaming { .. }) {
            // Nothing was left to say: the message belongs to the sentence before.
            reply.insert("mode".to_owned(), self.mode.clone());
            reply.remove("slice_type");
        }
        self.mode = reply.get("mode").cloned().unwrap_or_default();
        let corrected = matches!(message.pass, Pass::Corrected(_));
        self.open = !corrected && (self.open || !message.text.is_empty());
        if message.is_final {
            self.ended = true;
            *sentences += message.index + u64::from(corrected || self.open);
            self.note(&mut reply);
        }
        reply
    }

    fn note(&self, reply: &mut Map<String, Value>) {
        if !self.notes.is_empty() {
            reply.insert("warning".to_owned(), self.notes.join("; ").into());
        }
    }
}

/// A session that ended without a last message: it was cut off by whoever fed it.
fn lost() -> Error {
    Error::Failed("the session has ended".into())
}
