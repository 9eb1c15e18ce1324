//! The models joined to what users ask for: speech to punctuated text with times.

pub mod batch;
mod corrector;
mod held;
mod message;
mod network;
mod offline;
mod online;
pub mod punctuator;
mod recognizer;
mod request;
mod session;
mod transcript;
mod voice_detector;

pub use crate::models::paraformer_online::StreamOptions;
pub use crate::nn::ChunkSize;
pub use corrector::Corrector;
pub use message::{Correction, Message, Pass, stamps};
pub use network::{Network, NetworkOutput, Scores, Upsampled};
pub use offline::{Host, Transcriber, TranscriberOptions};
pub use online::{OnlineRecognizer, OnlineStream, Piece};
pub use punctuator::PunctuationModel;
pub use recognizer::{Recognition, Recognizer, Tagging, Utterance};
pub use request::{Language, Request};
pub use session::{RealTime, Session, SessionOptions};
pub use transcript::{Segment, Tags, Transcript};
pub use voice_detector::{DetectorStream, Push, VoiceDetector};

use crate::decode::tokens::TokenList;
use crate::error::{Error, Result};
use crate::frontend::{Cmvn, Frontend, FrontendConfig};
use crate::hub::ModelSource;
use crate::weights::ModelFiles;

/// FunASR's model classes that run here.
pub const CLASSES: [&str; 9] = [
    "Paraformer",
    "BiCifParaformer",
    "SeacoParaformer",
    "ContextualParaformer",
    "SenseVoiceSmall",
    "ParaformerStreaming",
    "FsmnVADStreaming",
    "CTTransformer",
    "CTTransformerStreaming",
];

/// Opens the files of a resolved model.
pub fn open_model(source: &ModelSource) -> Result<ModelFiles> {
    match source {
        ModelSource::Embedded(model) => {
            ModelFiles::embedded(model.name, model.config, model.weights, model.tokens)
        }
        ModelSource::Dir(directory) => ModelFiles::open(directory),
    }
}

/// The token list of a model, with the file it stands in; it has to be as long as the model's vocabulary.
fn open_tokens(files: &ModelFiles, vocab_size: usize) -> Result<(String, TokenList)> {
    let (file, text) = files.tokens()?;
    let tokens = TokenList::from_json(&file, &text)?;
    if tokens.len() != vocab_size {
        let message = format!("{} tokens, but the model's vocab_size is {vocab_size}", tokens.len());
        return Err(Error::config(file, message));
    }
    Ok((file, tokens))
}

/// The front end that a speech model's files describe.
fn open_frontend(files: &ModelFiles) -> Result<Frontend> {
    let config: FrontendConfig = files.section("frontend_conf")?;
    let width = config.feature_width();
    let shift = files.vector("frontend.cmvn_shift", width)?;
    let scale = files.vector("frontend.cmvn_scale", width)?;
    let cmvn = shift.zip(scale).map(|(shift, scale)| Cmvn::new(shift, scale)).transpose()?;
    Frontend::new(&config, cmvn)
}
