//! CIF predictor V3: beside the weights that make tokens, finer ones that tell when each token was said.
//!
//! Shi et al., "Achieving Timestamp Prediction While Recognizing with Non-Autoregressive End-to-End ASR Model",
//! 2023; FunASR `models/bicif_paraformer/cif_predictor.py` (`CifPredictorV3`).

use candle_core::{DType, Result, Tensor, bail};
use candle_nn::VarBuilder;
use funasr_kernels::Integration;
use serde::Deserialize;

use super::cif::{self, CifConfig, CifOutput, CifPredictor};
use super::{Lengths, Linear, Lstm, LstmConfig};

/// `predictor_conf`, with FunASR's key names and defaults.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CifV3Config {
    /// The options of the weights that make tokens. Keys that neither these nor the others know are refused.
    #[serde(flatten)]
    pub cif: CifConfig,
    /// As `smooth_factor`, for the finer weights.
    #[serde(default = "cif::one")]
    pub smooth_factor2: f64,
    /// As `noise_threshold`, for the finer weights.
    #[serde(default)]
    pub noise_threshold2: f64,
    /// Finer weights of each frame.
    #[serde(default = "five")]
    pub upsample_times: usize,
    /// Layers before them.
    #[serde(default)]
    pub upsample_type: UpsampleType,
    /// Whether they read the convolution of the other weights or the encoder's output.
    #[serde(default = "cif::yes")]
    pub use_cif1_cnn: bool,
}

fn five() -> usize {
    5
}

/// Layers before the finer weights.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpsampleType {
    /// A transposed convolution.
    #[default]
    Cnn,
    /// The same, then an LSTM in both directions.
    CnnBlstm,
}

/// The predictor.
#[derive(Debug, Clone)]
pub struct CifPredictorV3 {
    cif: CifPredictor,
    /// The transposed convolution. Its kernel is as long as its stride, so that it is one product a frame.
    upsample_cnn: Linear,
    blstm: Option<Lstm>,
    cif_output2: Linear,
    config: CifV3Config,
}

impl CifPredictorV3 {
    /// Loads `cif_conv1d`, `cif_output`, `upsample_cnn`, `blstm` if there is one, and `cif_output2`.
    pub fn load(config: &CifV3Config, vb: VarBuilder) -> Result<Self> {
        let (width, times) = (config.cif.idim, config.upsample_times);
        if times == 0 {
            bail!("predictor: upsample_times is 0");
        }
        let weight = vb.get((width, width, times), "upsample_cnn.weight")?;
        let bias = vb.get(width, "upsample_cnn.bias")?;
        let lstm = LstmConfig { inputs: width, hidden: width, layers: 1, bidirectional: true };
        let blstm = (config.upsample_type == UpsampleType::CnnBlstm)
            .then(|| Lstm::load(&lstm, vb.pp("blstm")))
            .transpose()?;
        let inputs = if blstm.is_some() { 2 * width } else { width };
        Ok(Self {
            cif: CifPredictor::load_with(&config.cif, Integration::Stepwise, vb.clone())?,
            upsample_cnn: Linear::new(
                &weight.permute((2, 1, 0))?.reshape((times * width, width))?,
                bias.repeat(times)?,
            )?,
            blstm,
            cif_output2: Linear::load_f32(inputs, 1, vb.to_dtype(DType::F32).pp("cif_output2"))?,
            config: config.clone(),
        })
    }

    /// Finer weights of each frame.
    pub fn upsample_times(&self) -> usize {
        self.config.upsample_times
    }

    /// `encoder_out [B, T, D]` -> tokens, as [`CifPredictor::forward`].
    pub fn forward(&self, encoder_out: &Tensor, lengths: &Lengths) -> Result<CifOutput> {
        self.cif.forward(encoder_out, lengths)
    }

    /// What the finer weights are made of: `encoder_out [B, T, D]` -> `[B, T * upsample_times, D]`, with LSTM
    /// `[.., 2 D]`. In a batch the LSTM starts at each item's own ends, where FunASR's reads the padding.
    pub fn upsample(&self, encoder_out: &Tensor, lengths: &Lengths) -> Result<Tensor> {
        let x = match self.config.use_cif1_cnn {
            true => self.cif.convolve(encoder_out, lengths)?,
            false => encoder_out.clone(),
        };
        let (batch, time, width) = x.dims3()?;
        let x = self.upsample_cnn.forward(&x)?.reshape((batch, time * self.upsample_times(), width))?;
        match &self.blstm {
            Some(blstm) => blstm.forward(&x, &self.upsampled(lengths)),
            None => Ok(x),
        }
    }

    /// The finer weights of each item's valid frames, scaled to a sum of `token_num`, the count that
    /// [`CifPredictorV3::forward`] found. Each time they add up to a whole, a token begins.
    pub fn us_alphas(
        &self,
        encoder_out: &Tensor,
        lengths: &Lengths,
        token_num: &Lengths,
    ) -> Result<Vec<Vec<f32>>> {
        let upsampled = self.upsample(encoder_out, lengths)?.to_dtype(DType::F32)?;
        let logits = self.cif_output2.forward(&upsampled)?;
        let range = [self.config.smooth_factor2 as f32, self.config.noise_threshold2 as f32];
        let mut items = cif::weights(&logits, &self.upsampled(lengths), range)?;
        for (alphas, &count) in items.iter_mut().zip(token_num.items()) {
            let sum = alphas.iter().map(|&alpha| f64::from(alpha)).sum::<f64>() as f32;
            if sum > 0.0 {
                alphas.iter_mut().for_each(|alpha| *alpha *= count as f32 / sum);
            }
        }
        Ok(items)
    }

    fn upsampled(&self, lengths: &Lengths) -> Lengths {
        Lengths::new(lengths.items().iter().map(|&n| n * self.upsample_times()).collect::<Vec<_>>())
    }
}
