//! From samples to the features that the models take: Kaldi fbank, low frame rate stacking (LFR), mean and
//! variance normalisation (CMVN). Slices in, slices out.
//!
//! The numbers are those of FunASR's `WavFrontend` without dither (FunASR `frontends/wav_frontend.py`).

mod cmvn;
mod fbank;
mod lfr;
mod online;

use serde::Deserialize;

pub use cmvn::Cmvn;
pub use fbank::Fbank;
pub use lfr::{Frames, Lfr};
pub use online::{OnlineFrontend, OnlineState};

use crate::error::{Error, Result};

/// `frontend_conf`, with FunASR's key names and defaults.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FrontendConfig {
    /// Sample rate in Hz, 8000 or 16000.
    pub fs: u32,
    /// Window shape.
    pub window: Window,
    /// Mel bins.
    pub n_mels: usize,
    /// Window length in ms.
    pub frame_length: u32,
    /// Window distance in ms.
    pub frame_shift: u32,
    /// Frames stacked into one.
    pub lfr_m: usize,
    /// Frames from one stack to the next.
    pub lfr_n: usize,
}

impl Default for FrontendConfig {
    fn default() -> Self {
        let window = Window::Hamming;
        Self { fs: 16_000, window, n_mels: 80, frame_length: 25, frame_shift: 10, lfr_m: 1, lfr_n: 1 }
    }
}

/// Supported windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Window {
    /// `0.54 - 0.46 cos(2 pi i / (W - 1))`.
    Hamming,
}

impl FrontendConfig {
    /// Width of one feature row.
    pub fn feature_width(&self) -> usize {
        self.n_mels * self.lfr_m
    }

    fn check(&self) -> Result<()> {
        let fault = match self {
            Self { fs: 8000 | 16_000, .. } => match self {
                Self { n_mels: 1..=512, lfr_m: 1..=64, lfr_n: 1..=64, .. } => match self {
                    Self { frame_length: 1..=1000, frame_shift: 1..=1000, .. } => return Ok(()),
                    _ => "frame_length and frame_shift must lie in 1..=1000 ms".to_owned(),
                },
                _ => "n_mels must lie in 1..=512, lfr_m and lfr_n in 1..=64".to_owned(),
            },
            Self { fs, .. } => format!("a sample rate (fs) of {fs} is not supported, only 8000 and 16000"),
        };
        Err(Error::config("frontend_conf", fault))
    }
}

/// Rows of features, one after the other.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Features {
    /// `frames * width` values.
    pub values: Vec<f32>,
    /// Values of one row.
    pub width: usize,
}

impl Features {
    /// Number of rows.
    pub fn frames(&self) -> usize {
        self.values.len().checked_div(self.width).unwrap_or(0)
    }
}

/// Every stage of the front end for one utterance.
#[derive(Debug, Clone)]
pub struct Stages {
    /// Log mel energies, one row per 10 ms.
    pub fbank: Features,
    /// Stacked rows.
    pub lfr: Features,
    /// Stacked and normalised rows: the model's input.
    pub speech: Features,
}

/// The offline front end. It holds no state: one serves any number of threads.
#[derive(Debug, Clone)]
pub struct Frontend {
    fbank: Fbank,
    lfr: Lfr,
    cmvn: Option<Cmvn>,
    config: FrontendConfig,
}

impl Frontend {
    /// Builds the tables.
    pub fn new(config: &FrontendConfig, cmvn: Option<Cmvn>) -> Result<Self> {
        config.check()?;
        let lfr = Lfr { stack: config.lfr_m, stride: config.lfr_n };
        Ok(Self { fbank: Fbank::new(config), lfr, cmvn, config: config.clone() })
    }

    /// The configuration it was built from.
    pub fn config(&self) -> &FrontendConfig {
        &self.config
    }

    /// How frames become rows.
    pub fn lfr(&self) -> Lfr {
        self.lfr
    }

    /// How rows are normalised, if they are.
    pub fn cmvn(&self) -> Option<&Cmvn> {
        self.cmvn.as_ref()
    }

    /// Features of a whole utterance of mono samples in [-1, 1]: `ceil(frames / lfr_n)` rows. Fewer than two
    /// samples give none.
    pub fn features(&self, samples: &[f32]) -> Features {
        let mut stacked = self.lfr.stack(&self.fbank.compute_whole(samples));
        self.normalise(&mut stacked);
        stacked
    }

    /// The same, with every stage on the way.
    pub fn stages(&self, samples: &[f32]) -> Stages {
        let fbank = self.fbank.compute_whole(samples);
        let lfr = self.lfr.stack(&fbank);
        let mut speech = lfr.clone();
        self.normalise(&mut speech);
        Stages { fbank, lfr, speech }
    }

    fn normalise(&self, features: &mut Features) {
        if let Some(cmvn) = &self.cmvn {
            cmvn.apply(features);
        }
    }
}
