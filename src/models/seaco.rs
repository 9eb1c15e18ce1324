//! SeACo Paraformer: a Paraformer with token times, and a second decoder that looks at hotwords and overrules
//! it.
//!
//! Shi et al., "SeACo-Paraformer: A Non-Autoregressive ASR System with Flexible and Effective Hotword
//! Customization Ability", 2023; FunASR `models/seaco_paraformer/model.py`.

use candle_core::{D, DType, Result, Tensor, bail};
use candle_nn::VarBuilder;
use candle_nn::ops::log_softmax;
use serde::Deserialize;

use super::bicif::PredictorClass;
use super::paraformer::{self, Body, DecoderClass};
use crate::nn::{
    BiasEncoder, BiasEncoderType, CifOutput, CifPredictorV3, CifV3Config, DecoderStack, Lengths, Linear,
    SanmDecoder, SanmDecoderConfig, SanmEncoder, best_of_rows, pad_hotwords,
};

/// Entries of a hotword list that pass the attention filter, the one for "no hotword" not counted.
const FILTERED: usize = 50;
/// The layer of the second decoder whose attention ranks the hotwords, counted from 0.
const RANKING_LAYER: usize = 5;

/// Configuration, with FunASR's section names.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Options of the hotword encoder.
    #[serde(default)]
    pub model_conf: ModelConf,
    /// Class of the second decoder.
    pub seaco_decoder: DecoderClass,
    /// Shape of the second decoder.
    pub seaco_decoder_conf: SanmDecoderConfig,
    /// The Paraformer below.
    #[serde(flatten)]
    pub paraformer: paraformer::Config<Class, PredictorClass, CifV3Config>,
}

/// The class this file implements.
#[derive(Debug, Clone, Copy, Deserialize)]
pub enum Class {
    /// Offline Paraformer with token times and hotwords.
    SeacoParaformer,
}

/// `model_conf`, with FunASR's key names and defaults.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelConf {
    /// Width of the hotword encoder: the decoder's, or nothing fits.
    pub inner_dim: usize,
    /// Kind of hotword encoder.
    pub bias_encoder_type: BiasEncoderType,
    /// Whether the hotword encoder reads in both directions.
    pub bias_encoder_bid: bool,
    /// The token by which the second decoder says that no hotword is meant.
    #[serde(rename = "NO_BIAS")]
    pub no_bias: u32,
}

impl Default for ModelConf {
    fn default() -> Self {
        let bias_encoder_type = BiasEncoderType::Lstm;
        Self { inner_dim: 256, bias_encoder_type, bias_encoder_bid: false, no_bias: 8377 }
    }
}

/// Every stage of one batch.
#[derive(Debug, Clone)]
pub struct Output {
    /// `[B, T, D]`.
    pub encoder_out: Tensor,
    /// Alphas, peaks, token counts and acoustic embeddings.
    pub cif: CifOutput,
    /// Weights of the timestamp head, `upsample_times` for each frame of an item.
    pub us_alphas: Vec<Vec<f32>>,
    /// `[B, L, D]`, L the largest token count: what the output layer of the decoder reads.
    pub decoder_hidden: Tensor,
    /// What the hotwords say, if there are any for any item.
    pub bias: Option<Bias>,
    /// `[B, L, V]`: log-probabilities of the decoder or, where a hotword is meant, of the second decoder.
    pub decoder_logits: Tensor,
}

/// Stages of the second decoder. Those of an item without hotwords hold no meaning.
#[derive(Debug, Clone)]
pub struct Bias {
    /// What it makes of the acoustic embeddings, `[B, L, D]`.
    pub cif_attended: Tensor,
    /// What it makes of the decoder's hidden states, `[B, L, D]`.
    pub dec_attended: Tensor,
    /// Log-probabilities of both together, `[B, L, V]`.
    pub dha: Tensor,
}

/// The model.
#[derive(Debug, Clone)]
pub struct SeacoParaformer {
    body: Body,
    predictor: CifPredictorV3,
    bias_encoder: BiasEncoder,
    seaco_decoder: DecoderStack,
    hotword_output_layer: Linear,
    no_bias: u32,
}

impl SeacoParaformer {
    /// Loads `encoder.*`, `predictor.*`, `decoder.*`, `bias_encoder.*`, `seaco_decoder.*` and
    /// `hotword_output_layer`; `speech_width` is the width of a feature row.
    pub fn load(speech_width: usize, config: &Config, vb: VarBuilder) -> Result<Self> {
        check(config)?;
        let Config { model_conf, seaco_decoder_conf, paraformer, .. } = config;
        let (width, vocab) = (model_conf.inner_dim, paraformer.vocab_size);
        let embed = vb.get((vocab, width), "decoder.embed.0.weight")?;
        Ok(Self {
            body: Body::load(speech_width, paraformer, paraformer.predictor_conf.cif.idim, &vb)?,
            predictor: CifPredictorV3::load(&paraformer.predictor_conf, vb.pp("predictor"))?,
            bias_encoder: BiasEncoder::load(embed, 2, model_conf.bias_encoder_bid, vb.clone())?,
            seaco_decoder: DecoderStack::load(width, seaco_decoder_conf, vb.pp("seaco_decoder"))?,
            hotword_output_layer: Linear::load_coarse(width, vocab, vb.pp("hotword_output_layer"))?,
            no_bias: model_conf.no_bias,
        })
    }

    /// The encoder.
    pub fn encoder(&self) -> &SanmEncoder {
        &self.body.encoder
    }

    /// The predictor.
    pub fn predictor(&self) -> &CifPredictorV3 {
        &self.predictor
    }

    /// The decoder of the acoustic embeddings.
    pub fn decoder(&self) -> &SanmDecoder {
        &self.body.decoder
    }

    /// Token ids of each hotword -> `[N + 1, D]`, the last for "no hotword". Once a request.
    ///
    /// # Errors
    /// A hotword without tokens or with an unknown one.
    pub fn encode_hotwords(&self, ids: &[Vec<u32>]) -> Result<Tensor> {
        self.bias_encoder.forward(ids)
    }

    /// Normalised features `[B, T, speech_width]` of the given lengths, and each item's
    /// [hotwords](Self::encode_hotwords) -> every stage. An item without a list is not biased; one with an
    /// empty list is asked whether it means a hotword, as in FunASR.
    pub fn forward(
        &self,
        speech: &Tensor,
        lengths: &Lengths,
        hotwords: &[Option<&Tensor>],
    ) -> Result<Output> {
        lengths.check("seaco paraformer", speech)?;
        if hotwords.len() != lengths.batch() {
            bail!("seaco paraformer: {} hotword lists for {} items", hotwords.len(), lengths.batch());
        }
        let encoder_out = self.body.encoder.forward(speech, lengths)?;
        let cif = self.predictor.forward(&encoder_out, lengths)?;
        // Behind all else, which a GPU so has to do while the host waits for these.
        let us_alphas = || self.predictor.us_alphas(&encoder_out, lengths, &cif.token_num);
        if cif.token_num.max() == 0 {
            let decoder_logits = self.body.decode(&cif, &encoder_out, lengths)?;
            let (us_alphas, decoder_hidden) = (us_alphas()?, cif.acoustic_embeds.clone());
            return Ok(Output { encoder_out, cif, us_alphas, decoder_hidden, bias: None, decoder_logits });
        }
        let decoder = &self.body.decoder;
        let decoder_hidden = decoder.hidden(&cif.acoustic_embeds, &cif.token_num, &encoder_out, lengths)?;
        let mut decoder_logits = log_softmax(&decoder.logits(&decoder_hidden)?, D::Minus1)?;
        let mut bias = None;
        if hotwords.iter().any(Option::is_some) {
            let stages = self.bias(&cif, &decoder_hidden, hotwords)?;
            decoder_logits = self.merge(&decoder_logits, &stages.dha, hotwords)?;
            bias = Some(stages);
        }
        let us_alphas = us_alphas()?;
        Ok(Output { encoder_out, cif, us_alphas, decoder_hidden, bias, decoder_logits })
    }

    /// The second decoder on acoustic embeddings and `hidden` states `[B, L, D]`.
    fn bias(&self, cif: &CifOutput, hidden: &Tensor, hotwords: &[Option<&Tensor>]) -> Result<Bias> {
        let tokens = &cif.token_num;
        let lists = self.filter(hidden, tokens, hotwords)?;
        let lists: Vec<_> = lists.iter().map(Option::as_ref).collect();
        let (memory, counts) = pad_hotwords(&lists, hidden)?;
        let cif_attended = self.seaco_decoder.forward(&cif.acoustic_embeds, tokens, &memory, &counts)?;
        let dec_attended = self.seaco_decoder.forward(hidden, tokens, &memory, &counts)?;
        let dha = self.hotword_output_layer.forward(&(&cif_attended + &dec_attended)?)?;
        Ok(Bias { cif_attended, dec_attended, dha: log_softmax(&dha, D::Minus1)? })
    }

    /// Of each list `[N, D]` the entries that the utterance, `hidden [B, L, D]` of `tokens`, attends to most; a short list as it is, and
    /// none for an utterance without tokens.
    fn filter(
        &self,
        hidden: &Tensor,
        tokens: &Lengths,
        hotwords: &[Option<&Tensor>],
    ) -> Result<Vec<Option<Tensor>>> {
        let heard = |(list, &count): (&Option<&Tensor>, &usize)| list.filter(|_| count > 0).cloned();
        let mut lists: Vec<Option<Tensor>> = hotwords.iter().zip(tokens.items()).map(heard).collect();
        let long = |list: &Option<Tensor>| list.as_ref().is_some_and(|list| list.dims()[0] > FILTERED);
        let long: Vec<usize> = (0..lists.len()).filter(|&i| long(&lists[i])).collect();
        if long.is_empty() {
            return Ok(lists);
        }
        let rows = Tensor::new(long.iter().map(|&i| i as u32).collect::<Vec<_>>(), hidden.device())?;
        let counts = Lengths::new(long.iter().map(|&i| tokens.items()[i]).collect::<Vec<_>>());
        let hidden = hidden.index_select(&rows, 0)?.narrow(1, 0, counts.max())?.contiguous()?;
        let ranked: Vec<_> = long.iter().map(|&i| lists[i].as_ref()).collect();
        let scores = self.hotword_scores(&hidden, &counts, &ranked)?;
        for (row, i) in long.into_iter().enumerate() {
            let list = lists[i].take();
            lists[i] = list.map(|list| most_attended(&list, &scores.get(row)?)).transpose()?;
        }
        Ok(lists)
    }

    /// How much each utterance, `hidden [B, L, D]` of `tokens`, attends to each entry of its list, over all heads and
    /// tokens: `[B, N]`, N the length of the longest list; what is behind a shorter one is next to nothing.
    pub fn hotword_scores(
        &self,
        hidden: &Tensor,
        tokens: &Lengths,
        hotwords: &[Option<&Tensor>],
    ) -> Result<Tensor> {
        let (memory, counts) = pad_hotwords(hotwords, hidden)?;
        let (before, from) = self.seaco_decoder.layers().split_at(RANKING_LAYER);
        let Some(ranking) = from.first() else { bail!("seaco decoder: no layer {RANKING_LAYER}") };
        let mut x = hidden.clone();
        for layer in before {
            x = layer.forward(&x, tokens, &memory, &counts)?;
        }
        ranking.attention_weights(&x, tokens, &memory, &counts)?.sum(1)?.sum(1)
    }

    /// Log-probabilities `[B, L, V]`: of `dha` where it does not say "no hotword", else of the decoder.
    fn merge(&self, decoder: &Tensor, dha: &Tensor, hotwords: &[Option<&Tensor>]) -> Result<Tensor> {
        let given: Vec<u8> = hotwords.iter().map(|list| u8::from(list.is_some())).collect();
        let given = Tensor::from_vec(given, (hotwords.len(), 1, 1), dha.device())?;
        let meant = dha.argmax_keepdim(D::Minus1)?.ne(self.no_bias)?.broadcast_mul(&given)?;
        meant.broadcast_as(dha.shape())?.where_cond(dha, decoder)
    }
}

/// The entries of a list `[N, D]` with the highest `scores`, of which those of the list come first; then the one for "no hotword",
/// which may so come twice, as in FunASR.
fn most_attended(list: &Tensor, scores: &Tensor) -> Result<Tensor> {
    let count = list.dim(0)?;
    let scores = scores.narrow(0, 0, count)?.unsqueeze(0)?;
    let ranked = best_of_rows(&scores, FILTERED)?.narrow(1, 0, FILTERED)?.squeeze(0)?;
    Tensor::cat(&[list.index_select(&ranked.to_dtype(DType::U32)?, 0)?, list.narrow(0, count - 1, 1)?], 0)
}

/// What FunASR would fail on, or go on with numbers that mean nothing.
fn check(config: &Config) -> Result<()> {
    let Config { model_conf, seaco_decoder_conf: second, paraformer, .. } = config;
    let (inner_dim, width) = (model_conf.inner_dim, paraformer.encoder_conf.output_size);
    if inner_dim != width {
        bail!("model_conf.inner_dim is {inner_dim}, encoder_conf.output_size is {width}");
    }
    if model_conf.no_bias as usize >= paraformer.vocab_size {
        bail!("model_conf.NO_BIAS is {}, there are {} tokens", model_conf.no_bias, paraformer.vocab_size);
    }
    if second.use_output_layer || !second.wo_input_layer {
        bail!("seaco_decoder_conf: only use_output_layer: false with wo_input_layer: true is supported");
    }
    if second.att_layer_num <= RANKING_LAYER {
        let layers = second.att_layer_num;
        bail!("seaco_decoder_conf.att_layer_num is {layers}, layer {} ranks the hotwords", RANKING_LAYER + 1);
    }
    Ok(())
}
