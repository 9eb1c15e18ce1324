//! Where continuous integrate-and-fire finds tokens: the weights of frames (alphas) add up, and each time their sum passes an
//! integer a token fires.
//!
//! The additions are FunASR's to the last bit, on every device: one that rounds otherwise moves a token.

#[cfg(feature = "cuda")]
use candle_core::{CpuStorage, CudaStorage, CustomOp1, Layout, Shape, bail};
use candle_core::{Device, Result, Tensor};

use crate::Lengths;
#[cfg(feature = "cuda")]
use crate::{cpu, cuda};

/// How alphas add up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Integration {
    /// In f64 from the first frame on, rounded to f32 at each (FunASR `models/paraformer/cif_predictor.py`, `cif_v1`).
    Prefix,
    /// In f32, less 1 with each token, so that a frame fires once at most (`models/bicif_paraformer/cif_predictor.py`, `cif`).
    Stepwise,
}

/// From logits to alphas, `max(smooth * sigmoid(logit) - noise, 0)`, and the tokens in them.
#[derive(Debug, Clone)]
pub struct CifFire {
    /// Frames of each item.
    pub lengths: Lengths,
    /// Smooth factor and noise threshold.
    pub scale: [f32; 2],
    /// The alpha of a frame behind the last one, which lets a nearly complete token fire.
    pub tail: Option<f32>,
    /// How they add up.
    pub integration: Integration,
}

/// The firing track of one utterance.
#[derive(Debug, Clone, PartialEq)]
pub struct Cif {
    /// Tokens, as FunASR counts them: from the f32 sum of the alphas, not from the firings.
    pub token_num: usize,
    /// The weight of each frame, and of the tail if there is one.
    pub alphas: Vec<f32>,
    /// Running sum since the last firing at each of those; where a token fired, before it took its 1.
    pub peaks: Vec<f32>,
    /// Per firing: its frame and the part of that frame's alpha that goes to the next token.
    pub fires: Vec<(usize, f32)>,
    /// Frames that have a hidden state: all but the tail.
    pub frames: usize,
}

/// The tracks of a batch.
#[derive(Debug, Clone)]
pub struct Fired {
    pub(crate) tracks: Vec<Cif>,
    /// What the kernel wrote.
    #[cfg(feature = "cuda")]
    pub(crate) packed: Option<Tensor>,
}

impl CifFire {
    /// `logits [B, T]` in f32 -> the track of each item. The one time that a GPU is waited for within a forward.
    pub fn forward(&self, logits: &Tensor) -> Result<Fired> {
        logits.dims2()?;
        self.lengths.check("cif-fire", logits)?;
        #[cfg(feature = "cuda")]
        if logits.device().is_cuda() && cpu::is_fast(logits) && self.lengths.batch() > 0 {
            return cuda::read_tracks(logits.contiguous()?.apply_op1_no_bwd(self)?);
        }
        self.reference(logits)
    }

    /// The definition, on the host.
    pub fn reference(&self, logits: &Tensor) -> Result<Fired> {
        let logits = logits.to_device(&Device::Cpu)?.to_vec2::<f32>()?;
        let items = logits.iter().zip(self.lengths.items());
        let tracks = items.map(|(row, &n)| {
            let own = row[..n].iter().map(|&logit| alpha(logit, self.scale));
            self.integration.track(own.chain(self.tail).collect(), self.tail.is_some())
        });
        Ok(Fired::new(tracks.collect()))
    }
}

/// The weight of a frame.
pub fn alpha(logit: f32, [smooth, noise]: [f32; 2]) -> f32 {
    (smooth / (1.0 + (-logit).exp()) - noise).max(0.0)
}

impl Integration {
    /// The track of one utterance. With a tail, which is the last alpha, the token count is the whole part of their sum, without
    /// one their sum rounded half to even.
    pub fn track(self, alphas: Vec<f32>, tail: bool) -> Cif {
        let (peaks, fires, sum) = match self {
            Self::Prefix => prefix(&alphas),
            Self::Stepwise => stepwise(&alphas),
        };
        let sum = sum as f32;
        let token_num = (if tail { sum.floor() } else { sum.round_ties_even() }) as usize;
        let frames = alphas.len().saturating_sub(usize::from(tail));
        Cif { token_num, alphas, peaks, fires, frames }
    }
}

/// Peaks, fires, and the sum of all alphas.
type Integrated = (Vec<f32>, Vec<(usize, f32)>, f64);

fn prefix(alphas: &[f32]) -> Integrated {
    let (mut sum, mut floor_before) = (0f64, 0f32);
    let (mut peaks, mut fires) = (Vec::with_capacity(alphas.len()), Vec::new());
    for (frame, &alpha) in alphas.iter().enumerate() {
        sum += f64::from(alpha);
        let prefix = sum as f32;
        let fired = prefix.floor() > floor_before;
        // In this order, since the first addition rounds.
        let peak = (f32::from(fired) + prefix) - prefix.floor();
        if fired {
            fires.push((frame, peak - peak.floor()));
        }
        peaks.push(peak);
        floor_before = prefix.floor();
    }
    (peaks, fires, sum)
}

fn stepwise(alphas: &[f32]) -> Integrated {
    let (mut sum, mut total) = (0f32, 0f64);
    let (mut peaks, mut fires) = (Vec::with_capacity(alphas.len()), Vec::new());
    for (frame, &alpha) in alphas.iter().enumerate() {
        let missing = 1.0 - sum;
        sum += alpha;
        total += f64::from(alpha);
        peaks.push(sum);
        if sum >= 1.0 {
            fires.push((frame, alpha - missing));
            sum -= 1.0;
        }
    }
    (peaks, fires, total)
}

impl Cif {
    /// Frames at which a token fired.
    pub fn fire_frames(&self) -> impl Iterator<Item = usize> + '_ {
        self.fires.iter().map(|&(frame, _)| frame)
    }

    /// The firings that make tokens.
    pub(crate) fn tokens(&self) -> &[(usize, f32)] {
        &self.fires[..self.fires.len().min(self.token_num)]
    }
}

impl Fired {
    /// Tracks that were found on the host.
    pub fn new(tracks: Vec<Cif>) -> Self {
        Self {
            tracks,
            #[cfg(feature = "cuda")]
            packed: None,
        }
    }

    /// The track of each item.
    pub fn tracks(&self) -> &[Cif] {
        &self.tracks
    }

    /// The same without a copy.
    pub fn into_tracks(self) -> Vec<Cif> {
        self.tracks
    }

    /// Tokens of each item.
    pub fn token_num(&self) -> Lengths {
        Lengths::new(self.tracks.iter().map(|track| track.token_num).collect::<Vec<_>>())
    }
}

#[cfg(feature = "cuda")]
impl CustomOp1 for CifFire {
    fn name(&self) -> &'static str {
        "cif-fire"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        bail!("cif-fire: on the CPU the definition is the fast version")
    }

    fn cuda_fwd(&self, logits: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        cuda::cif_fire(self, (logits, layout))
    }
}
